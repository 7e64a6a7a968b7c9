"""Where the body fit starts: orientation from 3D landmarks, depth from their size in the image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.geometry.conventions import KEYPOINTS
from distill.geometry.transforms import make_transform

LEFT_SHOULDER, RIGHT_SHOULDER = KEYPOINTS.index("left_shoulder"), KEYPOINTS.index("right_shoulder")
LEFT_HIP, RIGHT_HIP = KEYPOINTS.index("left_hip"), KEYPOINTS.index("right_hip")
TRUNK = (LEFT_SHOULDER, RIGHT_SHOULDER, LEFT_HIP, RIGHT_HIP)
"""Keypoints that move as one rigid piece, about."""


def root_rotation(landmarks: Tensor) -> Tensor:
    """Camera-from-body rotations [T, 3, 3] from hip-centred landmarks [T, 23, 3] in camera axes.

    x runs from right to left over hips and shoulders, y from the hips to the shoulders.
    """
    hips, shoulders = landmarks[:, [LEFT_HIP, RIGHT_HIP]], landmarks[:, [LEFT_SHOULDER, RIGHT_SHOULDER]]
    left = hips[:, 0] - hips[:, 1] + shoulders[:, 0] - shoulders[:, 1]
    up = F.normalize(shoulders.mean(1) - hips.mean(1), dim=-1)
    left = F.normalize(left - (left * up).sum(-1, keepdim=True) * up, dim=-1)
    return torch.stack((left, up, torch.linalg.cross(left, up, dim=-1)), -1)


def place_points(points: Tensor, pixels: Tensor, weight: Tensor, K: Tensor) -> Tensor:
    """Translation [T, 3] that brings points [T, N, 3] onto pixels [T, N, 2]; weight [T, N].

    With rays (u, v, 1) = K^-1 pixel, u (z + t_z) = x + t_x and v (z + t_z) = y + t_y are linear in t.
    """
    rays = torch.cat((pixels, torch.ones_like(pixels[..., :1])), -1) @ torch.linalg.inv(K).T
    eye = torch.eye(2, dtype=points.dtype).expand(*rays.shape[:2], 2, 2)
    matrix = torch.cat((eye, -rays[..., :2, None]), -1)
    right = rays[..., :2] * points[..., 2:] - points[..., :2]
    weighted = weight[..., None, None] * matrix
    left = (weighted.transpose(-1, -2) @ matrix).sum(1)
    return torch.linalg.solve(left, (weighted.transpose(-1, -2) @ right[..., None]).sum(1)[..., 0])


def start_transform(landmarks: Tensor, points: Tensor, pixels: Tensor, weight: Tensor, K: Tensor) -> Tensor:
    """First camera-from-body transforms [T, 4, 4].

    Args:
        landmarks: [T, 23, 3] hip-centred, camera axes; their size does not matter.
        points: [23, 3] keypoints of a body in its usual pose, body frame, metres; they give the size.
        pixels: [T, 23, 2].
        weight: [T, 23].
        K: [3, 3].
    """
    rotation = root_rotation(landmarks)
    size = points[list(TRUNK)] - points[list(TRUNK)].mean(0)
    seen = landmarks[:, list(TRUNK)] - landmarks[:, list(TRUNK)].mean(1, keepdim=True)
    scale = (size.norm(dim=-1).sum() / seen.norm(dim=-1).sum(-1)).median()
    known = weight * (landmarks.abs().sum(-1) > 0)
    hips = place_points(scale * landmarks, pixels, known, K)
    hips = torch.cat((hips[:, :2], hips[:, 2:].clamp(min=0.5)), -1)
    middle = points[[LEFT_HIP, RIGHT_HIP]].mean(0)
    return make_transform(rotation, hips - rotation @ middle)
