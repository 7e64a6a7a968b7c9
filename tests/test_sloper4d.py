"""The recipe for SLOPER4D, on a made-up sequence in the layout that its loaders read."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from distill.evaluate import find_truths
from distill.geometry.conventions import SMPL_JOINTS
from distill.results import load_result
from teacher.manifest import read_inputs
from tests.readers_support import write_model
from tests.target_support import chain_joints, load_recipe

NAME = "seq002_football_001"
FRAMES, SIZE, GAP = 8, (96, 54), 5
"""One frame, `GAP`, has no image; one, the first, has no box."""


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    return load_recipe("sloper4d")


@pytest.fixture(scope="module")
def smpl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smpl")
    write_model(folder / "SMPL_MALE.npz")
    return folder


def labels(recipe: ModuleType) -> dict[str, Any]:
    """What a *_labels.pkl holds: world z up, the camera turns while it walks."""
    rng = np.random.default_rng(2)
    pose = np.concatenate((np.tile([np.pi / 2, 0, 0], (FRAMES + 3, 1)), rng.normal(size=(FRAMES + 3, 69)) * 0.15), 1)
    transl = np.array([0.0, 6, 1]) + rng.normal(size=(FRAMES + 3, 3)) * 0.05
    beta = rng.normal(size=10) * 0.4
    look = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # camera from world: forward is the world's y
    cam_pose = np.tile(np.eye(4), (FRAMES, 1, 1))
    for k in range(FRAMES):
        cam_pose[k, :3, :3] = look @ Rotation.from_euler("z", 0.03 * k).as_matrix()
        cam_pose[k, :3, 3] = -cam_pose[k, :3, :3] @ np.array([0.1 * k, 0.2 * k, 1.2])
    intrinsics = [60.0, 61.0, 47.5, 26.5]
    joints = np.stack([chain_joints(beta, pose[k].reshape(24, 3), transl[k]) for k in range(FRAMES)])
    in_camera = np.einsum("tij,tkj->tki", cam_pose[:, :3, :3], joints) + cam_pose[:, None, :3, 3]
    pixels = in_camera[..., :2] / in_camera[..., 2:] * intrinsics[:2] + intrinsics[2:]
    skel = np.zeros((FRAMES, 17, 3))
    for coco, name in recipe.COCO_FROM_SMPL.items():
        skel[:, coco] = np.concatenate((pixels[:, SMPL_JOINTS.index(name)], np.full((FRAMES, 1), 0.9)), 1)
    return {
        "framerate": 20, "total_frames": FRAMES, "frame_num": list(range(FRAMES + 3)),
        "first_person": {"lidar_traj": np.zeros((FRAMES, 9))},
        "second_person": {"opt_pose": pose, "opt_trans": transl, "beta": beta.tolist(), "gender": "male"},
        "RGB_info": {"fps": 20, "width": SIZE[0], "height": SIZE[1], "intrinsics": intrinsics,
                     "dist": [0.003, -0.003, -0.001, 0.004, 0.0], "lidar2cam": np.eye(4).tolist()},
        "RGB_frames": {
            "file_basename": [f"{k / 20:.06f}.jpg" for k in range(FRAMES)], "cam_pose": cam_pose,
            "lidar_tstamps": np.arange(FRAMES) / 20,
            "bbox": [[] if k == 0 else [1.0, 1, 20, 40] for k in range(FRAMES)],
            "skel_2d": [[] if k == 0 else skel[k] for k in range(FRAMES)],
        },
        "test only": in_camera,
    }  # fmt: skip


def write_raw(root: Path, data: dict[str, Any]) -> Path:
    images = root / NAME / "rgb_data" / f"{NAME}_imgs"
    images.mkdir(parents=True)
    for k, name in enumerate(data["RGB_frames"]["file_basename"]):
        if k != GAP:
            Image.new("RGB", SIZE, (k, 90, 30)).save(images / name)
    (root / NAME / f"{NAME}_labels.pkl").write_bytes(pickle.dumps(data))
    return root


def run(recipe: ModuleType, raw: Path, *more: str) -> int:
    return int(recipe.main(["--raw", str(raw), "--out", str(raw.parent / "out"), *more]))


def test_a_sequence_becomes_a_clip_with_truth(recipe: ModuleType, tmp_path: Path, smpl: Path) -> None:
    data = labels(recipe)
    assert run(recipe, write_raw(tmp_path / "raw", data), "--smpl", str(smpl)) == 0
    truth = load_result(find_truths(tmp_path / "out")[NAME])
    kept = np.delete(np.arange(FRAMES), GAP)
    np.testing.assert_allclose(truth.motion.joints_cam[:, 0], data["test only"][kept], atol=1e-3)
    assert truth.motion.present[:, 0].tolist() == [False] + [True] * (FRAMES - 2)
    extrinsics = data["RGB_frames"]["cam_pose"]
    np.testing.assert_allclose(
        truth.cameras.world_from_cam[-1], extrinsics[0] @ np.linalg.inv(extrinsics[FRAMES - 1]), atol=1e-5
    )
    (clip,) = read_inputs([tmp_path / "out" / "manifest.jsonl"])
    assert clip.fps == 20 and clip.licence.startswith("CC-BY-NC-SA")
    assert clip.intrinsics is not None and clip.intrinsics["distortion"] == [0.003, -0.003, -0.001, 0.004]
    assert clip.intrinsics["cx"] == 48.0  # pixel centres at (0.5, 0.5)
    assert len(list(Path(clip.path).iterdir())) == FRAMES - 1


def test_another_convention_is_found_out(
    recipe: ModuleType, tmp_path: Path, smpl: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """World from camera instead of camera from world: every array has the right shape, and the joints miss."""
    data = labels(recipe)
    data["RGB_frames"]["cam_pose"] = np.linalg.inv(data["RGB_frames"]["cam_pose"])
    assert run(recipe, write_raw(tmp_path / "raw", data), "--smpl", str(smpl)) == 2
    assert "px (median)" in capsys.readouterr().err


def test_other_labels_and_missing_images_are_said(
    recipe: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = labels(recipe)
    raw = write_raw(tmp_path / "raw", {key: value for key, value in data.items() if key != "second_person"})
    assert run(recipe, raw) == 2
    assert "second_person" in capsys.readouterr().err
    (raw / NAME / f"{NAME}_labels.pkl").write_bytes(pickle.dumps(data))
    for image in (raw / NAME / "rgb_data" / f"{NAME}_imgs").iterdir():
        image.unlink()
    assert run(recipe, raw) == 2
    assert "vid2imgs" in capsys.readouterr().err
