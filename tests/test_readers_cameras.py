"""Cameras of other systems come back as they were, in our conventions; impossible ones are refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from distill.errors import FootfallError
from teacher.initialisers.cameras import CamerasConfig
from teacher.initialisers.registry import get_initialiser
from teacher.readers.checks import check_intrinsics, check_poses
from teacher.readers.colmap_counts import check_counts
from teacher.stagefiles import CameraInit
from teacher.workspace import ClipFolder
from tests.readers_support import (
    FRAMES,
    clip_folder,
    silent,
    truth_problem,
    world,
    write_human3r,
    write_prompthmr,
    write_tram,
)

pycolmap = pytest.importorskip("pycolmap")


@pytest.fixture
def clip(tmp_path: Path) -> ClipFolder:
    return clip_folder(tmp_path, truth_problem())


def truth() -> np.ndarray:
    return world().truth.cameras.world_from_cam.astype(np.float64)


def read_cameras(clip: ClipFolder, use: str) -> tuple[CameraInit, dict[str, Any]]:
    clip.begin("cameras")
    outcome = get_initialiser("cameras", use).run(clip, CamerasConfig(use=use), silent)
    return CameraInit.load(clip.stage_dir("cameras")), outcome.summary


def quaternion_rows(poses: np.ndarray) -> np.ndarray:
    """tx ty tz qx qy qz qw."""
    return np.concatenate((poses[:, :3, 3], Rotation.from_matrix(poses[:, :3, :3]).as_quat()), axis=1)


def write_tum(path: Path, *, shift: float = 0.0, first: int = 0, step: int = 1, numbers: bool = False) -> Path:
    times = np.arange(FRAMES) if numbers else world().truth.cameras.timestamps + shift
    rows = np.concatenate((times[:, None], quaternion_rows(truth())), axis=1)[first::step]
    path.write_text("# timestamp tx ty tz qx qy qz qw\n" + "\n".join(" ".join(map(repr, map(float, r))) for r in rows))
    return path


def write_poses(path: Path, kind: str) -> Path:
    values = {
        "4x4": truth(),
        "3x4": truth()[:, :3],
        "12": truth()[:, :3].reshape(-1, 12),
        "7": quaternion_rows(truth()),
    }
    if path.suffix == ".npz":
        np.savez(path, world_from_cam=values[kind])
    elif path.suffix == ".npy":
        np.save(path, values[kind])
    else:
        np.savetxt(path, values[kind])
    return path


def write_droid(folder: Path) -> Path:
    """Keyframes 0, 3, ..., as cam_from_world; K of feature maps of a picture of 384 x 216."""
    folder.mkdir()
    keys = np.arange(0, FRAMES, 3)
    K = world().truth.cameras.K * 384 / 480 / 8
    np.save(folder / "tstamps.npy", keys.astype(np.float32))
    np.save(folder / "poses.npy", quaternion_rows(np.linalg.inv(truth()[keys])).astype(np.float32))
    np.save(folder / "intrinsics.npy", np.tile([K[0, 0], K[1, 1], K[0, 2], K[1, 2]], (len(keys), 1)).astype(np.float32))
    return folder


def write_josh(folder: Path, first: int | None = None) -> Path:
    """`scene.pkl`: K of a picture of 512 x 288 whose first pixel's centre is (0, 0)."""
    folder.mkdir(parents=True)
    K = np.diag([512 / 480, 288 / 270, 1]) @ world().truth.cameras.K
    K[:2, 2] -= 0.5
    content = {
        "pred_cam": truth()[first or 0 :], "intrinsics": K, "rgb_hw3": np.zeros((2, 288, 512, 3), np.uint8),
        "img_idx": np.array([0, 5]),
    }  # fmt: skip
    (folder / "scene.pkl").write_bytes(pickle.dumps(content))
    return folder


ALL: dict[str, tuple[Callable[[Path], Path], bool, bool]] = {
    # use: (writer, metric, K in the file)
    "tum": (lambda p: write_tum(p / "t.txt"), False, False),
    "tum-frames": (lambda p: write_tum(p / "t.txt", numbers=True), False, False),
    "poses": (lambda p: write_poses(p / "t.npy", "4x4"), False, False),
    "droid": (lambda p: write_droid(p / "d"), False, True),
    "tram": (lambda p: write_tram(p / "tram"), True, True),
    "prompthmr": (lambda p: write_prompthmr(p / "results.pkl"), True, True),
    "human3r": (lambda p: write_human3r(p / "h"), True, True),
    "josh": (lambda p: write_josh(p / "josh"), True, True),
}


