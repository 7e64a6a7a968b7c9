"""The photometric stage of clips without a scene: a backdrop behind everybody, and cameras that stay."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scene_support import CONFIG, FRAMES, drawn_world, still_result
from test_scene_fit import write_clip_folder

from distill.body import BodyModel
from distill.geometry.cameras import project
from distill.results import Result, load_result
from teacher.scene import stage
from teacher.scene.backdrop import BELOW_M, with_backdrop
from teacher.scene.footage import Footage

EVERY_FRAME = np.arange(FRAMES)


def standing(body: BodyModel) -> Result:
    """The still person before a camera that stands, without any scene."""
    result = still_result(body)
    world_from_cam = np.repeat(result.cameras.world_from_cam[:1], FRAMES, 0)
    return replace(
        result, cameras=replace(result.cameras, world_from_cam=world_from_cam),
        scene_points=np.zeros((0, 3), np.float32), scene_rgb=np.zeros((0, 3), np.uint8),
    )  # fmt: skip


@pytest.fixture(scope="module")
def drawn(body: BodyModel) -> tuple[Result, Footage]:
    """What the camera sees of the person before the wall, and the result that knows no wall."""
    _, footage, _ = drawn_world(body)
    return standing(body), footage


def test_points_lie_where_their_colour_is_seen_and_behind_everybody(drawn: tuple[Result, Footage]) -> None:
    result, footage = drawn
    shown = with_backdrop(result, EVERY_FRAME, footage)
    camera = result.cameras.world_from_cam[0]
    local = (shown.scene_points - camera[:3, 3]) @ camera[:3, :3]
    pixels = project(torch.from_numpy(local).float(), footage.K).floor().long()
    first = slice(0, int(((footage.people[0] < 0.02)[::3, ::3]).sum()))  # points of the first frame
    seen = footage.images[0, pixels[first, 1], pixels[first, 0]].numpy() * 255
    np.testing.assert_allclose(shown.scene_rgb[first], seen, atol=0.51)
    above = result.joints_world[0, 0, :, 2] > result.joints_world[0, 0, :, 2].min() + 0.3
    joints = result.motion.joints_cam[0, 0, above]  # beside feet the nearest pixels are of the floor before them
    rays, wanted = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (local, joints))
    nearest = (rays @ wanted.T).argmax(0)
    assert (np.linalg.norm(local[nearest], axis=1) > np.linalg.norm(joints, axis=1)).all()
    lowest = result.joints_world[..., 2].min()
    assert shown.scene_points[:, 2].min() == pytest.approx(lowest - BELOW_M, abs=1e-4)


def test_a_camera_below_all_feet_has_its_points_before_it(drawn: tuple[Result, Footage]) -> None:
    """It stands at the foot of stairs, say, and looks up at people."""
    result, footage = drawn
    low = result.cameras.world_from_cam.copy()
    low[:, 2, 3] -= 3.0
    body_up = result.motion.joints_cam - [0, 3.0, 0]  # y is down in the camera: people stay where they were
    moved = replace(
        result, cameras=replace(result.cameras, world_from_cam=low), motion=replace(result.motion, joints_cam=body_up)
    )
    shown = with_backdrop(moved, EVERY_FRAME, footage)
    assert (((shown.scene_points - low[0, :3, 3]) @ low[0, :3, :3])[:, 2] > 0).all()


def test_without_a_ground_all_lies_on_the_sphere(drawn: tuple[Result, Footage]) -> None:
    result, footage = drawn
    shown = with_backdrop(replace(result, meta={"world": "first_camera"}), EVERY_FRAME, footage)
    far = np.linalg.norm(shown.scene_points - result.cameras.world_from_cam[0, :3, 3], axis=1)
    np.testing.assert_allclose(far, far[0], rtol=1e-4)


def test_the_stage_moves_bodies_and_leaves_cameras(drawn: tuple[Result, Footage], tmp_path: Path) -> None:
    result, footage = drawn
    clip = write_clip_folder(tmp_path, (result, footage, None))
    clip.begin("gaussians")
    outcome = stage.run(clip, replace(CONFIG, visits=[1, 1, 1]), lambda *_: None)
    assert outcome.summary["scene"] == "backdrop" and outcome.summary["scene_gaussians"] > 100
    refined = load_result(clip.stage_dir("gaussians") / "refined")
    np.testing.assert_allclose(refined.cameras.world_from_cam, result.cameras.world_from_cam, atol=1e-6)
    assert len(refined.scene_points) == 0
    assert np.abs(refined.motion.joints_cam - result.motion.joints_cam).max() > 1e-4
