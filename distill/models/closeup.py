"""A closer look at each person: their own pixels, through a small convolutional network of the student's own.

A frozen geometric backbone sees a person in a handful of tokens and was never asked which way they face. Every
single-image body network looks at a crop for that reason; here it costs one small picture per person and frame.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.errors import FootfallError
from distill.models.backbones import Tokens
from distill.models.sampling import sample_boxes

MARGIN = 1.2
"""The crop's side, in longer sides of the box: arms leave a detector's box."""
_CHANNELS = (32, 64, 128, 192)
"""Of the layers, each of which halves the picture."""


def square_boxes(boxes: Tensor) -> Tensor:
    """Boxes [..., 4] -> squares around the same middles, `MARGIN` larger than the longer side."""
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    half = (boxes[..., 2:] - boxes[..., :2]).amax(-1, keepdim=True).clamp(min=1) * (MARGIN / 2)
    return torch.cat((middle - half, middle + half), dim=-1)


def look_at_both(look: Callable[[Tensor, Tensor], Tensor], a: Tokens, b: Tokens, boxes: Tensor) -> Tensor:
    """Look at boxes [B, P, 2, 4] of both frames of B pairs: [B, P, 2, width], for `Prompts.looks`.

    Args:
        look: `Student.look`, or a graph of it.

    Raises:
        FootfallError: the images were not kept.
    """
    seen = []
    for view, frame in enumerate((a, b)):
        if frame.images is None:
            raise FootfallError(
                "a pair of frames", got="tokens without their images", expected="images, or looks in the prompts",
                do="keep what `encode` returned, or call `look` once for each frame",
            )  # fmt: skip
        seen.append(look(frame.images, boxes[:, :, view]))
    return torch.stack(seen, dim=2)


class _Halve(nn.Module):
    """Half the size by a strided convolution, then a residual one."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels_in, channels, 3, stride=2, padding=1)
        self.norm_down, self.norm = nn.GroupNorm(8, channels), nn.GroupNorm(8, channels)
        self.same = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, channels, H / 2, W / 2]."""
        x = F.gelu(self.norm_down(self.down(x)))
        return x + F.gelu(self.norm(self.same(x)))


class Closeup(nn.Module):
    """Images and boxes -> one vector per person and frame."""

    def __init__(self, pixels: int, width: int) -> None:
        """`pixels` across a crop, `width` channels of the vector."""
        super().__init__()
        self.pixels = pixels
        first = nn.Conv2d(3, _CHANNELS[0], 5, stride=2, padding=2)
        halves = [_Halve(a, b) for a, b in pairwise(_CHANNELS)]
        self.layers = nn.Sequential(first, nn.GroupNorm(8, _CHANNELS[0]), nn.GELU(), *halves)
        side = -(-pixels // 2 ** len(_CHANNELS))
        self.out = nn.Linear(_CHANNELS[-1] * side * side, width)

    def forward(self, images: Tensor, boxes: Tensor, valid: Tensor | None = None) -> Tensor:
        """Images [B, 3, H, W] in [0, 1], boxes [B, P, 4] in their pixels -> [B, P, width].

        Rows that are not `valid` [B, P] are not looked at and come out as 0; None: all are.
        """
        height, width = images.shape[-2:]
        crops = sample_boxes(images.float(), square_boxes(boxes.float()), (width, height), self.pixels)
        if valid is None:
            return self._describe(crops.flatten(0, 1)).unflatten(0, boxes.shape[:2])
        seen = self._describe(crops[valid])
        return seen.new_zeros((*boxes.shape[:2], seen.shape[-1])).masked_scatter(valid[..., None], seen)

    def _describe(self, crops: Tensor) -> Tensor:
        """Crops [N, pixels^2, 3] -> [N, width]. Brightness and contrast are taken out: they say nothing of a pose."""
        centred = crops - crops.mean(1, keepdim=True)
        plain = centred / (centred.square().mean((1, 2), keepdim=True).sqrt() + 0.05)
        picture = plain.transpose(1, 2).unflatten(-1, (self.pixels, self.pixels))
        return self.out(self.layers(picture.to(self.out.weight.dtype)).flatten(1))
