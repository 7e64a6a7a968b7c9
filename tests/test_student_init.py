"""Labelling that starts from a student: its path made exact, its words as stage files, its weights recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from distill.config import load_config
from distill.errors import FootfallError
from distill.metrics.inputs import align, moved
from teacher.config import LabelConfig
from teacher.initialisers.registry import StageMissingError, get_initialiser
from teacher.initialisers.student.config import StudentInitConfig, init_overrides
from teacher.initialisers.student.refine import refine_cameras, triangulate
from teacher.initialisers.student.streaming import StudentPass, checkpoint_hash
from teacher.initialisers.student.streaming import run as run_student
from teacher.initialisers.student.tracks import PointTracks, image_motion
from teacher.stagefiles import BodyInit, Contacts, DepthInit
from teacher.workspace import ClipFolder
from tests.readers_support import FRAMES, clip_folder, finish, silent, truth_problem

pytest.importorskip("pycolmap")
K = np.array([[500.0, 0, 240], [0, 500, 135], [0, 0, 1]])
SIZE = (480, 270)


def scene(frames: int = 24, points: int = 200, noise: float = 0.2) -> tuple[PointTracks, np.ndarray]:
    """A camera that walks past a wall with relief, and where its points are seen; [T, 4, 4] true poses."""
    rng = np.random.default_rng(0)
    space = rng.uniform([-4, -1.5, 4], [6, 1.5, 8], (points, 3))
    poses = np.tile(np.eye(4), (frames, 1, 1))
    time = np.linspace(0, 1, frames)
    poses[:, 0, 3], poses[:, 1, 3], poses[:, 2, 3] = 2 * time, 0.1 * np.sin(6 * time), 0.5 * time**2
    poses[:, :3, :3] = Rotation.from_euler("y", 10 * time[:, None], degrees=True).as_matrix()
    rows = []
    for frame, pose in enumerate(np.linalg.inv(poses)):
        cam = space @ pose[:3, :3].T + pose[:3, 3]
        px = cam[:, :2] / cam[:, 2:] * K[0, 0] + K[:2, 2] + noise * rng.normal(size=(points, 2))
        for point in np.flatnonzero(((px > 0) & (px < SIZE)).all(1)):
            rows.append((frame, point, *px[point]))
    table = np.array(rows)
    return PointTracks(
        frame=table[:, 0].astype(np.int32), point=table[:, 1].astype(np.int32), px=table[:, 2:].astype(np.float32)
    ), poses


def path_error(poses: np.ndarray, truth: np.ndarray) -> float:
    """RMS after the best similarity, metres."""
    fit = align(truth[:, :3, 3], poses[:, :3, 3], with_scale=True)
    return float(np.sqrt(((moved(poses[:, :3, 3], fit) - truth[:, :3, 3]) ** 2).sum(1).mean()))


def rough(poses: np.ndarray) -> np.ndarray:
    """As a student might see that path: 30 % too long, bent, trembling."""
    rng = np.random.default_rng(1)
    out = poses.copy()
    out[:, :3, 3] = 1.3 * poses[:, :3, 3] + 0.02 * rng.normal(size=(len(poses), 3))
    out[:, 1, 3] += 0.05 * np.linspace(0, 1, len(poses)) ** 2
    out[:, :3, :3] = poses[:, :3, :3] @ Rotation.from_rotvec(0.004 * rng.normal(size=(len(poses), 3))).as_matrix()
    return out


def test_true_poses_triangulate_to_the_noise_of_the_pixels() -> None:
    tracks, poses = scene()
    points, kept, error = triangulate(tracks, K, poses, 3.0)
    assert len(points) > 120 and kept.point.max() == len(points) - 1
    assert error == pytest.approx(0.2 * 1.18, rel=0.15)  # median of a Rayleigh distribution


@pytest.mark.parametrize("K_known", [True, False])
def test_a_rough_path_is_made_exact_and_stays_in_the_students_metres(K_known: bool) -> None:
    tracks, poses = scene()
    start, lens = rough(poses), K.copy()
    if not K_known:
        lens[[0, 1], [0, 1]] *= 0.93
    refined = refine_cameras(tracks, lens, start, SIZE, K_known=K_known)
    assert path_error(start, poses) > 0.015
    assert path_error(refined.world_from_cam, poses) < 0.006
    assert refined.registered.all() and refined.error_px < 0.35
    assert refined.K[0, 0] == pytest.approx(500, rel=1e-9 if K_known else 0.02)
    way = np.linalg.norm(refined.world_from_cam[-1, :3, 3] - refined.world_from_cam[0, :3, 3])
    assert way == pytest.approx(np.linalg.norm(start[-1, :3, 3] - start[0, :3, 3]), rel=0.05)


def test_a_path_that_does_not_fit_the_background_is_refused() -> None:
    tracks, poses = scene()
    backwards = poses[::-1].copy()
    with pytest.raises(FootfallError, match=r"cameras\.use=auto"):
        refine_cameras(tracks, K, backwards, SIZE, K_known=True)
    in_place = np.tile(np.eye(4), (len(poses), 1, 1))
    with pytest.raises(FootfallError, match=r"cameras\.use=auto"):
        refine_cameras(tracks, K, in_place, SIZE, K_known=True)


def test_image_motion_is_the_median_way_of_points() -> None:
    tracks = PointTracks(
        frame=np.array([0, 1, 0, 1, 2]), point=np.array([0, 0, 1, 1, 1]),
        px=np.array([[0, 0], [3, 4], [9, 9], [9, 10], [9, 9]], np.float32),
    )  # fmt: skip
    assert image_motion(tracks) == pytest.approx(3.0)  # of ways 5 and 1


@pytest.fixture
def clip(tmp_path: Path) -> ClipFolder:
    """A clip whose student said the truth, and doubts the depth of the second person."""
    problem = truth_problem()
    clip = clip_folder(tmp_path, problem)
    bodies = problem.bodies
    present = bodies.present.copy()
    present[5:8, 0] = False
    found = StudentPass(
        weights={"student:x": {"sha256": "12", "licence": "apache-2.0"}}, body_model="anny",
        K=problem.cameras.K.astype(np.float64), K_known=False, world_from_cam=problem.cameras.world_from_cam,
        camera_sigma=np.zeros((FRAMES, 2)), static_prob=np.zeros(FRAMES), log_scale_sigma=np.full(FRAMES, 0.1),
        present=present, betas=bodies.betas, body_rot=bodies.body_rot, cam_from_body=bodies.cam_from_body,
        depth_sigma=np.tile(np.array([0.0, 0.1]), (FRAMES, 1)), contact_prob=problem.contacts.prob,
    )  # fmt: skip
    found.save(clip.stage_dir("student"))
    finish(clip, "student")
    return clip


def run(clip: ClipFolder, slot: str) -> Any:
    clip.begin(slot)
    config = load_config(LabelConfig, None, [*init_overrides("student:x")])
    return get_initialiser(slot, "student").run(clip, getattr(config, slot), silent)


def test_bodies_hold_as_firmly_as_the_student_is_sure(clip: ClipFolder) -> None:
    outcome = run(clip, "bodies")
    bodies, truth = BodyInit.load(clip.stage_dir("bodies")), truth_problem().bodies
    assert outcome.weights == {"student:x": {"sha256": "12", "licence": "apache-2.0"}}
    assert bodies.confidence[0].tolist() == pytest.approx([1.0, 0.5])
    assert not bodies.present[5:8, 0].any() and bodies.confidence[6, 0] == 0
    seen = bodies.present[..., None, None]
    np.testing.assert_allclose(bodies.cam_from_body * seen, truth.cam_from_body * seen, atol=1e-5)
    between = np.linalg.norm(bodies.cam_from_body[6, 0, :3, 3] - truth.cam_from_body[6, 0, :3, 3])
    assert between < 0.1  # filled from its neighbours


def test_contacts_and_depth(clip: ClipFolder) -> None:
    run(clip, "bodies")
    finish(clip, "bodies")
    run(clip, "contacts")
    prob = Contacts.load(clip.stage_dir("contacts")).prob
    assert prob[6, 0].max() == 0
    np.testing.assert_allclose(prob[:, 1], truth_problem().contacts.prob[:, 1], atol=1e-6)
    with pytest.raises(StageMissingError, match="no points"):
        run(clip, "depth")
    assert not (clip.stage_dir("depth") / DepthInit.file).exists()


def test_the_flag_stands_for_settings_that_may_be_taken_back() -> None:
    config = load_config(LabelConfig, None, [*init_overrides("student:runs/a/pretrained"), "cameras.use=auto"])
    assert config.student.checkpoint == "runs/a/pretrained"
    uses = (config.cameras.use, config.depth.use, config.bodies.use, config.contacts.use)
    assert uses == ("auto", "student", "student", "student") and config.people.use == "landmarks"
    for wrong in ("tiny", "student:", "teacher:tiny"):
        with pytest.raises(FootfallError, match="student:CHECKPOINT"):
            init_overrides(wrong)
    with pytest.raises(FootfallError, match=r"bodies\.use=student needs student\.checkpoint"):
        load_config(LabelConfig, None, ["bodies.use=student"])


def test_without_a_checkpoint_the_stage_is_missing_and_weights_make_it_stale(clip: ClipFolder) -> None:
    with pytest.raises(StageMissingError, match="no student asked for"):
        run_student(clip, StudentInitConfig(), silent)
    assert checkpoint_hash("") == "" and checkpoint_hash("/nowhere/at/all") == ""
    assert len(checkpoint_hash("tiny")) == 64
