"""Make heads unrecognisable: what is left of one is a smooth patch of six numbers per colour.

Pixels within the ellipse of a head become the least-squares fit of 1, x, y, x^2, xy, y^2 to them. That is a projection:
doing it again changes nothing, and any two faces with the same six moments leave the same patch, so none can be
recovered. A mosaic of fixed cells leaves more numbers, and other ones in every frame of a moving head.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
NUMBERS_LEFT: Final = 6
"""Per head and colour."""


def blur_heads(image: Array, heads: Array) -> Array:
    """A copy of an image [H, W, 3] uint8 with every head blurred.

    Args:
        image: the picture.
        heads: [N, 4] x0, y0, x1, y1 pixels: the box around each head's ellipse; parts outside the image are ignored.
    """
    blurred = image.copy()
    taken = np.zeros(image.shape[:2], bool)
    for head in np.asarray(heads, np.float64).reshape(-1, 4):
        rows, columns, x, y = _inside(head, image.shape[1], image.shape[0])
        fresh = ~taken[rows, columns]  # each pixel belongs to one head, else doing it again would change it
        rows, columns, x, y = rows[fresh], columns[fresh], x[fresh], y[fresh]
        if len(rows) == 0:
            continue
        taken[rows, columns] = True
        basis = np.stack((np.ones_like(x), x, y, x * x, x * y, y * y), 1)
        numbers = np.linalg.lstsq(basis, image[rows, columns].astype(np.float64), rcond=None)[0]
        blurred[rows, columns] = np.clip(np.rint(basis @ numbers), 0, 255).astype(np.uint8)
    return blurred


def covered(head: Array, points: Array) -> Array:
    """Which points [N, 2] (pixels) lie within a head's ellipse: [N] bool."""
    centre, half = (head[:2] + head[2:]) / 2, np.maximum((head[2:] - head[:2]) / 2, 1e-6)
    return np.square((points - centre) / half).sum(-1) <= 1


def _inside(head: Array, width: int, height: int) -> tuple[Array, Array, Array, Array]:
    """Rows, columns, and coordinates in [-1, 1] of the image's pixels in a head's ellipse."""
    if not np.isfinite(head).all():
        raise ValueError(f"blur: a head at {head} is not finite")
    low = np.clip(np.floor(head[:2]), 0, (width, height)).astype(int)
    high = np.clip(np.ceil(head[2:]), low, (width, height)).astype(int)
    rows, columns = (index.reshape(-1) for index in np.mgrid[low[1] : high[1], low[0] : high[0]])
    centre, half = (head[:2] + head[2:]) / 2, np.maximum((head[2:] - head[:2]) / 2, 1e-6)
    x, y = ((np.stack((columns, rows), -1) + 0.5 - centre) / half).T
    inside = x * x + y * y <= 1
    return rows[inside], columns[inside], x[inside], y[inside]
