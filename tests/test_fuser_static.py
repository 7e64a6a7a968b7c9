"""Whether the camera stands: the test's arithmetic, what it decides, and what the fuser makes of it."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from distill.fuser import FrameObservation, Fuser, UncertaintyScales
from distill.fuser.so3 import Array, exp, rigid
from distill.fuser.static_camera import SPEEDS, SWITCH, StaticCamera, log_ratio
from tests.fuser_support import FPS, motions_of

VARIANCE = np.repeat(np.square([0.012, 0.03]), 3)
"""Of a motion over ten frames, as a student might claim."""


def test_the_ratio_is_that_of_the_two_densities() -> None:
    motion = np.array([0.01, -0.02, 0.005, 0.03, 0.0, -0.05])
    still = multivariate_normal(np.zeros(6), np.diag(VARIANCE)).pdf(motion)
    moving = [multivariate_normal(np.zeros(6), np.diag(VARIANCE + np.repeat(np.square(v), 3) * 0.25)).pdf(motion)
              for v in SPEEDS]  # fmt: skip
    assert log_ratio(motion, VARIANCE, 0.5) == pytest.approx(np.log(still / np.mean(moving)))


def test_probabilities_are_those_of_all_paths_of_states() -> None:
    """Forward-backward against the sum over all 2^5 sequences of standing and moving."""
    model = StaticCamera("auto", 5)
    evidence = [0.8, -0.3, 0.5, -1.0, 0.2]
    for value in evidence:
        model._push(value)
    total, standing = 0.0, np.zeros(5)
    for states in product((0, 1), repeat=5):
        weight = 0.5  # both states are as likely before the first frame, and after its transition
        for k, state in enumerate(states):
            if k:
                weight *= SWITCH if state != states[k - 1] else 1 - SWITCH
            weight *= np.exp(evidence[k]) if state == 0 else 1.0
        total += weight
        standing += weight * (1 - np.array(states))
    np.testing.assert_allclose(model.probabilities(), standing / total, atol=1e-12)


def final(poses: Array, seed: int = 0) -> Array:
    """Probability at every frame, when it comes, for noisy motions over ten frames."""
    rng, model, found = np.random.default_rng(seed), StaticCamera("auto", 13), []
    for k in range(len(poses)):
        gap = min(10, k)
        if gap == 0:
            model.step(1, None, VARIANCE, 0.0)
        else:
            wrong = rng.standard_normal(6) * np.sqrt(VARIANCE)
            true = np.linalg.inv(poses[k - gap]) @ poses[k]
            noisy = rigid(true[:3, :3] @ exp(wrong[:3]), true[:3, 3] + wrong[3:])
            model.step(gap, noisy, VARIANCE, gap / FPS)
        found.append(model.probabilities()[-1])
    return np.array(found)


def track(velocity: Array, turn: Array) -> Array:
    """[T, 4, 4] from speeds per frame [T, 3], m/s and rad/s."""
    return rigid(exp(np.cumsum(turn, axis=0) / FPS), np.cumsum(velocity, axis=0) / FPS)


@pytest.mark.parametrize("seed", range(3))
def test_a_standing_camera_is_found_and_moving_ones_are_not(seed: int) -> None:
    still = np.zeros((120, 3))
    assert final(track(still, still), seed)[40:].min() > 0.9
    assert final(track(still + [0.5, 0, 0], still), seed)[20:].max() < 0.1  # a slow walk
    assert final(track(still, still + [0, 0.15, 0]), seed)[40:].max() < 0.1  # a pan of nine degrees a second


def test_a_camera_that_begins_to_move_and_stops_is_followed() -> None:
    velocity = np.zeros((440, 3))
    velocity[100:180] = [0.6, 0, 0]
    found = final(track(velocity, 0 * velocity))
    assert found[40:100].min() > 0.9
    assert found[115:180].max() < 0.1  # within half a second
    assert found[400:].min() > 0.9  # it takes seconds to be sure that it does not creep


def test_what_is_said_is_not_tested() -> None:
    for mode, wanted in (("static", 1.0), ("moving", 0.0)):
        model = StaticCamera(mode, 4)  # type: ignore[arg-type]
        for _ in range(6):
            model.step(1, np.eye(4), VARIANCE, 1 / FPS)
        assert model.probabilities().tolist() == [wanted] * 4


def fused(velocity: Array, mode: str = "auto") -> tuple[Array, Array]:
    """True and found cameras for motions with noise of 0.01 rad and 2 cm per axis."""
    poses = track(velocity, 0 * velocity)
    poses = np.linalg.inv(poses[0]) @ poses
    rng = np.random.default_rng(1)
    fuser = Fuser(camera=mode, scales=UncertaintyScales())  # type: ignore[arg-type]
    noise = (0.01, 0.02)
    found = [
        fuser.step(FrameObservation(timestamp=k / FPS, camera=motions_of(poses, k, noise, rng, said=noise)))
        for k in range(len(poses))
    ]
    return poses, np.stack([frame.world_from_cam for frame in found])


def test_a_standing_camera_is_pinned() -> None:
    true, found = fused(np.zeros((90, 3)))
    late = np.linalg.norm(found[60:, :3, 3] - found[60, :3, 3], axis=1).max()
    assert late < 0.003  # motions are wrong by 2 cm each
    _, loose = fused(np.zeros((90, 3)), "moving")
    assert np.linalg.norm(loose[60:, :3, 3] - loose[60, :3, 3], axis=1).max() > 3 * late
    assert np.linalg.norm(found[:, :3, 3] - true[:, :3, 3], axis=1).max() < 0.06


def test_a_pinned_camera_is_let_go_when_it_moves() -> None:
    velocity = np.zeros((120, 3))
    velocity[60:] = [0.8, 0, 0]
    true, found = fused(velocity)
    assert np.linalg.norm(found[-1, :3, 3] - true[-1, :3, 3]) < 0.15  # it went 1.6 m


def test_a_camera_that_is_said_to_stand_does() -> None:
    _, found = fused(np.zeros((30, 3)), "static")
    assert np.linalg.norm(found[:, :3, 3], axis=1).max() < 0.002
