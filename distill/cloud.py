"""Points of a scene, one per cell of a grid, in memory that is bounded."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
MAX_POINTS: Final = 60_000
_BITS: Final = 21
"""Of a cell's index along an axis: 84 km of cells of 8 cm in each direction."""


class Cloud:
    """Points, one per cell of a grid; full at `MAX_POINTS`. Room for all is taken at once."""

    def __init__(self, cell_m: float = 0.08) -> None:
        self.cell_m = cell_m
        self._taken: set[int] = set()
        self._points = np.zeros((MAX_POINTS, 3), np.float32)
        self._rgb = np.zeros((MAX_POINTS, 3), np.uint8)
        self._frames = np.zeros(MAX_POINTS, np.int64)

    def add(self, points: Array, rgb: Array, frame: int = 0) -> None:
        """Add points [N, 3] (metres) and colours [N, 3] uint8 of a frame to cells that are still free."""
        room = len(self._points) - len(self._taken)
        if not room or not len(points):
            return
        limit = 1 << (_BITS - 1)
        cells = np.clip(np.floor(points / self.cell_m), -limit, limit - 1).astype(np.int64) + limit
        keys, first = np.unique((cells[:, 0] << 2 * _BITS) | (cells[:, 1] << _BITS) | cells[:, 2], return_index=True)
        free = np.array([key not in self._taken for key in keys.tolist()], bool)
        rows, start = np.sort(first[free])[:room], len(self._taken)
        part = slice(start, start + len(rows))
        self._points[part], self._rgb[part], self._frames[part] = points[rows], rgb[rows], frame
        self._taken.update(keys[free & np.isin(first, rows)].tolist())

    def arrays(self) -> tuple[Array, Array]:
        """[N, 3] float32 and [N, 3] uint8."""
        count = len(self._taken)
        return self._points[:count].copy(), self._rgb[:count].copy()

    def frames(self) -> Array:
        """[N] int: the frame that each point came from."""
        return self._frames[: len(self._taken)].copy()
