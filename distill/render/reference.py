"""The reference renderer: PyTorch alone, any device, float32 or float64."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from distill.render.compositing import Composite
from distill.render.gaussians import Gaussians
from distill.render.projection import project_gaussians
from distill.render.tiles import TILE, list_tiles

WORK: Final = 2**17
"""Alphas (pixels times splats) held at once. About ten arrays of this size exist at a time: 5 MB in float32."""


def draw_reference(
    gaussians: Gaussians,
    cam_from_world: Tensor,
    K: Tensor,
    size: tuple[int, int],
    features: Tensor,
    *,
    antialiased: bool = False,
    work: int = WORK,
) -> tuple[Tensor, Tensor, Tensor]:
    """Features [C, H, W, D] summed by visibility, expected depth [C, H, W] (m) and alpha [C, H, W].

    Args:
        gaussians: N of them in the world.
        cam_from_world: [C, 4, 4] rigid.
        K: [C, 3, 3] pixels.
        size: (width, height) pixels.
        features: [N, D].
        antialiased: see `render`.
        work: alphas held at once; changes memory and speed, not the picture.
    """
    splats = project_gaussians(gaussians, cam_from_world, K, size, antialiased=antialiased)
    lists = list_tiles(splats, len(K), size)
    depths = splats.depths[:, None]
    drawn = torch.cat((features.index_select(0, splats.gaussian), depths, torch.ones_like(depths)), -1)
    tiles = Composite.apply(splats.means, splats.conics, splats.opacities, drawn, lists, work)
    pictures = tiles.view(*lists.tiles, drawn.shape[1], TILE, TILE)  # cameras, rows, columns, D, y, x
    pictures = pictures.permute(0, 1, 4, 2, 5, 3).flatten(3, 4).flatten(1, 2)[:, : size[1], : size[0]]
    alpha = pictures[..., -1]
    return pictures[..., :-2], pictures[..., -2] / alpha.clamp(min=1e-10), alpha
