"""The recipe for EMDB, on a made-up sequence in the true layout: a person that is not ours, a camera that turns."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from distill.evaluate import find_truths
from distill.files import read_json
from distill.image_targets import find_image_targets
from distill.results import load_result
from teacher.manifest import read_inputs
from tests.readers_support import write_model
from tests.target_support import DATASETS, chain_joints, load_recipe

NAME = "P0_09_outdoor_walk"
FRAMES, SIZE = 12, (60, 80)


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    return load_recipe("emdb")


def annotation() -> dict[str, Any]:
    """What a *_data.pkl of EMDB holds (dataset.md)."""
    rng = np.random.default_rng(3)
    betas = rng.normal(size=10) * 0.5
    root = np.array([0.1, 2.0, 0.2]) + rng.normal(size=(FRAMES, 3)) * 0.05
    body, trans = rng.normal(size=(FRAMES, 69)) * 0.2, np.array([0.3, 1.0, -0.2]) + rng.normal(size=(FRAMES, 3)) * 0.1
    extrinsics = np.tile(np.eye(4), (FRAMES, 1, 1))  # camera from world: the world is y up, the camera y down
    flip = Rotation.from_euler("x", np.pi)
    extrinsics[:, :3, :3] = [(flip * Rotation.from_rotvec([0, 0.02 * k, 0.01 * k])).as_matrix() for k in range(FRAMES)]
    extrinsics[:, :3, 3] = [[0.05 * k, 0.9, 4.0] for k in range(FRAMES)]
    K = np.array([[70.0, 0, 29.5], [0, 70, 39.5], [0, 0, 1]])
    pose = np.concatenate((root, body), axis=1).reshape(FRAMES, 24, 3)
    joints = np.stack([chain_joints(betas, pose[k], trans[k]) for k in range(FRAMES)])
    in_camera = np.einsum("tij,tkj->tki", extrinsics[:, :3, :3], joints) + extrinsics[:, None, :3, 3]
    pixels = in_camera @ K.T
    good = np.ones(FRAMES, bool)
    good[3] = False
    return {
        "gender": "female", "name": NAME, "emdb1": np.bool_(False), "emdb2": True, "n_frames": FRAMES,
        "good_frames_mask": good,
        "camera": {"intrinsics": K, "extrinsics": extrinsics, "width": SIZE[0], "height": SIZE[1]},
        "smpl": {"poses_root": root, "poses_body": body, "trans": trans, "betas": betas},
        "kp2d": pixels[..., :2] / pixels[..., 2:],
        "bboxes": {"bboxes": np.tile([5.0, 5, 50, 70], (FRAMES, 1)), "invalid_idxs": np.array([3])},
        "test only": {"joints_cam": in_camera},
    }  # fmt: skip


def write_raw(root: Path, data: dict[str, Any]) -> Path:
    folder = root / "P0" / "09_outdoor_walk"
    (folder / "images").mkdir(parents=True)
    for index in range(FRAMES):
        Image.new("RGB", SIZE, (index, 100, 200)).save(folder / "images" / f"{index:05d}.jpg")
    (folder / "P0_09_outdoor_walk_data.pkl").write_bytes(pickle.dumps(data))
    return root


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "smpl").mkdir()
    write_model(tmp_path / "smpl" / "SMPL_FEMALE.npz")
    return write_raw(tmp_path / "raw", annotation())


def run(recipe: ModuleType, raw: Path, *more: str) -> int:
    return int(recipe.main(["--raw", str(raw), "--out", str(raw.parent / "out"), *more]))


def test_a_sequence_becomes_a_clip_with_truth(recipe: ModuleType, raw: Path) -> None:
    assert run(recipe, raw, "--smpl", str(raw.parent / "smpl"), "--subset", "emdb2") == 0
    out, data = raw.parent / "out", annotation()
    truth = load_result(find_truths(out)[NAME])
    motion, cameras = truth.motion, truth.cameras
    np.testing.assert_allclose(motion.joints_cam[:, 0], data["test only"]["joints_cam"], atol=2e-4)
    assert motion.present[:, 0].tolist() == data["good_frames_mask"].tolist()
    np.testing.assert_allclose(cameras.world_from_cam[0], np.eye(4), atol=1e-6)
    # The world is the first camera's: world <- camera k = extrinsics 0 times the inverse of extrinsics k.
    extrinsics = data["camera"]["extrinsics"]
    np.testing.assert_allclose(cameras.world_from_cam[7], extrinsics[0] @ np.linalg.inv(extrinsics[7]), atol=1e-5)
    assert (cameras.K[0, 2], cameras.K[1, 2]) == (30.0, 40.0)  # pixel centres at (0.5, 0.5)
    assert cameras.size == SIZE
    assert motion.contact_prob.shape == (FRAMES, 1, 6)


def test_the_protocols_list_is_compared(recipe: ModuleType, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(recipe, raw, "--subset", "emdb2") == 0
    said = capsys.readouterr().out
    assert "1 of the protocol's 25 sequences; missing: P2_19_indoor_walk_off_mvs" in said
    assert "not in the list: x" in recipe.compare_with_protocol({"x", NAME})


def test_frames_manifest_and_splits(recipe: ModuleType, raw: Path) -> None:
    assert run(recipe, raw, "--frames", "11") == 0
    out = raw.parent / "out"
    (clip,) = read_inputs([out / "manifest.jsonl"])
    assert clip.id == NAME
    assert clip.fps == 30
    assert clip.intrinsics == {"fx": 70.0, "fy": 70.0, "cx": 30.0, "cy": 40.0}
    frames = sorted(path.name for path in Path(clip.path).iterdir())
    assert frames == [f"{k:06d}.jpg" for k in range(11)]
    with Image.open(Path(clip.path) / "000004.jpg") as image:
        assert image.size == SIZE
    (target,) = find_image_targets(out).values()
    assert target.masks is None
    assert target.mask_source == "none"
    assert target.split(11)["test"] == [2]
    assert not (out / NAME / "truth").exists()  # without SMPL there is none


def test_masks_of_the_user_are_named(recipe: ModuleType, raw: Path) -> None:
    folder = raw.parent / "masks" / NAME
    folder.mkdir(parents=True)
    for index in range(FRAMES):
        mask = np.zeros((80, 60), np.uint8)
        mask[10:20] = 255
        Image.fromarray(mask).save(folder / f"{index:05d}.png")
    assert run(recipe, raw, "--masks", str(folder.parent)) == 0
    (target,) = find_image_targets(raw.parent / "out").values()
    assert "user" in target.mask_source
    assert target.masks is not None
    with Image.open(target.masks / "000011.png") as image:
        assert np.unique(np.asarray(image)).tolist() == [0, 1]
    (folder / "00005.png").unlink()
    assert run(recipe, raw, "--masks", str(folder.parent)) == 2


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("inverse extrinsics", "px"),
        ("another body", "px"),
        ("no gender", "SMPL_MALE"),
        ("subset", "subset emdb1"),
        ("short", "10 or more"),
        ("no array", "poses_body"),
        ("no image", "no such image"),
        ("a call", "system"),
        ("other content", "annotation"),
    ],
)
def test_what_is_wrong_is_said(
    recipe: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, word: str
) -> None:
    (tmp_path / "smpl").mkdir()
    write_model(tmp_path / "smpl" / "SMPL_FEMALE.npz")
    data: Any = annotation()
    more = ["--smpl", str(tmp_path / "smpl")]
    if kind == "inverse extrinsics":
        data["camera"]["extrinsics"] = np.linalg.inv(data["camera"]["extrinsics"])
    elif kind == "another body":
        data["smpl"]["betas"] = data["smpl"]["betas"] + 3
    elif kind == "no gender":
        data["gender"] = "male"
    elif kind == "subset":
        more += ["--subset", "emdb1"]
    elif kind == "short":
        more += ["--frames", "9"]
    elif kind == "no array":
        del data["smpl"]["poses_body"]
    elif kind == "a call":
        data["gender"] = Call()
    elif kind == "other content":
        data = [1, 2]
    raw = write_raw(tmp_path / "raw", data)
    if kind == "no image":
        (raw / "P0" / "09_outdoor_walk" / "images" / "00004.jpg").unlink()
    assert run(recipe, raw, *more) == 2
    assert word in capsys.readouterr().err
    assert not (tmp_path / "out" / "manifest.jsonl").exists()


class Call:
    """What a prepared pickle may hold."""

    def __reduce__(self) -> Any:
        return os.system, ("true",)


def test_lists_are_whole(recipe: ModuleType) -> None:
    assert len(set(recipe.JOINTGS)) == 10
    about = (DATASETS / "emdb" / "recipe.yaml").read_text()
    assert "prepare_emdb.py" in about


def test_the_split_is_written_as_stated(recipe: ModuleType, raw: Path) -> None:
    assert run(recipe, raw) == 0
    about = read_json(raw.parent / "out" / NAME / "images.json")
    assert about["rule"] == "NeuMan's, of the first 12 frames"
    assert sorted(frame for part in about["parts"].values() for frame in part) == list(range(12))
