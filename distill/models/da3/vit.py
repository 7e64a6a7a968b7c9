"""DINOv2's transformer (arXiv 2304.07193) as Depth Anything 3 runs it: some blocks per view, some over all views.

Parameter names are those of the published checkpoints. Tokens are [B, N, C].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.models.blocks import Mlp
from distill.models.da3.config import PATCH, Da3Config
from distill.models.rope import Rope, apply_rope, rope_of_grid

NORM_EPS = 1e-6
"""Epsilon of the norms inside DINOv2's blocks; all other norms keep PyTorch's 1e-5."""
POSITION_OFFSET = 0.1
"""DINOv2 interpolates its positions by the factor (tokens + 0.1) / side; the weights were trained with it."""


class Attention(nn.Module):
    """Multi-head self-attention; queries and keys may be normalised per head, and turned by their positions."""

    def __init__(self, dim: int, heads: int, *, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm, self.k_norm = (nn.LayerNorm(dim // heads) if qk_norm else nn.Identity() for _ in range(2))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rope: Rope | None) -> Tensor:
        """Tokens [B, N, C] -> [B, N, C]."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = apply_rope(q, rope), apply_rope(k, rope)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2))


class LayerScale(nn.Module):
    """A learnt factor per channel (CaiT, arXiv 2103.17239)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] -> [..., dim]."""
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm self-attention and MLP, each scaled per channel before it is added."""

    def __init__(self, dim: int, heads: int, *, qk_norm: bool = False, eps: float = NORM_EPS) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads, qk_norm=qk_norm)
        self.ls1 = LayerScale(dim)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, 4 * dim, dim)
        self.ls2 = LayerScale(dim)

    def forward(self, x: Tensor, rope: Rope | None = None) -> Tensor:
        """Tokens [B, N, C] -> [B, N, C]."""
        x = x + self.ls1(self.attn(self.norm1(x), rope))
        return x + self.ls2(self.mlp(self.norm2(x)))


class _PatchEmbed(nn.Module):
    """Image to tokens by one strided convolution."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, PATCH, stride=PATCH)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, H/14 * W/14, dim]."""
        return self.proj(images).flatten(2).transpose(1, 2)


def view_ropes(grid: tuple[int, int], head_dim: int, base: float, device: torch.device) -> tuple[Rope, Rope]:
    """Rotary tables of one view's tokens, the camera token first: inside the view, and between views.

    Inside its view a patch in row r and column c stands at (r + 1, c + 1) and the camera token at (0, 0). Between
    views all patches stand at (1, 1): where a patch lies in another image says nothing, only which kind it is.
    """
    rows, columns = grid
    local, shared = [], []
    for table in rope_of_grid((rows + 1, columns + 1), head_dim, base, device):
        square = table.unflatten(0, (rows + 1, columns + 1))
        camera, patches = square[:1, 0], square[1:, 1:].flatten(0, 1)
        local.append(torch.cat((camera, patches)))
        shared.append(torch.cat((camera, patches[:1].expand(rows * columns, -1))))
    return (local[0], local[1]), (shared[0], shared[1])


@dataclass(frozen=True, kw_only=True)
class ViewTokens:
    """What the transformer leaves for the heads of one view."""

    layers: list[Tensor]
    """Per output block [B, h*w, 2 C]: as the view's own last block left it, and after this block, normalised."""
    camera: Tensor
    """[B, 2 C]: the camera token of the last block, not normalised."""


class CrossViewVit(nn.Module):
    """`embed` each frame alone, then let any number of frames read each other."""

    def __init__(self, config: Da3Config) -> None:
        super().__init__()
        self.config = config
        dim, start = config.dim, config.cross_view_start
        self.patch_embed = _PatchEmbed(dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.camera_token = nn.Parameter(torch.zeros(1, 2, dim))  # of the first view, of all others
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.position_side**2, dim))
        self.blocks = nn.ModuleList(Block(dim, config.heads, qk_norm=i >= start) for i in range(config.depth))
        self.norm = nn.LayerNorm(dim)

    def embed(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, H, W] -> patch tokens [B, h*w, C] after the blocks that read one view.

        The class token takes part and is dropped: the next block starts with a camera token in its place.
        """
        grid = (images.shape[-2] // PATCH, images.shape[-1] // PATCH)
        x = self.patch_embed(images)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1) + self._positions(grid).to(x.dtype)
        for block in self.blocks[: self.config.cross_view_start]:
            x = block(x)
        return x[:, 1:]

    def read_views(
        self, frames: Sequence[Tensor], grids: Sequence[tuple[int, int]], cameras: Sequence[Tensor] | None = None
    ) -> list[ViewTokens]:
        """Let frames of the same moment or of a video read each other.

        Args:
            frames: per view [B, h*w, C] of `embed`; the first is the reference. Sizes may differ.
            grids: per view (h, w).
            cameras: per view a camera token [B, C] that states a known camera; None takes the learnt ones.
        """
        config, device = self.config, frames[0].device
        ropes = [view_ropes(grid, config.dim // config.heads, config.rope_base, device) for grid in grids]
        shared = tuple(torch.cat([rope[1][part] for rope in ropes]) for part in range(2))
        if cameras is None:
            batch = frames[0].shape[0]
            cameras = [self.camera_token[:, min(view, 1)].expand(batch, -1) for view in range(len(frames))]
        views = [torch.cat((c[:, None].to(x.dtype), x), dim=1) for c, x in zip(cameras, frames, strict=True)]
        lengths = [view.shape[1] for view in views]
        local = views
        layers: list[list[Tensor]] = [[] for _ in views]
        for number in range(config.cross_view_start, config.depth):
            block = self.blocks[number]
            if number % 2:
                views = list(block(torch.cat(views, dim=1), (shared[0], shared[1])).split(lengths, dim=1))
            else:
                local = views = [block(view, rope[0]) for view, rope in zip(views, ropes, strict=True)]
            if number in config.out_layers:
                for kept, own, view in zip(layers, local, views, strict=True):
                    kept.append(torch.cat((own, self.norm(view)), dim=-1)[:, 1:])
        return [
            ViewTokens(layers=kept, camera=torch.cat((own[:, 0], view[:, 0]), dim=-1))
            for kept, own, view in zip(layers, local, views, strict=True)
        ]

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """Learnt positions [1, 1 + h*w, C] for a grid (h, w), the class token's first."""
        side = self.config.position_side
        if grid == (side, side):
            return self.pos_embed
        table = self.pos_embed.float()
        square = table[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        factors = [(length + POSITION_OFFSET) / side for length in grid]
        resized = F.interpolate(square, scale_factor=factors, mode="bicubic")
        return torch.cat((table[:, :1], resized.flatten(2).transpose(1, 2)), dim=1)
