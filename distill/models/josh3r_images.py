"""How JOSH3R's published inference prepares frames and boxes (docs/josh3r.md, "What the network sees")."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from distill.models.mast3r import PATCH

LONG_SIDE: Final = 512
"""Longer side of the network's image in pixels."""
ZOOM: Final = 2
"""The network always sees the middle of the frame, enlarged by this: each side shows half of the frame's."""


def network_size(size: tuple[int, int], long_side: int = LONG_SIDE) -> tuple[int, int]:
    """Network (width, height) for an image of (width, height): both sides scaled alike, then floored to 16."""
    scale = long_side / max(size)
    width, height = (max(PATCH, int(side * scale + 1e-6) // PATCH * PATCH) for side in size)
    return width, height


def prepare_image(image: NDArray[Any], long_side: int = LONG_SIDE) -> Tensor:
    """[H, W, 3] uint8 RGB -> [3, h, w] in [0, 1], zoomed, of `network_size`.

    Resized as MASt3R's loader does: Lanczos where the image shrinks, bicubic where it grows.
    """
    size = (image.shape[1], image.shape[0])
    target = network_size(size, long_side)
    method = Image.Resampling.LANCZOS if max(size) > long_side else Image.Resampling.BICUBIC
    resized = np.array(Image.fromarray(image).resize(target, method))
    pixels = torch.from_numpy(resized).permute(2, 0, 1)[None].float() / 255
    return zoom_images(pixels)[0]


def zoom_images(images: Tensor) -> Tensor:
    """[B, 3, H, W] -> the middle half of both sides, enlarged bilinearly to the same size."""
    height, width = images.shape[-2:]
    part_w, part_h = width // ZOOM, height // ZOOM
    left, top = (width - part_w) // 2, (height - part_h) // 2
    middle = images[:, :, top : top + part_h, left : left + part_w]
    return F.interpolate(middle, size=(height, width), mode="bilinear", align_corners=False)


def prepare_boxes(boxes: Tensor, size: tuple[int, int], long_side: int = LONG_SIDE) -> Tensor:
    """Boxes [..., 4] (xyxy) in pixels of an image of (width, height) -> pixels of the zoomed network image.

    As published: scaled by the longer side alone, so a shorter side that was floored to 16 is up to 15 pixels off.
    """
    return zoom_boxes(boxes * (long_side / max(size)), network_size(size, long_side))


def zoom_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes [..., 4] in pixels of an image of (width, height), clamped to it and enlarged about its centre.

    They often leave the image then.
    """
    limit = boxes.new_tensor(size)
    corners = torch.minimum(boxes.unflatten(-1, (2, 2)).clamp(min=0), limit)
    return ((corners - limit / 2) * ZOOM + limit / 2).flatten(-2)
