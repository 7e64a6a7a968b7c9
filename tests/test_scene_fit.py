"""The photometric stage on a small world that our own renderer drew: routing, recovery, resuming, the stage itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.avatar import load_avatar
from distill.body import BodyModel
from distill.files import read_json, write_json
from distill.render.packed import load_packed
from distill.results import load_result, save_result
from teacher.initialisers.registry import StageMissingError
from teacher.pack import labelled_result, pack_gaussians
from teacher.scene import stage
from teacher.scene.fit import fit
from teacher.scene.inputs import refined_result
from teacher.scene.measures import background_px, slip_mps
from teacher.scene.world import BODY, CAMERA, World
from teacher.stagefiles import CameraInit, Frames, People, write_image
from teacher.workspace import ClipFolder, StageRecord
from tests.scene_support import CONFIG, FRAMES, SIZE, drawn_world, fresh, moved_camera, still_result


@pytest.fixture(scope="module")
def drawn(body: BodyModel):  # type: ignore[no-untyped-def]
    return drawn_world(body)


def test_unknowns_at_zero_are_the_geometric_result(body: BodyModel, drawn) -> None:  # type: ignore[no-untyped-def]
    world, _ = fresh(body, drawn)
    torch.testing.assert_close(world.world_from_cam(), world.base.world_from_cam)
    torch.testing.assert_close(world.bodies()[0], world.base.body_rot)
    body_rot, cam_from_body = (value.detach() for value in world.bodies())
    camera = world.world_from_cam().detach()
    again = refined_result(drawn[0], np.arange(FRAMES), world.base, camera, body_rot, cam_from_body, body)
    np.testing.assert_allclose(again.joints_world, drawn[0].joints_world, atol=1e-5)


def test_a_camera_turns_about_the_scene(body: BodyModel, drawn) -> None:  # type: ignore[no-untyped-def]
    world, _ = fresh(body, drawn)
    pivot = torch.tensor([0.0, 0.0, world.base.pivot_m, 1.0])
    before = world.base.world_from_cam[1] @ pivot
    world.unknowns["camera_rot"].data[1] = torch.tensor([0.1, -0.2, 0.05])
    torch.testing.assert_close(world.world_from_cam()[1] @ pivot, before)


def test_gradients_go_where_they_are_routed(body: BodyModel, drawn) -> None:  # type: ignore[no-untyped-def]
    world, objective = fresh(body, drawn)
    world.unknowns["person0/colors"].data.uniform_(generator=torch.Generator().manual_seed(2))
    world.unknowns["scene/colors"].data.add_(0.1)  # at the truth itself nothing pulls
    frame, identity = 1, torch.Generator().manual_seed(0)
    body_rot, cam_from_body = world.bodies()
    view = objective.views[1]

    def reached(loss: torch.Tensor) -> set[str]:
        grads = torch.autograd.grad(loss, list(world.unknowns.values()), allow_unused=True, retain_graph=True)
        return {n for n, g in zip(world.unknowns, grads, strict=True) if g is not None and bool(g.abs().sum() > 0)}

    scene = reached(objective._scene(view, frame, False, world.world_from_cam()[frame])["l1"])
    people = reached(objective._people(view, frame, False, body_rot[frame], cam_from_body[frame], identity)["l1"])
    both = reached(
        objective._composite(view, frame, False, world.world_from_cam()[frame], body_rot[frame], cam_from_body[frame])[
            "l1"
        ]
    )
    assert set(CAMERA) <= scene and not scene & {*BODY, "person0/colors"}
    assert set(BODY) <= people and not people & {*CAMERA, "scene/colors"}
    assert {*CAMERA, *BODY, "scene/colors", "person0/colors"} <= both
    held = reached(objective._scene(view, frame, True, world.world_from_cam()[frame])["l1"])
    assert held == set(CAMERA)  # a held-out frame moves its camera and no Gaussian


def test_a_killed_fit_goes_on_to_the_same_result(body: BodyModel, drawn, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    config = replace(CONFIG, densify=0.1, align_steps=2)

    def run(stop_after: int | None, state: Path | None) -> tuple[World, list[dict[str, float]]]:
        world, objective = fresh(body, drawn, config=config)
        trace = fit(world, objective, config, lambda *_: None, state=state, key="k", stop_after=stop_after)
        return world, trace

    whole, trace = run(None, None)
    run(10, tmp_path / "s.state")  # killed after ten steps; the state is that of step eight, after a split
    resumed, trace_again = run(None, tmp_path / "s.state")
    assert trace == trace_again and not (tmp_path / "s.state").exists()
    for name, value in whole.unknowns.items():
        assert torch.equal(value, resumed.unknowns[name]), name
    assert (
        len(whole.scene()) > 300 * 0.9 and whole.unknowns["scene/means"].shape == resumed.unknowns["scene/means"].shape
    )


def exact_tracks() -> CameraInit:
    """Observations of 50 points on the wall in every frame, without error."""
    result = still_result_of_tracks()
    points = result.scene_points[:50].astype(np.float64)
    frame, point = (grid.ravel() for grid in np.meshgrid(np.arange(FRAMES), np.arange(50), indexing="ij"))
    pose = result.cameras.world_from_cam[frame]
    local = np.einsum("mji,mj->mi", pose[:, :3, :3], points[point] - pose[:, :3, 3]) @ result.cameras.K.T
    return CameraInit(
        kind="sfm", metric=True, focal_known=True, K=result.cameras.K, world_from_cam=result.cameras.world_from_cam,
        registered=np.ones(FRAMES, bool), points=result.scene_points[:50], points_rgb=result.scene_rgb[:50],
        obs_frame=frame.astype(np.int32), obs_point=point.astype(np.int32),
        obs_px=(local[:, :2] / local[:, 2:]).astype(np.float32),
    )  # fmt: skip


def still_result_of_tracks():  # type: ignore[no-untyped-def]
    from distill.body import load_body_model

    result = still_result(load_body_model("anny"))
    camera = result.cameras.world_from_cam.copy()
    camera[:, 0, 3] *= 20  # rays of a camera that hardly moves meet badly
    return replace(result, cameras=replace(result.cameras, world_from_cam=camera))


def test_measures_of_an_exact_world(body: BodyModel) -> None:
    result, cameras = still_result_of_tracks(), exact_tracks()
    assert background_px(result, cameras) == pytest.approx(0, abs=1e-3)
    turned = moved_camera(result, 0.3, 0.0)
    assert (background_px(turned, cameras) or 0) > 0.05
    # Bodies keep their place in a camera that moves 20 cm in a thirtieth of a second.
    assert slip_mps(result, body) == pytest.approx(6.0, rel=1e-3)


def write_clip_folder(root: Path, drawn) -> ClipFolder:  # type: ignore[no-untyped-def]
    """Stage files of the drawn world, as labelling leaves them."""
    result, footage, _ = drawn
    clip = ClipFolder(root / "clips" / "drawn")
    images = (footage.images.clamp(0, 1) * 255).round().byte().numpy()
    for name in ("frames", "people", "cameras", "joint", "quality"):
        clip.begin(name)
    for k in range(FRAMES):
        write_image(Frames.image_path(clip.stage_dir("frames"), k), images[k])
        mask = People.mask_path(clip.stage_dir("people"), k)
        write_image(mask, (footage.masks[k, 0] > 0.5).numpy().astype(np.uint8))
    Frames(timestamps=result.cameras.timestamps, size=list(SIZE), source_size=list(SIZE), unreadable=0).save(
        clip.stage_dir("frames")
    )
    zero = np.zeros((FRAMES, 1, 23), np.float32)
    People(
        visible=np.ones((FRAMES, 1), bool), box_xyxy=np.zeros((FRAMES, 1, 4), np.float32), score=zero[..., 0],
        keypoints_px=zero[..., None].repeat(2, -1), keypoint_score=zero, keypoints_hip=zero[..., None].repeat(3, -1),
    ).save(clip.stage_dir("people"))  # fmt: skip
    exact_tracks().save(clip.stage_dir("cameras"))
    save_result(clip.stage_dir("joint"), result)
    write_json(clip.stage_dir("quality") / "quality.json", {"decision": "accept", "weight": 1.0, "reasons": []})
    for name in ("frames", "people", "cameras", "joint", "quality"):
        clip.finish(StageRecord(stage=name, status="done", implementation="", config_hash="", inputs={}))
    return clip


def test_the_stage_writes_gaussians_and_labels_take_them(drawn, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    clip = write_clip_folder(tmp_path, drawn)
    clip.begin("gaussians")
    outcome = stage.run(clip, replace(CONFIG, visits=[1, 1, 1]), lambda *_: None)
    clip.finish(StageRecord(stage="gaussians", status="done", implementation="", config_hash="", inputs={}))
    folder = clip.stage_dir("gaussians")
    assert outcome.summary["lpips"].startswith("left out") and outcome.summary["decision"] in ("refined", "kept")
    assert len(load_packed(folder / "scene.npz")[0]) == outcome.summary["scene_gaussians"]
    avatar, about = load_avatar(folder / "person0.npz")
    assert len(avatar) == outcome.summary["person_gaussians"][0] and about == {"person": 0}
    assert (folder / "beside.jpg").stat().st_size > 500 and (folder / "turntable.jpg").stat().st_size > 500
    rows = pack_gaussians(tmp_path, [clip])
    packed = tmp_path / "gaussians" / "drawn" / "scene.npz"
    assert rows["drawn"]["files"]["scene.npz"]["bytes"] == packed.stat().st_size
    for decision, source in (("refined", folder / "refined"), ("kept", clip.stage_dir("joint"))):
        write_json(folder / "verdict.json", {**read_json(folder / "verdict.json"), "decision": decision})
        np.testing.assert_array_equal(labelled_result(clip).joints_world, load_result(source).joints_world)


def test_without_a_gpu_the_stage_says_how_to_run_it(drawn, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    clip = write_clip_folder(tmp_path, drawn)
    with pytest.raises(StageMissingError, match=r"gaussians\.enabled=always"):
        stage.run(clip, replace(CONFIG, enabled="auto"), lambda *_: None)
    write_json(clip.stage_dir("quality") / "quality.json", {"decision": "reject"})
    with pytest.raises(StageMissingError, match="rejected"):
        stage.run(clip, CONFIG, lambda *_: None)
