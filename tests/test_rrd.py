"""Recordings for Rerun, read back with Rerun's own reader."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from distill.body import BodyModel
from distill.convert import ConvertConfig, convert
from distill.convert.axes import Z_UP_FROM_WORLD
from distill.render import Gaussians
from distill.render.ply import write_gaussians
from distill.results import Result
from teacher.cli import main
from tests.convert_support import CLOSE, FRAMES, UNEVEN_TIMES, Array, body_points, make_result, write_result

pytest.importorskip("rerun", minversion="0.41")


class Recording:
    """What a file says, by `rerun.chunk.RrdReader`: (entity, component) -> {frame: value}; None if it never changes."""

    def __init__(self, path: Path) -> None:
        from rerun.chunk import RrdReader

        self.rows: dict[tuple[str, str], dict[int | None, tuple[Any, int]]] = {}
        self.seconds: dict[int, float] = {}
        for chunk in RrdReader(path).stream():
            table = chunk.to_record_batch()
            names = table.schema.names
            frames = table.column("frame").to_pylist() if "frame" in names else [None] * len(table)
            if "frame" in names:
                stamps = table.column("time").cast("int64").to_numpy() / 1e9
                self.seconds |= dict(zip(frames, stamps, strict=True))
            for name in names:
                if ":" in name:
                    known = self.rows.setdefault((str(chunk.entity_path), name.split(":")[1]), {})
                    column = table.column(name)
                    known |= {f: (column, row) for row, f in enumerate(frames) if column[row].is_valid}

    def array(self, entity: str, component: str, frame: int | None = None) -> Array:
        """A value as it is."""
        column, row = self.rows[entity, component][frame]
        return np.array(column[row].as_py())

    def lists(self, entity: str, component: str) -> list[Array]:
        """A value that never changes, of parts that differ in length."""
        column, row = self.rows[entity, component][None]
        return [np.array(part) for part in column[row].as_py()]

    def frames(self, entity: str, component: str) -> set[int | None]:
        """When something was said."""
        return set(self.rows.get((entity, component), {}))


@pytest.fixture(scope="module", params=["z_up_ground", "first_camera"])
def recorded(request: pytest.FixtureRequest, body: BodyModel, tmp_path_factory: pytest.TempPathFactory) -> Any:
    result = make_result(body, world=request.param, times=UNEVEN_TIMES)
    folder = tmp_path_factory.mktemp(request.param)
    write_result(folder / "result", result)
    dots = Gaussians(
        means=torch.randn(5, 3), quats=torch.nn.functional.normalize(torch.randn(5, 4), dim=-1),
        scales=0.1 + torch.rand(5, 3), opacities=torch.rand(5), colors=torch.rand(5, 3),
    )  # fmt: skip
    write_gaussians(folder / "result" / "gaussians.ply", dots)
    record = convert(folder / "result", ["rrd"], folder / "out")
    assert record["formats"]["rrd"]["bodies"] == "meshes"
    return result, Recording(folder / "out" / "result.rrd"), dots


def test_people_are_in_place_in_every_frame(recorded: tuple[Result, Recording, Gaussians]) -> None:
    result, recording, _ = recorded
    for person, identity in enumerate(result.motion.ids):
        name = f"/result/people/person_{identity}"
        here = set(np.flatnonzero(result.motion.present[:, person]).tolist())
        for part, component in (("joints", "positions"), ("bones", "strips"), ("body", "vertex_positions")):
            assert recording.frames(f"{name}/{part}", component) == here
        for frame in here & {0, 5, FRAMES - 1}:
            joints, vertices = body_points(result, frame, person, np.eye(4))
            np.testing.assert_allclose(recording.array(f"{name}/joints", "positions", frame), joints, atol=CLOSE)
            np.testing.assert_allclose(recording.array(f"{name}/body", "vertex_positions", frame), vertices, atol=CLOSE)
            strips = recording.array(f"{name}/bones", "strips", frame)
            np.testing.assert_allclose(strips[3], joints[[1, 4]], atol=CLOSE)  # left hip to left knee


def test_absent_people_are_cleared_and_come_back_with_faces(
    recorded: tuple[Result, Recording, Gaussians], body: BodyModel
) -> None:
    result, recording, _ = recorded
    gone = {identity: recording.frames(f"/result/people/person_{identity}", "is_recursive") for identity in (1, 4, 9)}
    assert gone == {1: set(), 4: {4}, 9: {6}}
    begins = {k: recording.frames(f"/result/people/person_{k}/body", "triangle_indices") for k in gone}
    assert begins == {1: {0}, 4: {0, 7}, 9: {5}}
    faces = recording.array("/result/people/person_4/body", "triangle_indices", 7)
    np.testing.assert_array_equal(faces, body.faces)
    ways = recording.lists("/result/paths/person_4", "strips")
    assert [len(way) for way in ways] == [4, 7]
    np.testing.assert_allclose(ways[1], result.world_from_body[7:, 1, :3, 3], atol=CLOSE)


def test_camera_pose_lens_and_clock(recorded: tuple[Result, Recording, Gaussians]) -> None:
    result, recording, _ = recorded
    cameras = result.cameras
    for frame in range(FRAMES):
        centre = recording.array("/result/camera", "translation", frame)[0]
        np.testing.assert_allclose(centre, cameras.world_from_cam[frame, :3, 3], atol=CLOSE)
        x, y, z, w = recording.array("/result/camera", "quaternion", frame)[0]
        forward = [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)]
        np.testing.assert_allclose(forward, cameras.world_from_cam[frame, :3, 2], atol=1e-5)
        assert recording.seconds[frame] == pytest.approx(cameras.timestamps[frame], abs=1e-6)
        assert recording.array("/result/plots/camera_measured", "scalars", frame) == cameras.valid[frame]
    lens = recording.array("/result/camera", "image_from_camera")[0].reshape(3, 3).T  # columns first
    np.testing.assert_allclose(lens, cameras.K, rtol=1e-6)
    np.testing.assert_array_equal(recording.array("/result/camera", "resolution")[0], cameras.size)


def test_scene_gaussians_contacts_confidence_and_up(recorded: tuple[Result, Recording, Gaussians]) -> None:
    result, recording, dots = recorded
    np.testing.assert_array_equal(recording.array("/result/scene", "positions"), result.scene_points)
    np.testing.assert_allclose(recording.array("/result/gaussians", "centers"), dots.means, atol=CLOSE)
    np.testing.assert_allclose(recording.array("/result/gaussians", "quaternions")[:, 3], dots.quats[:, 0], atol=1e-6)
    seen = recording.array("/result/people/person_1/contacts", "colors", 3).astype(np.uint32) & 255
    np.testing.assert_allclose(seen / 255, result.motion.contact_prob[3, 0], atol=0.003)
    sure = recording.array("/result/plots/person_9", "scalars", 5)
    np.testing.assert_allclose(sure, result.motion.confidence[5, 2:], atol=1e-6)
    doubt = recording.array("/result/people/person_9/doubt", "half_sizes", 5)
    np.testing.assert_allclose(doubt, np.full((1, 3), result.motion.sigma_m[5, 2]), atol=1e-6)  # type: ignore[index]
    here = recording.array("/result/people/person_9/doubt", "centers", 5)
    np.testing.assert_allclose(here[0], result.world_from_body[5, 2, :3, 3], atol=CLOSE)
    np.testing.assert_allclose(
        recording.array("/result/camera_doubt", "half_sizes", 0), np.full((1, 3), 0.01), atol=1e-6
    )
    turn = recording.array("/result", "mat3x3")[0].reshape(3, 3).T
    np.testing.assert_array_equal(turn, Z_UP_FROM_WORLD[result.meta["world"]][:3, :3])


def test_bodies_are_skeletons_where_meshes_would_be_large(body: BodyModel, tmp_path: Path) -> None:
    folder = write_result(tmp_path / "r", make_result(body))
    record = convert(folder, ["rrd"], tmp_path / "o", ConvertConfig(rrd_mb=1.0))
    assert record["formats"]["rrd"]["bodies"].startswith("skeletons")
    recording = Recording(tmp_path / "o" / "result.rrd")
    assert not recording.frames("/result/people/person_1/body", "vertex_positions")
    assert len(recording.frames("/result/people/person_1/joints", "positions")) == FRAMES
    assert (tmp_path / "o" / "result.rrd").stat().st_size < 1e6
    program = Path(sys.executable).with_name("rerun")
    told = subprocess.run(
        [program, "rrd", "verify", tmp_path / "o" / "result.rrd"], capture_output=True, text=True, check=False
    )
    assert "1 file verified without error" in told.stdout + told.stderr


def test_view_writes_two_results_with_pictures(body: BodyModel, tmp_path: Path, capsys: Any) -> None:
    """`--rerun FILE`, and without a file's name a file beside the first result; the second stands on the first."""
    first, second = make_result(body), make_result(body)
    turn = np.linalg.inv(second.cameras.world_from_cam[1])
    second.cameras.world_from_cam = turn @ second.cameras.world_from_cam
    second.meta["world"] = "first_camera"
    folders = [str(write_result(tmp_path / name, made)) for name, made in (("a", first), ("b", second))]
    (tmp_path / "frames").mkdir()
    for index in range(150):
        Image.new("RGB", (64, 36), (index, 0, 0)).save(tmp_path / "frames" / f"{index:03d}.png")
    words = [*folders, f"video={tmp_path / 'frames'}"]
    assert main(["view", "--rerun", *words]) == 0  # the next word is a result, not a file to write
    assert f"rerun {tmp_path / 'a.rrd'}" in capsys.readouterr().out
    assert main(["view", *words, "--rerun", str(tmp_path / "both.rrd")]) == 0
    recording = Recording(tmp_path / "both.rrd")
    page = np.eye(4)
    page[:3, :3] = recording.array("/b", "mat3x3")[0].reshape(3, 3).T
    page[:3, 3] = recording.array("/b", "translation")[0]
    joints = recording.array("/b/people/person_1/joints", "positions", 3) @ page[:3, :3].T + page[:3, 3]
    np.testing.assert_allclose(joints, body_points(first, 3, 0, np.eye(4))[0], atol=5e-4)
    assert len(recording.frames("/a/camera", "blob")) == FRAMES
    width, height = recording.array("/a/camera", "resolution")[0]
    lens = recording.array("/a/camera", "image_from_camera")[0].reshape(3, 3).T
    np.testing.assert_allclose(lens[0, 2] / width, first.cameras.K[0, 2] / first.cameras.size[0], rtol=1e-6)
    assert (width, height) == (320, 180)


def test_recording_does_not_replace_what_is_no_recording(body: BodyModel, tmp_path: Path, capsys: Any) -> None:
    folder = str(write_result(tmp_path / "r", make_result(body)))
    assert main(["view", folder, "--rerun", str(tmp_path / "r" / "meta.json")]) == 2
    assert "expected a file that ends in .rrd" in capsys.readouterr().err
    assert main(["view", "--rerun"]) == 2
