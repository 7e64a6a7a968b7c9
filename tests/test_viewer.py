"""`footfall view`: things are where the result has them, and the page works in a browser."""

from __future__ import annotations

import io
import shutil
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from distill.body import BodyModel
from distill.convert.axes import Z_UP_FROM_WORLD
from distill.errors import FootfallError
from distill.files import write_json
from distill.render import Gaussians
from distill.render.ply import write_gaussians
from distill.results import Result
from distill.viewer import ViewConfig, open_viewer
from distill.viewer.clip import read_clips, short_names
from distill.viewer.frames import Frames, find_video
from distill.viewer.page import Viewer
from teacher.cli import main
from tests.convert_support import EVEN_TIMES, FRAMES, Array, body_points, make_result, write_result

PORT = 8731
"""The first port to try."""


@pytest.fixture(scope="module")
def results(body: BodyModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[Result]]:
    """The same clip twice: with known gravity and Gaussians, and in the first camera's world."""
    folder = tmp_path_factory.mktemp("view")
    made = [make_result(body), make_result(body)]
    turn = np.linalg.inv(made[1].cameras.world_from_cam[0])
    made[1].cameras.world_from_cam = turn @ made[1].cameras.world_from_cam
    made[1].scene_points = (made[1].scene_points @ turn[:3, :3].T + turn[:3, 3]).astype(np.float32)
    made[1].meta["world"] = "first_camera"
    for name, result in zip(("truth", "student"), made, strict=True):
        write_result(folder / name, result)
    dots = torch.from_numpy(made[0].scene_points[:20])
    ones = torch.ones(20, 1)
    gaussians = Gaussians(
        means=dots, quats=torch.eye(4)[:1] * ones, scales=0.1 * ones.expand(-1, 3), opacities=ones[:, 0],
        colors=0.5 * ones.expand(-1, 3),
    )  # fmt: skip
    write_gaussians(folder / "truth" / "gaussians.ply", gaussians)
    return [folder / "truth", folder / "student"], made


@pytest.fixture(scope="module")
def viewer(results: tuple[list[Path], list[Result]]) -> Iterator[Viewer]:
    pytest.importorskip("viser")
    shown = open_viewer(results[0], ViewConfig(port=PORT))
    yield shown
    shown.stop()


def on_page(node: Any, handle: Any) -> Array:
    """[3] where a handle directly below a group is on the page."""
    root = node.root
    return Rotation.from_quat(np.roll(root.wxyz, -1)).apply(handle.position) + root.position


def test_people_of_both_results_stand_at_the_same_place(
    viewer: Viewer, results: tuple[list[Path], list[Result]]
) -> None:
    """The second result's world is another one; its first measured camera brings it onto the first's."""
    truth = results[1][0]
    for frame in (0, 5, FRAMES - 1):
        viewer.show(frame)
        for node in viewer.nodes:
            for person, mesh in enumerate(node._meshes):
                assert mesh.visible == truth.motion.present[frame, person]
                if not mesh.visible:
                    continue
                joints, _ = body_points(truth, frame, person, np.eye(4))
                found = np.stack([on_page(node, bone) for bone in mesh.bones])
                np.testing.assert_allclose(found, joints, atol=1e-3)


def test_skin_follows_the_bones_that_are_sent(viewer: Viewer, results: tuple[list[Path], list[Result]]) -> None:
    """Vertices as the browser skins them: with the weights, the rest pose and the bones of the page."""
    truth, node = results[1][0], viewer.nodes[0]
    for frame in (0, FRAMES - 1):
        viewer.show(frame)
        mesh, rig = node._meshes[0], node.clip.people[0].rig
        turns = Rotation.from_quat([np.roll(bone.wxyz, -1) for bone in mesh.bones]).as_matrix()
        places = np.stack([bone.position for bone in mesh.bones])
        at_rest = mesh.vertices[:, None] - rig.joints[mesh.skin_indices]
        moved = np.einsum("vkab,vkb->vka", turns[mesh.skin_indices], at_rest) + places[mesh.skin_indices]
        found = (mesh.skin_weights[..., None] * moved).sum(1)
        _, vertices = body_points(truth, frame, 0, np.eye(4))
        assert np.linalg.norm(found - vertices, axis=-1).max() < 0.008


def test_camera_turns_red_where_it_was_not_measured(viewer: Viewer, results: tuple[list[Path], list[Result]]) -> None:
    truth = results[1][0]
    for frame in (6, 7):
        viewer.show(frame)
        frustum = viewer.nodes[0]._frustum
        np.testing.assert_allclose(
            on_page(viewer.nodes[0], frustum), truth.cameras.world_from_cam[frame, :3, 3], atol=1e-5
        )
        assert (tuple(frustum.color) == (20, 20, 20)) == truth.cameras.valid[frame]


