"""Small students, prompts and labels that several test files share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from distill.body import BodyModel
from distill.geometry.cameras import project
from distill.geometry.rotations import matrix_from_rotvec
from distill.geometry.transforms import make_transform
from distill.models.prediction import Prompts
from distill.models.student import Student
from distill.task import Batch

SIZE = (96, 64)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Import this into a file of small tensors: a second thread costs them more than it brings."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def wake(student: Student) -> Student:
    """Give the output layers weights: fresh ones answer the same whatever they read."""
    for parameter in student.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return student.eval()


def make_prompts(people: int, *, batch: int = 1, size: tuple[int, int] = SIZE, seed: int = 0) -> Prompts:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(batch, people, 2, 2, generator=generator) * 30
    extent = 20 + torch.rand(batch, people, 2, 2, generator=generator) * 30
    K = torch.tensor([[90.0, 0, size[0] / 2], [0, 90.0, size[1] / 2], [0, 0, 1]]).expand(batch, 2, 3, 3)
    valid = torch.ones(batch, people, 2, dtype=torch.bool)
    return Prompts(boxes=torch.cat((corner, corner + extent), dim=-1), valid=valid, K=K)


def make_batch(body: BodyModel, *, windows: int = 2, people: int = 1, frames: int = 2) -> Batch:
    """Labels that agree with each other, and images of noise."""
    width, height = SIZE
    K = torch.tensor([[90.0, 0, width / 2], [0, 90.0, height / 2], [0, 0, 1]]).expand(windows, frames, 3, 3)
    facing = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    lead = (windows, people, frames)
    turned = facing @ matrix_from_rotvec(0.3 * torch.randn(*lead, 3))
    cam_from_body = make_transform(turned, torch.tensor([0, 0, 4.0]) + 0.3 * torch.randn(*lead, 3))
    body_rot = matrix_from_rotvec(0.3 * torch.randn(*lead, 23, 3))
    betas = torch.randn(windows, people, 10)
    joints = body(betas[:, :, None].expand(-1, -1, frames, -1), body_rot, cam_from_body).joints
    pixels = project(joints, K[:, None])
    batch = {
        "name": [f"clip{window}-000000:0" for window in range(windows)],
        "images": torch.rand(windows, frames, 3, height, width),
        "masks": torch.zeros(*lead[:2], frames, height // 16, width // 16),
        "depth": 4 + torch.rand(windows, frames, height // 16, width // 16),
        "seconds": torch.arange(frames).expand(windows, frames) / 30,
        "K": K,
        "boxes": torch.cat((pixels.amin(-2) - 2, pixels.amax(-2) + 2), dim=-1),
        "valid": torch.ones(*lead, dtype=torch.bool),
        "cam_from_body": cam_from_body,
        "body_rot": body_rot,
        "betas": betas,
        "joints_cam": joints,
        "contact_prob": torch.rand(*lead, 6).round(),
        "world_from_cam": make_transform(
            matrix_from_rotvec(0.1 * torch.randn(windows, frames, 3)), 0.2 * torch.randn(windows, frames, 3)
        ),
        "weight": torch.ones(windows, people),
    }
    asked = {"prompt_boxes": batch["boxes"], "prompt_masks": batch["masks"], "prompt_K": K}
    return batch | asked | {"K_known": torch.ones(windows, dtype=torch.bool)}
