"""The static scene: ground, walls with posters, boxes, benches, steps, pillars; never where people or cameras pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from distill.synthetic.actions import SEAT
from distill.synthetic.axes import Array, normalise
from distill.synthetic.raycast import RayCaster, camera_rays
from distill.synthetic.spec import ClipSpec
from distill.synthetic.terrain import HALF_WIDTH, Terrain

MATERIALS: Final = (
    "paving", "asphalt", "grass", "tiles", "brick", "plaster", "planks", "concrete", "poster",
)  # fmt: skip
"""Kinds of surface, in the order of the layers of the texture (`textures`)."""
POSTER_SIDE: Final = 3
"""The layer "poster" is a sheet of this many by this many posters."""
GROUND_HALF_M: Final = 30.0
"""The ground reaches this far from the origin."""


@dataclass(kw_only=True)
class Mesh:
    """Textured triangles, corner by corner (corners are not shared between faces of different sides)."""

    vertices: Array
    """[V, 3] metres, world."""
    faces: Array
    """[F, 3] int."""
    uv: Array
    """[V, 2] metres along the surface; for posters, part of the sheet."""
    layer: Array
    """[V] int: index in `MATERIALS`."""
    tint: Array
    """[V, 3] factor on the colour."""
    shift: Array
    """[V, 2] metres: where the surface lies on the map of stains, so that no two places look alike."""


@dataclass
class _Builder:
    rng: np.random.Generator
    vertices: list[Array] = field(default_factory=list)
    uv: list[Array] = field(default_factory=list)
    layer: list[int] = field(default_factory=list)
    tint: list[Array] = field(default_factory=list)
    shift: list[Array] = field(default_factory=list)

    def quad(self, corner: Array, along: Array, up: Array, material: str, tint: Array, uv: Array | None = None) -> None:
        """A parallelogram seen from the side of `along` x `up`."""
        self.vertices.append(np.stack((corner, corner + along, corner + along + up, corner + up)))
        lengths = np.linalg.norm(along), np.linalg.norm(up)
        unit = np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]])
        self.uv.append(unit * lengths + self.rng.uniform(0, 2, 2) if uv is None else uv)
        self.layer.append(MATERIALS.index(material))
        self.tint.append(tint)
        self.shift.append(self.rng.uniform(0, 32, 2))

    def box(self, foot: Array, size: Array, yaw: float, material: str, tint: Array) -> None:
        """A box without underside that stands with the middle of its base at `foot` [3]."""
        x = np.array([np.cos(yaw), np.sin(yaw), 0]) * size[0]
        y = np.array([-np.sin(yaw), np.cos(yaw), 0]) * size[1]
        z = np.array([0, 0, size[2]])
        low = foot - x / 2 - y / 2
        self.quad(low, x, z, material, tint)
        self.quad(low + x, y, z, material, tint)
        self.quad(low + x + y, -x, z, material, tint)
        self.quad(low + y, -y, z, material, tint)
        self.quad(low + z, x, y, material, tint)

    def mesh(self) -> Mesh:
        """All quads as one mesh."""
        count = len(self.vertices)
        pair = np.array([[0, 1, 2], [0, 2, 3]])
        repeat = lambda values: np.repeat(np.asarray(values), 4, axis=0)  # noqa: E731 - four corners each
        return Mesh(
            vertices=np.concatenate(self.vertices),
            faces=(pair[None] + 4 * np.arange(count)[:, None, None]).reshape(-1, 3),
            uv=np.concatenate(self.uv),
            layer=repeat(self.layer),
            tint=repeat(self.tint),
            shift=repeat(self.shift),
        )


class Scene:
    """The static scene of a clip."""

    def __init__(self, mesh: Mesh, spots: Array, light: Array) -> None:
        """Mesh; spots [N, 3]: x, y and radius of each object; light [3]: unit vector towards the sun."""
        self.mesh, self.spots, self.light = mesh, spots, light
        self._caster: RayCaster | None = None

    @property
    def caster(self) -> RayCaster:
        """Rays against the static scene (built when first asked for)."""
        if self._caster is None:
            self._caster = RayCaster(self.mesh.vertices, self.mesh.faces)
        return self._caster

    def cast_depth(self, K: Array, world_from_cam: Array, size: tuple[int, int]) -> Array:
        """Depth z [h, w] float32 in metres of the scene without people; 0 where the sky is.

        Args:
            K: [3, 3] intrinsics in pixels of an image of `size`.
            world_from_cam: [4, 4].
            size: width and height, pixels.
        """
        hits = self.caster.cast(*camera_rays(np.asarray(K), np.asarray(world_from_cam), size))
        depth = np.where(np.isfinite(hits.distance), hits.distance, 0.0)
        return depth.reshape(size[1], size[0]).astype(np.float32)


def build_scene(spec: ClipSpec, people_xy: Array, world_from_cam: Array, terrain: Terrain, benches: Array) -> Scene:
    """A scene around the people and the camera.

    Args:
        spec: of the clip.
        people_xy: [T, P, 2] pelvis positions.
        world_from_cam: [T, 4, 4].
        terrain: what people walk over.
        benches: [N, 3] x, y and heading of the seats that people use.
    """
    rng = spec.rng("scene")
    builder = _Builder(rng)
    half = GROUND_HALF_M
    builder.quad(
        np.array([-half, -half, 0.0]), np.array([2 * half, 0, 0]), np.array([0, 2 * half, 0]), spec.ground, _tint(rng)
    )
    _add_terrain(builder, terrain)
    for x, y, heading in benches:
        _add_bench(builder, np.array([x, y, 0.0]), heading - np.pi / 2)
    eye_xy = world_from_cam[:, :2, 3]
    yaw = rng.uniform(0, np.pi / 2)
    _add_walls(builder, np.concatenate((people_xy.reshape(-1, 2), eye_xy)), yaw)
    spots = _free_spots(spec, rng, people_xy, eye_xy, terrain)
    for x, y, radius in spots:
        _add_object(builder, np.array([x, y, 0.0]), radius)
    azimuth, elevation = rng.uniform(-np.pi, np.pi), np.radians(rng.uniform(40, 65))
    light = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    return Scene(builder.mesh(), spots, light)


def _add_terrain(builder: _Builder, terrain: Terrain) -> None:
    """Boxes for levels, wedges for slopes."""
    along, across = (np.array([*axis, 0.0]) for axis in terrain.axes)
    rng, wide = builder.rng, 2 * HALF_WIDTH
    material = str(rng.choice(["concrete", "paving", "tiles"]))
    for piece in terrain.pieces:
        length = piece.end - piece.begin
        tint = _tint(rng) * rng.uniform(0.8, 1.1)
        if piece.low == piece.high:
            foot = (piece.begin + length / 2) * along
            builder.box(foot, np.array([length, wide, piece.high]), terrain.heading, material, tint)
            continue
        corner = piece.begin * along + HALF_WIDTH * -across + np.array([0, 0, piece.low])
        way = length * along + np.array([0, 0, piece.high - piece.low])
        builder.quad(corner, way, wide * across, material, tint)
        down = np.array([0, 0, -max(piece.low, piece.high)])  # the part of the sides below the ground is not seen
        builder.quad(corner + down, way, -down, material, tint)
        builder.quad(corner + wide * across + way + down, -way, -down, material, tint)


def _add_bench(builder: _Builder, foot: Array, yaw: float) -> None:
    """A bench without a back whose seat is above `foot`; `yaw` of its long side."""
    rng = builder.rng
    tint = _tint(rng)
    side = np.array([np.cos(yaw), np.sin(yaw), 0])
    builder.box(foot + np.array([0, 0, SEAT - 0.06]), np.array([1.3, 0.36, 0.06]), yaw, "planks", tint)
    for sign in (-1, 1):
        builder.box(foot + 0.5 * sign * side, np.array([0.08, 0.30, SEAT - 0.06]), yaw, "concrete", tint)


def _tint(rng: np.random.Generator) -> Array:
    """A light factor with a little hue."""
    return rng.uniform(0.85, 1.15) * rng.uniform(0.92, 1.08, 3)


def _add_walls(builder: _Builder, inside: Array, yaw: float) -> None:
    """Four walls with posters on a rectangle, turned by `yaw`, around the points `inside` [N, 2]."""
    rng = builder.rng
    axes = np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]])
    local = inside @ axes.T
    low = local.min(axis=0) - rng.uniform(1.8, 4.5, 2)
    high = local.max(axis=0) + rng.uniform(1.8, 4.5, 2)
    corners = np.array([low, [high[0], low[1]], high, [low[0], high[1]]]) @ axes
    for index in range(4):
        begin, end = corners[index], corners[(index + 1) % 4]
        along = np.array([*(end - begin), 0.0])
        length = float(np.linalg.norm(along))
        inward = np.array([-along[1], along[0], 0]) / length
        height = rng.uniform(2.2, 4.5)
        material = str(rng.choice(["brick", "plaster", "concrete", "planks"], p=[0.45, 0.2, 0.2, 0.15]))
        middle = np.array([*((begin + end) / 2), 0.0]) - 0.1 * inward
        builder.box(
            middle, np.array([length + 0.2, 0.2, height]), float(np.arctan2(along[1], along[0])), material, _tint(rng)
        )
        for number in range(int(length / 1.7)):
            width = rng.uniform(0.5, 1.1)
            tall = width * rng.uniform(1.0, 1.5)
            at = rng.uniform(0.05, max(length - width - 0.05, 0.06))
            corner = np.array([*begin, rng.uniform(0.4, max(height - tall - 0.1, 0.45))]) + at * along / length
            # Each a little before the last one: posters may overlap, but never lie in one plane.
            lift = (0.012 + 0.004 * number) * inward
            _add_poster(builder, corner + lift, along / length * width, np.array([0, 0, tall]))


def _add_poster(builder: _Builder, corner: Array, along: Array, up: Array) -> None:
    column, row = divmod(int(builder.rng.integers(POSTER_SIDE**2)), POSTER_SIDE)
    inset = np.array([[0.02, 0.98], [0.98, 0.98], [0.98, 0.02], [0.02, 0.02]])
    part = (inset + np.array([column, row])) / POSTER_SIDE
    builder.quad(corner, along, up, "poster", np.ones(3), uv=part)


def _add_object(builder: _Builder, foot: Array, radius: float) -> None:
    """One object whose base lies within `radius` metres of `foot`."""
    rng = builder.rng
    yaw, tint = rng.uniform(-np.pi, np.pi), _tint(rng) * rng.uniform(0.7, 1.1, 3)
    material = str(rng.choice(["planks", "concrete", "brick", "plaster"]))
    kind = rng.choice(["box", "bench", "wall", "steps", "pillar", "crates"])
    wide = 1.6 * radius
    front = np.array([-np.sin(yaw), np.cos(yaw), 0])
    side = np.array([np.cos(yaw), np.sin(yaw), 0])
    if kind == "box":
        builder.box(foot, np.array([1.2 * radius, 1.2 * radius, rng.uniform(0.4, 1.5)]), yaw, material, tint)
    elif kind == "wall":
        builder.box(foot, np.array([1.8 * radius, 0.25, rng.uniform(0.5, 1.2)]), yaw, material, tint)
    elif kind == "pillar":
        builder.box(foot, np.array([0.35, 0.35, rng.uniform(1.8, 3.2)]), yaw, material, tint)
    elif kind == "crates":
        for level, side_m in enumerate((0.9, 0.6)):
            at = foot + np.array([0, 0, 0.5 * radius * level])
            crate = np.array([side_m, 0.8 * side_m, 0.5]) * radius
            builder.box(at, crate, yaw + 0.4 * level, material, tint * rng.uniform(0.7, 1.1, 3))
    elif kind == "steps":
        for step in range(3):
            depth = 0.9 - 0.3 * step
            at = foot + (0.15 * step) * front
            builder.box(at, np.array([wide, depth, 0.16 * (step + 1)]), yaw, "concrete", tint)
    else:
        seat = foot + np.array([0, 0, 0.40])
        back = foot + np.array([0, 0, 0.46]) + 0.19 * front
        builder.box(seat, np.array([wide, 0.42, 0.06]), yaw, "planks", tint)
        builder.box(back, np.array([wide, 0.05, 0.4]), yaw, "planks", tint)
        for sign in (-1, 1):
            builder.box(foot + sign * 0.4 * wide * side, np.array([0.08, 0.36, 0.40]), yaw, "concrete", tint)


def _free_spots(spec: ClipSpec, rng: np.random.Generator, people_xy: Array, eye_xy: Array, terrain: Terrain) -> Array:
    """Places [N, 3] (x, y, radius) off the paths of people and camera and off every line of sight."""
    frames = np.unique(np.linspace(0, spec.frames - 1, 40).astype(int))
    people, eyes = people_xy[frames], eye_xy[frames]
    centre = np.concatenate((people.reshape(-1, 2), eyes)).mean(axis=0)
    reach = np.abs(np.concatenate((people.reshape(-1, 2), eyes)) - centre).max() + 2.5
    spots: list[list[float]] = []
    for _ in range(60 * spec.objects):
        if len(spots) == spec.objects:
            break
        xy, radius = centre + rng.uniform(-reach, reach, 2), rng.uniform(0.45, 0.9)
        far_from_people = np.linalg.norm(people - xy, axis=-1).min() > radius + 0.6
        far_from_camera = np.linalg.norm(eyes - xy, axis=-1).min() > radius + 1.0
        in_sight = _distance_to_segments(xy, eyes[:, None], people).min() > radius + 0.45
        apart = all(np.hypot(xy[0] - x, xy[1] - y) > radius + r for x, y, r in spots)
        around = xy + radius * np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]])
        level = bool((terrain.height(around) == 0).all())
        if far_from_people and far_from_camera and in_sight and apart and level:
            spots.append([*xy, radius])
    return np.array(spots).reshape(-1, 3)


def _distance_to_segments(point: Array, begin: Array, end: Array) -> Array:
    """Distance of `point` [2] to the segments begin [..., 2] - end [..., 2]."""
    along = end - begin
    part = ((point - begin) * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-9)
    nearest = begin + np.clip(part, 0, 1)[..., None] * along
    return np.linalg.norm(nearest - point, axis=-1)


def face_normals(vertices: Array, faces: Array) -> Array:
    """Unit normals [F, 3]."""
    a, b, c = (vertices[faces[:, index]] for index in range(3))
    return normalise(np.cross(b - a, c - a) + 1e-12)
