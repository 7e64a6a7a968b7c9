"""The recipe for BEDLAM, on a made-up scene in the true layout: two people, a camera that turns and walks."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from distill.evaluate import find_truths
from distill.results import load_result
from teacher.manifest import read_inputs
from tests.readers_support import write_model
from tests.target_support import chain_joints, load_recipe

SCENE, SEQUENCE = "20221013_3_250_batch01hand_orbit_bigOffice", "seq_000003"
FRAMES, RENDERED, FOCAL_MM = 6, (128, 72), 36.0


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    return load_recipe("bedlam")


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smplx")
    write_model(folder / "SMPLX_NEUTRAL.npz", 55)
    return folder


def camera_rows(focal: Any = lambda k: FOCAL_MM) -> list[dict[str, float | str]]:
    return [
        {"name": f"{SEQUENCE}_{k:04d}.png", "x": 10.0 * k, "y": -5.0, "z": 160.0, "yaw": 4.0 * k, "pitch": -3.0,
         "roll": 2.0, "focal_length": focal(k), "sensor_width": 36, "sensor_height": 20.25, "hfov": 52}
        for k in range(FRAMES)
    ]  # fmt: skip


def unreal_to_camera(points_cm: np.ndarray, row: dict[str, Any]) -> np.ndarray:
    """Points of Unreal's world in an OpenCV camera, metres, step by step in Unreal's own axes.

    X forward, Y right, Z up. A positive yaw turns the camera to the right, a positive pitch up, a positive roll
    clockwise.
    """
    local = (points_cm - np.array([row["x"], row["y"], row["z"]])) / 100
    yaw, pitch, roll = (np.deg2rad(float(row[key])) for key in ("yaw", "pitch", "roll"))
    forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
    right = np.array([-np.sin(yaw), np.cos(yaw), 0])
    up = np.cross(forward, right)  # left-handed axes: forward x right = up by the same formula
    rolled_right = np.cos(roll) * right - np.sin(roll) * up
    rolled_up = np.cos(roll) * up + np.sin(roll) * right
    return np.stack((local @ rolled_right, -(local @ rolled_up), local @ forward), -1)


def write_scene(root: Path, *, rows: list[dict[str, Any]], scene: str = SCENE, lying: bool = False) -> dict[str, Any]:
    """Images, camera table and labels; returns where the joints are in the cameras."""
    images, tables = root / "raw" / scene / "png" / SEQUENCE, root / "raw" / scene / "ground_truth" / "camera"
    images.mkdir(parents=True)
    tables.mkdir(parents=True)
    for row in rows:
        picture = Image.new("RGB", RENDERED, (10, 20, 30))
        picture.putpixel((0, 0), (250, 0, 0))
        picture.save(images / str(row["name"]))
    header = list(rows[0])
    lines = [",".join(header), *(",".join(str(row[key]) for key in header) for row in rows)]
    (tables / f"{SEQUENCE}_camera.csv").write_text("\n".join(lines) + "\n")
    width, height = RENDERED[::-1] if lying else RENDERED
    K = np.array([[RENDERED[0], 0, width / 2], [0, RENDERED[0], height / 2], [0, 0, 1.0]])  # 36 mm of 36 mm
    labels: dict[str, list[Any]] = {key: [] for key in (
        "imgname", "pose_cam", "shape", "trans_cam", "cam_ext", "cam_int", "gtkps", "sub")}  # fmt: skip
    truth = {}
    for subject in ("anna", "bert"):
        for k in range(FRAMES - (subject == "bert")):  # bert leaves
            rng = np.random.default_rng(k + 50 * (subject == "bert"))
            pose, betas = rng.normal(size=(22, 3)) * 0.2, np.full(10, 0.2 if subject == "anna" else -0.4)
            trans, ext = rng.normal(size=3) * 0.1, np.eye(4)
            ext[:3, 3] = [0.6 if subject == "anna" else -0.5, 0.3, 4.0]
            joints = chain_joints(betas, pose, trans, joints=22) + ext[:3, 3]
            pixels = joints @ K.T
            truth[subject, k] = joints
            labels["imgname"].append(f"{SEQUENCE}/{rows[k]['name']}")
            labels["pose_cam"].append(np.concatenate((pose.reshape(-1), np.zeros(99))))
            labels["shape"].append(np.append(betas, 0.0))  # eleven, as the neutral model has them
            labels["trans_cam"].append(trans)
            labels["cam_ext"].append(ext)
            labels["cam_int"].append(K)
            labels["gtkps"].append(
                np.pad(np.concatenate((pixels[:, :2] / pixels[:, 2:], np.ones((22, 1))), 1), ((0, 5), (0, 0)))
            )
            labels["sub"].append(subject)
    (root / "labels").mkdir()
    np.savez(root / "labels" / f"{scene}.npz", **{key: np.array(value) for key, value in labels.items()})
    return truth


def run(recipe: ModuleType, root: Path, *more: str) -> int:
    return int(recipe.main(["--raw", str(root / "raw"), "--out", str(root / "out"), *more]))


def test_the_camera_is_where_unreal_says(recipe: ModuleType, tmp_path: Path) -> None:
    write_scene(tmp_path, rows=camera_rows())
    table = tmp_path / "raw" / SCENE / "ground_truth" / "camera" / f"{SEQUENCE}_camera.csv"
    camera = recipe.read_camera(table, RENDERED[0], upright=True)
    points = np.array([[500.0, 30, 120], [420, -80, 200]])
    in_opencv = np.stack((points[:, 1], -points[:, 2], points[:, 0]), 1) / 100  # the same world in OpenCV's axes
    for k, row in enumerate(camera_rows()):
        ours = in_opencv @ camera.cam_from_world[k, :3, :3].T + camera.cam_from_world[k, :3, 3]
        np.testing.assert_allclose(ours, unreal_to_camera(points, row), atol=1e-9)
    assert camera.focal.tolist() == [RENDERED[0]] * FRAMES


def test_a_sequence_becomes_a_clip_with_both_people_in_one_world(
    recipe: ModuleType, tmp_path: Path, bodies: Path
) -> None:
    expected = write_scene(tmp_path, rows=camera_rows())
    assert run(recipe, tmp_path, "--labels", str(tmp_path / "labels"), "--bodies", str(bodies)) == 0
    truth = load_result(find_truths(tmp_path / "out")[f"{SCENE}-{SEQUENCE}"])
    assert truth.motion.present.tolist() == [[True, True]] * (FRAMES - 1) + [[True, False]]
    for (subject, k), joints in expected.items():
        person = ("anna", "bert").index(subject)
        np.testing.assert_allclose(truth.motion.joints_cam[k, person, :22], joints, atol=1e-3)
    turned = truth.cameras.world_from_cam[-1, :3, :3]
    assert np.rad2deg(Rotation.from_matrix(turned).magnitude()) == pytest.approx(4.0 * (FRAMES - 1), rel=0.02)
    assert np.linalg.norm(truth.cameras.world_from_cam[-1, :3, 3]) == pytest.approx(0.1 * (FRAMES - 1), abs=1e-5)
    assert run(recipe, tmp_path, "--known-cameras") == 0
    (clip,) = read_inputs([tmp_path / "out" / "manifest.jsonl"])
    assert clip.world_from_cam is not None and len(clip.world_from_cam) == FRAMES


def test_close_ups_are_turned_upright(recipe: ModuleType, tmp_path: Path, bodies: Path) -> None:
    scene = "20221011_1_250_batch01hand_closeup_suburb_a"
    write_scene(tmp_path, rows=camera_rows(), scene=scene, lying=True)
    assert run(recipe, tmp_path, "--labels", str(tmp_path / "labels"), "--bodies", str(bodies)) == 0
    with Image.open(tmp_path / "out" / f"{scene}-{SEQUENCE}" / "frames" / "000000.png") as image:
        assert image.size == RENDERED[::-1]
        assert image.getpixel((RENDERED[1] - 1, 0)) == (250, 0, 0)  # the top left goes to the top right


def test_zooms_wrong_bodies_and_missing_tables_are_said(
    recipe: ModuleType, tmp_path: Path, bodies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scene(tmp_path, rows=camera_rows(lambda k: FOCAL_MM + k))
    assert run(recipe, tmp_path) == 0
    assert "zooms" in capsys.readouterr().out
    labels = tmp_path / "labels" / f"{SCENE}.npz"
    content = dict(np.load(labels))
    content["trans_cam"] = content["trans_cam"] + [0, 0.3, 0]
    np.savez(labels, **content)
    rows = camera_rows()
    table = tmp_path / "raw" / SCENE / "ground_truth" / "camera" / f"{SEQUENCE}_camera.csv"
    table.write_text("\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]))
    assert run(recipe, tmp_path, "--labels", str(labels.parent), "--bodies", str(bodies)) == 2
    assert "px (median)" in capsys.readouterr().err
    table.write_text("name,x\na,1\n")
    assert run(recipe, tmp_path) == 2
    assert "_camera.csv" in capsys.readouterr().err
