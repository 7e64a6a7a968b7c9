"""Left and right that a landmark network exchanged are put back, and nothing else is touched."""

from __future__ import annotations

import numpy as np
import pytest

from distill.geometry.conventions import KEYPOINTS
from teacher.initialisers.sides import ARMS, LEGS, MIRRORED, exchanged_frames, restore_sides

REST = {"shoulder": (0.18, -0.5), "elbow": (0.28, -0.25), "wrist": (0.3, 0.0), "hip": (0.1, 0.0), "knee": (0.12, 0.4),
        "ankle": (0.12, 0.8), "eye": (0.03, -0.7), "ear": (0.07, -0.7), "big_toe": (0.13, 0.85),
        "small_toe": (0.16, 0.85), "heel": (0.11, 0.85)}  # fmt: skip


def walker(frames: int = 60, turn: float = 0.0, fps: float = 30.0) -> np.ndarray:
    """Landmarks [T, 23, 3] of a walk on the spot seen under an angle: arms and legs swing, legs cross."""
    points = np.zeros((frames, 23, 3))
    swing = np.sin(2 * np.pi * np.arange(frames) / fps)
    for k, name in enumerate(KEYPOINTS):
        side, _, part = name.partition("_")
        if side not in ("left", "right"):
            points[:, k] = 0, -0.72, -0.05
            continue
        sign = 1 if side == "left" else -1
        across, down = REST[part]
        reach = {"wrist": -0.25, "elbow": -0.12, "knee": 0.15}.get(part, 0.35 if down >= 0.8 else 0.0)
        points[:, k, 0], points[:, k, 1] = sign * across, down
        points[:, k, 2] = sign * reach * swing
    spin = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
    return points @ spin.T


def test_each_keypoint_has_its_partner() -> None:
    for name, partner in zip(KEYPOINTS, MIRRORED, strict=True):
        other = {"left": "right", "right": "left"}
        side, _, part = name.partition("_")
        assert KEYPOINTS[partner] == (f"{other[side]}_{part}" if side in other else name)


@pytest.mark.parametrize("turn", [0.0, 0.8, np.pi / 2, np.pi])
@pytest.mark.parametrize("fps", [10.0, 30.0])
def test_a_walk_is_left_alone(turn: float, fps: float) -> None:
    """Also in profile, where the legs cross in the image and depth counts little, at ten frames a second."""
    rng = np.random.default_rng(0)
    points = walker(turn=turn, fps=fps) + rng.normal(0, 0.01, (60, 23, 3))
    restored, frames = restore_sides((points,), points, np.ones(60, bool))
    assert frames == 0
    np.testing.assert_array_equal(restored[0], points)


@pytest.mark.parametrize("turn", [0.0, 0.8])
def test_exchanged_frames_are_put_back(turn: float) -> None:
    true = walker(turn=turn) + np.random.default_rng(1).normal(0, 0.01, (60, 23, 3))
    wrong, pixels = true.copy(), 100 * true[..., :2]
    bad = np.zeros(60, bool)
    bad[[20, 25, 26, 27, 31, 40]] = True
    wrong[bad] = wrong[bad][:, list(MIRRORED)]
    wrong_pixels = pixels.copy()
    wrong_pixels[bad] = wrong_pixels[bad][:, list(MIRRORED)]
    (restored, restored_pixels), frames = restore_sides((wrong, wrong_pixels), wrong, np.ones(60, bool))
    assert frames == 6
    np.testing.assert_array_equal(restored, true)
    np.testing.assert_array_equal(restored_pixels, pixels)


def test_legs_may_be_exchanged_without_the_arms_and_beside_a_gap() -> None:
    true = walker()
    wrong, visible = true.copy(), np.ones(60, bool)
    visible[28:32] = False
    wrong[~visible] = 0
    true = wrong.copy()
    legs = list(range(LEGS[0], 23))
    wrong[32:35, legs] = wrong[32:35][:, np.array(MIRRORED)[legs]]
    (restored,), frames = restore_sides((wrong,), wrong, visible)
    assert frames == 3
    np.testing.assert_array_equal(restored, true)
    assert not exchanged_frames(wrong[:, list(ARMS)], visible).any()


def test_nobody_and_a_single_frame() -> None:
    points = walker(3)
    for visible in (np.zeros(3, bool), np.array([False, True, False])):
        assert restore_sides((points,), points, visible)[1] == 0
