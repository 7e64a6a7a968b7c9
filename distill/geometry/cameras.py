"""Pinhole cameras: projection, intrinsics under resize and crop, adapters for other pixel centres."""

from __future__ import annotations

import torch
from torch import Tensor


def make_intrinsics(focal: Tensor, size: tuple[int, int]) -> Tensor:
    """Focal length in pixels [...] and image (width, height) -> K [..., 3, 3], centre of the image."""
    width, height = size
    zero, one = torch.zeros_like(focal), torch.ones_like(focal)
    rows = (focal, zero, one * width / 2, zero, focal, one * height / 2, zero, zero, one)
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def project(points_cam: Tensor, K: Tensor, *, min_depth: float = 1e-6) -> Tensor:
    """Points [..., N, 3] in the camera (m) -> pixels [..., N, 2]; K [..., 3, 3].

    Depths below `min_depth` are clamped to it: mask points behind the camera before use.
    """
    depth = points_cam[..., 2:].clamp(min=min_depth)
    return (points_cam[..., :2] / depth) @ K[..., :2, :2].transpose(-1, -2) + K[..., None, :2, 2]


def unproject(pixels: Tensor, depth: Tensor, K: Tensor) -> Tensor:
    """Pixels [..., N, 2] at z depth [..., N] (m) -> points [..., N, 3] in the camera; K [..., 3, 3]."""
    rays = torch.cat((pixels, torch.ones_like(pixels[..., :1])), dim=-1) @ torch.linalg.inv(K).transpose(-1, -2)
    return rays * depth[..., None]


def pixel_grid(size: tuple[int, int], *, device: torch.device | None = None) -> Tensor:
    """Centres of all pixels of an image (width, height): [height, width, 2] as (x, y)."""
    width, height = size
    y, x = torch.meshgrid(
        torch.arange(height, device=device, dtype=torch.float32) + 0.5,
        torch.arange(width, device=device, dtype=torch.float32) + 0.5,
        indexing="ij",
    )
    return torch.stack((x, y), dim=-1)


def resize_intrinsics(K: Tensor, from_size: tuple[float, float], to_size: tuple[float, float]) -> Tensor:
    """K [..., 3, 3] after the image is resized from (width, height) to (width, height).

    Exact with pixel centres at (0.5, 0.5): the image plane is only scaled.
    """
    scale = K.new_tensor([to_size[0] / from_size[0], to_size[1] / from_size[1], 1.0])
    return K * scale[:, None]


def crop_intrinsics(K: Tensor, left: float, top: float) -> Tensor:
    """K [..., 3, 3] after a crop whose top-left corner lies at (left, top) pixels."""
    shift = torch.zeros_like(K)
    shift[..., 0, 2], shift[..., 1, 2] = left, top
    return K - shift


def intrinsics_from_integer_centres(K: Tensor) -> Tensor:
    """K of OpenCV or MASt3R (top-left pixel centre at (0, 0)) -> ours, centre at (0.5, 0.5)."""
    return crop_intrinsics(K, -0.5, -0.5)


def intrinsics_to_integer_centres(K: Tensor) -> Tensor:
    """Our K -> that of OpenCV or MASt3R (top-left pixel centre at (0, 0))."""
    return crop_intrinsics(K, 0.5, 0.5)
