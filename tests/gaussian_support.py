"""A small student with a Gaussian head, and pictures of a person of known colours, for several test files."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from distill.avatar import make_avatar
from distill.body import BodyModel
from distill.geometry.rotations import matrix_from_rotvec
from distill.geometry.transforms import make_transform
from distill.models.backbones import Tokens
from distill.models.gaussian_config import GaussianConfig
from distill.models.student import Student, StudentConfig
from distill.models.trunk import HeadConfig
from distill.render import render

SMALL = GaussianConfig(stride=4, scene_width=8, anchors=150, per_anchor=2, human_width=16, drop_share=0.0)
VIEW = (64, 96)


def small_student(gaussians: GaussianConfig | None = SMALL) -> Student:
    head = HeadConfig(width=48, layers=1, attention_heads=2, closeup_pixels=16)
    return Student(StudentConfig(head=head, gaussians=gaussians))


def colors_of_places(places: Tensor) -> Tensor:
    """A smooth coat [N, 3] that is the same on no two sides of a body."""
    x, y, z = (places / torch.tensor([0.5, 0.8, 0.15])).unbind(-1)
    return torch.stack((0.5 + 0.4 * x, 0.5 + 0.4 * y, 0.5 + 0.4 * z), dim=-1).clamp(0.05, 0.95)


def facing(angle: float) -> Tensor:
    """cam_from_body [4, 4]: upright, 3 m away, turned by an angle; 0 shows the front."""
    turn = matrix_from_rotvec(torch.tensor([0.0, angle, 0.0]))
    return make_transform(torch.diag(torch.tensor([1.0, -1.0, -1.0])) @ turn, torch.tensor([0.0, 0.0, 3.0]))


def camera() -> Tensor:
    """K [3, 3] of `VIEW`, in which a body 3 m away is about 80 pixels high."""
    return torch.tensor([[140.0, 0, VIEW[0] / 2], [0, 140.0, VIEW[1] / 2], [0, 0, 1]])


@lru_cache(maxsize=8)
def picture_of(body: BodyModel, angle: float) -> Tensor:
    """[1, 3, H, W] the body in its coat, in the rest pose, from a side."""
    avatar = make_avatar(body, torch.zeros(body.num_betas), anchors=500, opacity=0.99)
    avatar.colors = colors_of_places(body.v_template[avatar.anchors])
    posed = avatar.posed(body, torch.eye(3).expand(23, 3, 3), facing(angle))
    drawn = render(posed, torch.eye(4)[None], camera()[None], VIEW, background=torch.zeros(3))
    return drawn.color.permute(0, 3, 1, 2).clamp(0, 1)


def tokens_of(images: Tensor, channels: int = 6) -> Tokens:
    """Noise for features, beside real images [B, 3, H, W]."""
    grid = (images.shape[2] // 16, images.shape[3] // 16)
    features = torch.randn(len(images), grid[0] * grid[1], channels)
    return Tokens(features=features, grid=grid, size=(images.shape[3], images.shape[2]), images=images)
