"""Closed-form alignment of point sets."""

from __future__ import annotations

import torch
from torch import Tensor


def align_points(
    target: Tensor, source: Tensor, *, with_scale: bool, weights: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The similarity that minimises sum w ||target - (s R source + t)||^2.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns",
    IEEE TPAMI 1991, with weights; equation numbers are on the lines. R is a rotation, never a reflection.

    Args:
        target: [..., N, 3]. source: [..., N, 3]. weights: [..., N], not negative.
        with_scale: estimate s; otherwise s = 1 (Kabsch).

    Returns:
        scale [...], rotation [..., 3, 3], translation [..., 3] of target_from_source.

    Raises:
        ValueError: not finite, shapes differ, or (with scale) the source is a single point.
    """
    if target.shape != source.shape:
        raise ValueError(f"align_points: target {tuple(target.shape)} and source {tuple(source.shape)} differ")
    if not (torch.isfinite(target).all() and torch.isfinite(source).all()):
        raise ValueError("align_points: input is not finite; mask invalid points first")
    w = torch.ones_like(target[..., 0]) if weights is None else weights
    w = (w / w.sum(-1, keepdim=True))[..., None]
    mean_t, mean_s = (w * target).sum(-2), (w * source).sum(-2)  # eq. 34, 35
    centred_t, centred_s = target - mean_t[..., None, :], source - mean_s[..., None, :]
    variance = (w * centred_s.square()).sum((-1, -2))  # eq. 36
    covariance = (w * centred_t).transpose(-1, -2) @ centred_s  # eq. 38
    u, d, vh = torch.linalg.svd(covariance)
    sign = torch.ones_like(d)
    sign[..., 2] = torch.sign(torch.linalg.det(u) * torch.linalg.det(vh))  # eq. 39, 43
    rotation = (u * sign[..., None, :]) @ vh  # eq. 40
    if with_scale:
        if (variance <= torch.finfo(variance.dtype).eps).any():
            raise ValueError("align_points: all source points coincide, so the scale is undefined")
        scale = (d * sign).sum(-1) / variance  # eq. 42
    else:
        scale = torch.ones_like(variance)
    translation = mean_t - scale[..., None] * (rotation @ mean_s[..., None])[..., 0]  # eq. 41
    return scale, rotation, translation
