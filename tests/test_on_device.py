"""A student on its device streams as the student itself does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distill.models.student import Student, StudentConfig
from distill.models.trunk import HeadConfig
from distill.on_device import OnDevice, place_student
from distill.stream import Finder, FrameResult, Network, Stream, StreamConfig
from tests.student_support import SIZE, one_thread, wake  # noqa: F401 (a fixture)

BOXES = {3: np.array([10.0, 5, 30, 60]), 7: np.array([50.0, 10, 80, 62])}


@pytest.fixture(scope="module")
def student() -> Student:
    torch.manual_seed(3)
    return wake(Student(StudentConfig(head=HeadConfig(width=48, layers=1, attention_heads=2)))).eval()


def streamed(network: Network, boxes: dict[int, np.ndarray] | None) -> list[FrameResult]:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (8, SIZE[1] // 4, SIZE[0] // 4, 3), dtype=np.uint8)
    video = coarse.repeat(4, axis=1).repeat(4, axis=2)
    stream = Stream(network, SIZE, StreamConfig(gaps=[1, 3]))
    results = [stream.step(frame, k / 25, boxes) for k, frame in enumerate(video)]
    stream.background()
    return results


def assert_same(a: list[FrameResult], b: list[FrameResult], atol: float) -> None:
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one.world_from_cam, other.world_from_cam, rtol=0, atol=atol)
        assert [p.id for p in one.people] == [p.id for p in other.people]
        for p, q in zip(one.people, other.people, strict=True):
            torch.testing.assert_close(p.joints_cam, q.joints_cam, rtol=0, atol=atol)


def test_it_finds_people_and_points(student: Student) -> None:
    assert isinstance(student, Finder) and isinstance(OnDevice(student), Finder)


@pytest.mark.parametrize("boxes", [BOXES, None])
def test_the_stream_is_the_same(student: Student, boxes: dict[int, np.ndarray] | None) -> None:
    assert_same(streamed(student, boxes), streamed(OnDevice(student), boxes), atol=1e-6)


def test_on_the_cpu_nothing_is_wrapped(student: Student) -> None:
    assert place_student(student, "cpu") is student


@pytest.mark.gpu
def test_on_a_gpu_the_stream_is_nearly_the_same(student: Student) -> None:
    plain = streamed(student, BOXES)
    fast = place_student(student, "cuda")
    assert isinstance(fast, OnDevice)
    assert_same(plain, streamed(fast, BOXES), atol=0.1)  # the backbone runs in bfloat16
    student.cpu()
