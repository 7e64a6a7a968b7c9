"""Bad calibration, bodies of another version and contradictory manifests: one clear line, nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.config import load_config
from distill.errors import FootfallError
from teacher.config import LabelConfig
from teacher.initialisers.registry import get_initialiser
from teacher.manifest import read_inputs
from teacher.stagefiles import BodyInit, CameraInit, Contacts
from teacher.workspace import ClipFolder
from tests.readers_support import clip_folder, silent, truth_problem, write_wham
from tests.test_bad_input import expect_refusal, files_of, write_video


@pytest.fixture
def clip(tmp_path: Path) -> ClipFolder:
    return clip_folder(tmp_path, truth_problem())


def from_files(clip: ClipFolder, slot: str, root: Path, file: Any) -> None:
    file.save(root / clip.id)
    clip.begin(slot)
    get_initialiser(slot, f"files:{root}").run(clip, None, silent)


def broken_cameras(fault: str) -> CameraInit:
    cameras = truth_problem().cameras
    if fault == "focal":
        cameras.K[0, 0] = -400
    elif fault == "zero":
        cameras.K[1, 1] = 0
    elif fault == "principal point":
        cameras.K[0, 2] = 4000
    elif fault == "no rotation":
        cameras.world_from_cam[3, :3, :3] *= 1.2
    elif fault == "last row":
        cameras.world_from_cam[3, 3] = [0, 0, 1, 1]
    elif fault == "finite":
        cameras.world_from_cam[3, 0, 0] = np.nan
    else:
        cameras.world_from_cam = cameras.world_from_cam[:-4]
    return cameras


@pytest.mark.parametrize(
    "fault", ["focal", "zero", "principal point", "no rotation", "last row", "finite", "first axes"]
)
def test_impossible_cameras_in_a_stage_file(fault: str, tmp_path: Path, clip: ClipFolder) -> None:
    with pytest.raises(
        FootfallError, match={"focal": "fx and fy positive", "zero": "fx and fy positive"}.get(fault, fault)
    ):
        from_files(clip, "cameras", tmp_path / "in", broken_cameras(fault))
    assert list(clip.stage_dir("cameras").iterdir()) == []


def broken_bodies(fault: str) -> BodyInit:
    bodies = truth_problem().bodies
    if fault == "betas":
        bodies.betas = np.concatenate((bodies.betas, bodies.betas), axis=1)
    elif fault == "body_rot":
        bodies.body_rot = bodies.body_rot[:, :, :21]
    elif fault == "body_model":
        bodies.body_model = "smplh"
    elif fault == "no rotations":
        bodies.body_rot = bodies.body_rot * np.float32(0.5)
    elif fault == "focal_px":
        bodies.focal_px = 0.0
    else:
        bodies.cam_from_body[:, :, 2, 3] *= -1
    return bodies


@pytest.mark.parametrize("fault", ["betas", "body_rot", "body_model", "no rotations", "focal_px", "behind the camera"])
def test_bodies_of_another_version_in_a_stage_file(fault: str, tmp_path: Path, clip: ClipFolder) -> None:
    with pytest.raises(FootfallError, match=fault):
        from_files(clip, "bodies", tmp_path / "in", broken_bodies(fault))
    assert list(clip.stage_dir("bodies").iterdir()) == []


@pytest.mark.parametrize("prob", [np.full((24, 2, 6), 1.5), np.zeros((24, 2, 4))])
def test_contacts_that_are_no_probabilities_of_our_sites(prob: np.ndarray, tmp_path: Path, clip: ClipFolder) -> None:
    with pytest.raises(FootfallError, match="probabilities of 6 sites"):
        from_files(clip, "contacts", tmp_path / "in", Contacts(prob=prob.astype(np.float32)))


def test_good_stage_files_are_copied(tmp_path: Path, clip: ClipFolder) -> None:
    problem = truth_problem()
    for slot, file in (("cameras", problem.cameras), ("bodies", problem.bodies), ("contacts", problem.contacts)):
        from_files(clip, slot, tmp_path / "in", file)
        assert (clip.stage_dir(slot) / file.file).is_file()


# --- the licensed file is asked for before anything runs ---------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["bodies.use=wham:x.pkl"], "bodies.body_model=anny"),
        (["bodies.use=wham:x.pkl", "bodies.body_model=smpl:F"], "contacts.body_model=anny"),
        (["bodies.use=wham:x.pkl", "bodies.body_model=smpl:F", "contacts.body_model=smpl:F"], "optimise.body_file"),
        (["bodies.use=gvhmr:x.pt", "bodies.body_model=smpl:F", "contacts.body_model=smpl:F", "optimise.body_file=F"],
         "licensed smplx file"),
        (["contacts.use=deco:x"], "contacts.body_model=anny"),
    ],
)  # fmt: skip
def test_a_missing_licensed_file_is_said_before_anything_runs(overrides: list[str], words: str) -> None:
    with pytest.raises(FootfallError) as caught:
        load_config(LabelConfig, None, overrides)
    assert words in str(caught.value) and "FILE" in str(caught.value)


def test_complete_settings_are_accepted() -> None:
    files = ["bodies.body_model=smpl:F", "contacts.body_model=smpl:F", "optimise.body_file=F"]
    config = load_config(LabelConfig, None, ["bodies.use=wham:{clip_id}.pkl", *files])
    assert config.bodies.use == "wham:{clip_id}.pkl"
    load_config(LabelConfig, None, ["bodies.use=files:folder", "cameras.use=colmap-model:sparse/0"])


def test_the_command_refuses_it_and_leaves_the_folder_as_it_was(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    video, wham = write_video(tmp_path / "v.mp4", 12), write_wham(tmp_path / "w.pkl")
    expect_refusal(
        capfd, ["label", str(video), "--out", str(tmp_path / "out"), f"bodies.use=wham:{wham}"], "optimise.body_file"
    )
    assert not (tmp_path / "out").exists()


# --- manifests -----------------------------------------------------------------------------------------

LENS = {"fx": 150, "fy": 150, "cx": 80, "cy": 60}


def write_manifest(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "m.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"path": "a.mp4", "id": "x"}, {"path": "b.mp4", "id": "x"}], ("twice", "a.mp4", "b.mp4")),
        ([{"path": "a.mp4", "id": "x", "fps": 10}, {"path": "a.mp4", "id": "y", "fps": 20}], ("two kinds of fps",)),
        ([{"path": "a.mp4", "id": "x", "intrinsics": LENS}, {"path": "a.mp4", "id": "y"}], ("kinds of intrinsics",)),
        ([{"path": "a.mp4", "intrinsics": {**LENS, "distortion": 5}}], ("distortion", "row 1")),
        ([{"path": "a.mp4", "intrinsics": {**LENS, "fx": 0}}], ("intrinsics", "positive")),
        ([{"path": "a.mp4", "world_from_cam": np.diag([1, 1, 1, 2]).tolist()}], ("world_from_cam", "rigid")),
        ([{"path": "a.mp4", "world_from_cam": [[float("nan")] * 4] * 4}], ("world_from_cam", "rigid")),
    ],
)  # fmt: skip
def test_contradictory_manifests(
    rows: list[dict[str, Any]], words: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, 12)
    manifest = write_manifest(tmp_path, *rows)
    expect_refusal(capfd, ["label", str(manifest), "--out", str(tmp_path / "out")], *words)
    assert not (tmp_path / "out").exists() or files_of(tmp_path / "out") == {}


def test_the_same_video_may_be_named_twice_with_one_calibration(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 12)
    rows = [{"path": "a.mp4", "id": name, "intrinsics": LENS} for name in "xy"]
    assert [clip.id for clip in read_inputs([write_manifest(tmp_path, *rows)])] == ["x", "y"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"intrinsics": {**LENS, "cx": 900}}, ("principal point", "160 x 120")),
        ({"intrinsics": {**LENS, "fx": 1e5, "fy": 1e5}}, ("focal lengths", "160 x 120")),
        ({"intrinsics": {**LENS, "fx": 1.2, "fy": 1.2}}, ("focal lengths",)),
        ({"intrinsics": {**LENS, "fy": 600}}, ("about equal",)),
        ({"world_from_cam": [np.eye(4).tolist()] * 7}, ("7 poses for 12 frames",)),
    ],
)  # fmt: skip
def test_calibration_that_is_not_of_this_video(
    row: dict[str, Any], words: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "a.mp4", 12)
    manifest = write_manifest(tmp_path, {"path": "a.mp4", **row})
    expect_refusal(capfd, ["label", str(manifest), "--out", str(tmp_path / "out")], *words)
    stage = ClipFolder(tmp_path / "out" / "clips" / "a").stage_dir("frames")
    assert [file.name for file in stage.iterdir()] == ["record.json"]
