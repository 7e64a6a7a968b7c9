"""One pointmap per image from all pairs that it is the reference of, and its focal length and depth anchors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 8
"""Pixels that share a depth anchor, in each direction."""
NO_CONFIDENCE = 0.999
"""Taken off the network's confidences, which begin at 1."""


@dataclass(kw_only=True)
class Canonical:
    """The canonical view of one image."""

    points: Tensor
    """[H, W, 3] in the image's camera."""
    confidence: Tensor
    """[H, W], near 0 where nothing is known."""
    ratio: Tensor
    """[H, W] depth relative to that of the block's anchor."""
    focal: float
    """Pixels, with the principal point in the middle."""

    @property
    def anchors(self) -> Tensor:
        """[ceil(H / 8), ceil(W / 8)] depths at the blocks' anchors."""
        rows, columns = anchor_grid(*self.points.shape[:2])
        return self.points[..., 2][rows][:, columns]


def anchor_grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of the anchors: the middle of each block, inside the image."""
    rows = torch.arange(math.ceil(height / BLOCK)) * BLOCK + BLOCK // 2
    columns = torch.arange(math.ceil(width / BLOCK)) * BLOCK + BLOCK // 2
    return rows.clamp(max=height - 1), columns.clamp(max=width - 1)


def canonical_view(points: Sequence[Tensor], confidence: Sequence[Tensor]) -> Canonical:
    """Mean pointmap, weighted by w = C - 0.999, with relative depths averaged as angles.

    Inside a block a pixel lies r away from its anchor across the view and z - z_anchor behind it; the angle
    arctan((z - z_anchor) / r) is averaged over pairs, so that their scales do not matter.

    Args:
        points: K of [H, W, 3], the image as the reference of each pair. confidence: K of [H, W].
    """
    X = torch.stack(list(points))
    weight = torch.stack(list(confidence)) - NO_CONFIDENCE
    total = weight.sum(0)
    mean = (weight[..., None] * X).sum(0) / total[..., None]
    height, width = mean.shape[:2]
    rows, columns = anchor_grid(height, width)
    row = rows.repeat_interleave(BLOCK)[:height]
    column = columns.repeat_interleave(BLOCK)[:width]
    anchor = X[:, row][:, :, column]
    across = (X[..., :2] - anchor[..., :2]).norm(dim=-1).clamp(min=1e-8)
    angle = torch.arctan((X[..., 2] - anchor[..., 2]) / across)
    angle = (weight * angle).sum(0) / total
    ratio = 1 + across.mean(0) * angle.tan() / mean[..., 2][row][:, column]
    return Canonical(points=mean, confidence=weight.square().sum(0) / total, ratio=ratio, focal=weiszfeld_focal(mean))


def weiszfeld_focal(points: Tensor, rounds: int = 10) -> float:
    """Focal length of a pointmap [H, W, 3]: the f that minimises sum |p - f (x, y) / z| (Weiszfeld's reweighting).

    Clipped to 0.5 to 3.5 times that of a view of 60 degrees over the longer side.
    """
    height, width = points.shape[:2]
    grid = torch.stack(torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy"), -1).to(points)
    pixels = (grid - torch.tensor([width / 2, height / 2]).to(points)).reshape(-1, 2)
    ray = (points[..., :2] / points[..., 2:]).reshape(-1, 2).nan_to_num(posinf=0, neginf=0)
    with_pixels, with_itself = (pixels * ray).sum(-1), ray.square().sum(-1)
    focal = with_pixels.mean() / with_itself.mean()
    for _ in range(rounds):
        weight = 1 / (pixels - focal * ray).norm(dim=-1).clamp(min=1e-8)
        focal = (weight * with_pixels).mean() / (weight * with_itself).mean()
    base = max(height, width) / (2 * math.tan(math.radians(60) / 2))
    return float(focal.clamp(0.5 * base, 3.5 * base))