def test_contacts_are_marked_above_the_threshold(viewer: Viewer, results: tuple[list[Path], list[Result]]) -> None:
    motion = results[1][0].motion
    viewer.show(3)
    touching = motion.contact_prob[3] >= 0.5
    assert len(viewer.nodes[0]._contacts.points) == touching[motion.present[3]].sum()


def test_layers_and_sides(viewer: Viewer) -> None:
    node = viewer.nodes[1]
    viewer.layers["points"].value = False
    viewer.layers["uncertainty"].value = True
    viewer.apart.value = 5.0
    before = node.clip.page_from_world[:3, 3]
    wait_until(lambda: not node.groups["points"].visible and np.linalg.norm(node.root.position - before) > 4.9)
    eye, middle = viewer.overview()
    shift = node.root.position - before
    assert np.linalg.norm(shift) == pytest.approx(5)
    assert (shift[2], shift @ (middle - eye)) == pytest.approx(
        (0, 0), abs=1e-6
    )  # level, and neither nearer nor farther
    assert np.cross(middle - eye, shift)[2] < 0  # to the right
    viewer.show(0)
    sure = node.clip.people[0].confidence[0]
    red, green, _ = node._meshes[0].color
    assert (red, green) == (round(215 - sure * 155), round(40 + sure * 130))
    for box in ("points", "uncertainty"):
        viewer.layers[box].value = box == "points"
    viewer.apart.value = 0.0
    wait_until(lambda: np.linalg.norm(node.root.position - before) < 0.1)


def test_stated_deviations_are_rings_of_their_size(viewer: Viewer, results: tuple[list[Path], list[Result]]) -> None:
    """Shown with the layer of uncertainty, gone with the person and with the layer."""
    truth, node = results[1][0], viewer.nodes[0]
    assert truth.motion.sigma_m is not None and truth.cameras.sigma_m is not None
    viewer.layers["uncertainty"].value = True
    wait_until(lambda: node.groups["uncertainty"].visible)
    viewer.show(5)
    rings = node._doubts
    assert {name for name, ring in rings.items() if ring.visible} == {"camera", "person_1", "person_9"}  # 4 is away
    for name, place, sigma in (
        ("person_1", truth.world_from_body[5, 0, :3, 3], truth.motion.sigma_m[5, 0]),
        ("camera", truth.cameras.world_from_cam[5, :3, 3], truth.cameras.sigma_m[5]),
    ):
        np.testing.assert_allclose(rings[name].position, place, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(rings[name].points, axis=-1), sigma, rtol=1e-5)
    viewer.layers["uncertainty"].value = False
    wait_until(lambda: not any(ring.visible for ring in rings.values()))


def test_play_moves_the_slider_by_the_clock(viewer: Viewer) -> None:
    viewer.slider.value = 0
    viewer.playing.value = True
    wait_until(lambda: viewer.slider.value > 0)
    viewer.playing.value = False


def test_page_is_served_here_only(viewer: Viewer) -> None:
    with urllib.request.urlopen(viewer.url, timeout=10) as page:
        assert page.status == 200
        assert b"<html" in page.read().lower()
    assert viewer.server.get_host() == "127.0.0.1"


def test_visitor_is_sent_every_person(viewer: Viewer) -> None:
    """What the browser gets over its websocket, without a browser."""
    from websockets.sync.client import connect

    wanted = {f"/{node.clip.name}/people/{person.track.name}" for node in viewer.nodes for person in node.clip.people}
    address = viewer.url.replace("http://", "ws://")
    with connect(address, max_size=None) as socket:
        while wanted:  # ends by itself, or by the time-out
            message = socket.recv(timeout=20)
            assert isinstance(message, bytes)
            wanted -= {name for name in wanted if name.encode() in message}


