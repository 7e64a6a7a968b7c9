"""The dense head of Depth Anything 3: one DPT pyramid (arXiv 2103.13413), fused twice, for depth and for rays.

Module and parameter names are those of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.models.da3.config import PATCH, Da3Config
from distill.models.dpt import ResidualConv

_HIDDEN = 32
"""Channels before the last convolution of either output."""
_RAY_CHANNELS = 6
"""Origin and direction, in the reverse order: direction first."""
_POSITION_WEIGHT = 0.1
_POSITION_BASE = 100.0


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, corners aligned as in DPT: [B, C, h, w] -> [B, C, *size]."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


def _waves(length: int, span: float, channels: int, device: torch.device) -> Tensor:
    """Sines, then cosines, of the middles of `length` cells on [-span, span]: [length, channels]."""
    end = span * (length - 1) / length
    place = torch.linspace(-end, end, length, device=device)
    half = channels // 2
    frequency = _POSITION_BASE ** -(torch.arange(half, device=device, dtype=torch.float32) / half)
    angle = place[:, None] * frequency
    return torch.cat((angle.sin(), angle.cos()), dim=-1)


def add_positions(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Add waves of the place in the image to a map [B, C, h', w'] of an image of `grid` (h, w) tokens.

    The image spans [-x, x] by [-y, y] with x : y its aspect and a half diagonal of 1; the first half of the channels
    tells the column, the second the row.
    """
    rows, columns = x.shape[-2:]
    diagonal = (grid[0] ** 2 + grid[1] ** 2) ** 0.5
    half = x.shape[1] // 2
    across = _waves(columns, grid[1] / diagonal, half, x.device).T[:, None].expand(-1, rows, -1)
    down = _waves(rows, grid[0] / diagonal, half, x.device).T[:, :, None].expand(-1, -1, columns)
    return x + _POSITION_WEIGHT * torch.cat((across, down)).to(x.dtype)


class _Fusion(nn.Module):
    """Add a level to the path from the coarser ones, resize it, mix channels."""

    def __init__(self, dim: int, *, coarsest: bool = False) -> None:
        super().__init__()
        if not coarsest:
            self.resConfUnit1 = ResidualConv(dim)
        self.resConfUnit2 = ResidualConv(dim)
        self.out_conv = nn.Conv2d(dim, dim, 1)

    def forward(self, path: Tensor, level: Tensor | None, size: Sequence[int]) -> Tensor:
        """`path` [B, C, h, w], `level` the same or None at the coarsest -> [B, C, *size]."""
        if level is not None:
            path = path + self.resConfUnit1(level)
        return self.out_conv(_resize(self.resConfUnit2(path), size))


class _ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, h, w]."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Scratch(nn.Module):
    """Everything after the projections; the name is DPT's."""

    def __init__(self, dim: int, layer_dims: Sequence[int]) -> None:
        super().__init__()
        for level, layer_dim in enumerate(layer_dims, start=1):
            self.add_module(f"layer{level}_rn", nn.Conv2d(layer_dim, dim, 3, padding=1, bias=False))
            for suffix in ("", "_aux"):
                self.add_module(f"refinenet{level}{suffix}", _Fusion(dim, coarsest=level == len(layer_dims)))
        self.output_conv1 = nn.Conv2d(dim, dim // 2, 3, padding=1)
        self.output_conv2 = nn.Sequential(
            nn.Conv2d(dim // 2, _HIDDEN, 3, padding=1), nn.ReLU(), nn.Conv2d(_HIDDEN, 2, 1)
        )
        # Training supervised rays at every level. All are in the file, the last is used; they share one norm.
        norm = _ChannelNorm(_HIDDEN)
        widths = (dim, dim // 2, dim, dim // 2, dim, dim // 2)
        self.output_conv1_aux = nn.ModuleList(
            nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))) for _ in layer_dims
        )
        self.output_conv2_aux = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(dim // 2, _HIDDEN, 3, padding=1), nn.Identity(), norm, nn.Identity(),
                nn.ReLU(), nn.Conv2d(_HIDDEN, _RAY_CHANNELS + 1, 1),
            )
            for _ in layer_dims
        )  # fmt: skip

    def fuse(self, levels: Sequence[Tensor], suffix: str) -> Tensor:
        """Four maps, finest first -> one at twice the size of the finest; `suffix` selects the weights."""
        first, second, third, fourth = levels
        path = self.get_submodule(f"refinenet4{suffix}")(fourth, None, third.shape[2:])
        path = self.get_submodule(f"refinenet3{suffix}")(path, third, second.shape[2:])
        path = self.get_submodule(f"refinenet2{suffix}")(path, second, first.shape[2:])
        return self.get_submodule(f"refinenet1{suffix}")(path, first, [2 * side for side in first.shape[2:]])


class DualDpt(nn.Module):
    """Tokens of four blocks -> depth at image size and rays at eight to a token, each with a confidence."""

    def __init__(self, config: Da3Config) -> None:
        super().__init__()
        first, second, _, fourth = config.dpt_layer_dims
        self.norm = nn.LayerNorm(2 * config.dim)
        self.projects = nn.ModuleList(nn.Conv2d(2 * config.dim, dim, 1) for dim in config.dpt_layer_dims)
        self.resize_layers = nn.ModuleList(
            (
                nn.ConvTranspose2d(first, first, 4, stride=4),
                nn.ConvTranspose2d(second, second, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(fourth, fourth, 3, stride=2, padding=1),
            )
        )
        self.scratch = _Scratch(config.dpt_dim, config.dpt_layer_dims)

    def levels(self, layers: Sequence[Tensor], grid: tuple[int, int]) -> list[Tensor]:
        """Four token tensors [B, h*w, 2 C] -> maps [B, dpt_dim, ...] at 4, 2, 1 and 1/2 cells per token."""
        maps = []
        for number, tokens in enumerate(layers):
            x = self.norm(tokens).transpose(1, 2).unflatten(-1, grid)
            x = self.resize_layers[number](add_positions(self.projects[number](x), grid))
            maps.append(self.scratch.get_submodule(f"layer{number + 1}_rn")(x))
        return maps

    def depth(self, levels: Sequence[Tensor], grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Depth [B, H, W] along the optical axis, in the network's unit, and its confidence, 1 and above."""
        x = self.scratch.output_conv1(self.scratch.fuse(levels, ""))
        x = add_positions(_resize(x, (grid[0] * PATCH, grid[1] * PATCH)), grid)
        log_depth, raw = self.scratch.output_conv2(x).unbind(1)
        return log_depth.exp(), 1 + raw.exp()

    def rays(self, levels: Sequence[Tensor], grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Rays [B, 8h, 8w, 6], direction (z = 1 in its own camera) and origin in the first camera, and confidence."""
        x = add_positions(self.scratch.output_conv1_aux[-1](self.scratch.fuse(levels, "_aux")), grid)
        raw = self.scratch.output_conv2_aux[-1](x).permute(0, 2, 3, 1)
        return raw[..., :_RAY_CHANNELS], 1 + raw[..., _RAY_CHANNELS].exp()
