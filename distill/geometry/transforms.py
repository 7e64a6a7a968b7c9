"""Rigid and similarity transforms as 4x4 matrices, named `target_from_source`."""

from __future__ import annotations

import torch
from torch import Tensor

from distill.geometry.rotations import matrix_from_quat, quat_from_matrix, slerp


def make_transform(rotation: Tensor, translation: Tensor) -> Tensor:
    """[..., 3, 3] (a rotation, or a scaled one) and [..., 3] -> [..., 4, 4]."""
    batch = torch.broadcast_shapes(rotation.shape[:-2], translation.shape[:-1])
    top = torch.cat((rotation.expand(*batch, 3, 3), translation.expand(*batch, 3)[..., None]), dim=-1)
    # Not from a list: that would come from the host, which a CUDA graph cannot capture.
    bottom = torch.cat((top.new_zeros((*batch, 1, 3)), top.new_ones((*batch, 1, 1))), dim=-1)
    return torch.cat((top, bottom), dim=-2)


def invert(target_from_source: Tensor) -> Tensor:
    """Inverse of rigid transforms [..., 4, 4]: source_from_target."""
    rotation = target_from_source[..., :3, :3].transpose(-1, -2)
    return make_transform(rotation, -(rotation @ target_from_source[..., :3, 3:])[..., 0])


def transform_points(target_from_source: Tensor, points: Tensor) -> Tensor:
    """Points [..., N, 3] of the source frame -> the target frame; transform [..., 4, 4]."""
    rotation, translation = target_from_source[..., :3, :3], target_from_source[..., None, :3, 3]
    return points @ rotation.transpose(-1, -2) + translation


def interpolate(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Rigid transforms between `a` (weight 0) and `b` (weight 1): geodesic rotation, linear translation."""
    rotation = slerp(a[..., :3, :3], b[..., :3, :3], weight)
    translation = a[..., :3, 3] + weight[..., None] * (b[..., :3, 3] - a[..., :3, 3])
    return make_transform(rotation, translation)


def interpolate_missing(transforms: Tensor, valid: Tensor) -> Tensor:
    """Fill rigid transforms [T, 4, 4] where `valid` [T] is False from the neighbours in time.

    Before the first and after the last valid one, the nearest is repeated.

    Raises:
        ValueError: nothing is valid.
    """
    known = torch.nonzero(valid).flatten()
    if len(known) == 0:
        raise ValueError("interpolate_missing: no valid transform to start from")
    frame = torch.arange(len(transforms), device=transforms.device)
    after = torch.searchsorted(known, frame).clamp(max=len(known) - 1)
    before = (torch.searchsorted(known, frame, right=True) - 1).clamp(min=0)
    lower, upper = known[before], known[after]
    span = (upper - lower).clamp(min=1)
    weight = ((frame - lower).clamp(min=0).to(transforms) / span).clamp(0, 1)
    return interpolate(transforms[lower], transforms[upper], weight)


def to_quat_trans(transform: Tensor) -> tuple[Tensor, Tensor]:
    """[..., 4, 4] rigid -> unit quaternions wxyz [..., 4] and translations [..., 3] (the stored form)."""
    return quat_from_matrix(transform[..., :3, :3]), transform[..., :3, 3]


def from_quat_trans(quat: Tensor, translation: Tensor) -> Tensor:
    """Unit quaternions wxyz [..., 4] and translations [..., 3] -> [..., 4, 4]."""
    return make_transform(matrix_from_quat(quat), translation)


def make_sim3(scale: Tensor, rotation: Tensor, translation: Tensor) -> Tensor:
    """Scale [...], rotation [..., 3, 3], translation [..., 3] -> similarity [..., 4, 4]: x -> s R x + t."""
    return make_transform(scale[..., None, None] * rotation, translation)
