"""The stream of arrays on the body of an exported folder, and its pipeline; numpy's arithmetic beside PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distill.body import BodyModel
from distill.errors import FootfallError
from distill.export.body import write_body
from distill.fuser import so3
from distill.geometry import quaternions, rotations
from distill.models.student import Student, StudentConfig
from distill.models.trunk import HeadConfig
from distill.people.candidates import best_candidates
from distill.people.token_tracker import TokenTrackerConfig
from distill.results import load_result
from distill.runner.body import Body
from distill.runner.frames import Frame
from distill.runner.people import average_rotations
from distill.runner.pipeline import RunnerConfig, run_network
from distill.runner.settings import with_settings
from distill.runner.stream import ArrayStream
from distill.runner.torch_network import TorchNetwork
from distill.stream import Stream, StreamConfig
from distill.stream_types import FrameResult
from tests.student_support import SIZE, one_thread, wake  # noqa: F401 (a fixture)

BOXES = {7: np.array([10.0, 5, 40, 60]), 3: np.array([50.0, 8, 80, 62])}
PLAN = [BOXES, BOXES, {3: BOXES[3]}, {}, BOXES, BOXES, BOXES, {7: BOXES[7]}]
"""Who is seen when: people leave and come back."""


class Small(Student):
    """Frames are not enlarged, so that no resizing is between the two streams."""

    def network_size(self, size: tuple[int, int]) -> tuple[int, int]:
        return size


@pytest.fixture(scope="module")
def student() -> Student:
    torch.manual_seed(2)
    small = Small(StudentConfig(head=HeadConfig(width=48, layers=1, attention_heads=2)))
    return wake(small).requires_grad_(False)


@pytest.fixture(scope="module")
def runner_body(body: BodyModel, tmp_path_factory: pytest.TempPathFactory) -> Body:
    path = tmp_path_factory.mktemp("body") / "body.npz"
    write_body(path, body)
    return Body(path)


@pytest.fixture(scope="module")
def video() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8) for _ in PLAN]


def assert_same(arrays: Sequence[Frame], tensors: Sequence[FrameResult], atol: float = 1e-4) -> None:
    assert [frame.index for frame in arrays] == [frame.index for frame in tensors]
    for mine, other in zip(arrays, tensors, strict=True):
        np.testing.assert_allclose(mine.world_from_cam, other.world_from_cam, atol=atol)
        np.testing.assert_allclose(mine.camera_sigma, other.camera_sigma, rtol=1e-3)
        assert mine.log_scale == pytest.approx(other.log_scale, abs=atol)
        assert (mine.broken, mine.timestamp) == (other.broken, other.timestamp)
        assert [person.id for person in mine.people] == [person.id for person in other.people]
        for one, two in zip(mine.people, other.people, strict=True):
            for name in ("cam_from_body", "body_rot", "betas", "joints_cam", "contact_prob", "depth_sigma"):
                np.testing.assert_allclose(getattr(one, name), getattr(two, name), atol=atol, err_msg=name)
            np.testing.assert_allclose(one.root_sigma, two.root_sigma, rtol=1e-3)


@pytest.mark.parametrize("corners", ["auto", "never"])
def test_frames_are_those_of_the_stream_of_tensors(
    student: Student, runner_body: Body, video: list[np.ndarray], corners: str
) -> None:
    config = StreamConfig(gaps=[1, 3], corners=corners)  # type: ignore[arg-type]
    config.fuser.lag = 4
    tensors, arrays = Stream(student, SIZE, config), ArrayStream(TorchNetwork(student, SIZE), SIZE, runner_body, config)
    at_once, settled = ([], []), ([], [])
    times = [0.0, 0.04, 0.08, 0.12, 0.16, 2.0, 2.04, 2.08]  # a pause breaks motion
    for time, image, boxes in zip(times, video, PLAN, strict=True):
        for k, stream in enumerate((arrays, tensors)):
            at_once[k].append(stream.step(image, time, boxes))
            settled[k].extend(stream.settled())
    assert any(frame.broken for frame in at_once[0])
    assert_same(*at_once)
    assert_same(*([*found, *stream.finish()] for found, stream in zip(settled, (arrays, tensors), strict=True)))


def test_people_are_found_and_followed_alike(student: Student, runner_body: Body, video: list[np.ndarray]) -> None:
    config = StreamConfig(
        gaps=[1], cuts="never", corners="never", tracker=TokenTrackerConfig(enter_score=0.02, stay_score=0.01)
    )
    tensors, arrays = Stream(student, SIZE, config), ArrayStream(TorchNetwork(student, SIZE), SIZE, runner_body, config)
    for k, image in enumerate(video):
        mine, other = arrays.step(image, k / 25), tensors.step(image, k / 25)
        assert mine.people
        assert_same([mine], [other])


def test_best_candidates_by_hand() -> None:
    """The second overlaps the first by half, the third by a tenth; the fourth is not likely enough."""
    boxes = np.array([[0, 0, 10, 10], [0, 0, 5, 10], [9, 0, 11, 10], [50, 50, 60, 60], [30, 0, 40, 10]], np.float32)
    logit = np.array([3.0, 2, 1, -1, 4], np.float32)
    found, scores = best_candidates(logit, boxes, threshold=0.4, overlap=0.3, most=5)
    np.testing.assert_array_equal(found, boxes[[4, 0, 2]])
    np.testing.assert_allclose(scores, 1 / (1 + np.exp([-4.0, -3, -1])), rtol=1e-6)
    assert len(best_candidates(logit, boxes, threshold=0.4, overlap=0.3, most=2)[0]) == 2
    assert len(best_candidates(logit, boxes, threshold=0.4, overlap=0.6, most=5)[0]) == 4


def test_bodies_are_posed_as_by_the_body_model(body: BodyModel, runner_body: Body) -> None:
    betas = torch.randn(3, 10)
    body_rot = rotations.matrix_from_rotvec(torch.randn(3, 23, 3))
    joints, feet = runner_body.pose(betas.numpy(), body_rot.numpy())
    here = torch.eye(4).expand(3, 4, 4)
    np.testing.assert_allclose(joints, body(betas, body_rot, here).joints, atol=1e-5)
    np.testing.assert_allclose(feet, body.sites(betas, body_rot, here)[:, :4], atol=1e-5)
    assert runner_body.stature(betas[0].numpy()) == pytest.approx(float(body.stature(betas[0])), abs=1e-5)
    assert runner_body.name == "anny"


def test_rotations_agree_with_those_of_tensors() -> None:
    matrices = rotations.matrix_from_rotvec(3 * torch.randn(4, 50, 3, dtype=torch.float64))
    turned = torch.tensor([[3.14159265358979, 0, 0], [0, 3.14159265358979, 0], [0, 0, 0.0]], dtype=torch.float64)
    matrices = torch.cat((matrices.flatten(0, 1), rotations.matrix_from_rotvec(turned)))  # half turns: w = 0
    quats = quaternions.quat_from_matrix(matrices.numpy())
    assert (quats[..., 0] >= 0).all()
    np.testing.assert_allclose(quaternions.matrix_from_quat(quats), matrices, atol=1e-12)
    np.testing.assert_allclose(
        quaternions.matrix_from_quat(5 * quats), rotations.matrix_from_quat(torch.from_numpy(quats))
    )


def test_an_average_of_rotations_is_where_all_pull_alike() -> None:
    """The geodesic mean m has sum_k w_k log(m^T R_k) = 0; of turns about one axis it is the turn by the mean angle."""
    rng = np.random.default_rng(4)
    one, weights = so3.exp(rng.normal(size=3)), rng.uniform(0.2, 1, (3, 6))
    spread = one @ so3.exp(0.5 * rng.normal(size=(3, 6, 3)))
    mean = average_rotations(spread, weights)
    pull = (weights[..., None] * so3.log(so3.transpose(mean) @ spread)).sum(0)
    assert np.abs(pull).max() < 1e-3
    turns = so3.exp(np.array([[0.3, 0, 0], [-0.3, 0, 0], [0.6, 0, 0]]))
    wanted = one @ so3.exp(np.array([0.3, 0, 0]))
    np.testing.assert_allclose(average_rotations(one @ turns, np.array([1.0, 1, 2])), wanted, atol=1e-9)


def test_a_video_becomes_a_result(student: Student, runner_body: Body, video: list[np.ndarray], tmp_path: Path) -> None:
    (tmp_path / "video").mkdir()
    for k, image in enumerate(video):
        Image.fromarray(image).save(tmp_path / "video" / f"{k:03d}.png")
    config = RunnerConfig(image_fps=25.0, scene_every=4)
    config.stream.tracker = TokenTrackerConfig(enter_score=0.02, stay_score=0.01)
    summary = run_network(TorchNetwork(student, SIZE), runner_body, tmp_path / "video", tmp_path / "out", config)
    result = load_result(tmp_path / "out")
    assert summary["frames"] == len(result.cameras.timestamps) == 8
    assert summary["people"] == len(result.motion.ids)
    assert result.cameras.timestamps == pytest.approx(np.arange(8) / 25)
    assert result.meta["made_by"] == "footfall-onnx"
    stream, settled = ArrayStream(TorchNetwork(student, SIZE), SIZE, runner_body, config.stream), []
    for k, image in enumerate(video):  # PNG loses nothing
        stream.step(image, k / 25)
        settled += stream.settled()
    settled += stream.finish()
    found = result.cameras.world_from_cam
    for k in range(8):  # turns alone: all lengths of a result are put in one scale
        turned = np.linalg.inv(found[0, :3, :3]) @ found[k, :3, :3]
        np.testing.assert_allclose(turned, settled[k].world_from_cam[:3, :3], atol=1e-4)


def test_settings_are_read_without_a_config_system() -> None:
    config = with_settings(RunnerConfig(), ["long_side=320", "stream.gaps=[1, 2]", "stream.camera=static",
                                            "stream.fuser.lag=6", "stream.settle=false", "image_fps=25"])  # fmt: skip
    assert (config.long_side, config.image_fps, config.stream.gaps) == (320, 25.0, [1, 2])
    assert (config.stream.camera, config.stream.fuser.lag, config.stream.settle) == ("static", 6, False)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("long_side", "no '='"), ("longside=3", "no field 'longside'"), ("stream=3", "no field ''"),
        ("long_side=many", "long_side=many"), ("long_side=3.5", "no int"), ("stream.settle=1", "neither true"),
        ("threads=0", "threads"), ("stream.gaps.x=1", "no field 'x'"), ("long_side=True", "no int"),
    ],
)  # fmt: skip
def test_wrong_settings_are_told(word: str, message: str) -> None:
    with pytest.raises(FootfallError, match=message):
        with_settings(RunnerConfig(), [word])
