"""One way to draw a synthetic frame, whichever renderer is behind it.

Both renderers give colour, exact z depth and identity of every pixel, sampled at the pixel's centre.
`render_gl` (OpenGL through EGL) is some four times faster; `render_rays` (Embree) needs no graphics driver.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol

import numpy as np

from distill.errors import FootfallError
from distill.synthetic.axes import Array
from distill.synthetic.scenery import Scene
from distill.synthetic.textures import make_textures

Backend = Literal["auto", "gl", "rays"]
AMBIENT: Final = 0.66
"""Light from everywhere, as a factor on the colour."""
SUN: Final = 0.52
"""Light from the sun on a surface that faces it."""
SKY_LOW: Final = (0.80, 0.86, 0.92)
"""Colour of the sky at the horizon."""
SKY_HIGH: Final = (0.38, 0.58, 0.86)
"""Colour of the sky overhead."""


class Picture(NamedTuple):
    """A drawn frame."""

    rgb: Array
    """[h, w, 3] uint8."""
    depth: Array
    """[h, w] float32, z in metres; 0 where the sky is."""
    ids: Array
    """[h, w] uint8 identity map: 0 background, k+1 person k."""


@dataclass(kw_only=True, eq=False)
class Stage:
    """What is drawn, apart from where people are."""

    scene: Scene
    """Static scene and light."""
    faces: Array
    """[F, 3] triangles of every person."""
    colours: Array
    """[P, V, 3] colours of every person's vertices, in [0, 1]."""
    variant: int
    """Set of textures, 0 to `textures.VARIANTS` - 1."""

    @property
    def textures(self) -> Array:
        """uint8 layers (`textures.make_textures`)."""
        return make_textures(self.variant)


class Renderer(Protocol):
    """Draws one stage at one size."""

    def draw(self, people: Array, K: Array, world_from_cam: Array) -> Picture:
        """Draw people [P, V, 3] (world, metres) from the camera K [3, 3] (pixels), world_from_cam [4, 4]."""


@functools.cache
def gl_is_available() -> bool:
    """Whether an OpenGL context opens here."""
    from distill.synthetic.render_gl import open_context

    try:
        open_context()
    except Exception:  # every driver fails in its own way; all mean the same here
        return False
    return True


def open_renderer(
    stage: Stage, size: tuple[int, int], *, supersample: int = 1, shadows: bool = True, backend: Backend = "auto"
) -> Renderer:
    """A renderer for a stage.

    Args:
        stage: what is drawn.
        size: width and height of the pictures, pixels.
        supersample: samples per pixel and axis for the colour; odd.
        shadows: whether the sun casts them.
        backend: "gl", "rays", or "auto": GL where a context opens, else rays.

    Raises:
        FootfallError: packages of the extra [synthetic] are missing, or GL is asked for and cannot start.
    """
    if supersample % 2 == 0:
        raise ValueError(f"supersample={supersample} is even: no sample would lie on the pixel's centre")
    if backend == "rays" or (backend == "auto" and not gl_is_available()):
        from distill.synthetic.render_rays import RayRenderer

        return RayRenderer(stage, size, supersample=supersample, shadows=shadows)
    if not gl_is_available():
        raise FootfallError(
            "renderer gl", got="no OpenGL context", expected="EGL with a driver, and the package moderngl",
            do="install libegl1, libegl-mesa0 and libgl1-mesa-dri, or take backend=rays",
        )  # fmt: skip
    from distill.synthetic.render_gl import GlRenderer

    return GlRenderer(stage, size, supersample=supersample, shadows=shadows)


def average_samples(rgb: Array, supersample: int) -> Array:
    """Mean of the n x n samples of each pixel: uint8 [n h, n w, 3] -> [h, w, 3]."""
    if supersample == 1:
        return rgb
    height, width = rgb.shape[0] // supersample, rgb.shape[1] // supersample
    blocks = rgb.reshape(height, supersample, width, supersample, 3)
    total = blocks.sum(axis=(1, 3), dtype=np.uint16)
    return (total // supersample**2).astype(np.uint8)