@pytest.mark.parametrize("name", ALL)
def test_poses_and_lens_of_every_format(name: str, tmp_path: Path, clip: ClipFolder) -> None:
    write, metric, has_lens = ALL[name]
    cameras, summary = read_cameras(clip, f"{name}:{write(tmp_path)}")
    assert cameras.kind == "sfm" and cameras.metric == metric and not cameras.focal_known
    at = np.flatnonzero(cameras.registered)
    np.testing.assert_allclose(cameras.world_from_cam[at], truth()[at], atol=1e-5)
    expected_rows = np.arange(0, FRAMES, 3) if name == "droid" else np.arange(FRAMES)
    assert at.tolist() == expected_rows.tolist()
    # tram and human3r were written with focal lengths of their own
    focal = {"tram": 700.0, "human3r": 400 + 3 * (FRAMES - 1) / 2, "prompthmr": 610.0}.get(
        name, world().truth.cameras.K[0, 0] if has_lens else 0.8 * float(np.hypot(480, 270))
    )
    np.testing.assert_allclose(cameras.K, [[focal, 0, 240], [0, focal, 135], [0, 0, 1]], rtol=1e-5)
    assert summary["focal"] == ("from the file" if has_lens else "guessed")


@pytest.mark.parametrize(
    ("kind", "ending"), [("3x4", "npy"), ("12", "txt"), ("7", "npy"), ("7", "txt"), ("4x4", "npz")]
)
def test_forms_of_poses(kind: str, ending: str, tmp_path: Path, clip: ClipFolder) -> None:
    cameras, _ = read_cameras(clip, f"poses:{write_poses(tmp_path / f'p.{ending}', kind)}")
    np.testing.assert_allclose(cameras.world_from_cam, truth(), atol=1e-6)


def test_a_lens_of_the_manifest_goes_before_that_of_the_file(tmp_path: Path) -> None:
    K = world().truth.cameras.K.astype(np.float64)
    clip = clip_folder(tmp_path, truth_problem(), K=K)
    cameras, summary = read_cameras(clip, f"tram:{write_tram(tmp_path / 'tram')}")
    assert cameras.focal_known and summary["focal"] == "given"
    np.testing.assert_array_equal(cameras.K, K)


def test_a_camera_that_stays_is_static(tmp_path: Path, clip: ClipFolder) -> None:
    poses = truth()
    poses[:, :3, 3] = [1.0, 2.0, 3.0]
    np.save(tmp_path / "p.npy", poses)
    assert read_cameras(clip, f"poses:{tmp_path / 'p.npy'}")[0].kind == "static"


def test_a_chunk_of_josh_knows_its_first_frame(tmp_path: Path, clip: ClipFolder) -> None:
    cameras, _ = read_cameras(clip, f"josh:{write_josh(tmp_path / 'josh_6-24', 6)}")
    assert np.flatnonzero(~cameras.registered).tolist() == list(range(6))
    np.testing.assert_allclose(cameras.world_from_cam[6:], truth()[6:], atol=1e-6)
    np.testing.assert_allclose(cameras.world_from_cam[0], truth()[6], atol=1e-6)


# --- COLMAP --------------------------------------------------------------------------------------------


def write_colmap(folder: Path, *, binary: bool, first_name: int = 0, model: str = "PINHOLE", k: float = 0.0) -> Path:
    """A model of pictures twice as large, with points that the truth's cameras see."""
    K = world().truth.cameras.K * 2
    parameters = {"PINHOLE": [K[0, 0], K[1, 1], 480, 270], "SIMPLE_RADIAL": [K[0, 0], 480, 270, k]}[model]
    reconstruction = pycolmap.Reconstruction()
    camera = pycolmap.Camera(model=model, width=960, height=540, params=parameters, camera_id=1)
    reconstruction.add_camera_with_trivial_rig(camera)
    points = truth()[0, :3, 3] + truth()[0, :3, 2] * 6 + np.random.default_rng(0).uniform(-1, 1, (12, 3))
    seen: dict[int, list[tuple[int, int]]] = {n: [] for n in range(len(points))}
    for t in range(0, FRAMES, 2):
        world_to_cam = np.linalg.inv(truth()[t])
        in_camera = points @ world_to_cam[:3, :3].T + world_to_cam[:3, 3]
        pixels = in_camera[:, :2] / in_camera[:, 2:] * K[0, 0] + [480, 270]
        image = pycolmap.Image(name=f"street_{t + first_name:04d}.jpg", keypoints=pixels, camera_id=1, image_id=t + 1)
        pose = pycolmap.Rigid3d(world_to_cam[:3])
        reconstruction.add_image_with_trivial_frame(image, pose)
        for n in range(len(points)):
            seen[n].append((t + 1, n))
    for n, point in enumerate(points):
        track = pycolmap.Track([pycolmap.TrackElement(image, index) for image, index in seen[n]])
        reconstruction.add_point3D(point, track, np.array([n, 2 * n, 3], np.uint8))
    folder.mkdir(parents=True)
    (reconstruction.write_binary if binary else reconstruction.write_text)(folder)
    return folder


