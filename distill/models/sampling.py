"""Boxes in the image, and maps sampled in them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def in_image(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes [..., 4] in pixels of an image (width, height) -> -1 to 1 across it. No tensor comes from the host."""
    x, y = boxes[..., 0::2] / size[0], boxes[..., 1::2] / size[1]
    return torch.stack((x, y), dim=-1).flatten(-2) * 2 - 1


def sample_boxes(maps: Tensor, boxes: Tensor, size: tuple[int, int], cells: int) -> Tensor:
    """Sample maps [B, C, h, w] at cells x cells points of each box: [B, P, cells*cells, C], rows outermost.

    The outer points lie on the edges of the box. Boxes [B, P, 4] are in pixels of an image (width, height)
    and may leave it; outside, the border is repeated (as in JOSH3R).
    """
    low, high = in_image(boxes, size).split(2, dim=-1)
    step = torch.linspace(0, 1, cells, device=boxes.device, dtype=boxes.dtype)
    y, x = torch.meshgrid(step, step, indexing="ij")
    points = low[:, :, None] + torch.stack((x, y), dim=-1).flatten(0, 1) * (high - low)[:, :, None]
    sampled = F.grid_sample(maps, points.to(maps.dtype), padding_mode="border", align_corners=False)
    return sampled.permute(0, 2, 3, 1)
