"""Terms of the student's objective, each unreduced, and the one place where they are masked and averaged.

A term compares a prediction with a target and returns one value per entry, in the unit its docstring
names. `Loss` does the rest. Norms are smoothed near zero, so that every term is differentiable there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.geometry.cameras import project
from distill.models.trajectory_head import LOG_VAR_FLOOR

SMOOTH: Final = 1e-3
"""Norms are quadratic below about this (metres, radians, log depth)."""

MIN_DEPTH_M: Final = 0.1
"""Depths below this (behind or inside the lens) are clamped before division and logarithm."""


def smooth_norm(x: Tensor, smooth: float = SMOOTH) -> Tensor:
    """Charbonnier's norm over the last axis: sqrt(|x|^2 + s^2) - s. [..., n] -> [...]."""
    return (x.square().sum(-1) + smooth**2).sqrt() - smooth


def translation_error(predicted: Tensor, target: Tensor) -> Tensor:
    """Distance in metres between points [..., 3]."""
    return smooth_norm(predicted - target)


def rotation_error(predicted: Tensor, target: Tensor) -> Tensor:
    """Chordal distance between rotations [..., 3, 3]: |R - R*|_F / sqrt(2) = 2 sin(angle / 2), radians when small.

    Unlike the angle itself it has a finite gradient at 0 and at pi.
    """
    return smooth_norm((predicted - target).flatten(-2) / math.sqrt(2.0))


def direction_error(predicted: Tensor, target: Tensor) -> Tensor:
    """Chord in radians between the rays to points [..., 3] in the camera."""
    return smooth_norm(F.normalize(predicted, dim=-1) - F.normalize(target, dim=-1))


def log_depth_error(predicted: Tensor, target: Tensor) -> Tensor:
    """|log z - log z*| of points [..., 3] in the camera: relative depth, no unit."""
    ratio = predicted[..., 2:].clamp(min=MIN_DEPTH_M).log() - target[..., 2:].clamp(min=MIN_DEPTH_M).log()
    return smooth_norm(ratio)


def joints_error(predicted: Tensor, target: Tensor) -> Tensor:
    """Distance in metres per joint, pelvis on pelvis. [..., J, 3] with the pelvis first -> [..., J]."""
    return smooth_norm((predicted - predicted[..., :1, :]) - (target - target[..., :1, :]))


def reprojection_error(predicted: Tensor, target: Tensor, K: Tensor, boxes: Tensor) -> Tensor:
    """Distance in the image between joints [..., J, 3] in the camera, in units of the box's height.

    K [..., 3, 3] pixels, boxes [..., 4] xyxy pixels -> [..., J].
    """
    pixels, wanted = (project(joints, K, min_depth=MIN_DEPTH_M) for joints in (predicted, target))
    height = (boxes[..., 3] - boxes[..., 1]).abs().clamp(min=1.0)
    return smooth_norm((pixels - wanted) / height[..., None, None])


def contact_divergence(logit: Tensor, probability: Tensor) -> Tensor:
    """Kullback-Leibler divergence of predicted contacts [...] from labels [...] in [0, 1], nats; 0 when equal.

    Binary cross-entropy less the entropy of the label, which no prediction can undercut.
    """
    probability = probability.clamp(1e-6, 1 - 1e-6)
    entropy = -(probability * probability.log() + (1 - probability) * (1 - probability).log())
    return F.binary_cross_entropy_with_logits(logit, probability, reduction="none") - entropy


def composition_error(a_from_b: Tensor, b_from_c: Tensor, a_from_c: Tensor) -> Tensor:
    """Disagreement of two ways from c to a, rigid [..., 4, 4] -> [..., 2]: rotation (rad), translation (m).

    With frames a < b < c: two short gaps in sequence equal the long one.
    """
    composed = a_from_b @ b_from_c
    rotation = rotation_error(composed[..., :3, :3], a_from_c[..., :3, :3])
    return torch.stack((rotation, translation_error(composed[..., :3, 3], a_from_c[..., :3, 3])), dim=-1)


def laplace_nll(error: Tensor, log_var: Tensor) -> Tensor:
    """Negative log likelihood of `error` >= 0 under a Laplace distribution of variance exp(log_var), plus a
    constant that keeps it non-negative (Kendall and Gal, NeurIPS 2017, section 3; scale b = sigma / sqrt 2).
    """
    return math.sqrt(2.0) * error * (-0.5 * log_var).exp() + 0.5 * (log_var - LOG_VAR_FLOOR)


def scene_scale_error(log_scale: Tensor, points: Tensor, joints_cam: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """Metric scale of the backbone's points, witnessed by people standing in them.

    A person's joints lie just behind the surface that the points show at the same pixels, so the points'
    depth times the scale should equal the joints' depth.

    Args:
        log_scale: [B].
        points: [B, H, W, 3] unscaled, in the camera.
        joints_cam: [B, P, J, 3] labels, metres.
        K: [B, 3, 3] pixels of the H x W image.

    Returns:
        |log scale + log z_point - log z_joint| as [B, P, J], and where it counts, [B, P, J] bool: the joint
        projects into the image and the points lie in front of the camera there.
    """
    height, width = points.shape[1:3]
    pixels = project(joints_cam, K[:, None], min_depth=MIN_DEPTH_M)
    at = pixels / pixels.new_tensor([width, height]) * 2 - 1
    depth = F.grid_sample(points[:, None, ..., 2], at.clamp(-2, 2), mode="nearest", align_corners=False)[:, 0]
    inside = (at.abs() < 1).all(-1) & (joints_cam[..., 2] > MIN_DEPTH_M) & (depth > MIN_DEPTH_M)
    ratio = depth.clamp(min=MIN_DEPTH_M).log() - joints_cam[..., 2].clamp(min=MIN_DEPTH_M).log()
    return smooth_norm((log_scale[:, None, None] + ratio)[..., None]), inside


@dataclass(frozen=True)
class Term:
    """Unreduced values of one term and how much each counts."""

    values: Tensor
    """[B, ...]."""
    weight: Tensor
    """Broadcastable to `values` from the left ([B], [B, P], ...): bool, or label weights >= 0; 0 leaves out."""

    def mean(self) -> Tensor:
        """Weighted mean; 0 where nothing counts."""
        weight = self.weight.to(self.values.dtype)
        weight = weight.reshape(weight.shape + (1,) * (self.values.ndim - weight.ndim)).expand_as(self.values)
        counted = torch.where(weight > 0, self.values, 0.0)
        return (counted * weight).sum() / weight.sum().clamp(min=1e-6)


class Loss:
    """Masks, normalises and weights all terms. A term of weight 0 is left out."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.weights = {name: weight for name, weight in weights.items() if weight > 0}

    def __call__(self, terms: Mapping[str, Term]) -> dict[str, Tensor]:
        """Named terms -> named scalars that are summed for the backward pass."""
        return {name: weight * terms[name].mean() for name, weight in self.weights.items() if name in terms}
