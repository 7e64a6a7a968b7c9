"""The closer look at people: squares around boxes, blind to brightness, each row on its own, required by the heads."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from distill.errors import FootfallError
from distill.models.closeup import MARGIN, Closeup, look_at_both, square_boxes
from distill.models.student import Student, StudentConfig
from distill.models.trunk import HeadConfig
from tests.student_support import make_prompts, one_thread, wake  # noqa: F401 (a fixture)

BOXES = torch.tensor([[[10.0, 5.0, 30.0, 45.0], [40.0, 10.0, 60.0, 50.0]], [[5.0, 5.0, 25.0, 60.0]] * 2])


@pytest.fixture(scope="module")
def closeup() -> Closeup:
    torch.manual_seed(0)
    return Closeup(32, 24).eval()


def test_squares_by_hand() -> None:
    side = 40 * MARGIN / 2
    wanted = torch.tensor([20 - side, 25 - side, 20 + side, 25 + side])
    torch.testing.assert_close(square_boxes(BOXES[0, 0]), wanted)


def test_light_and_contrast_say_nothing(closeup: Closeup) -> None:
    images = torch.rand(2, 3, 64, 96) * 0.5 + 0.2
    seen = closeup(images, BOXES)
    colour = torch.tensor([0.2, -0.1, 0.05]).view(3, 1, 1)
    torch.testing.assert_close(closeup(images + colour, BOXES), seen, rtol=1e-3, atol=1e-4)
    duller = closeup(0.5 * images, BOXES)  # all but: the division is softened for crops without contrast
    other = closeup(images.flip(-1), BOXES)
    assert (duller - seen).norm() < 0.35 * (other - seen).norm()


def test_only_valid_rows_are_looked_at_and_they_do_not_change(closeup: Closeup) -> None:
    images, valid = torch.rand(2, 3, 64, 96), torch.tensor([[True, False], [False, True]])
    every, some = closeup(images, BOXES), closeup(images, BOXES, valid)
    torch.testing.assert_close(some[valid], every[valid])
    assert some[~valid].eq(0).all()
    nobody = closeup(images, BOXES[:, :0])
    assert nobody.shape == (2, 0, 24) and closeup(images, BOXES, ~valid & valid).eq(0).all()


def test_only_the_surroundings_of_a_box_count(closeup: Closeup) -> None:
    images = torch.rand(2, 3, 64, 96)
    seen = closeup(images, BOXES)
    changed = images.clone()
    changed[0, :, :, 80:] = 0.0
    torch.testing.assert_close(closeup(changed, BOXES), seen)
    changed[0, :, 20:40, 15:25] = 0.0
    assert (closeup(changed, BOXES)[0, 0] - seen[0, 0]).abs().max() > 1e-3


def test_looks_given_once_are_the_looks_taken_by_pair() -> None:
    torch.manual_seed(1)
    student = wake(Student(StudentConfig(head=HeadConfig(width=48, layers=1, attention_heads=2))))
    tokens, people = student.encode(torch.rand(2, 3, 64, 96)), make_prompts(3)
    a, b = tokens[:1], tokens[1:]
    wanted = student.pair(a, b, people)
    given = replace(people, looks=look_at_both(student.look, a, b, people.boxes))
    c, d = (replace(frame, images=None) for frame in (a, b))
    torch.testing.assert_close(student.pair(c, d, given).cam_from_body_b, wanted.cam_from_body_b)
    blind = student.pair(c, d, replace(given, looks=torch.zeros_like(given.looks)))  # type: ignore[arg-type]
    assert (blind.cam_from_body_b - wanted.cam_from_body_b).abs().max() > 1e-4
    with pytest.raises(FootfallError, match="without their images"):
        student.pair(c, d, people)
