"""Gaussians of a stream: keyframes wait for their cameras, avatars get better evidence, memory does not grow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from distill.avatar import load_avatar
from distill.body import BodyModel
from distill.errors import FootfallError
from distill.files import read_json
from distill.gaussian_map import MapConfig
from distill.gaussian_stream import SHOWN, GaussianStream, GaussianStreamConfig, student_of
from distill.gaussian_views import from_the_side, show_avatar, write_gaussian_results
from distill.geometry.rotations import matrix_from_rotvec
from distill.geometry.transforms import make_transform
from distill.models.student import Student
from distill.render.ply import read_gaussians
from distill.stream import Stream, StreamConfig
from teacher.cli import main
from tests.gaussian_support import small_student
from tests.student_support import one_thread  # noqa: F401 (a fixture)

SIZE = (96, 64)
BOXES = {7: np.array([10.0, 5, 40, 60]), 3: np.array([50.0, 8, 80, 62])}
EVERY = GaussianStreamConfig(keyframe_every=2, look_every=1, map=MapConfig(cell_m=0.05, most=500))


@pytest.fixture(scope="module")
def student() -> Student:
    torch.manual_seed(2)
    return small_student().eval()


@pytest.fixture(scope="module")
def video() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8) for _ in range(9)]


def run(student: Student, body: BodyModel, video: list[np.ndarray], config: GaussianStreamConfig) -> GaussianStream:
    stream = Stream(student, SIZE, StreamConfig(gaps=[1, 2], corners="never"), body=body)
    stream.config.fuser.lag = 3
    gaussians = GaussianStream(stream, config, body)
    for number, frame in enumerate(video):
        gaussians.look(stream.step(frame, number / 25, BOXES))
        for ready in stream.settled():
            gaussians.settle(ready)
        assert len(gaussians._waiting) <= stream.config.fuser.lag
    for ready in stream.finish():
        gaussians.settle(ready)
    return gaussians


@pytest.fixture(scope="module")
def done(student: Student, body: BodyModel, video: list[np.ndarray]) -> GaussianStream:
    return run(student, body, video, EVERY)


def test_every_keyframe_joins_the_scene_once(done: GaussianStream) -> None:
    assert done.keyframes == 4  # frames 2, 4, 6, 8; the first has no other to be paired with
    assert not done._waiting
    assert [shown.frame.index for shown in done.shown] == [2, 4, 6, 8]
    assert 0 < len(done.map) <= 500
    scene = done.map.gaussians()
    assert torch.isfinite(scene.means).all()
    assert (scene.scales > 0).all()


def test_everybody_has_one_avatar_of_all_frames(done: GaussianStream) -> None:
    avatars = done.avatars()
    assert sorted(avatars) == [3, 7]
    assert done.frames_of(3) == 9
    assert len(avatars[3]) == 300
    assert done._people[3].evidence.weight.sum() > 0


def test_more_frames_weigh_more(
    student: Student, body: BodyModel, video: list[np.ndarray], done: GaussianStream
) -> None:
    short = run(student, body, video[:3], EVERY)
    assert (done._people[3].evidence.weight >= short._people[3].evidence.weight).all()
    assert done._people[3].evidence.weight.sum() > 2 * short._people[3].evidence.weight.sum()


def test_people_are_bounded(student: Student, body: BodyModel, video: list[np.ndarray]) -> None:
    gaussians = run(student, body, video[:3], replace(EVERY, max_people=1))
    assert len(gaussians.avatars()) == 1


def test_pictures_for_comparison_are_bounded(
    student: Student, body: BodyModel, video: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill.gaussian_stream.SHOWN", 2)
    gaussians = run(student, body, video, EVERY)
    assert len(gaussians.shown) <= 2 < SHOWN
    assert gaussians.keyframes == 4


def test_files_are_written_in_the_world_of_the_result(done: GaussianStream, body: BodyModel, tmp_path: Path) -> None:
    turn = make_transform(matrix_from_rotvec(torch.tensor([0.3, 0.0, 0.0])), torch.tensor([0.0, 0, 2.0]))
    about = write_gaussian_results(tmp_path, done, turn)
    scene = done.map.gaussians()
    written = read_gaussians(tmp_path / "gaussians.ply")
    assert about["scene"] == len(scene) == len(written)
    torch.testing.assert_close(written.means, scene.moved(turn).means, rtol=1e-4, atol=1e-4)
    avatar, meta = load_avatar(tmp_path / "avatars" / "person-7.npz")
    assert meta == {"person": 7, "frames": 9}
    assert len(read_gaussians(tmp_path / "avatars" / "person-7.ply")) == len(avatar)
    view = np.asarray(Image.open(tmp_path / "views" / "frame-00004.png"))
    width, height = done.stream.network_size
    assert view.shape == (height, 3 * width, 3)
    bent = torch.eye(3).repeat(23, 1, 1)
    bent[15] = matrix_from_rotvec(torch.tensor([0.0, 0.0, 1.2]))  # the left arm goes up: another motion
    assert (show_avatar(avatar, body) - show_avatar(avatar, body, bent)).abs().max() > 0.1


def test_the_view_from_the_side_looks_at_the_same_place() -> None:
    aside = from_the_side(torch.eye(4), 5.0)
    place = torch.linalg.inv(aside) @ torch.tensor([0.0, 0.0, 5.0, 1.0])
    torch.testing.assert_close(place[:2], torch.zeros(2), rtol=0, atol=1e-5)
    assert aside[0, 3] > 0


def test_a_student_without_a_head_is_refused(body: BodyModel) -> None:
    plain = small_student(None).eval()
    with pytest.raises(FootfallError, match="without a Gaussian head"):
        GaussianStream(Stream(plain, SIZE, body=body), EVERY, body)
    assert student_of(plain) is plain
    mistakes: list[dict[str, Any]] = [{"keyframe_every": 0}, {"look_every": 0}, {"max_people": 0}]
    for wrong in mistakes:
        with pytest.raises(ValueError, match="gaussians"):
            GaussianStreamConfig(**wrong)


def test_run_writes_gaussians_or_says_why_not(student: Student, video: list[np.ndarray], tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for number, frame in enumerate(video[:6]):
        Image.fromarray(frame).save(frames / f"{number:03d}.png")
    student.save_pretrained(tmp_path / "drawn")
    small_student(None).save_pretrained(tmp_path / "plain")
    words = ["run", str(frames), "gaussians.keyframe_every=2", "--checkpoint"]
    assert main([*words, str(tmp_path / "drawn"), "--out", str(tmp_path / "out")]) == 0
    about = read_json(tmp_path / "out" / "meta.json")["gaussians"]
    assert about["scene"] == len(read_gaussians(tmp_path / "out" / "gaussians.ply")) > 0
    assert "gaussians_scene" in read_json(tmp_path / "out" / "latency.json")
    assert main([*words, str(tmp_path / "plain"), "--out", str(tmp_path / "none")]) == 0
    assert "no Gaussian head" in read_json(tmp_path / "none" / "meta.json")["gaussians"]
    assert not (tmp_path / "none" / "gaussians.ply").exists()