@pytest.mark.parametrize("file", ["images", "points3D", "frames", "cameras", "rigs"])
@pytest.mark.timeout(60)
def test_a_count_that_a_colmap_file_does_not_hold_is_refused_at_once(file: str, tmp_path: Path) -> None:
    folder = write_colmap(tmp_path / "sparse", binary=True)
    check_counts(folder)
    path = folder / f"{file}.bin"
    whole = path.read_bytes()
    path.write_bytes((1 << 60).to_bytes(8, "little") + whole[8:])
    with pytest.raises(ValueError, match=r"claims|ends within|no end"):
        check_counts(folder)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"claims|ends within|no end"):
        check_counts(folder)


def test_counts_of_a_rig_of_two_lenses_are_those_of_its_file(tmp_path: Path) -> None:
    kinds, rig = [pycolmap.SensorType.CAMERA] * 2, pycolmap.Rig(rig_id=1)
    rig.add_ref_sensor(pycolmap.sensor_t(kinds[0], 1))
    rig.add_sensor(pycolmap.sensor_t(kinds[1], 2), pycolmap.Rigid3d())
    model = pycolmap.Reconstruction()
    for number in (1, 2):
        model.add_camera(pycolmap.Camera(model="OPENCV", width=64, height=48, params=[50] * 8, camera_id=number))
    model.add_rig(rig)
    model.write_binary(tmp_path)
    check_counts(tmp_path)
    (tmp_path / "rigs.bin").write_bytes((tmp_path / "rigs.bin").read_bytes()[:-1])
    with pytest.raises(ValueError, match="claims"):
        check_counts(tmp_path)


@pytest.mark.parametrize("binary", [True, False])
def test_a_colmap_model(binary: bool, tmp_path: Path, clip: ClipFolder) -> None:
    cameras, summary = read_cameras(clip, f"colmap-model:{write_colmap(tmp_path / 'sparse', binary=binary)}")
    assert np.flatnonzero(cameras.registered).tolist() == list(range(0, FRAMES, 2))
    np.testing.assert_allclose(cameras.world_from_cam[cameras.registered], truth()[::2], atol=1e-6)
    np.testing.assert_allclose(cameras.K, world().truth.cameras.K, atol=1e-4)
    assert cameras.kind == "sfm" and not cameras.metric and summary["points"] == 12
    assert len(cameras.obs_frame) == 12 * FRAMES // 2
    # Every observation is where its point is seen by the pose and the lens that were read.
    world_to_cam = np.linalg.inv(cameras.world_from_cam[cameras.obs_frame])
    point = cameras.points[cameras.obs_point].astype(np.float64)
    in_camera = np.einsum("nij,nj->ni", world_to_cam[:, :3, :3], point) + world_to_cam[:, :3, 3]
    pixels = in_camera[:, :2] / in_camera[:, 2:] * cameras.K[0, 0] + cameras.K[:2, 2]
    np.testing.assert_allclose(pixels, cameras.obs_px, atol=1e-2)


def test_images_that_are_numbered_from_one(tmp_path: Path, clip: ClipFolder) -> None:
    """ffmpeg's names; the last frame of 24 has the number 24."""
    model = write_colmap(tmp_path / "sparse", binary=True, first_name=2)  # 2, 4, ..., 24
    cameras, _ = read_cameras(clip, f"colmap-model:{model}")
    assert np.flatnonzero(cameras.registered).tolist() == list(range(1, FRAMES, 2))


def test_a_lens_that_bends_lines_is_refused_and_one_that_hardly_does_is_not(tmp_path: Path, clip: ClipFolder) -> None:
    straight = write_colmap(tmp_path / "a", binary=True, model="SIMPLE_RADIAL", k=0.001)
    assert read_cameras(clip, f"colmap-model:{straight}")[0].registered.any()
    bent = write_colmap(tmp_path / "b", binary=True, model="SIMPLE_RADIAL", k=-0.2)
    with pytest.raises(FootfallError, match="image_undistorter"):
        read_cameras(clip, f"colmap-model:{bent}")


