"""The recipe for RICH, on a made-up view in the layout of its toolkit: two cameras, one person of another's making."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from distill.evaluate import find_truths
from distill.results import load_result
from teacher.manifest import read_inputs
from tests.readers_support import write_model
from tests.target_support import chain_joints, load_recipe

SEQUENCE, SCENE, SUBJECT = "Gym_010_lunge1", "Gym", "010"
FRAMES, SIZE, FIRST = 6, (64, 48), 17
POSE = np.eye(4)
POSE[:3, :3] = Rotation.from_euler("xyz", [0.1, -0.2, 0.3]).as_matrix()
POSE[:3, 3] = [0.2, -0.1, 4.0]


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    return load_recipe("rich")


@pytest.fixture(scope="module")
def smplx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smplx")
    write_model(folder / "SMPLX_FEMALE.npz", 55)
    return folder


def params(frame: int) -> dict[str, np.ndarray]:
    """One body's pickle, as smplx takes it: a batch of one."""
    rng = np.random.default_rng(frame)
    return {
        "betas": np.full((1, 10), 0.3, np.float32),
        "transl": np.array([[0.02 * frame, 0.1, 0.2]], np.float32),
        "global_orient": rng.normal(size=(1, 3)).astype(np.float32) * 0.3,
        "body_pose": rng.normal(size=(1, 63)).astype(np.float32) * 0.2,
        "left_hand_pose": np.zeros((1, 12), np.float32),
        "expression": np.zeros((1, 10), np.float32),
    }


def matrix_xml(name: str, values: np.ndarray) -> str:
    text = " ".join(f"{value:.9e}" for value in values.reshape(-1))
    rows, columns = values.shape
    return (
        f'<{name} type_id="opencv-matrix"><rows>{rows}</rows><cols>{columns}</cols><dt>d</dt>'
        f"<data>\n {text}</data></{name}>"
    )


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    root = tmp_path / "RICH"
    calibration = root / "scan_calibration" / SCENE / "calibration"
    calibration.mkdir(parents=True)
    K = np.array([[80.0, 0, 31.5], [0, 80, 23.5], [0, 0, 1]])
    for camera in (0, 1):
        pose = (np.eye(4) if camera == 0 else POSE)[:3]
        content = matrix_xml("CameraMatrix", pose) + matrix_xml("Intrinsics", K)
        content += matrix_xml("Distortion", np.array([[0.01, 0, 0, 0]]))
        (calibration / f"{camera:03d}.xml").write_text(
            f'<?xml version="1.0"?>\n<opencv_storage>{content}</opencv_storage>'
        )
    for camera in (0, 1, 10):  # 10 moves: it has neither calibration nor bodies
        folder = root / "images" / "test" / SEQUENCE / f"cam_{camera:02d}"
        folder.mkdir(parents=True)
        for frame in range(FIRST, FIRST + FRAMES):
            Image.new("RGB", SIZE, (frame, 100, 200)).save(folder / f"{frame:05d}_{camera:02d}.bmp")
    for frame in range(FIRST, FIRST + FRAMES):
        if frame != FIRST + 2:  # nobody was fitted there
            folder = root / "bodies" / "test" / SEQUENCE / f"{frame:05d}"
            folder.mkdir(parents=True)
            (folder / f"{SUBJECT}.pkl").write_bytes(pickle.dumps(params(frame)))
    return root


def run(recipe: ModuleType, raw: Path, *more: str) -> int:
    return int(recipe.main(["--raw", str(raw), "--out", str(raw.parent / "out"), *more]))


def test_a_view_becomes_a_clip_with_truth(recipe: ModuleType, raw: Path, smplx: Path) -> None:
    assert run(recipe, raw, "--smplx", str(smplx), "--subset", "protocol") == 0
    out = raw.parent / "out"
    truths = find_truths(out)
    assert sorted(truths) == [f"{SEQUENCE}_cam00", f"{SEQUENCE}_cam01"]
    truth = load_result(truths[f"{SEQUENCE}_cam01"])
    present = np.arange(FRAMES) != 2
    assert truth.motion.present[:, 0].tolist() == present.tolist()
    for index in np.nonzero(present)[0]:
        body = params(FIRST + int(index))
        pose = np.concatenate((body["global_orient"], body["body_pose"].reshape(21, 3)))
        world = chain_joints(body["betas"][0], pose, body["transl"][0], joints=22)
        in_camera = world @ POSE[:3, :3].T + POSE[:3, 3]
        np.testing.assert_allclose(truth.motion.joints_cam[index, 0, :22], in_camera, atol=1e-3)
    assert truth.motion.body_model == "smplx"
    np.testing.assert_allclose(truth.cameras.world_from_cam, np.tile(np.eye(4), (FRAMES, 1, 1)), atol=1e-6)
    assert truth.cameras.K[0, 2] == 32.0  # pixel centres at (0.5, 0.5)


def test_the_manifest_says_that_cameras_stand_and_who_may_withdraw(recipe: ModuleType, raw: Path) -> None:
    assert run(recipe, raw, "--cameras", "1") == 0
    (clip,) = read_inputs([raw.parent / "out" / "manifest.jsonl"])
    assert (clip.id, clip.camera, clip.source_id, clip.fps) == (f"{SEQUENCE}_cam01", "static", SEQUENCE, 30.0)
    assert sorted(p.name for p in Path(clip.path).iterdir()) == [f"{k:06d}.bmp" for k in range(FRAMES)]
    assert not (raw.parent / "out" / clip.id / "truth").exists()


def test_the_protocol_names_51_single_person_sequences(recipe: ModuleType) -> None:
    from tests.target_support import DATASETS

    text = (DATASETS / "rich" / "recipe.yaml").read_text()
    names = [word.strip(" ,\n") for word in text.split("sequences: [")[1].split("]")[0].split(",") if word.strip()]
    assert len(names) == len(set(names)) == 51
    assert all(len(name.split("_")) == 3 for name in names)


def test_what_is_missing_or_damaged_is_said(
    recipe: ModuleType, raw: Path, smplx: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(recipe, raw, "--set", "train") == 2
    assert "no wanted view" in capsys.readouterr().err
    (raw / "scan_calibration" / SCENE / "calibration" / "001.xml").write_text("<opencv_storage>")
    assert run(recipe, raw, "--cameras", "1") == 2
    assert "001.xml" in capsys.readouterr().err
    file = raw / "bodies" / "test" / SEQUENCE / f"{FIRST:05d}" / f"{SUBJECT}.pkl"
    file.write_bytes(pickle.dumps({"betas": np.zeros((1, 10))}))
    assert run(recipe, raw, "--cameras", "0", "--smplx", str(smplx)) == 2
    assert f"{SUBJECT}.pkl" in capsys.readouterr().err
