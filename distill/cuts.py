"""Hard cuts between shots.

A cut is a pair of consecutive frames whose thumbnails are uncorrelated AND whose colours differ: fast camera motion
does the first, a flash the second, only a cut both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
CORRELATION: Final = 0.4
"""A cut is where the thumbnails of two frames correlate less than this ..."""
HISTOGRAM: Final = 0.3
"""... and their colour histograms differ by more than this share of the pixels."""


@dataclass(kw_only=True)
class Look:
    """What a frame looks like from afar."""

    grey: Array
    """[h, w] without its mean, unit norm."""
    colours: Array
    """[64] histogram of 4x4x4 colours, sum 1."""


def look_at(small: Array) -> Look:
    """The look of a frame that was reduced to about 64x36: [H, W, 3] uint8."""
    grey = small.astype(np.float32).mean(-1)
    grey = grey[: grey.shape[0] // 4 * 4, : grey.shape[1] // 4 * 4]
    grey = grey.reshape(grey.shape[0] // 4, 4, -1, 4).mean((1, 3))
    grey = grey - grey.mean()
    cells = (small >> 6).reshape(-1, 3).astype(np.int64) @ np.array([16, 4, 1])
    return Look(grey=grey / (np.linalg.norm(grey) + 1e-6), colours=np.bincount(cells, minlength=64) / len(cells))


def is_cut(a: Look, b: Look, *, correlation: float = CORRELATION, histogram: float = HISTOGRAM) -> bool:
    """Whether there is a cut between two consecutive frames of one size."""
    alike = float((a.grey * b.grey).sum())
    differing = float(np.abs(a.colours - b.colours).sum() / 2)
    return alike < correlation and differing > histogram