@pytest.mark.parametrize("damage", ["empty", "truncated", "missing"])
def test_a_damaged_colmap_model(damage: str, tmp_path: Path, clip: ClipFolder) -> None:
    model = write_colmap(tmp_path / "sparse", binary=True)
    if damage == "missing":
        (model / "images.bin").unlink()
    else:
        data = (model / "images.bin").read_bytes()
        (model / "images.bin").write_bytes(b"" if damage == "empty" else data[: len(data) // 2])
    with pytest.raises(FootfallError, match=r"COLMAP|no model|no image") as caught:
        read_cameras(clip, f"colmap-model:{model}")
    assert "\n" not in str(caught.value)


# --- cameras that cannot be, or are of another video ---------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "words"),
    [("nan", "not finite"), ("mirror", "no rotation"), ("scaled", "no rotation"), ("row", "last row")],
)
def test_impossible_poses_are_refused_and_the_first_is_named(
    fault: str, words: str, tmp_path: Path, clip: ClipFolder
) -> None:
    poses = truth()
    change = {"nan": (0, 3, np.nan), "mirror": (slice(0, 3), 0, -poses[5, :3, 0]), "row": (3, 0, 0.5),
              "scaled": (slice(0, 3), slice(0, 3), 1.01 * poses[5, :3, :3])}[fault]  # fmt: skip
    poses[5, change[0], change[1]] = change[2]
    np.save(tmp_path / "p.npy", poses)
    with pytest.raises(FootfallError, match=f"{words}.* in pose 5"):
        read_cameras(clip, f"poses:{tmp_path / 'p.npy'}")
    assert list(clip.stage_dir("cameras").iterdir()) == []


@pytest.mark.parametrize(
    "K",
    [
        [[-500, 0, 240], [0, 500, 135], [0, 0, 1]], [[0, 0, 240], [0, 500, 135], [0, 0, 1]],
        [[500, 0, 900], [0, 500, 135], [0, 0, 1]], [[500, 0, 240], [0, 500, -3], [0, 0, 1]],
        [[np.nan, 0, 240], [0, 500, 135], [0, 0, 1]], [[500, 0, 240], [0, 1500, 135], [0, 0, 1]],
        [[1.2, 0, 0.5], [0, 1.2, 0.5], [0, 0, 1]], [[500, 0, 240], [0, 500, 135], [0, 0, 2]],
        [[5e5, 0, 240], [0, 5e5, 135], [0, 0, 1]], [[500, 0, 240], [3, 500, 135], [0, 0, 1]], np.eye(4).tolist(),
    ],
)  # fmt: skip
def test_impossible_lenses_are_refused(K: list[list[float]]) -> None:
    with pytest.raises(FootfallError, match="expected"):
        check_intrinsics("file", np.array(K), (480, 270))


def test_possible_cameras_pass_unchanged() -> None:
    K = np.array([[500, 0, 250.0], [0, 510, 120], [0, 0, 1]])
    np.testing.assert_array_equal(check_intrinsics("file", K, (480, 270)), K)
    np.testing.assert_allclose(check_poses("file", truth()), truth(), atol=1e-6)


@pytest.mark.parametrize("case", ["times", "half", "numbers", "count", "short", "aspect", "quaternion"])
def test_cameras_that_do_not_overlap_the_video(case: str, tmp_path: Path, clip: ClipFolder) -> None:
    use, words = {
        "times": (lambda: f"tum:{write_tum(tmp_path / 't', shift=1000)}", "times from 1000"),
        "half": (lambda: f"tum:{write_tum(tmp_path / 't', first=16)}", "span 50%"),
        "numbers": (lambda: f"tum-frames:{write_tum(tmp_path / 't')}", "with fractions"),
        "count": (lambda: f"poses:{_saved(tmp_path, np.tile(np.eye(4), (FRAMES + 5, 1, 1)))}", "got 29 frames"),
        "short": (lambda: f"poses:{_saved(tmp_path, truth()[:10])}", "got 10 frames"),
        "aspect": (lambda: f"tram:{_other_aspect(tmp_path)}", "images of 540 x 960"),
        "quaternion": (lambda: f"poses:{_saved(tmp_path, 2 * quaternion_rows(truth()))}", "unit quaternions"),
    }[case]
    with pytest.raises(FootfallError, match=words):
        read_cameras(clip, use())
    assert list(clip.stage_dir("cameras").iterdir()) == []


def _saved(folder: Path, rows: np.ndarray) -> Path:
    np.save(folder / "p.npy", rows)
    return folder / "p.npy"


def _other_aspect(folder: Path) -> Path:
    file = write_tram(folder / "tram") / "camera.npy"
    content = np.load(file, allow_pickle=True).item()  # made one line above
    np.save(file, {**content, "img_center": np.array([270.0, 480.0])}, allow_pickle=True)  # type: ignore[arg-type]
    return file.parent


def test_an_unknown_format_lists_those_that_exist() -> None:
    with pytest.raises(FootfallError, match=r"colmap-model:PATH.*tum:PATH"):
        get_initialiser("cameras", "colmapp:/x")
    with pytest.raises(FootfallError, match="files:FOLDER"):
        get_initialiser("depth", "wham:/x")
