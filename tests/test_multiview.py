"""Cameras, clocks and points from landmarks of several views: what was put wrong is found again."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from distill.geometry.rotations import matrix_from_rotvec

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def multiview() -> ModuleType:
    """Benchmarks are run by path and are no package."""
    spec = importlib.util.spec_from_file_location("multiview", FOLDER / "multiview.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["multiview"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def ring(count: int = 4) -> np.ndarray:
    """Cameras on a circle of 4 m, 1.6 m up, looking at (0, 0, 1): world_from_cam [V, 4, 4]."""
    poses = np.tile(np.eye(4), (count, 1, 1))
    for pose, angle in zip(poses, np.linspace(0, 2 * np.pi, count, endpoint=False) + 0.3, strict=True):
        pose[:3, 3] = 4 * np.cos(angle), 4 * np.sin(angle), 1.6
        forward = np.array([0, 0, 1.0]) - pose[:3, 3]
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, [0, 0, 1.0])
        right /= np.linalg.norm(right)
        pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], 1)
    return poses


@pytest.fixture(scope="module")
def scene(multiview: ModuleType) -> tuple:
    """True rig (one clock 1.4 frames late), points [T, J, 3] that sway, tracks [V, T, J, 2] of them."""
    rng = np.random.default_rng(0)
    K = np.tile(np.array([[1600.0, 0, 540], [0, 1600, 960], [0, 0, 1]]), (4, 1, 1))
    rig = multiview.Rig(K=K, world_from_cam=ring(), shift=np.array([0.0, 0.0, 1.4, 0.0]))
    rest = rng.uniform([-0.3, -0.3, 0.1], [0.3, 0.3, 1.7], (12, 3))
    phase = rng.uniform(0, 6, (12, 3))

    def at(frames: np.ndarray) -> np.ndarray:
        return rest + 0.25 * np.sin(0.12 * frames[:, None, None] + phase)

    frames = np.arange(60.0)
    tracks = np.stack([
        replace(rig, K=K[v : v + 1], world_from_cam=rig.world_from_cam[v : v + 1])
        .project(at(frames - rig.shift[v]).reshape(-1, 3))[1].reshape(60, 12, 2)
        for v in range(4)
    ])  # fmt: skip
    return rig, at(frames), tracks


def test_points_from_exact_views(multiview: ModuleType, scene: tuple) -> None:
    rig, points, _ = scene
    _, pixels = rig.project(points.reshape(-1, 3))
    found = multiview.triangulate(rig, pixels, np.ones(pixels.shape[:2]), pixel_sd=6.0)
    np.testing.assert_allclose(found, points.reshape(-1, 3), atol=1e-6)


def test_one_view_on_the_wrong_limb_is_outvoted(multiview: ModuleType, scene: tuple) -> None:
    rig, points, _ = scene
    _, pixels = rig.project(points.reshape(-1, 3))
    wrong = pixels.copy()
    wrong[1] += 150
    found = multiview.triangulate(rig, wrong, np.ones(pixels.shape[:2]), pixel_sd=6.0, rounds=30)
    assert np.linalg.norm(found - points.reshape(-1, 3), axis=-1).max() < 0.02
    # Without robustness the four views meet far from there.
    loose = multiview.triangulate(rig, wrong, np.ones(pixels.shape[:2]), pixel_sd=1e4)
    assert np.median(np.linalg.norm(loose - points.reshape(-1, 3), axis=-1)) > 0.05


def test_turned_cameras_and_a_late_clock_are_found(multiview: ModuleType, scene: tuple) -> None:
    rig, points, tracks = scene
    rng = np.random.default_rng(1)
    poses = rig.world_from_cam.copy()
    turns = np.radians(1.0) * rng.choice([-1, 1], (4, 3)) * rng.uniform(0.4, 1, (4, 3))
    poses[:, :3, :3] = poses[:, :3, :3] @ matrix_from_rotvec(torch.from_numpy(turns)).numpy()
    published = replace(rig, world_from_cam=poses, shift=np.zeros(4))
    noisy = tracks + rng.normal(0, 2, tracks.shape)
    score = np.ones(tracks.shape[:3])
    spread = multiview.Spread()
    before = np.nanmedian(multiview.errors(published, noisy, score, spread))
    found, _ = multiview.refine(published, noisy, score, spread)
    after = np.nanmedian(multiview.errors(found, noisy, score, spread))
    assert before > 8 and after < 2.5
    assert found.shift == pytest.approx(rig.shift, abs=0.1)
    # The rig as a whole may turn within what its positions leave open; the views against each other may not.
    relative = [np.linalg.inv(r.world_from_cam[0]) @ r.world_from_cam[2] for r in (rig, found)]
    turned = relative[0][:3, :3].T @ relative[1][:3, :3]
    assert np.degrees(np.arccos((np.trace(turned) - 1) / 2)) < 0.2
    pixels, _, weight = multiview.at_first_clock(noisy, score, found.shift)
    solved = multiview.triangulate(found, pixels, weight, pixel_sd=6.0).reshape(points.shape)
    assert np.linalg.norm(solved - points, axis=-1)[2:-2].mean() < 0.02


def test_the_step_is_the_derivative(multiview: ModuleType, scene: tuple) -> None:
    """A Gauss-Newton step from nearby truth lands on it: residuals and Jacobian belong together."""
    rig, _, tracks = scene
    score, spread = np.ones(tracks.shape[:3]), multiview.Spread()
    near = replace(rig, shift=rig.shift + np.array([0, 0.05, -0.05, 0.03]))
    published = rig
    points = multiview._points(near, tracks, score, spread)
    cost = multiview._cost(near, published, points, tracks, score, spread)
    step, moved = multiview._step(near, published, points, tracks, score, spread, 1e-3)
    after = multiview._cost(multiview._apply(near, step), published, moved, tracks, score, spread)
    assert after < 0.05 * cost  # 0.017 of 0.578


def test_samples_between_frames(multiview: ModuleType) -> None:
    track = np.arange(10.0)[:, None] * np.array([1.0, -2.0])
    value, inside = multiview.sample(track, np.array([-1.0, 0.0, 2.25, 9.0, 9.5]))
    np.testing.assert_allclose(value, [[0, 0], [0, 0], [2.25, -4.5], [9, -18], [9, -18]])
    assert inside.tolist() == [False, True, True, True, False]
