"""Rotary position embedding in two dimensions (RoFormer, arXiv 2104.09864; 2D as in CroCo v2, arXiv 2211.10408).

Angles are computed from positions, not looked up, so any integer position is allowed (JOSH3R puts its
human token at -1), and they stay float32 whatever the dtype of the tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

Rope = tuple[Tensor, Tensor]
"""Cosine and sine, each float32 [N, head_dim], of N tokens."""

_grid_cache: dict[tuple[int, int, int, float, str], Rope] = {}


def grid_positions(grid: tuple[int, int], device: torch.device | None = None) -> Tensor:
    """Positions [h*w, 2] as (row, column) of a grid (h, w) of tokens, rows outermost."""
    rows = torch.arange(grid[0], device=device)
    columns = torch.arange(grid[1], device=device)
    return torch.cartesian_prod(rows, columns)


def rope_from_positions(positions: Tensor, head_dim: int, base: float = 100.0) -> Rope:
    """Positions [N, 2] as (row, column) -> `Rope` for heads of `head_dim` channels, a multiple of 4.

    The first half of a head turns with the row, the second with the column. Inside each half, channel j of
    the first quarter is paired with channel j of the second, both at frequency base^(-j / quarter).
    """
    quarter = head_dim // 4
    exponent = torch.arange(quarter, device=positions.device, dtype=torch.float32) / quarter
    angle = positions.to(torch.float32)[..., None] * base**-exponent  # [N, 2, quarter]
    angle = torch.cat((angle, angle), dim=-1).flatten(-2)
    return angle.cos(), angle.sin()


def rope_of_grid(grid: tuple[int, int], head_dim: int, base: float, device: torch.device) -> Rope:
    """`rope_from_positions` of a whole grid, computed once per (grid, head, device).

    No value is read back to the host. While a graph is being traced nothing is cached, because the
    tensors of a trace do not outlive it.
    """
    if torch.compiler.is_compiling():
        return rope_from_positions(grid_positions(grid, device), head_dim, base)
    key = (*grid, head_dim, base, str(device))
    if key not in _grid_cache:
        with torch.inference_mode(False), torch.no_grad():  # a table made in inference mode could not train later
            _grid_cache[key] = rope_from_positions(grid_positions(grid, device), head_dim, base)
    return _grid_cache[key]


def apply_rope(tokens: Tensor, rope: Rope) -> Tensor:
    """Rotate queries or keys [B, heads, N, head_dim]; the result has the dtype of `tokens`."""
    cos, sin = rope
    half = tokens.unflatten(-1, (2, 2, -1))  # (row | column), (u | v), quarter
    swapped = torch.stack((-half[..., 1, :], half[..., 0, :]), dim=-2).flatten(-3)  # (u, v) -> (-v, u)
    return (tokens * cos + swapped * sin).to(tokens.dtype)
