"""Which part of a picture is drawn, and which of its pixels the sources can know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.geometry.cameras import crop_intrinsics, pixel_grid, project, unproject
from distill.geometry.transforms import invert, transform_points
from distill.models.sampling import in_image

SLACK_M: Final = 0.1
"""A source sees a place if its own depth there differs by less than this, or by `SLACK_SHARE` (Splatt3R)."""
SLACK_SHARE: Final = 0.05


@dataclass(frozen=True)
class Crop:
    """A rectangle of pixels."""

    left: int
    top: int
    size: tuple[int, int]
    """Width and height."""

    def cut(self, image: Tensor) -> Tensor:
        """[..., H, W] -> [..., height, width]."""
        return image[..., self.top : self.top + self.size[1], self.left : self.left + self.size[0]]

    def K(self, K: Tensor) -> Tensor:
        """Intrinsics [3, 3] of the whole picture -> of the rectangle."""
        return crop_intrinsics(K, self.left, self.top)


def choose_crop(shape: torch.Size | tuple[int, ...], side: int, boxes: Tensor, *, random: bool) -> Crop:
    """A square of `side` pixels or what fits.

    Args:
        shape: (height, width) of the picture.
        side: pixels.
        boxes: [P, 4] of people.
        random: drawn: half of the time anywhere, else around a place in somebody's box. If not: the middle of the
            first box, or of the picture.
    """
    height, width = shape
    size = (min(side, width), min(side, height))
    whole = boxes.new_tensor([0.0, 0.0, width, height])
    share = torch.rand(2) if random else torch.full((2,), 0.5)
    box = whole
    if len(boxes) and not (random and torch.rand(()) < 0.5):
        box = boxes[int(torch.randint(len(boxes), ())) if random else 0]
    middle = box[:2].cpu() + share * (box[2:] - box[:2]).cpu()
    left = int((middle[0] - size[0] / 2).clamp(0, width - size[0]))
    top = int((middle[1] - size[1] / 2).clamp(0, height - size[1]))
    return Crop(left, top, size)


def seen_by_sources(batch: dict[str, Any], sources: list[int], target: int, row: int) -> Tensor:
    """Pixels [H, W] bool of the target whose place one of the sources sees, of one window of a batch.

    By the labels' depth of the background and cameras. All of them if the label has no depth at all.
    """
    depth = batch["depth"][row, target]
    if not bool((depth > 0).any()):
        return torch.ones_like(depth, dtype=torch.bool)
    height, width = depth.shape
    grid = pixel_grid((width, height), device=depth.device).flatten(0, 1)
    points = unproject(grid, depth.flatten(), batch["K"][row, target])
    seen = torch.zeros_like(depth, dtype=torch.bool).flatten()
    for view in sources:
        motion = invert(batch["world_from_cam"][row, view]) @ batch["world_from_cam"][row, target]
        moved = transform_points(motion, points)
        at = in_image(project(moved, batch["K"][row, view]), (width, height))
        free = batch["masks"][row, :, view].amax(0) < 0.5
        there = F.grid_sample((batch["depth"][row, view] * free)[None, None], at[None, None], mode="nearest",
                              align_corners=False)[0, 0, 0]  # fmt: skip
        slack = (SLACK_SHARE * there).clamp(min=SLACK_M)
        inside = (at.abs() < 1).all(-1) & (moved[:, 2] > 0) & (there > 0)
        seen |= inside & ((moved[:, 2] - there).abs() < slack)
    return (seen & (depth.flatten() > 0)).view(height, width)
