"""Following people by box and identity: crossing, leaving, returning, and what must not be mixed up."""

from __future__ import annotations

import numpy as np
import pytest

from distill.people.token_tracker import TokenTracker, TokenTrackerConfig, overlaps


def unit(*values: float) -> np.ndarray:
    vector = np.array(values, float)
    return vector / np.linalg.norm(vector)


RED, BLUE, GREEN = unit(1, 0, 0), unit(0, 1, 0), unit(0, 0, 1)


def box_at(x: float, y: float = 60.0) -> np.ndarray:
    return np.array([x - 10, y - 30, x + 10, y + 30])


def run(frames: list[list[tuple[np.ndarray, np.ndarray]]], config: TokenTrackerConfig | None = None) -> list[dict]:
    tracker = TokenTracker(config)
    rows = []
    for people in frames:
        boxes = np.array([box for box, _ in people]).reshape(-1, 4)
        vectors = np.array([vector for _, vector in people]).reshape(-1, 3)
        rows.append(tracker.step(boxes, np.full(len(people), 0.9), vectors))
    return rows


def test_overlap_by_hand() -> None:
    a, b = np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 1, 3, 3], [5, 5, 6, 6]])
    np.testing.assert_allclose(overlaps(a, b), [[1 / 7, 0]])


def test_two_who_cross_keep_their_identity() -> None:
    frames = [[(box_at(20 + 4 * k), RED), (box_at(120 - 4 * k), BLUE)] for k in range(26)]
    rows = run(frames)
    red, blue = (
        next(i for i, box in rows[0].items() if box[0] < 50),
        next(i for i, box in rows[0].items() if box[0] > 50),
    )
    for k, row in enumerate(rows):
        np.testing.assert_allclose(row[red], box_at(20 + 4 * k))
        np.testing.assert_allclose(row[blue], box_at(120 - 4 * k))


def test_one_hidden_for_a_while_comes_back_as_the_same() -> None:
    seen = [[(box_at(20 + 2 * k), RED), (box_at(150), BLUE)] for k in range(10)]
    hidden = [[(box_at(150), BLUE)] for _ in range(40)]
    back = [[(box_at(180), RED), (box_at(150), BLUE)]]
    rows = run(seen + hidden + back)
    first, last = rows[0], rows[-1]
    red = next(i for i, box in first.items() if box[0] < 50)
    np.testing.assert_allclose(last[red], box_at(180))
    assert set(last) == set(first)


def test_somebody_else_in_the_same_place_is_somebody_new_and_memory_is_bounded() -> None:
    config = TokenTrackerConfig(forget_after=20)
    rows = run([[(box_at(50), RED)]] + [[]] * 10 + [[(box_at(50), GREEN)]], config)
    assert set(rows[0]).isdisjoint(rows[-1])
    tracker = TokenTracker(config)
    rng = np.random.default_rng(0)
    for _ in range(300):  # a new face in each frame
        vector = rng.standard_normal(16)
        tracker.step(box_at(rng.uniform(0, 4000))[None], np.array([0.9]), (vector / np.linalg.norm(vector))[None])
    assert len(tracker._tracks) <= 21


def test_weak_candidates_continue_a_track_but_begin_none() -> None:
    tracker = TokenTracker()
    assert tracker.step(box_at(50)[None], np.array([0.4]), RED[None]) == {}
    (person,) = tracker.step(box_at(50)[None], np.array([0.8]), RED[None])
    assert set(tracker.step(box_at(51)[None], np.array([0.4]), RED[None])) == {person}
    assert tracker.step(np.zeros((0, 4)), np.zeros(0), np.zeros((0, 3))) == {}


@pytest.mark.parametrize("wrong", [{"stay_score": 0.9}, {"coast": 0}, {"alike": 2.0}])
def test_bad_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="token tracker"):
        TokenTrackerConfig(**wrong)