def wait_until(true: Any, seconds: float = 30) -> None:
    """Callbacks run in threads of their own."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
def test_browser_shows_people_that_move_with_the_slider(viewer: Viewer, tmp_path: Path) -> None:
    """The page loads in Chromium, the slider is moved by its keys, the picture changes, a screenshot comes back."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    options = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    viewer.slider.value = 0
    with playwright.sync_playwright() as run:
        browser = run.chromium.launch(executable_path=chromium, args=options)
        page = browser.new_page(viewport={"width": 500, "height": 400}, accept_downloads=True)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(viewer.url)
        page.wait_for_selector("canvas", timeout=60_000)
        wait_until(lambda: len(viewer.server.get_clients()) == 1)
        slider = page.get_by_role("slider").first
        slider.wait_for(state="attached", timeout=60_000)
        (client,) = viewer.server.get_clients().values()
        before = picture_of(client)
        for _ in range(9):
            slider.press("ArrowRight", timeout=60_000)
        wait_until(lambda: viewer.slider.value == 9)
        after = picture_of(client)
        changed = np.abs(after.astype(int) - before).max(-1) > 40
        assert 0.002 < changed.mean() < 0.5  # people and camera moved, the scene stayed
        with page.expect_download(timeout=60_000) as download:
            page.get_by_role("button", name="screenshot").dispatch_event("click")
        download.value.save_as(tmp_path / "shot.png")
        browser.close()
    assert errors == []
    shot = np.asarray(Image.open(io.BytesIO((tmp_path / "shot.png").read_bytes())).convert("RGB"))
    assert shot.shape[0] == 720
    assert shot.reshape(-1, 3).std(0).min() > 5  # no blank page


def picture_of(client: Any) -> Array:
    """[240, 320, 3] what a visitor sees, once everything sent has arrived."""
    client.flush()
    time.sleep(1.0)
    return client.get_render(height=240, width=320, transport_format="jpeg").astype(int)


def test_first_of_two_results_may_lack_a_camera(body: BodyModel, tmp_path: Path) -> None:
    blind = make_result(body, world="first_camera")
    blind.cameras.valid[:] = False
    folders = [write_result(tmp_path / "a", blind), write_result(tmp_path / "b", make_result(body))]
    clips = read_clips(folders, "")
    np.testing.assert_array_equal(clips[0].page_from_world, Z_UP_FROM_WORLD["first_camera"])
    np.testing.assert_array_equal(clips[1].page_from_world, np.eye(4))


def test_frames_of_people_who_come_and_go(body: BodyModel, tmp_path: Path) -> None:
    (clip,) = read_clips([write_result(tmp_path / "r", make_result(body))], "")
    times = EVEN_TIMES - EVEN_TIMES[0]
    rows = [[person.frame_at(seconds) for seconds in times] for person in clip.people]
    assert rows[0] == list(range(FRAMES))
    assert rows[1] == [0, 1, 2, 3, None, None, None, *range(4, 11)]
    assert rows[2] == [None] * 5 + [0] + [None] * 8
    assert clip.people[0].frame_at(times[3] + 0.02) == 3
    assert [clip.camera_at(seconds) for seconds in (0.0, times[3], times[3] + 0.02, 99.0)] == [0, 3, 3, FRAMES - 1]


def test_names_tell_results_apart() -> None:
    assert short_names([Path("/x/a/truth"), Path("/x/a/joint")]) == ["truth", "joint"]
    assert short_names([Path("/x/a/joint"), Path("/x/b/joint")]) == ["a_joint", "b_joint"]
    assert short_names([Path("/x/a"), Path("/x/a")]) == ["0_a", "1_a"]


def test_frames_of_a_video_by_time(tmp_path: Path) -> None:
    for index, shade in enumerate((10, 120, 240)):
        Image.new("RGB", (64, 36), (shade, shade, shade)).save(tmp_path / f"{index}.png")
    frames = Frames(tmp_path, (640, 360))
    shades = [int(frames.at(seconds).mean()) for seconds in (-1.0, 0.0, 0.03, 5.0)]  # type: ignore[union-attr]
    assert shades == [10, 10, 120, 240]
    assert frames.at(0.0).shape == (180, 320, 3)  # type: ignore[union-attr]
    assert Frames(None, (640, 360)).at(0.0) is None


def test_video_beside_a_result(tmp_path: Path) -> None:
    assert find_video("", tmp_path / "truth") is None
    (tmp_path / "video.mp4").touch()
    assert find_video("", tmp_path / "truth") == tmp_path.resolve() / "video.mp4"
    (tmp_path / "video.mp4").rename(tmp_path / "mine.mp4")
    for start, found in ((0.0, tmp_path / "mine.mp4"), (2.0, None)):  # a cut clip has another clock
        write_json(tmp_path / "clip.json", {"path": str(tmp_path / "mine.mp4"), "start_s": start, "fps": None})
        assert find_video("", tmp_path / "joint") == found
    with pytest.raises(FootfallError, match="no such file"):
        find_video(str(tmp_path / "other.mp4"), tmp_path)


@pytest.mark.parametrize("setting", ["port=0", "apart=-1", "points=0", "contact_threshold=0"])
def test_settings_out_of_range(setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", str(tmp_path), setting]) == 2
    assert setting.split("=")[0] in capsys.readouterr().err


def test_folder_that_is_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", str(tmp_path)]) == 2
    assert "meta.json" in capsys.readouterr().err
