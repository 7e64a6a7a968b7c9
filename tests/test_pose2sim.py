"""The recipe that reads Qualisys calibrations: axes, units, pixel centres and pictures between black bars."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from distill.errors import FootfallError
from teacher.manifest import read_inputs

RECIPE = Path(__file__).resolve().parent.parent / "datasets" / "pose2sim" / "prepare_pose2sim.py"

# A camera 2 m up at (3, 0), looking horizontally along -x. Its rows are the camera's axes in the world as
# Qualisys has them: right = +y, up = +z, backwards = +x.
CALIBRATION = """<?xml version='1.0'?>
<calibration><cameras><camera serial="a">
  <fov_video left="0" right="639" top="0" bottom="479"/>
  <transform r11="0" r12="1" r13="0" r21="0" r22="0" r23="1" r31="1" r32="0" r33="0" x="3000" y="0" z="2000"/>
  <intrinsic focalLengthU="32000" focalLengthV="32064" centerPointU="20448" centerPointV="15328"
    radialDistortion1="-0.1" radialDistortion2="0.02" tangentalDistortion1="0.001" tangentalDistortion2="0.002"/>
</camera></cameras></calibration>
"""


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    """Recipes are run by path and are no package."""
    spec = importlib.util.spec_from_file_location("prepare_pose2sim", RECIPE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_camera_by_hand(recipe: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "c.xml").write_text(CALIBRATION)
    camera = recipe.read_cameras(tmp_path / "c.xml")["a"]
    assert camera["size"] == [640, 480]
    lens = camera["intrinsics"]
    # 64ths of a pixel; Qualisys' middle of the sensor is (319.5, 239.5), ours (320, 240).
    assert (lens["fx"], lens["fy"], lens["cx"], lens["cy"]) == (500.0, 501.0, 320.0, 240.0)
    assert lens["distortion"] == [-0.1, 0.02, 0.001, 0.002]
    pose = np.array(camera["world_from_cam"])
    np.testing.assert_allclose(pose[:3, 3], [3, 0, 2])
    # A point 4 m ahead, 1 m to the right and 0.5 m down, in our axes, lies at x = 3 - 4, y = 1, z = 2 - 0.5.
    np.testing.assert_allclose(pose @ [1, 0.5, 4, 1], [-1, 1, 1.5, 1], atol=1e-12)
    assert np.linalg.det(pose[:3, :3]) == pytest.approx(1)


def test_bars_around_the_picture(recipe: ModuleType) -> None:
    lens = {"fx": 100.0, "fy": 101.0, "cx": 32.0, "cy": 24.0, "distortion": [0.0] * 4}
    assert recipe.fit_to_video(lens, [64, 48], (64, 48)) == lens
    fitted = recipe.fit_to_video(lens, [64, 48], (32, 48))  # half as large, 12 black rows above and below
    assert (fitted["fx"], fitted["fy"], fitted["cx"], fitted["cy"]) == (50.0, 50.5, 16.0, 24.0)


def test_what_is_no_calibration_is_refused(recipe: ModuleType, tmp_path: Path) -> None:
    for text in (
        "not XML",
        "<calibration/>",
        CALIBRATION.replace("<intrinsic", "<lens"),
        CALIBRATION.replace('r11="0"', ""),
    ):
        (tmp_path / "c.xml").write_text(text)
        with pytest.raises(FootfallError, match=r"c\.xml"):
            recipe.read_cameras(tmp_path / "c.xml")
    assert recipe.main(["--raw", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


def test_the_real_calibration_agrees_with_the_pictures(recipe: ModuleType, shared_dir: Path, tmp_path: Path) -> None:
    raw = shared_dir / "gt" / "pose2sim_SinglePerson"
    assert recipe.main(["--raw", str(raw), "--out", str(tmp_path)]) == 0
    clips = read_inputs([tmp_path / "manifest.jsonl"])
    assert len(clips) == 4 and all(json.dumps(clip.licence).count("BSD-3") for clip in clips)
    # Rims of the two posts in the treadmill's deck, clicked in the first frame of each view.
    clicked = np.array(
        [[[667.5, 1519.5], [947, 1426.5]], [[274, 1317], [632, 1343]], [[261.5, 970], [62.5, 1060]],
         [[836.5, 858.5], [611, 924]]]
    )  # fmt: skip
    rows, cameras = [], []
    for clip, pixels in zip(clips, clicked, strict=True):
        assert clip.intrinsics is not None and clip.world_from_cam is not None
        lens = clip.intrinsics
        K = np.array([[lens["fx"], 0, lens["cx"]], [0, lens["fy"], lens["cy"]], [0, 0, 1]])
        camera = K @ np.linalg.inv(np.array(clip.world_from_cam))[:3]
        cameras.append(camera)
        rows += [pixels[:, :1] * camera[2] - camera[0], pixels[:, 1:] * camera[2] - camera[1]]
    points = np.linalg.svd(np.stack(rows, 1))[2][:, -1]  # linear triangulation
    posts = points[:, :3] / points[:, 3:]
    assert np.linalg.norm(posts[0] - posts[1]) == pytest.approx(0.645, abs=0.02)
    assert abs(posts[0, 2] - posts[1, 2]) < 0.02 and 0.1 < posts[:, 2].mean() < 0.3  # level, and above the ground
    for camera, pixels in zip(cameras, clicked, strict=True):
        seen = points @ camera.T
        # The poses, as published, are about a degree off (recipe.yaml); wrong axes would cost hundreds of pixels.
        assert np.linalg.norm(seen[:, :2] / seen[:, 2:] - pixels, axis=-1).max() < 25
