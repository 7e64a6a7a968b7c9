"""What direct alignment of cameras and of bodies share: a picture against a frame, as normal equations.

Direct alignment (Lucas and Kanade 1981): a picture whose every pixel is known to move with some unknowns gives, by its
slope, how its colours change with them, and so Gauss-Newton steps.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

HUBER: Final = 0.2
"""Difference of colour (length over channels) from which on a pixel counts linearly."""
COLOUR_SD: Final = 0.1
"""Usual difference of a channel between a picture of Gaussians and a frame."""
CORRELATED: Final = 200.0
"""Pixels of a scene that share an error: so many fewer speak than there are."""

Normal = tuple[float, Tensor, Tensor]
"""A term of one frame: value, normal matrix [K, K], gradient [K]."""


def compare(
    image: Tensor, target: Tensor, flow: Tensor, weight: Tensor, reached: Tensor, correlated: float = CORRELATED
) -> Normal:
    """Robust squares of image - target, about a picture that moves by `flow`.

    Args:
        image, target: [H, W, C]. flow: [H, W, 2, K] pixels by which each pixel of the image moves with each unknown.
        weight: [H, W] trust. reached: [H, W] whether the flow is known; other pixels add to the value alone.
        correlated: pixels that share an error.
    """
    slope = 0.5 * (_slope(image) + _slope(target))  # of both pictures: second order for the price of the first (ESM)
    rows = -(slope @ flow)  # [H, W, C, K]
    off = image - target
    size = off.norm(dim=-1)
    robust = torch.where(size < HUBER, 0.5 * size**2, HUBER * (size - 0.5 * HUBER))
    heavy = weight * reached / (size / HUBER).clamp(min=1)
    weighted = (rows * heavy[..., None, None]).flatten(0, 2)
    information = 1 / (correlated * COLOUR_SD**2)
    return (
        information * float((weight * robust).sum()), information * (rows.flatten(0, 2).T @ weighted),
        information * (weighted.T @ off.flatten()),
    )  # fmt: skip


def pixel_slopes(points: Tensor, K: Tensor) -> Tensor:
    """[..., 2, 3] pixels per metre of points [..., 3] in the camera; K [3, 3]."""
    x, y, z = points[..., 0], points[..., 1], points[..., 2].clamp(min=0.05)
    zero = torch.zeros_like(z)
    fx, fy = K[0, 0], K[1, 1]
    return torch.stack(
        (torch.stack((fx / z, zero, -fx * x / z**2), -1), torch.stack((zero, fy / z, -fy * y / z**2), -1)), -2
    )


def prior(now: Tensor, information: Tensor) -> Normal:
    """Squares of corrections `now` [K] under an information matrix [K, K]."""
    gradient = information @ now
    return float(0.5 * now @ gradient), information, gradient


def blurred(image: Tensor, radius: int) -> Tensor:
    """Mean over squares of 2 radius + 1 pixels, of [H, W, D]; zeros beyond the border."""
    channels = image.permute(2, 0, 1)[None]
    width = 2 * radius + 1
    channels = F.avg_pool2d(channels, (width, 1), 1, (radius, 0))
    return F.avg_pool2d(channels, (1, width), 1, (0, radius))[0].permute(1, 2, 0)


def _slope(image: Tensor) -> Tensor:
    """[H, W, C, 2] change of each channel per pixel along x and y, by central differences."""
    return torch.stack((torch.gradient(image, dim=1)[0], torch.gradient(image, dim=0)[0]), -1)
