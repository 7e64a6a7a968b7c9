"""Procedural surfaces with plenty of detail at every scale, so that image features can be found and told apart.

Every kind of surface is a square that repeats without a seam (`TILE_M`). Over it lies one map of stains
that repeats only every `STAINS_M` metres: without it, every paving slab would look like the next one.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Final

import numpy as np
from scipy import fft

from distill.synthetic.axes import Array
from distill.synthetic.scenery import MATERIALS, POSTER_SIDE

SIDE: Final = 1024
"""Width and height of each layer, texels."""
STAINS_M: Final = 32.0
"""Metres that the map of stains covers."""
VARIANTS: Final = 4
"""Different sets of surfaces; a clip draws one."""
TILE_M: Final = {
    "paving": 3.0, "asphalt": 2.0, "grass": 2.0, "tiles": 3.0, "brick": 2.0, "plaster": 3.0, "planks": 2.0,
    "concrete": 3.0, "poster": 1.0,
}  # fmt: skip
"""Metres that one layer covers (posters: the whole sheet is the unit square)."""


@functools.lru_cache(maxsize=1)
def make_textures(variant: int) -> Array:
    """All layers of one set: uint8 [len(MATERIALS) + 1, SIDE, SIDE, 3]; the last one is the map of stains."""
    rng = np.random.default_rng([variant, 77])
    layers = [_PAINTERS[name](rng) for name in MATERIALS] + [_stains(rng)]
    return np.stack([(np.clip(layer, 0, 1) * 255).astype(np.uint8) for layer in layers])


def _noise(
    rng: np.random.Generator, *, slope: float, coarsest: float = 1.0, finest: float = SIDE / 2, stretch: float = 1.0
) -> Array:
    """Seamless noise [SIDE, SIDE] of deviation 1; amplitude falls with frequency ** slope.

    Frequencies lie between `coarsest` and `finest`, in periods per side; `stretch` draws the noise out along x.
    """
    along, across = np.meshgrid(np.fft.rfftfreq(SIDE, 1 / SIDE), np.fft.fftfreq(SIDE, 1 / SIDE))
    frequency = np.hypot(stretch * along, across)
    gain = np.where((frequency >= coarsest) & (frequency <= finest), np.maximum(frequency, 1) ** -slope, 0.0)
    white = rng.standard_normal((SIDE, SIDE), dtype=np.float32)
    noise = fft.irfft2(fft.rfft2(white) * gain.astype(np.float32), s=(SIDE, SIDE))
    return noise / noise.std()


def _coloured(value: Array, colour: tuple[float, float, float]) -> Array:
    return value[..., None] * np.array(colour)


def _blocks(rng: np.random.Generator, columns: int, rows: int, *, joint: float) -> tuple[Array, Array]:
    """Running bond: one random tone per block [SIDE, SIDE] in [-1, 1], and 1 on blocks, 0 on joints."""
    y, x = np.meshgrid(*(np.arange(SIDE) / SIDE,) * 2, indexing="ij")
    row = np.floor(y * rows).astype(int)
    shifted = (x * columns + 0.5 * (row % 2)) % columns
    tone = rng.uniform(-1, 1, (rows, columns))[row, np.floor(shifted).astype(int)]
    to_edge_x = (0.5 - np.abs(shifted % 1 - 0.5)) / columns
    to_edge_y = (0.5 - np.abs(y * rows % 1 - 0.5)) / rows
    return tone, np.clip(np.minimum(to_edge_x, to_edge_y) / joint, 0, 1) ** 2


def _paving(rng: np.random.Generator) -> Array:
    tone, block = _blocks(rng, 6, 8, joint=0.004)
    value = 0.58 + 0.12 * tone + 0.07 * _noise(rng, slope=0.9) + 0.05 * _noise(rng, slope=0.0, coarsest=120)
    return _coloured(value * (0.35 + 0.65 * block), (1.0, 0.97, 0.92))


def _asphalt(rng: np.random.Generator) -> Array:
    stones = np.maximum(_noise(rng, slope=0.2, coarsest=60, finest=260), 0.4) - 0.4
    value = 0.30 + 0.05 * _noise(rng, slope=1.0) + 0.13 * stones + 0.04 * _noise(rng, slope=0.0, coarsest=100)
    return _coloured(value, (1.0, 1.0, 1.03))


def _grass(rng: np.random.Generator) -> Array:
    blades = _noise(rng, slope=0.4, coarsest=30)
    dry = _noise(rng, slope=1.2, coarsest=2, finest=60)
    green = _coloured(0.42 + 0.11 * blades, (0.62, 0.95, 0.38))
    return green + 0.05 * _coloured(dry, (1.6, 0.7, 0.3))


def _tiles(rng: np.random.Generator) -> Array:
    tone, block = _blocks(rng, 10, 10, joint=0.0025)
    hue = np.stack([0.62 + 0.16 * tone, 0.55 + 0.08 * tone, 0.48 - 0.06 * tone], axis=-1)
    grain = 0.05 * _noise(rng, slope=0.7) + 0.05 * _noise(rng, slope=0.1, coarsest=80)
    return (hue + grain[..., None]) * (0.4 + 0.6 * block)[..., None]


def _brick(rng: np.random.Generator) -> Array:
    tone, block = _blocks(rng, 8, 26, joint=0.005)
    value = 0.6 + 0.17 * tone + 0.08 * _noise(rng, slope=0.6) + 0.06 * _noise(rng, slope=0.0, coarsest=100)
    mortar = _coloured(0.62 + 0.05 * _noise(rng, slope=0.3), (1.0, 0.98, 0.94))
    return block[..., None] * _coloured(value, (1.0, 0.62, 0.5)) + (1 - block)[..., None] * mortar


def _plaster(rng: np.random.Generator) -> Array:
    pits = np.maximum(_noise(rng, slope=0.5, coarsest=20, finest=200) - 1.3, 0)
    value = 0.72 + 0.07 * _noise(rng, slope=1.4) - 0.22 * pits + 0.03 * _noise(rng, slope=0.0, coarsest=60)
    return _coloured(value, (1.0, 0.96, 0.88))


def _planks(rng: np.random.Generator) -> Array:
    y = np.arange(SIDE) * 14 // SIDE
    tone = rng.uniform(-1, 1, 14)[y][:, None]
    grain = _noise(rng, slope=0.6, coarsest=4, stretch=14.0)
    joint = np.clip((0.5 - np.abs(np.arange(SIDE) * 14 / SIDE % 1 - 0.5)) / 0.04, 0, 1)[:, None]
    value = (0.5 + 0.1 * tone + 0.08 * grain + 0.05 * _noise(rng, slope=0.3, coarsest=20)) * (0.3 + 0.7 * joint)
    return _coloured(value, (1.0, 0.78, 0.55))


def _concrete(rng: np.random.Generator) -> Array:
    holes = np.maximum(_noise(rng, slope=0.8, coarsest=40, finest=300) - 1.8, 0)
    value = 0.55 + 0.08 * _noise(rng, slope=1.2) + 0.05 * _noise(rng, slope=0.1, coarsest=60) - 0.25 * holes
    return _coloured(value, (0.98, 1.0, 1.0))


def _poster(rng: np.random.Generator) -> Array:
    """A sheet of posters: coloured shapes and lines of letter-like marks."""
    sheet = np.zeros((SIDE, SIDE, 3))
    edges = np.linspace(0, SIDE, POSTER_SIDE + 1).astype(int)
    for top, bottom in itertools.pairwise(edges):
        for left, right in itertools.pairwise(edges):
            sheet[top:bottom, left:right] = _one_poster(rng, bottom - top, right - left)
    return sheet + 0.02 * rng.standard_normal(sheet.shape)


def _one_poster(rng: np.random.Generator, height: int, width: int) -> Array:
    poster = np.full((height, width, 3), rng.uniform(0.2, 0.95, 3))
    y, x = np.mgrid[:height, :width]
    for _ in range(rng.integers(5, 9)):
        colour, cx, cy = rng.uniform(0.05, 1, 3), rng.uniform(0, width), rng.uniform(0, 0.7 * height)
        a, b, angle = rng.uniform(0.05, 0.3) * width, rng.uniform(0.05, 0.3) * width, rng.uniform(0, np.pi)
        u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        v = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        inside = (u / a) ** 2 + (v / b) ** 2 < 1 if rng.uniform() < 0.5 else (abs(u) < a) & (abs(v) < b)
        poster[inside] = colour
    ink = rng.uniform(0, 1) * np.ones(3) if rng.uniform() < 0.5 else rng.uniform(0, 0.5, 3)
    for line in range(int(0.62 * height), height - 24, 26):
        at = 16
        while at < width - 30:
            long = int(rng.integers(4, 18))
            poster[line : line + int(rng.integers(8, 18)), at : at + long] = ink
            at += long + int(rng.integers(3, 9))
    return poster


def _stains(rng: np.random.Generator) -> Array:
    """Factor on the colour, 0.5 being neutral: soft patches, spots and thin cracks."""
    patches = 0.10 * _noise(rng, slope=1.0) + 0.09 * _noise(rng, slope=0.3, coarsest=50)
    spots = 0.12 * np.maximum(np.abs(_noise(rng, slope=0.4, coarsest=60, finest=300)) - 1.6, 0)
    cracks = 0.22 * np.exp(-((_noise(rng, slope=1.5, coarsest=6, finest=80) / 0.025) ** 2))
    return np.repeat((0.5 + patches - spots - cracks)[..., None], 3, axis=-1)


_PAINTERS: Final[dict[str, Callable[[np.random.Generator], Array]]] = {
    "paving": _paving, "asphalt": _asphalt, "grass": _grass, "tiles": _tiles, "brick": _brick, "plaster": _plaster,
    "planks": _planks, "concrete": _concrete, "poster": _poster,
}  # fmt: skip
