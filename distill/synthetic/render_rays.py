"""Draws with rays and numpy: slower than OpenGL, the same everywhere, and without any driver."""

from __future__ import annotations

import functools

import numpy as np

from distill.synthetic.axes import Array, normalise
from distill.synthetic.raycast import RayCaster, camera_rays
from distill.synthetic.render import AMBIENT, SKY_HIGH, SKY_LOW, SUN, Picture, Stage, average_samples
from distill.synthetic.scenery import MATERIALS
from distill.synthetic.textures import STAINS_M, TILE_M


class RayRenderer:
    """`render.Renderer` on Embree."""

    def __init__(self, stage: Stage, size: tuple[int, int], *, supersample: int, shadows: bool) -> None:
        """Gather what does not move."""
        self._stage, self._size, self._supersample, self._shadows = stage, size, supersample, shadows

    @functools.cached_property
    def _levels(self) -> list[Array]:
        """The textures at full, half, quarter ... size, float32."""
        levels = [self._stage.textures.astype(np.float32) / 255]
        while levels[-1].shape[1] > 4:
            last = levels[-1]
            levels.append((last[:, ::2, ::2] + last[:, 1::2, ::2] + last[:, ::2, 1::2] + last[:, 1::2, 1::2]) / 4)
        return levels

    def draw(self, people: Array, K: Array, world_from_cam: Array) -> Picture:
        """See `render.Renderer.draw`."""
        mesh = self._stage.scene.mesh
        persons, corners, _ = people.shape
        offsets = len(mesh.vertices) + corners * np.arange(persons)[:, None, None]
        vertices = np.concatenate((mesh.vertices, people.reshape(-1, 3)))
        faces = np.concatenate((mesh.faces, (self._stage.faces + offsets).reshape(-1, 3)))
        caster = RayCaster(vertices, faces)
        origins, rays = camera_rays(K, world_from_cam, self._size, supersample=self._supersample)
        hits = caster.cast(origins, rays)
        met = hits.triangle >= 0
        owner = np.where(met, (hits.triangle - len(mesh.faces)) // len(self._stage.faces) + 1, 0).clip(min=0)
        colour = _sky(rays)
        points = origins[met] + hits.distance[met, None] * rays[met]
        chosen = faces[hits.triangle[met]]
        weights = np.column_stack((1 - hits.bary[met].sum(axis=-1), hits.bary[met]))
        a, b, c = (vertices[chosen[:, corner]] for corner in range(3))
        normals = normalise(np.cross(b - a, c - a) + 1e-15)
        away = (normals * rays[met]).sum(-1) > 0
        normals[away] *= -1
        footprint = hits.distance[met] / K[0, 0] / self._supersample
        albedo = np.empty_like(points)
        static = owner[met] == 0
        albedo[static] = self._surface(chosen[static], weights[static], footprint[static])
        tints = self._stage.colours.reshape(-1, 3)[chosen[~static] - len(mesh.vertices)]
        albedo[~static] = (tints * weights[~static, :, None]).sum(axis=1)
        colour[met] = albedo * self._light(caster, points, normals)[:, None]
        return self._picture(colour, np.where(met, hits.distance, 0.0), owner)

    def _surface(self, corners: Array, weights: Array, footprint: Array) -> Array:
        """Colours of points on the static scene, given corner indices and weights [N, 3], pixel size [N] (m)."""
        mesh = self._stage.scene.mesh
        uv = (mesh.uv[corners] * weights[..., None]).sum(axis=1)
        first = corners[:, 0]
        layer, tint = mesh.layer[first], mesh.tint[first]
        tile = np.array([TILE_M[name] for name in MATERIALS])[layer]
        stains = self._sample(
            (uv + mesh.shift[first]) / STAINS_M, np.full(len(layer), len(MATERIALS)), footprint / STAINS_M
        )[:, :1]
        return self._sample(uv / tile[:, None], layer, footprint / tile) * tint * (0.4 + 1.2 * stains)

    def _sample(self, uv: Array, layer: Array, footprint: Array) -> Array:
        """Bilinear lookup at the level whose texels are about the size of a pixel."""
        finest = self._levels[0].shape[1]
        level = np.clip(np.round(np.log2(np.maximum(footprint * finest, 1.0))), 0, len(self._levels) - 1).astype(int)
        out = np.empty((len(uv), 3))
        for index in np.unique(level):
            here = level == index
            texture = self._levels[index]
            side = texture.shape[1]
            at = uv[here] * side - 0.5
            corner = np.floor(at).astype(int)
            part = at - corner
            rows, columns = (corner[:, [1]] + [0, 1]) % side, (corner[:, [0]] + [0, 1]) % side
            texels = texture[layer[here][:, None, None], rows[:, :, None], columns[:, None, :]]
            wy = np.stack((1 - part[:, 1], part[:, 1]), axis=-1)[:, :, None]
            wx = np.stack((1 - part[:, 0], part[:, 0]), axis=-1)[:, None, :]
            out[here] = (texels * (wy * wx)[..., None]).sum(axis=(1, 2))
        return out

    def _light(self, caster: RayCaster, points: Array, normals: Array) -> Array:
        """Factor on the colour [N]: sky light, and sun where nothing is in its way."""
        sun = self._stage.scene.light
        facing = np.maximum(normals @ sun, 0.0)
        if self._shadows:
            lit = facing > 0
            towards = np.broadcast_to(sun, (int(lit.sum()), 3))
            facing[lit] *= caster.cast(points[lit] + 0.02 * normals[lit], towards).triangle < 0
        return AMBIENT * (0.8 + 0.2 * normals[:, 2]) + SUN * facing

    def _picture(self, colour: Array, depth: Array, owner: Array) -> Picture:
        step, middle = self._supersample, self._supersample // 2
        shape = (self._size[1] * step, self._size[0] * step)
        centre = (slice(middle, None, step), slice(middle, None, step))
        rgb = (np.clip(colour, 0, 1) * 255 + 0.5).astype(np.uint8).reshape(*shape, 3)
        return Picture(
            rgb=average_samples(rgb, step),
            depth=depth.reshape(shape)[centre].astype(np.float32),
            ids=owner.reshape(shape)[centre].astype(np.uint8),
        )


def _sky(rays: Array) -> Array:
    """Colour of the sky along rays [N, 3]."""
    up = np.sqrt(np.clip(normalise(rays)[:, 2:], 0, 1))
    return np.array(SKY_LOW) + up * (np.array(SKY_HIGH) - np.array(SKY_LOW))
