"""The axes, the camera and the colours of other programs. Ours are in `distill.geometry.conventions`."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

Y_UP_FROM_WORLD: Final[dict[str, Array]] = {
    "z_up_ground": np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]]),
    "first_camera": np.diag([1.0, -1, -1, 1]),
}
"""World of a result -> axes with y up. Of `first_camera` up is the first image's up: gravity is not known there."""

Z_UP_FROM_WORLD: Final[dict[str, Array]] = {
    "z_up_ground": np.eye(4),
    "first_camera": np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]]),
}
"""World of a result -> axes with z up; of `first_camera` as above."""

OPENCV_FROM_OPENGL: Final[Array] = np.diag([1.0, -1, -1, 1])
"""From a camera that looks along -z with y up (glTF, USD, Blender) to one that looks along z with y down (ours)."""


def linear_from_srgb(rgb: Array) -> Array:
    """uint8 sRGB [..., 3] -> linear light in [0, 1], float32 (IEC 61966-2-1), as glTF and USD want vertex colours."""
    value = np.arange(256) / 255
    table = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return table.astype(np.float32)[rgb]


def person_colour(number: int) -> tuple[float, float, float]:
    """Linear RGB of the `number`-th person, the same in every format; repeats after six."""
    palette = ((0.15, 0.35, 0.75), (0.80, 0.30, 0.08), (0.10, 0.50, 0.20), (0.55, 0.15, 0.55), (0.75, 0.60, 0.08))
    return (*palette, (0.08, 0.50, 0.55))[number % 6]
