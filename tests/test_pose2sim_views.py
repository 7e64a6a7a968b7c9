"""Scores of a view solved alone: none for the truth itself, the right ones for a known mistake."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from distill.results import Cameras, Motion, Result

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
FRAMES = 20


@pytest.fixture
def views(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Benchmarks are run by path and are no package."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("pose2sim_views")


@pytest.fixture
def result() -> Result:
    """A bystander and a person who walks across, 4 m away, seen by a fixed camera."""
    rng = np.random.default_rng(0)
    pose = np.tile(np.eye(4), (FRAMES, 2, 1, 1))
    pose[..., :3, :3] = np.diag([1.0, -1.0, -1.0])
    pose[:, 0, :3, 3] = 1.5, 0, 7
    pose[:, 1, :3, 3] = np.stack([np.linspace(-0.5, 0.5, FRAMES), np.zeros(FRAMES), np.full(FRAMES, 4.0)], -1)
    present, betas = np.ones((FRAMES, 2), bool), rng.normal(0, 0.3, (2, 10)).astype(np.float32)
    motion = Motion(
        ids=np.arange(2), present=present, body_model="anny", betas=betas,
        body_rot=np.tile(np.eye(3, dtype=np.float32), (FRAMES, 2, 23, 1, 1)), cam_from_body=pose,
        joints_cam=np.zeros((FRAMES, 2, 24, 3)), contact_prob=np.zeros((FRAMES, 2, 6)),
        stature=np.array([1.8, 1.7]), confidence=present.astype(float),
    )  # fmt: skip
    cameras = Cameras(
        K=np.array([[500.0, 0, 180], [0, 500, 320], [0, 0, 1]]), size=(360, 640), timestamps=np.arange(FRAMES) / 60,
        world_from_cam=np.tile(np.eye(4), (FRAMES, 1, 1)), valid=np.ones(FRAMES, bool),
    )  # fmt: skip
    return Result(cameras=cameras, motion=motion, meta={"world": "first_camera"})


def reference_of(views: ModuleType, result: Result, shift: float) -> object:
    """The second person as the reference, in a world that is not the camera's; the view's clock is `shift` late."""
    world_from_cam = np.eye(4)
    world_from_cam[:3, :3] = np.array([[0, 0, 1.0], [-1, 0, 0], [0, -1, 0]])
    world_from_cam[:3, 3] = 1, 2, 3
    solved = views.solved_joints(result)[:, 1] @ world_from_cam[:3, :3].T + world_from_cam[:3, 3]
    points, _ = views.sample(solved, np.arange(FRAMES) + shift)
    K = np.array([[[1500.0, 0, 540], [0, 1500, 960], [0, 0, 1]]])
    rig = views.Rig(K=K, world_from_cam=world_from_cam[None], shift=np.array([shift]))
    return views.Reference(rig=rig, points=points, without=points[None], facts={})


def test_the_truth_itself_has_no_error(views: ModuleType, result: Result) -> None:
    score = views.score_view(result, reference_of(views, result, 0.0), 0)
    assert score["frames"] == FRAMES
    zero = ("mpjpe", "pa_mpjpe", "mpjpe_other_views", "root", "root_path_shape", "chain", "stature_cm", "focal_percent")
    for name in zero:
        assert score[name] == pytest.approx(0, abs=1e-3), name
    assert score["distance_m"] == pytest.approx(4, abs=0.1)


def test_a_late_clock_is_taken_into_account(views: ModuleType, result: Result) -> None:
    score = views.score_view(result, reference_of(views, result, 1.5), 0)
    assert FRAMES - 3 <= score["frames"] < FRAMES
    # The last frames of the reference repeat the end of the track, so only those differ.
    assert score["root_across"] < 12 and score["mpjpe"] == pytest.approx(0, abs=1e-3)


def test_known_mistakes(views: ModuleType, result: Result) -> None:
    reference = reference_of(views, result, 0.0)
    pose = result.motion.cam_from_body.copy()
    pose[:, 1, 2, 3] += 0.1
    farther = replace(result, motion=replace(result.motion, cam_from_body=pose))
    score = views.score_view(farther, reference, 0)
    assert score["root"] == pytest.approx(100, abs=0.01) and score["root_depth_signed"] == pytest.approx(100, abs=0.01)
    assert score["root_across"] == pytest.approx(0, abs=1e-3) and score["mpjpe"] == pytest.approx(0, abs=1e-3)
    assert score["root_path_shape"] == pytest.approx(0, abs=1e-3)
    # Everything in the reference 10 % larger: the solved person is too small by a tenth of a stature of 1.7 m.
    larger = replace(reference, points=1.1 * reference.points, without=1.1 * reference.without)
    score = views.score_view(result, larger, 0)
    assert score["stature_cm"] == pytest.approx(-17, abs=0.1) and score["scale_asked_for"] == pytest.approx(
        1.1, abs=1e-4
    )
    assert score["pa_mpjpe"] == pytest.approx(0, abs=1e-3) and score["mpjpe"] > 20
    cameras = replace(result.cameras, K=result.cameras.K * np.array([[1.05], [1.05], [1.0]]))
    assert views.score_view(replace(result, cameras=cameras), reference, 0)["focal_percent"] == pytest.approx(5)
