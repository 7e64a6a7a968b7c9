"""Which 2D Gaussians touch which part of a picture, front to back, in batches of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from distill.render.projection import Splats

TILE: Final = 8
"""Side of a tile, pixels. gsplat's is 16; smaller tiles compute fewer alphas that come to nothing."""
DEPTH: Final = 256
"""Splats of a tile that are drawn in one step."""


@dataclass
class TileLists:
    """For every tile of every picture the splats whose box touches it."""

    tiles: tuple[int, int, int]
    """(cameras, rows, columns); a tile's number counts in this order."""
    splats: Tensor
    """[M] numbers of splats; those of one tile lie together, nearest first."""
    start: Tensor
    """[cameras * rows * columns] where the list of a tile begins in `splats`."""
    length: Tensor
    """[cameras * rows * columns] and how long it is."""

    def batches(self, work: int) -> Iterator[tuple[Tensor, int]]:
        """Tiles that are not empty, those with lists of like length together.

        Args:
            work: alphas to be held at once: pixels times splats.

        Yields:
            numbers of tiles [B], and the length of the longest list among them.
        """
        order = self.length.argsort(descending=True, stable=True)
        lengths = self.length[order].tolist()
        used, first = sum(length > 0 for length in lengths), 0
        while first < used:
            count = max(1, work // (min(lengths[first], DEPTH) * TILE * TILE))
            yield order[first : min(first + count, used)], lengths[first]
            first += count

    def splats_of(self, tiles: Tensor, begin: int, end: int, nothing: int) -> Tensor:
        """[B, end - begin] entries of the lists of some tiles [B]; `nothing` where a list is shorter."""
        place = torch.arange(begin, end, device=tiles.device)
        index = (self.start[tiles, None] + place).clamp(max=len(self.splats) - 1)
        return torch.where(place < self.length[tiles, None], self.splats[index], nothing)

    def centres(self, tiles: Tensor) -> Tensor:
        """[B, 2] middles (x, y) of some tiles [B], pixels."""
        _, rows, columns = self.tiles
        return torch.stack((tiles % columns, tiles // columns % rows), -1) * TILE + TILE // 2


@torch.no_grad()
def list_tiles(splats: Splats, cameras: int, size: tuple[int, int]) -> TileLists:
    """Sort splats into the tiles of all pictures.

    Args:
        splats: of all cameras.
        cameras: how many there are.
        size: (width, height) of a picture, pixels.
    """
    columns, rows = -(-size[0] // TILE), -(-size[1] // TILE)
    order = splats.depths.argsort(stable=True)
    means, reach = splats.means[order], splats.reach[order]
    last = torch.tensor(size, device=means.device) - 1
    low = (means - reach - 0.5).ceil().long().clamp(min=0)  # first and last pixel whose centre lies in the box
    high = (means + reach - 0.5).floor().long().minimum(last)
    low, high, hit = low // TILE, high // TILE, (high >= low).all(-1)
    spans = (high - low + 1) * hit[:, None]
    counts = spans[:, 0] * spans[:, 1]
    owner = torch.arange(len(order), device=order.device).repeat_interleave(counts)
    rank = torch.arange(len(owner), device=order.device) - (counts.cumsum(0) - counts)[owner]
    column, row = low[owner, 0] + rank % spans[owner, 0], low[owner, 1] + rank // spans[owner, 0]
    tile = (splats.camera[order[owner]] * rows + row) * columns + column
    by_tile = tile.argsort(stable=True)  # stable: each list stays in order of depth
    length = tile.bincount(minlength=cameras * rows * columns)
    return TileLists(
        tiles=(cameras, rows, columns), splats=order[owner[by_tile]], start=length.cumsum(0) - length, length=length
    )
