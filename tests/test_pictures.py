"""Pictures: what is drawn lies where the geometry says, and pages need nothing from elsewhere."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distill.geometry.conventions import CONTACT_SITES
from distill.pictures.overlay import draw_mesh, overlay, project_to_pixels, sheet
from distill.pictures.page import Page
from distill.pictures.plots import match_people, plot_curves, plot_top_down, rigid_between
from distill.pictures.scene3d import scene_data, scene_html
from distill.results import Cameras, Motion, Result


def make_result(*, people: int = 2, frames: int = 5, world: np.ndarray | None = None) -> Result:
    """People two metres apart, five metres before a camera that moves along x; `world` moves everything."""
    rng = np.random.default_rng(0)
    joints = rng.normal(0, 0.3, (frames, people, 24, 3)) + np.array([0, 0, 5.0])
    joints[..., 0] += 2.0 * np.arange(people)[None, :, None] - 1.0
    world_from_cam = np.tile(np.eye(4), (frames, 1, 1))
    world_from_cam[:, 0, 3] = np.linspace(0, 1, frames)
    cam_from_body = np.tile(np.eye(4), (frames, people, 1, 1))
    cam_from_body[..., :3, 3] = joints[:, :, 0]
    return Result(
        cameras=Cameras(
            K=np.array([[100.0, 0, 80], [0, 100, 60], [0, 0, 1]]), size=(160, 120), timestamps=np.arange(frames) / 10,
            world_from_cam=world_from_cam if world is None else world @ world_from_cam,
            valid=np.ones(frames, bool),
        ),
        motion=Motion(
            ids=np.arange(people), present=np.ones((frames, people), bool), body_model="anny",
            betas=np.zeros((people, 10)), body_rot=np.tile(np.eye(3), (frames, people, 23, 1, 1)),
            cam_from_body=cam_from_body, joints_cam=joints,
            contact_prob=np.zeros((frames, people, len(CONTACT_SITES))), stature=np.full(people, 1.7),
            confidence=np.ones((frames, people)),
        ),
        scene_points=rng.normal(0, 2, (50, 3)), scene_rgb=np.zeros((50, 3), np.uint8), meta={"world": "first_camera"},
    )  # fmt: skip


def test_projection_of_the_optical_axis_is_the_principal_point() -> None:
    K = make_result().cameras.K
    np.testing.assert_allclose(project_to_pixels(np.array([[0.0, 0.0, 3.0]]), K), [[80, 60]])
    assert np.isnan(project_to_pixels(np.array([[0.0, 0.0, -3.0]]), K)).all()


@pytest.mark.parametrize(("faces", "painted"), [([[0, 2, 1]], True), ([[0, 1, 2]], False)])
def test_mesh_paints_faces_towards_the_camera_only(faces: list[list[int]], painted: bool) -> None:
    image = Image.new("RGB", (160, 120))
    triangle = np.array([[-1.0, -1, 4], [1, -1, 4], [0, 1, 4]])
    draw_mesh(image, triangle, np.array(faces), make_result().cameras.K, (200, 0, 0))
    assert (image.getpixel((80, 60)) != (0, 0, 0)) is painted


def test_overlay_draws_on_a_frame_of_another_size() -> None:
    frame = np.zeros((240, 320, 3), np.uint8)
    result = make_result()
    drawn = np.asarray(overlay(frame, result, 0, None))
    pelvis = project_to_pixels(result.motion.joints_cam[0, 0, 0], result.cameras.K) * 2
    x, y = pelvis.astype(int)
    assert drawn[y - 4 : y + 5, x - 4 : x + 5].any()
    assert overlay(frame, result, 0, None).size == (320, 240)


def test_sheet_keeps_every_tile() -> None:
    tiles = [Image.new("RGB", (10, 8), (k, 0, 0)) for k in range(1, 5)]
    image = sheet(tiles, columns=3, gap=2)
    assert image.size == (34, 18)
    assert image.getpixel((0, 10)) == (4, 0, 0)


def test_rigid_between_undoes_a_change_of_world_without_scale() -> None:
    angle = 0.7
    world = np.eye(4)
    world[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    world[:3, 3] = [3, -2, 1]
    move = rigid_between(make_result(), make_result(world=world))
    np.testing.assert_allclose(move @ world, np.eye(4), atol=1e-9)


def test_people_are_matched_by_where_the_camera_sees_them() -> None:
    a, b = make_result(), make_result()
    for name in ("present", "cam_from_body", "joints_cam"):
        setattr(b.motion, name, getattr(b.motion, name)[:, ::-1])
    assert match_people(a, b) == [(0, 1), (1, 0)]


def test_scene_html_carries_its_data_and_loads_nothing(tmp_path: Path) -> None:
    results = {"truth": make_result(), "student": make_result(frames=4)}
    block = scene_html(scene_data(results, reference="truth"), "view")
    page = Page("a <title>")
    page.raw(block)
    page.table(("name", "value"), [("x", 1.23456), ("y", None)])
    page.write(tmp_path / "index.html")
    text = (tmp_path / "index.html").read_text()
    data = json.loads(re.search(r"const data = (.*);\n", text)[1])  # type: ignore[index]
    assert [layer["name"] for layer in data["layers"]] == ["truth", "student"]
    assert data["frames"] == 5
    assert "&lt;title&gt;" in text
    assert "1.23" in text
    assert not re.search(r"(src|href)=\"?https?:", text)


def test_plots_are_images(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot_top_down(tmp_path / "above.png", {"truth": make_result(), "teacher": make_result()}, reference="truth")
    plot_curves(tmp_path / "loss.png", {"loss": [(0, 1.0), (1, 0.1)]}, x="step", y="loss", log=True)
    for name in ("above.png", "loss.png"):
        with Image.open(tmp_path / name) as image:
            assert np.asarray(image.convert("L")).std() > 1
