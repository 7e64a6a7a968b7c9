"""Cameras, scene and truth of synthetic clips agree with one another, before and after drawing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import decord
import numpy as np
import pytest
from PIL import Image

from distill.config import load_config
from distill.errors import FootfallError, is_installed
from distill.files import load_arrays
from distill.results import load_result
from distill.synthetic import (
    ClipSpec,
    SyntheticClip,
    collection,
    is_complete,
    make_clip,
    make_stage,
    write_clip,
    write_collection,
)
from distill.synthetic.pairs import PAIRS_PER_CLIP, FramePair, frame_pairs, pair_specs, write_pairs
from distill.synthetic.render import Picture, gl_is_available, open_renderer

SMALL = {"size": [240, 136], "frames": 8, "fps": 12.5, "supersample": 1}


@pytest.fixture(scope="module")
def clip() -> SyntheticClip:
    return make_clip(ClipSpec(seed=5, people=2, **SMALL))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips") / "one"
    write_clip(folder, ClipSpec(id="one", seed=5, people=2, **SMALL))
    return folder


def _draw(clip: SyntheticClip, backend: str, frame: int = 3) -> Picture:
    cameras = clip.truth.cameras
    renderer = open_renderer(make_stage(clip), cameras.size, backend=backend)
    return renderer.draw(next(clip.people_vertices([frame])), cameras.K, cameras.world_from_cam[frame])


@pytest.mark.parametrize("camera", ["walk", "pan", "shake", "static"])
def test_cameras_are_rigid_level_and_see_everybody(camera: str) -> None:
    clip = make_clip(ClipSpec(seed=2, people=2, camera=camera, frames=40))
    cameras = clip.truth.cameras
    rotation = cameras.world_from_cam[:, :3, :3]
    np.testing.assert_allclose(rotation @ np.swapaxes(rotation, 1, 2), np.tile(np.eye(3), (40, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotation), 1.0, atol=1e-12)
    assert np.abs(rotation[:, 2, 0]).max() < 0.12  # the camera's x axis stays near the horizon
    assert (rotation[:, 2, 1] < -0.7).all()  # its y axis points down
    pixels = clip.keypoints_cam() @ cameras.K.T
    pixels = pixels[..., :2] / pixels[..., 2:]
    assert (pixels > 0).all() and (pixels < cameras.size).all()
    moved = np.linalg.norm(np.diff(cameras.world_from_cam[:, :3, 3], axis=0), axis=-1).sum()
    if camera == "static":
        assert np.ptp(cameras.world_from_cam, axis=0).max() == 0
    else:
        assert (moved > 0.5) == (camera != "pan")


def test_camera_that_cannot_see_everybody_says_so() -> None:
    with pytest.raises(FootfallError, match="leave the view"):
        make_clip(ClipSpec(seed=1, camera="static", frames=6000, fps=10.0))


def test_scene_depth_by_hand(clip: SyntheticClip) -> None:
    # A camera 2 m above the ground that looks straight down sees depth 2 everywhere (objects stand elsewhere).
    x, y = clip.truth.joints_world[0, 0, 0, :2]
    down = np.array([[1.0, 0, 0, x], [0, -1, 0, y], [0, 0, -1, 2.0], [0, 0, 0, 1]])
    K = np.array([[100.0, 0, 4], [0, 100, 3], [0, 0, 1]])
    np.testing.assert_allclose(clip.scene.cast_depth(K, down, (8, 6)), np.full((6, 8), 2.0), atol=1e-5)
    up = down.copy()
    up[:3, :3] = np.eye(3)
    assert (clip.scene.cast_depth(K, up, (8, 6)) == 0).all()


def test_scene_points_project_to_the_scene_depth(clip: SyntheticClip) -> None:
    points, frames = clip.sample_points(500)
    cameras = clip.truth.cameras
    for frame in np.unique(frames):
        local = (points[frames == frame] - cameras.world_from_cam[frame, :3, 3]) @ cameras.world_from_cam[frame, :3, :3]
        projected = local @ cameras.K.T
        column, row = np.floor(projected[:, :2] / projected[:, 2:]).astype(int).T
        depth = clip.scene.cast_depth(cameras.K, cameras.world_from_cam[frame], cameras.size)
        inside = (column >= 0) & (column < cameras.size[0]) & (row >= 0) & (row < cameras.size[1])
        gap = np.abs(depth[row[inside], column[inside]] - local[inside, 2])
        assert inside.mean() > 0.99 and np.median(gap) < 0.05  # within the slope of one pixel


def test_renderers_agree(clip: SyntheticClip) -> None:
    if not gl_is_available():
        pytest.skip("needs an OpenGL context")
    gl, rays = _draw(clip, "gl"), _draw(clip, "rays")
    assert (np.abs(gl.depth - rays.depth) < 0.005).mean() > 0.99
    assert (gl.ids == rays.ids).mean() > 0.995
    # They filter textures differently: colours agree on average, not pixel by pixel.
    assert np.abs(gl.rgb.astype(float) - rays.rgb).mean() < 12
    assert np.abs(gl.rgb.mean(axis=(0, 1)) - rays.rgb.mean(axis=(0, 1))).max() < 4


@pytest.mark.parametrize("backend", ["gl", "rays"])
def test_drawn_depth_is_the_cast_depth_where_nobody_stands(clip: SyntheticClip, backend: str) -> None:
    if backend == "gl" and not gl_is_available():
        pytest.skip("needs an OpenGL context")
    picture, cameras = _draw(clip, backend), clip.truth.cameras
    cast = clip.scene.cast_depth(cameras.K, cameras.world_from_cam[3], cameras.size)
    free = picture.ids == 0
    assert 0.5 < free.mean() < 0.99
    assert (np.abs(picture.depth - cast)[free] < 0.005).mean() > 0.995
    assert (picture.depth < cast)[~free & (cast > 0)].all()


def test_supersampling_leaves_depth_and_identity_as_they_are(clip: SyntheticClip) -> None:
    cameras = clip.truth.cameras
    people = next(clip.people_vertices([3]))
    pictures = [
        open_renderer(make_stage(clip), cameras.size, supersample=n).draw(people, cameras.K, cameras.world_from_cam[3])
        for n in (1, 3)
    ]
    assert (np.abs(pictures[0].depth - pictures[1].depth) < 1e-3).mean() > 0.999
    assert (pictures[0].ids == pictures[1].ids).mean() > 0.999
    with pytest.raises(ValueError, match="even"):
        open_renderer(make_stage(clip), cameras.size, supersample=2)


def test_masks_lie_on_the_projected_people(written: Path) -> None:
    arrays, _ = load_arrays(written / "keypoints.npz")
    truth = load_result(written / "truth")
    for frame in range(8):
        mask = np.asarray(Image.open(written / "masks" / f"{frame:06d}.png"))
        assert set(np.unique(mask)) == {0, 1, 2}
        for person in range(2):
            rows, columns = np.nonzero(mask == person + 1)
            projected = truth.motion.joints_cam[frame, person] @ truth.cameras.K.T
            pixels = projected[:, :2] / projected[:, 2:]
            np.testing.assert_allclose([columns.mean(), rows.mean()], pixels.mean(axis=0), atol=12)
    # Keypoints are those of the truth's bodies; most of them are seen.
    projected = arrays["keypoints_cam"] @ truth.cameras.K.T
    np.testing.assert_allclose(projected[..., :2] / projected[..., 2:], arrays["keypoints_px"], atol=1e-2)
    assert arrays["visible"].mean() > 0.8
    for axis in range(2):
        seen = arrays["keypoints_px"][..., axis]
        assert (seen > arrays["box_xyxy"][..., None, axis] - 3)[arrays["visible"]].all()
        assert (seen < arrays["box_xyxy"][..., None, 2 + axis] + 3)[arrays["visible"]].all()


def test_video_has_exactly_the_frames_and_times_of_the_spec(written: Path) -> None:
    video = decord.VideoReader(str(written / "video.mp4"))
    stamps = video.get_frame_timestamp(list(range(len(video))))[:, 0]
    assert len(video) == 8 and video[0].shape == (136, 240, 3)
    np.testing.assert_allclose(stamps, np.arange(8) / 12.5, atol=1e-4)
    np.testing.assert_array_equal(load_result(written / "truth").cameras.timestamps, np.arange(8) / 12.5)


def test_written_truth_is_the_made_truth(written: Path, clip: SyntheticClip) -> None:
    truth = load_result(written / "truth")
    np.testing.assert_allclose(truth.joints_world, clip.truth.joints_world, atol=1e-4)
    np.testing.assert_array_equal(truth.motion.contact_prob, clip.truth.motion.contact_prob)
    assert truth.meta["world"] == "z_up_ground" and len(truth.scene_points) > 1000
    depth = load_arrays(written / "depth.npz")[0]["depth"]
    cameras = clip.truth.cameras
    cast = clip.scene.cast_depth(cameras.K, cameras.world_from_cam[2], cameras.size)
    known = depth[2] > 0
    assert depth.dtype == np.float16 and (np.abs(depth[2][known] / cast[known] - 1) < 2e-3).mean() > 0.99
    assert load_config(ClipSpec, written / "spec.yaml") == ClipSpec(id="one", seed=5, people=2, **SMALL)


def test_points_of_the_written_scene_lie_on_it(written: Path) -> None:
    truth = load_result(written / "truth")
    on_ground = np.abs(truth.scene_points[:, 2]) < 1e-3
    assert 0.2 < on_ground.mean() < 0.95 and truth.scene_points[:, 2].min() > -1e-3


def test_collection_resumes_and_lists_its_clips(tmp_path: Path) -> None:
    specs = [ClipSpec(id=f"c{k}", seed=k, **{**SMALL, "frames": 3}) for k in range(2)]
    manifest = write_collection(tmp_path, specs)
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert [row["id"] for row in rows] == ["c0", "c1"]
    assert all((tmp_path / row["path"]).is_file() and row["licence"] and row["source"] for row in rows)
    stamp = (tmp_path / "c0" / "video.mp4").stat().st_mtime_ns
    (tmp_path / "c1" / "truth" / "meta.json").unlink()
    assert is_complete(tmp_path / "c0", specs[0]) and not is_complete(tmp_path / "c1", specs[1])
    write_collection(tmp_path, specs)
    assert (tmp_path / "c0" / "video.mp4").stat().st_mtime_ns == stamp
    assert is_complete(tmp_path / "c1", specs[1])
    assert not is_complete(tmp_path / "c0", ClipSpec(id="c0", seed=9, **SMALL))


def test_a_written_clip_is_the_same_every_time(tmp_path: Path) -> None:
    spec = ClipSpec(id="again", seed=3, **{**SMALL, "frames": 2})
    for name in ("a", "b"):
        write_clip(tmp_path / name, spec)
    for file in ("masks/000001.png", "depth.npz", "spec.yaml", "truth/meta.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    frames = [decord.VideoReader(str(tmp_path / name / "video.mp4"))[1].asnumpy() for name in ("a", "b")]
    np.testing.assert_array_equal(*frames)


def _prepare(*arguments: str) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).resolve().parent.parent / "datasets" / "synthetic" / "prepare_synthetic.py"
    return subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, timeout=300)


def test_the_recipe_runs_by_path_and_refuses_a_misspelt_field(tmp_path: Path) -> None:
    good = _prepare("--out", str(tmp_path), "--set", "debug", "frames=3", "camera=pan")
    assert good.returncode == 0, good.stderr
    spec = load_config(ClipSpec, tmp_path / "debug" / "spec.yaml")
    assert (spec.frames, spec.camera) == (3, "pan") and is_complete(tmp_path / "debug", spec)
    bad = _prepare("--out", str(tmp_path), "--set", "debug", "camra=pan")
    assert bad.returncode == 2 and "camra" in bad.stderr and "Traceback" not in bad.stderr
    assert is_complete(tmp_path / "debug", spec)


@pytest.mark.parametrize("name", ["demo", "debug", "train:9"])
def test_sets_are_stable_and_hold_out_some(name: str) -> None:
    specs = collection(name)
    assert specs == collection(name) and specs[0] != collection(name, seed=1)[0]
    assert len({spec.id for spec in specs}) == len(specs)
    assert name == "debug" or any(spec.id.startswith("test-") for spec in specs)
    for spec in specs:
        make_clip(spec).truth.check()


def test_unknown_set_names_those_that_exist() -> None:
    with pytest.raises(FootfallError, match="demo"):
        collection("train:none")


def test_pairs_are_exact(tmp_path: Path) -> None:
    pairs = list(frame_pairs(pair_specs(2, seed=4)))
    assert len(pairs) == 2 * PAIRS_PER_CLIP and pairs[0].image_a.shape == (96, 160, 3)
    errors = [_cross_depth_error(pair) for pair in pairs]
    # Pixels of b, moved into a, land on a's depth, but where something is hidden: the median knows nothing of that.
    assert np.median(errors) < 0.005 and max(errors) < 0.05
    files = write_pairs(tmp_path, pair_specs(2, seed=4), per_file=20)
    arrays, _ = load_arrays(files[0])
    assert [load_arrays(file)[0]["K"].shape[0] for file in files] == [20, 4]
    np.testing.assert_array_equal(arrays["image_a"][7], pairs[7].image_a)
    np.testing.assert_allclose(arrays["depth_b"][7], pairs[7].depth_b, rtol=1e-3)


def _cross_depth_error(pair: FramePair) -> float:
    """Median relative gap between b's static points in camera a and a's depth there."""
    rows, columns = np.nonzero((pair.ids_b == 0) & (pair.depth_b > 0))
    pixels = np.stack((columns + 0.5, rows + 0.5, np.ones(len(rows))), axis=-1)
    points = pixels @ np.linalg.inv(pair.K).T * pair.depth_b[rows, columns, None]
    moved = points @ pair.cam_a_from_cam_b[:3, :3].T + pair.cam_a_from_cam_b[:3, 3]
    moved = moved[moved[:, 2] > 0.5]
    at = moved @ pair.K.T
    column, row = np.floor(at[:, :2] / at[:, 2:]).astype(int).T
    height, width = pair.ids_a.shape
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    row, column, z = row[inside], column[inside], moved[inside, 2]
    static = (pair.ids_a[row, column] == 0) & (pair.depth_a[row, column] > 0)
    return float(np.median(np.abs(pair.depth_a[row, column] / z - 1)[static]))


def test_the_real_person_detector_finds_the_people(tmp_path: Path) -> None:
    if not is_installed("ai_edge_litert"):
        pytest.skip("needs the extra [people]")
    from distill.people.tracker import PeopleTracker

    spec = ClipSpec(id="seen", seed=1, frames=6, fps=15.0)
    write_clip(tmp_path, spec)
    video = decord.VideoReader(str(tmp_path / "video.mp4"))
    truth = load_arrays(tmp_path / "keypoints.npz")[0]["keypoints_px"]
    tracker = PeopleTracker()
    for frame in range(6):
        found = tracker.step(video[frame].asnumpy())
        assert len(found) == 1
        pose = found[0].pose
        gap = np.linalg.norm(pose.keypoints_px - truth[frame, 0], axis=-1)[pose.keypoint_score > 0.5]
        assert np.median(gap) < 8  # pixels, of a person some 150 pixels tall
