"""Cameras of Depth Anything 3: nine numbers per view, read from a token and turned into one.

An encoding is [..., 9]: the camera's place (3, unit of the depth), its rotation as a quaternion (x, y, z, w), both
as world_from_cam with the first camera as world, and the vertical and horizontal field of view (rad).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distill.geometry.rotations import matrix_from_quat, quat_from_matrix
from distill.geometry.transforms import make_transform
from distill.models.blocks import Mlp
from distill.models.da3.config import CAMERA_HEADS, Da3Config
from distill.models.da3.vit import Block

CAMERA_CHANNELS = 9
_ENCODER_BLOCKS = 4
_MIN_TANGENT = 1e-6


class CameraEncoder(nn.Module):
    """Known cameras -> camera tokens for `CrossViewVit.read_views`; the views read each other."""

    def __init__(self, config: Da3Config) -> None:
        super().__init__()
        dim = config.dim
        self.trunk = nn.Sequential(*(Block(dim, CAMERA_HEADS, eps=1e-5) for _ in range(_ENCODER_BLOCKS)))
        self.token_norm, self.trunk_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.pose_branch = Mlp(CAMERA_CHANNELS, dim // 2, dim)

    def forward(self, encodings: Tensor) -> Tensor:
        """Encodings [B, V, 9] -> tokens [B, V, C]."""
        return self.trunk_norm(self.trunk(self.token_norm(self.pose_branch(encodings))))


class CameraDecoder(nn.Module):
    """The camera token of a view -> its encoding."""

    def __init__(self, config: Da3Config) -> None:
        super().__init__()
        dim = 2 * config.dim
        self.backbone = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())
        self.fc_t = nn.Linear(dim, 3)
        self.fc_qvec = nn.Linear(dim, 4)
        self.fc_fov = nn.Sequential(nn.Linear(dim, 2), nn.ReLU())

    def forward(self, camera: Tensor) -> Tensor:
        """[B, 2 C] -> encodings [B, 9]."""
        x = self.backbone(camera)
        return torch.cat((self.fc_t(x), self.fc_qvec(x), self.fc_fov(x)), dim=-1)


def encode_cameras(world_from_cam: Tensor, K: Tensor, size: tuple[int, int]) -> Tensor:
    """world_from_cam [..., 4, 4] and K [..., 3, 3] of images (width, height) -> encodings [..., 9]."""
    width, height = size
    quat = quat_from_matrix(world_from_cam[..., :3, :3]).roll(-1, dims=-1)  # w, x, y, z -> x, y, z, w
    fov = [2 * torch.atan(side / 2 / K[..., i, i]) for i, side in ((1, height), (0, width))]
    return torch.cat((world_from_cam[..., :3, 3], quat, torch.stack(fov, dim=-1)), dim=-1)


def decode_cameras(encodings: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Encodings [..., 9] -> world_from_cam [..., 4, 4] and K [..., 3, 3] of images (width, height)."""
    place, quat, fov = encodings.split((3, 4, 2), dim=-1)
    rotation = matrix_from_quat(quat.roll(1, dims=-1))
    half = torch.tan(fov / 2).clamp(min=_MIN_TANGENT)
    width, height = size
    zero, one = torch.zeros_like(half[..., 0]), torch.ones_like(half[..., 0])
    rows = (width / 2 / half[..., 1], zero, one * width / 2, zero, height / 2 / half[..., 0], one * height / 2)
    return make_transform(rotation, place), torch.stack((*rows, zero, zero, one), dim=-1).unflatten(-1, (3, 3))
