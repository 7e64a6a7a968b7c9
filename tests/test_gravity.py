"""Up and ground: from bodies, stances and scene points, alone and together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from teacher.optimise.assemble import stances
from teacher.optimise.gravity import Gravity, find_gravity, world_from_solved

Array = NDArray[Any]
SOLVED_FROM_TRUE = Rotation.from_rotvec([0.7, -1.1, 0.4]).as_matrix()
"""The solved world is turned at random against the z-up one."""
UP = SOLVED_FROM_TRUE[:, 2]
NONE = np.zeros((0, 3))


def scene(rng: np.random.Generator, lean_deg: float = 6.0) -> tuple[Array, Array, Array, Array]:
    """Bodies that lean forwards along x, stances along a straight walk, and ground with a wall; z-up."""
    lean = np.radians(lean_deg)
    up = np.tile([np.sin(lean), 0, np.cos(lean)], (50, 1)) + 0.02 * rng.standard_normal((50, 3))
    up /= np.linalg.norm(up, axis=1, keepdims=True)
    front = np.tile([1.0, 0, 0], (50, 1))
    steps = np.column_stack((np.linspace(0, 3, 6), 0.1 * (-1.0) ** np.arange(6), 0.01 * rng.standard_normal(6)))
    ground = np.column_stack((rng.uniform(-1, 4, 400), rng.uniform(-2, 2, 400), 0.02 * rng.standard_normal(400)))
    wall = np.column_stack((rng.uniform(-1, 4, 400), np.full(400, 1.5), rng.uniform(0, 3, 400)))
    return up, front, steps, np.concatenate((ground, wall))


def solve(up: Array, front: Array, steps: Array, points: Array, first: Array | None) -> Gravity:
    turn = lambda array: array @ SOLVED_FROM_TRUE.T  # noqa: E731
    return find_gravity(
        turn(up), turn(front), turn(steps), None if first is None else turn(first), turn(points), bodies=1
    )


def angle_deg(direction: Array) -> float:
    return float(np.degrees(np.arccos(np.clip(direction @ UP, -1, 1))))


def test_ground_points_correct_the_lean_of_the_bodies() -> None:
    up, front, steps, points = scene(np.random.default_rng(0))
    found = solve(up, front, steps, points, steps[0])
    assert found.found
    assert angle_deg(found.up) < 1.0
    assert found.sd_deg < 1.5
    assert set(found.witnesses) == {"bodies", "stances", "ground"}


def test_stances_alone_correct_the_lean_along_the_walk() -> None:
    up, front, steps, _ = scene(np.random.default_rng(1))
    bodies = solve(up, front, NONE, NONE, steps[0])
    both = solve(up, front, steps, NONE, steps[0])
    assert angle_deg(bodies.up) > 5
    assert angle_deg(both.up) < 2
    assert both.sd_deg < bodies.sd_deg


def test_a_slanted_roof_far_from_the_feet_changes_nothing() -> None:
    rng = np.random.default_rng(2)
    up, front, steps, points = scene(rng)
    roof = np.column_stack((rng.uniform(-1, 4, 2000), rng.uniform(-2, 2, 2000), np.zeros(2000)))
    roof[:, 2] = 3 + 0.5 * roof[:, 0]
    found = solve(up, front, steps, np.concatenate((points, roof)), steps[0])
    assert angle_deg(found.up) < 1.0


def test_the_stated_uncertainty_covers_the_error() -> None:
    errors = []
    for seed in range(10):
        up, front, steps, points = scene(np.random.default_rng(seed), lean_deg=4.0)
        found = solve(up, front, steps, points, steps[0])
        errors.append(angle_deg(found.up) / found.sd_deg)
    assert np.mean(np.square(errors)) < 2.5  # of two directions with one standard deviation each


def test_without_a_stance_the_first_camera_stays_the_world() -> None:
    up, front, _, points = scene(np.random.default_rng(3))
    found = solve(up, front, NONE, points, None)
    assert not found.found
    assert "no foot" in found.reason


def test_world_axes() -> None:
    gravity = Gravity(up=UP, sd_deg=1.0, ground=SOLVED_FROM_TRUE @ [2, 3, 0.5], found=True, reason="")
    camera = np.eye(4)  # one metre above the ground, looks along true +x and down, level
    forward = np.array([np.cos(0.3), 0, -np.sin(0.3)])
    right = np.array([0.0, -1, 0])
    camera[:3, :3] = SOLVED_FROM_TRUE @ np.stack((right, np.cross(forward, right), forward), axis=-1)
    camera[:3, 3] = SOLVED_FROM_TRUE @ [5, 5, 1.5]
    world = world_from_solved(gravity, camera)
    np.testing.assert_allclose(world[:3, :3] @ world[:3, :3].T, np.eye(3), atol=1e-12)
    assert np.linalg.det(world[:3, :3]) == pytest.approx(1)
    moved = world @ camera
    np.testing.assert_allclose(moved[:3, 3], [0, 0, 1.0], atol=1e-12)
    np.testing.assert_allclose(moved[:3, 2], [0, np.cos(0.3), -np.sin(0.3)], atol=1e-12)  # heads along y
    np.testing.assert_allclose(moved[:3, 0], [1, 0, 0], atol=1e-12)  # its right is x
    below = world @ np.append(gravity.ground, 1)
    assert below[2] == pytest.approx(0)


def test_a_camera_that_looks_straight_down_heads_where_its_top_points() -> None:
    gravity = Gravity(up=np.array([0, 0, 1.0]), sd_deg=1.0, ground=np.zeros(3), found=True, reason="")
    camera = np.eye(4)
    camera[:3, :3] = np.array([[1.0, 0, 0], [0, -1, 0], [0, 0, -1]])  # image top towards +y
    np.testing.assert_allclose(world_from_solved(gravity, camera)[:3, :3], np.eye(3), atol=1e-12)


def test_stances_are_runs_of_contact_in_order_of_time() -> None:
    prob = np.zeros((10, 2, 6))
    prob[2:5, 1, 0] = 0.9
    prob[4:9, 0, 3] = 0.8
    prob[7, 0, 1] = 0.9  # a single frame is no stance
    prob[0:9, 0, 4] = 0.9  # a hand is no foot
    sites = np.zeros((10, 2, 6, 3))
    sites[2:5, 1, 0, 0] = [1, 2, 3]
    found = list(stances(prob, sites))
    assert [(person, frame) for person, frame, _ in found] == [(1, 2), (0, 4)]
    np.testing.assert_allclose(found[0][2], [2, 0, 0])
