"""Rays against triangle meshes, by Embree: exact depth without any graphics driver."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distill.errors import require
from distill.synthetic.axes import Array


@dataclass(kw_only=True)
class Hits:
    """What N rays meet first."""

    distance: Array
    """[N] in units of the ray's direction; infinite where nothing is met."""
    triangle: Array
    """[N] int; -1 where nothing is met."""
    bary: Array
    """[N, 2] weights of the triangle's second and third corner."""


class RayCaster:
    """A mesh that rays can be cast at."""

    def __init__(self, vertices: Array, faces: Array) -> None:
        """Vertices [V, 3] and faces [F, 3]."""
        core = require("embreex.rtcore_scene", extra="synthetic")
        meshes = require("embreex.mesh_construction", extra="synthetic")
        self._scene = core.EmbreeScene()
        corners = np.ascontiguousarray(vertices[faces], np.float32)  # [F, 3, 3]
        self._mesh = meshes.TriangleMesh(self._scene, corners)

    def cast(self, origins: Array, directions: Array) -> Hits:
        """First hits of rays from origins [N, 3] along directions [N, 3] (any length)."""
        answer = self._scene.run(
            np.ascontiguousarray(origins, np.float32), np.ascontiguousarray(directions, np.float32), output=1
        )
        missed = answer["primID"] < 0
        return Hits(
            distance=np.where(missed, np.inf, answer["tfar"]),
            triangle=np.asarray(answer["primID"], np.int64),
            bary=np.stack((answer["u"], answer["v"]), axis=-1),
        )


def camera_rays(K: Array, world_from_cam: Array, size: tuple[int, int], *, supersample: int = 1) -> tuple[Array, Array]:
    """Origins and directions [h * w, 3] in the world; directions have length 1 along the optical axis.

    A hit's distance is therefore its z depth. With `supersample` n, the n x n samples of each pixel are
    rows and columns of an image n times as large.
    """
    width, height = size[0] * supersample, size[1] * supersample
    x = (np.arange(width) + 0.5) / supersample
    y = (np.arange(height) + 0.5) / supersample
    grid = np.stack((*np.meshgrid(x, y), np.ones((height, width))), axis=-1).reshape(-1, 3)
    directions = grid @ np.linalg.inv(K).T @ world_from_cam[:3, :3].T
    return np.broadcast_to(world_from_cam[:3, 3], directions.shape), directions
