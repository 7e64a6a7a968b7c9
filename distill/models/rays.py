"""Where boxes and tokens lie on the camera's image plane z = 1, and bodies placed along those rays."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from distill.geometry.transforms import make_transform

PRIOR_HEIGHT_M: Final = 1.6
"""Metres that a person's box spans from top to bottom, on average; the network corrects the depth it gives."""

RAY_OCTAVES: Final = 5
RAY_CHANNELS: Final = 2 + 4 * RAY_OCTAVES
"""Channels of `encode_rays`."""


def rays_of_pixels(pixels: Tensor, K: Tensor) -> Tensor:
    """Pixels [..., N, 2] -> (x/z, y/z) [..., N, 2]; K [..., 3, 3].

    K's inverse written out: it is triangular, and a general inverse has no ONNX operator.
    """
    y = (pixels[..., 1] - K[..., None, 1, 2]) / K[..., None, 1, 1]
    x = (pixels[..., 0] - K[..., None, 0, 2] - K[..., None, 0, 1] * y) / K[..., None, 0, 0]
    return torch.stack((x, y), dim=-1)


def token_rays(K: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Rays through the centres of all tokens of a grid (h, w) over an image (width, height): [B, h*w, 2]."""
    rows = (torch.arange(grid[0], device=K.device, dtype=K.dtype) + 0.5) * (size[1] / grid[0])
    columns = (torch.arange(grid[1], device=K.device, dtype=K.dtype) + 0.5) * (size[0] / grid[1])
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return rays_of_pixels(torch.stack((x, y), dim=-1).flatten(0, 1).expand(K.shape[0], -1, -1), K)


def encode_rays(rays: Tensor) -> Tensor:
    """Rays [..., 2] -> [..., RAY_CHANNELS]: themselves, and their sines and cosines at doubling frequencies."""
    frequency = math.pi * 2.0 ** torch.arange(RAY_OCTAVES, device=rays.device, dtype=rays.dtype)
    angle = (rays[..., None] * frequency).flatten(-2)
    return torch.cat((rays, angle.sin(), angle.cos()), dim=-1)


def box_rays(boxes: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes [B, P, 4] (xyxy pixels) -> centre [B, P, 2] and size [B, P, 2] on the plane z = 1; K [B, 3, 3].

    The size is at least 1/1000, so that padding of any value stays finite.
    """
    low, high = rays_of_pixels(boxes[..., :2], K), rays_of_pixels(boxes[..., 2:], K)
    return (low + high) / 2, (high - low).abs().clamp(min=1e-3)


def depth_from_box(box_size: Tensor) -> Tensor:
    """Depth [B, P] (m) at which `PRIOR_HEIGHT_M` fills the longer side of a box of size [B, P, 2] at z = 1."""
    return PRIOR_HEIGHT_M / box_size.amax(dim=-1)


def turn_to_ray(rays: Tensor) -> Tensor:
    """Smallest rotation [..., 3, 3] that takes the optical axis to the rays [..., 2].

    A body seen the same way at the border and in the middle of an image then has the same orientation
    relative to its ray, though not relative to the camera.
    """
    x, y = rays.unbind(-1)
    norm = (x * x + y * y + 1).sqrt()
    x, y, z = x / norm, y / norm, 1 / norm
    # Rodrigues' formula with axis (-y, x, 0) and cosine z; 1 + z > 1, so nothing is singular.
    scale = 1 / (1 + z)
    rows = (1 - x * x * scale, -x * y * scale, x, -x * y * scale, 1 - y * y * scale, y, -x, -y, z)
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def place_body(rotation: Tensor, offset: Tensor, log_depth: Tensor, boxes: Tensor, K: Tensor) -> Tensor:
    """cam_from_body [B, P, 4, 4] from what a head predicts relative to each person's box.

    Args:
        rotation: [B, P, 3, 3] orientation relative to the ray through the pelvis.
        offset: [B, P, 2] pelvis minus centre of the box, in units of the box's size.
        log_depth: [B, P] log of depth over `depth_from_box`.
        boxes: [B, P, 4] xyxy, pixels.
        K: [B, 3, 3].
    """
    centre, box_size = box_rays(boxes, K)
    ray = centre + offset * box_size
    depth = depth_from_box(box_size) * log_depth.exp()
    pelvis = torch.cat((ray, torch.ones_like(ray[..., :1])), dim=-1) * depth[..., None]
    return make_transform(turn_to_ray(ray) @ rotation, pelvis)
