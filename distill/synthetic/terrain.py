"""Ground that is not flat: stairs, ramps and kerbs as a height profile along one direction, and their surfaces.

The profile runs along `direction` through the world's origin; across it the terrain is `HALF_WIDTH` wide on either
side, and around it lies the flat ground at z = 0. Heights are exact: the same function plants the feet, holds the
camera up and builds the mesh.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from distill.synthetic.axes import Array
from distill.synthetic.spec import ClipSpec

HALF_WIDTH: Final = 2.2
"""Metres."""
RISE: Final = 0.16
"""Height of one stair, metres."""
TREAD: Final = 0.34
"""Depth of one stair, metres."""
STAIRS: Final = 6
"""Number of stairs."""
KERB: Final = 0.13
"""Height of a kerb, metres."""
RAMP: Final = (4.0, 0.42)
"""Length and height of a ramp, metres (6 degrees)."""
PLATFORM: Final = 9.0
"""Length of the level at the high end, metres."""


@dataclass(kw_only=True, frozen=True)
class Piece:
    """A part of the profile: height goes straight from `low` to `high` between `begin` and `end`."""

    begin: float
    """Metres along the direction."""
    end: float
    """Metres along the direction."""
    low: float
    """Height at `begin`, metres."""
    high: float
    """Height at `end`, metres."""


@dataclass(kw_only=True, frozen=True)
class Terrain:
    """A profile along a direction of the world; none is flat ground."""

    heading: float
    """Of the direction, radians from world x."""
    pieces: tuple[Piece, ...]
    """In order, touching; beyond them the ground is at 0."""

    @property
    def flat(self) -> bool:
        """Whether there is no profile."""
        return not self.pieces

    @property
    def axes(self) -> Array:
        """[2, 2] rows: along and across the profile, unit vectors of the world's xy."""
        cos, sin = np.cos(self.heading), np.sin(self.heading)
        return np.array([[cos, sin], [-sin, cos]])

    def along(self, u: Array | float) -> Array:
        """Height [...] at distances u [...] along the middle of the profile, metres."""
        u = np.asarray(u, np.float64)
        height = np.zeros_like(u)
        for piece in self.pieces:
            inside = (u >= piece.begin) & (u < piece.end)
            part = (u - piece.begin) / (piece.end - piece.begin)
            height = np.where(inside, piece.low + (piece.high - piece.low) * part, height)
        return height

    def height(self, xy: Array) -> Array:
        """Height [...] of the ground at xy [..., 2], metres."""
        local = np.asarray(xy) @ self.axes.T
        return np.where(np.abs(local[..., 1]) <= HALF_WIDTH, self.along(local[..., 0]), 0.0)

    def slope(self, u: float) -> float:
        """Rise per metre at u."""
        for piece in self.pieces:
            if piece.begin <= u < piece.end:
                return (piece.high - piece.low) / (piece.end - piece.begin)
        return 0.0

    def edges(self) -> Array:
        """[N] places u where the height jumps, in order."""
        ends = [self.pieces[0].begin, *(piece.end for piece in self.pieces)] if self.pieces else []
        near = 1e-6
        return np.array([u for u in ends if abs(self.along(u + near) - self.along(u - near)) > 1e-3])


def make_terrain(spec: ClipSpec) -> Terrain:
    """The terrain of a spec; people cross the middle of its change of height in the middle of the clip."""
    heading = float(spec.rng("terrain").uniform(-np.pi, np.pi))
    return Terrain(heading=heading, pieces=_PROFILES[spec.terrain]())


def _none() -> tuple[Piece, ...]:
    return ()


def _stairs_up() -> tuple[Piece, ...]:
    start = -0.5 * STAIRS * TREAD
    steps = [
        Piece(begin=start + k * TREAD, end=start + (k + 1) * TREAD, low=(k + 1) * RISE, high=(k + 1) * RISE)
        for k in range(STAIRS)
    ]
    top = STAIRS * RISE
    return (*steps, Piece(begin=-start, end=-start + PLATFORM, low=top, high=top))


def _ramp_up() -> tuple[Piece, ...]:
    length, height = RAMP
    ramp = Piece(begin=-length / 2, end=length / 2, low=0.0, high=height)
    return (ramp, Piece(begin=length / 2, end=length / 2 + PLATFORM, low=height, high=height))


def _kerb_up() -> tuple[Piece, ...]:
    return (Piece(begin=0.0, end=PLATFORM, low=KERB, high=KERB),)


def _mirrored(pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
    """The same profile seen from the other end: what led up leads down."""
    return tuple(Piece(begin=-p.end, end=-p.begin, low=p.high, high=p.low) for p in reversed(pieces))


_PROFILES: Final = {
    "flat": _none,
    "stairs_up": _stairs_up,
    "stairs_down": lambda: _mirrored(_stairs_up()),
    "ramp_up": _ramp_up,
    "ramp_down": lambda: _mirrored(_ramp_up()),
    "kerb_up": _kerb_up,
    "kerb_down": lambda: _mirrored(_kerb_up()),
}
