"""Cameras: standing and moving ones are told apart, and the truth of drawn clips is found again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from camera_support import clip_of, finish, quiet, rotation_error_deg, synthetic_clip
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from distill.errors import FootfallError
from distill.geometry.alignment import align_points
from teacher.initialisers.background import Chunk, FrameReader, follow, follow_background, path_lengths
from teacher.initialisers.camera_rotation import fit_rotations
from teacher.initialisers.camera_sfm import SfmConfig, choose_keyframes
from teacher.initialisers.cameras import CamerasConfig, run_auto, run_colmap, run_known, run_static
from teacher.stagefiles import CameraInit

cv2 = pytest.importorskip("cv2")
pytest.importorskip("pycolmap")
Array = NDArray[Any]
SIZE = (320, 180)


def picture(seed: int = 0) -> Array:
    """[H, W, 3] uint8 with corners at several scales, larger than `SIZE`."""
    rng = np.random.default_rng(seed)
    layers = [cv2.resize(rng.uniform(0, 255, (260 // s, 420 // s)), (420, 260)) for s in (4, 10, 30)]
    return np.repeat(np.mean(layers, 0)[..., None], 3, -1).clip(0, 255).astype(np.uint8)


def turned_pictures(rotations: Array, focal: float) -> Array:
    """[T, H, W, 3] what a camera at one place sees of a far wall; rotations [T, 3, 3] are world_from_cam."""
    wall = picture()
    K = np.array([[focal, 0, SIZE[0] / 2 - 0.5], [0, focal, SIZE[1] / 2 - 0.5], [0, 0, 1]])
    K_wall = np.array([[focal, 0, 209.5], [0, focal, 129.5], [0, 0, 1]])
    return np.stack([cv2.warpPerspective(wall, K @ r.T @ np.linalg.inv(K_wall), SIZE, flags=1) for r in rotations])


def pan(degrees: float, frames: int = 20) -> Array:
    """[T, 3, 3] a camera that turns to the side and a little up."""
    angles = np.linspace(0, np.radians(degrees), frames)
    return Rotation.from_rotvec(angles[:, None] * [0.3, 0.95, 0.05]).as_matrix()


def chunk_of(rotations: Array, focal: float, *, noise: float = 0.0, shift: float = 0.0, wild: int = 0) -> Chunk:
    """Points at 3 to 9 m seen by a turning camera that also moves by `shift` metres over the clip."""
    rng = np.random.default_rng(0)
    depth = rng.uniform(3, 9, 200)
    rays = np.stack((*(rng.uniform(-0.4, 0.4, (2, 200))), np.ones(200)), -1)
    points = []
    for k, rotation in enumerate(rotations):
        local = (rays * depth[:, None] - [shift * k / len(rotations), 0, 0]) @ rotation
        pixels = focal * local[:, :2] / local[:, 2:] + np.array(SIZE) / 2 + noise * rng.standard_normal((200, 2))
        pixels[:wild] += rng.uniform(5, 30, (wild, 2)) * k / len(rotations)  # somebody walks there
        points.append(pixels)
    return Chunk(start=0, points=points)


def load(clip: Any) -> CameraInit:
    """The written cameras, after checks that hold for all of them."""
    finish(clip, "cameras")
    init = CameraInit.load(clip.require("cameras"))
    rotation = init.world_from_cam[:, :3, :3]
    np.testing.assert_allclose(
        rotation @ np.swapaxes(rotation, 1, 2), np.tile(np.eye(3), (len(rotation), 1, 1)), atol=1e-6
    )
    assert init.obs_px.shape == (len(init.obs_frame), 2) and len(init.obs_point) == len(init.obs_frame)
    assert len(init.points_rgb) == len(init.points) and np.isfinite(init.points).all()
    return init


# --- rotation alone, from points ---------------------------------------------------------------------------


def test_rotation_and_focal_length_from_exact_points() -> None:
    rotations = pan(25)
    fit = fit_rotations([chunk_of(rotations, 260.0)], SIZE, focal=None, focal_guess=367.0)
    assert fit.focal_found and abs(fit.focal / 260 - 1) < 0.07  # the candidates are 13 % apart
    fit = fit_rotations([chunk_of(rotations, 260.0)], SIZE, focal=260.0, focal_guess=367.0)
    assert rotation_error_deg(fit.world_from_cam, rotations).max() < 1e-3
    assert fit.residual_px.max() < 1e-6 and fit.turn_deg == pytest.approx(25, abs=0.1)


def test_a_small_turn_does_not_tell_the_focal_length() -> None:
    fit = fit_rotations([chunk_of(pan(1.5), 260.0, noise=0.2)], SIZE, focal=None, focal_guess=367.0)
    assert not fit.focal_found and fit.focal == 367.0


def test_people_among_the_points_do_not_turn_the_camera() -> None:
    rotations = pan(12)
    fit = fit_rotations([chunk_of(rotations, 260.0, noise=0.1, wild=60)], SIZE, focal=260.0, focal_guess=367.0)
    assert rotation_error_deg(fit.world_from_cam, rotations).max() < 0.1


def test_chunks_are_chained() -> None:
    rotations = pan(20)
    whole = chunk_of(rotations, 260.0)
    parts = [Chunk(start=0, points=whole.points[:12]), Chunk(start=11, points=whole.points[11:])]
    fit = fit_rotations(parts, SIZE, focal=260.0, focal_guess=367.0)
    assert rotation_error_deg(fit.world_from_cam, rotations).max() < 1e-3


@pytest.mark.parametrize(("shift", "in_place"), [(0.0, True), (0.4, False)])
def test_parallax_shows_in_the_residual(shift: float, in_place: bool) -> None:
    fit = fit_rotations([chunk_of(pan(8), 260.0, noise=0.1, shift=shift)], SIZE, focal=260.0, focal_guess=367.0)
    config = CamerasConfig()
    share = np.mean(fit.residual_px < config.static_residual * max(SIZE))
    assert bool(share >= config.static_share) == in_place


# --- following the background ------------------------------------------------------------------------------


def test_following_is_exact_about_our_pixel_centres() -> None:
    big = picture()
    before = cv2.cvtColor(big[20:200, 20:340], cv2.COLOR_RGB2GRAY)
    now = cv2.cvtColor(big[17:197, 24:344], cv2.COLOR_RGB2GRAY)  # everything moves by (-4, +3)
    points = (cv2.goodFeaturesToTrack(before[20:-20, 20:-20], 80, 0.01, 8)[:, 0] + 20.5).astype(np.float32)
    pixels, ok = follow(before, now, points)
    assert ok.mean() > 0.9
    np.testing.assert_allclose((pixels - points)[ok], np.tile([-4, 3], (ok.sum(), 1)), atol=0.05)
    _, ok = follow(before, picture(5)[20:200, 20:340, 0].copy(), points)
    assert ok.mean() < 0.3  # another picture altogether


def test_points_stay_off_people(tmp_path: Path) -> None:
    images = turned_pictures(pan(4, 8), 300.0)
    masks = np.zeros((8, SIZE[1], SIZE[0]), np.uint8)
    masks[:, 40:150, 100:190] = 1
    reader = FrameReader(clip_of(tmp_path / "c", images, masks))
    assert reader.background(3)[40:150, 100:190].max() == 0 and reader.background(3)[95, 97] == 0  # grown
    chunks = follow_background(reader)
    points = np.concatenate([p for chunk in chunks for p in chunk.points])
    x, y = points[np.isfinite(points[:, 0])].T
    assert len(x) > 300 and not ((x > 100) & (x < 190) & (y > 40) & (y < 150)).any()
    assert path_lengths(chunks, 8)[-1] == pytest.approx(300 * np.radians(4), rel=0.25)


# --- which kind of camera ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("degrees", "fixed"), [(0.0, True), (0.03, True), (9.0, False)])
def test_cameras_in_place(degrees: float, fixed: bool, tmp_path: Path) -> None:
    rotations = pan(degrees) if degrees > 1 else Rotation.from_euler(
        "xyz", np.random.default_rng(0).normal(0, degrees, (20, 3)), degrees=True
    ).as_matrix()  # fmt: skip
    images = turned_pictures(rotations, 300.0)
    masks = np.zeros((20, SIZE[1], SIZE[0]), np.uint8)
    masks[:, 30:170, 90:200] = 1  # a third of the picture is people
    images[:, 30:170, 90:200] = np.random.default_rng(1).integers(0, 255, (20, 140, 110, 1))
    clip = clip_of(tmp_path / "c", images, masks)
    clip.begin("cameras")
    summary = run_auto(clip, CamerasConfig(), quiet).summary
    init = load(clip)
    assert init.kind == "static" and summary["fixed"] is fixed
    assert not init.metric and not init.focal_known and len(init.points) == 0 and init.registered.all()
    if fixed:
        np.testing.assert_array_equal(init.world_from_cam, np.tile(np.eye(4), (20, 1, 1)))
    else:  # as turns of the guessed lens: rotation times focal length is what pictures tell
        true_turn = 9 * 300 / summary["focal_px"]
        assert summary["turn_deg"] == pytest.approx(true_turn, rel=0.1)


def test_rotation_is_taken_where_mapping_finds_too_little_parallax(tmp_path: Path) -> None:
    rotations = pan(9)
    images = turned_pictures(rotations, 300.0)
    for k in range(20):  # the camera leans in and out: more than rotation explains, too little to triangulate from
        s = 1 + 0.02 * np.sin(k)
        lean = np.array([[s, 0, 160 * (1 - s)], [0, s, 90 * (1 - s)], [0, 0, 1]])
        images[k] = cv2.warpPerspective(images[k], lean, SIZE, borderMode=cv2.BORDER_REFLECT)
    clip = clip_of(tmp_path / "c", images, np.zeros((20, SIZE[1], SIZE[0]), np.uint8))
    clip.begin("cameras")
    config = CamerasConfig(sfm=SfmConfig(min_keyframes=8, max_keyframes=8))
    summary = run_auto(clip, config, quiet).summary
    init = load(clip)
    assert "keyframes registered" in summary["instead_of_sfm"]
    assert init.kind == "static" and not summary["fixed"]
    assert summary["turn_deg"] == pytest.approx(9 * 300 / summary["focal_px"], rel=0.1)


def test_static_on_the_users_word_keeps_a_known_lens(tmp_path: Path) -> None:
    K = np.array([[300.0, 0, 160], [0, 300, 90], [0, 0, 1]])
    rotations = pan(9)
    clip = clip_of(tmp_path / "c", turned_pictures(rotations, 300.0), np.zeros((20, SIZE[1], SIZE[0]), np.uint8), K=K)
    clip.begin("cameras")
    run_static(clip, CamerasConfig(use="static"), quiet)
    init = load(clip)
    assert init.focal_known
    np.testing.assert_array_equal(init.K, K)
    assert rotation_error_deg(init.world_from_cam[:, :3, :3], rotations).max() < 0.05


def test_known_cameras_are_taken_as_given(tmp_path: Path) -> None:
    K = np.array([[300.0, 0, 160], [0, 300, 90], [0, 0, 1]])
    pose = np.eye(4)
    pose[:3, 3] = [1, 2, 3]
    images, masks = np.zeros((9, 90, 160, 3), np.uint8), np.zeros((9, 90, 160), np.uint8)
    clip = clip_of(tmp_path / "c", images, masks, K=K, poses=pose.tolist())
    clip.begin("cameras")
    assert run_auto(clip, CamerasConfig(), quiet).summary["kind"] == "known"
    init = load(clip)
    assert init.metric and init.focal_known and init.kind == "known"
    np.testing.assert_array_equal(init.world_from_cam, np.tile(pose, (9, 1, 1)))
    without = clip_of(tmp_path / "d", images, masks)
    without.begin("cameras")
    with pytest.raises(FootfallError, match="no calibration"):
        run_known(without, CamerasConfig(use="known"), quiet)


# --- moving cameras ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [False, True])
def test_moving_camera_of_a_drawn_clip(known: bool, tmp_path: Path) -> None:
    clip, truth, _ = synthetic_clip(tmp_path, K=known, seed=1, camera="walk")
    clip.begin("cameras")
    summary = run_auto(clip, CamerasConfig(sfm=SfmConfig(min_keyframes=10)), quiet).summary
    init = load(clip)
    assert init.kind == "sfm" and not init.metric and init.focal_known == known
    assert init.registered.sum() == summary["registered"] and init.registered.mean() > 0.9
    true_focal = truth.cameras.K[0, 0]
    assert init.K[0, 0] == pytest.approx(true_focal, rel=1e-6 if known else 0.03)
    assert np.median(rotation_error_deg(init.world_from_cam[:, :3, :3], truth.cameras.world_from_cam[:, :3, :3])) < 0.3
    poses = truth.cameras.world_from_cam.astype(np.float64)
    eyes, true_eyes = (torch.from_numpy(p[:, :3, 3]) for p in (init.world_from_cam, poses))
    scale, rotation, shift = align_points(true_eyes, eyes, with_scale=True)
    error = (scale * eyes @ rotation.T + shift - true_eyes).norm(dim=-1)
    assert error.max() < 0.03  # metres, over a path of some metres
    # Observations are those of the points: in every frame, not only in keyframes.
    cam_from_world = np.linalg.inv(init.world_from_cam)[init.obs_frame]
    local = np.einsum("nij,nj->ni", cam_from_world[:, :3, :3], init.points[init.obs_point]) + cam_from_world[:, :3, 3]
    pixels = local @ init.K.T
    gap = np.linalg.norm(pixels[:, :2] / pixels[:, 2:] - init.obs_px, axis=-1)
    assert np.median(gap) < 0.7 and len(np.unique(init.obs_frame)) == init.registered.sum()
    # Points lie on the scene, not on the people: none below the ground. The world is the first camera's.
    height = (float(scale) * init.points @ poses[0, :3, :3].T + poses[0, :3, 3])[:, 2]
    assert np.quantile(height, 0.02) > -0.1


def test_a_scene_without_texture_is_refused(tmp_path: Path) -> None:
    images = np.full((12, 90, 160, 3), 120, np.uint8)
    clip = clip_of(tmp_path / "c", images, np.zeros((12, 90, 160), np.uint8))
    clip.begin("cameras")
    with pytest.raises(FootfallError, match="0 of"):
        run_colmap(clip, CamerasConfig(use="colmap"), quiet)


def test_keyframes_are_even_in_motion_not_in_time() -> None:
    # 20 frames at rest, then 40 at 4 pixels a frame.
    path = np.concatenate((np.zeros(20), 4.0 * np.arange(1, 41)))
    chosen = choose_keyframes(path, (320, 180), SfmConfig(min_keyframes=5))
    assert chosen[0] == 0 and chosen[-1] == 59
    assert sum(k < 20 for k in chosen) == 1
    assert np.ptp(np.diff(path[chosen][1:-1])) <= 4.0
    still = choose_keyframes(np.zeros(60), (320, 180), SfmConfig())
    assert still[0] == 0 and still[-1] == 59 and len(still) >= 16
    assert len(choose_keyframes(1e4 * path, (320, 180), SfmConfig(min_keyframes=5, max_keyframes=12))) <= 13


@pytest.mark.parametrize("bad", [{"focal_guess": 0.0}, {"static_share": 0.0}])
def test_impossible_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="cameras"):
        CamerasConfig(**bad)
