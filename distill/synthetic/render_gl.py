"""Draws with OpenGL: one pass into two targets (colour; depth and identity), after one for the shadows."""

from __future__ import annotations

import functools
from typing import Any, Final

import numpy as np

from distill.errors import require
from distill.synthetic.axes import Array, normalise
from distill.synthetic.render import AMBIENT, SKY_HIGH, SKY_LOW, SUN, Picture, Stage, average_samples
from distill.synthetic.scenery import MATERIALS
from distill.synthetic.textures import STAINS_M, TILE_M, VARIANTS, make_textures

NEAR, FAR = 0.05, 120.0
"""Clipping planes, metres."""
SHADOW_SIDE: Final = 1024
"""Width and height of the shadow map, texels."""
SHADOW_RADIUS: Final = 9.0
"""Metres around the people in which shadows fall."""

_SCENE_VERTEX: Final = """
#version 330
uniform mat4 clip_from_world;
in vec3 position; in vec3 normal; in vec2 uv; in vec2 shift; in vec3 tint; in vec2 layer_tile;
out vec3 v_world; out vec3 v_tint; out vec2 v_uv; out vec2 v_stain; flat out vec3 v_normal; flat out vec2 v_layer;
out float v_depth;
void main() {
    gl_Position = clip_from_world * vec4(position, 1.0);
    v_world = position; v_tint = tint; v_normal = normal; v_layer = layer_tile;
    v_uv = uv / layer_tile.y;
    v_stain = (uv + shift) / STAINS_M;
    v_depth = gl_Position.w;
}
"""
_SHADE: Final = """
uniform vec3 sun; uniform vec3 eye; uniform mat4 shadow_from_world; uniform float shadows;
uniform sampler2DShadow shadow_map;
layout(location = 0) out vec4 colour; layout(location = 1) out vec2 geometry;
vec3 lit(vec3 albedo, vec3 normal, vec3 world) {
    if (dot(normal, eye - world) < 0.0) normal = -normal;
    float facing = max(dot(normal, sun), 0.0);
    if (shadows > 0.5 && facing > 0.0) {
        vec3 at = (shadow_from_world * vec4(world + 0.02 * normal, 1.0)).xyz * 0.5 + 0.5;
        if (all(greaterThan(at.xy, vec2(0.0))) && all(lessThan(at.xy, vec2(1.0))))
            facing *= texture(shadow_map, vec3(at.xy, at.z - 0.001));
    }
    return albedo * (AMBIENT * (0.8 + 0.2 * normal.z) + SUN * facing);
}
"""
_SCENE_FRAGMENT: Final = (
    """
#version 330
uniform sampler2DArray surfaces;
in vec3 v_world; in vec3 v_tint; in vec2 v_uv; in vec2 v_stain; flat in vec3 v_normal; flat in vec2 v_layer;
in float v_depth;
"""
    + _SHADE
    + """
void main() {
    vec3 albedo = texture(surfaces, vec3(v_uv, v_layer.x)).rgb * v_tint;
    albedo *= 0.4 + 1.2 * texture(surfaces, vec3(v_stain, STAINS_LAYER)).r;
    colour = vec4(lit(albedo, v_normal, v_world), 1.0);
    geometry = vec2(v_depth, 0.0);
}
"""
)
_PERSON_VERTEX: Final = """
#version 330
uniform mat4 clip_from_world;
in vec3 position; in vec3 tint;
out vec3 v_world; out vec3 v_tint; out float v_depth;
void main() {
    gl_Position = clip_from_world * vec4(position, 1.0);
    v_world = position; v_tint = tint; v_depth = gl_Position.w;
}
"""
_PERSON_FRAGMENT: Final = (
    """
#version 330
uniform float identity;
in vec3 v_world; in vec3 v_tint; in float v_depth;
"""
    + _SHADE
    + """
void main() {
    vec3 normal = normalize(cross(dFdx(v_world), dFdy(v_world)));
    colour = vec4(lit(v_tint, normal, v_world), 1.0);
    geometry = vec2(v_depth, identity);
}
"""
)
_SKY_VERTEX: Final = """
#version 330
uniform mat3 world_from_ndc;
in vec2 corner;
out vec3 v_ray;
void main() { gl_Position = vec4(corner, 1.0, 1.0); v_ray = world_from_ndc * vec3(corner, 1.0); }
"""
_SKY_FRAGMENT: Final = """
#version 330
in vec3 v_ray;
layout(location = 0) out vec4 colour; layout(location = 1) out vec2 geometry;
void main() {
    float up = clamp(normalize(v_ray).z, 0.0, 1.0);
    colour = vec4(mix(vec3SKY_LOW, vec3SKY_HIGH, sqrt(up)), 1.0);
    geometry = vec2(0.0);
}
"""
_SHADOW_VERTEX: Final = """
#version 330
uniform mat4 clip_from_world;
in vec3 position;
void main() { gl_Position = clip_from_world * vec4(position, 1.0); }
"""
_SHADOW_FRAGMENT: Final = "#version 330\nvoid main() {}\n"


def _source(text: str) -> str:
    """Write the constants into a shader."""
    values = {
        "STAINS_M": STAINS_M, "STAINS_LAYER": float(len(MATERIALS)), "AMBIENT": AMBIENT, "SUN": SUN,
        "SKY_LOW": SKY_LOW, "SKY_HIGH": SKY_HIGH,
    }  # fmt: skip
    for name, value in values.items():
        text = text.replace(name, str(value))
    return text


@functools.cache
def open_context() -> Any:
    """The process's OpenGL context without a window."""
    moderngl = require("moderngl", extra="synthetic")
    context = moderngl.create_context(standalone=True, backend="egl")
    context.gc_mode = "auto"  # else what a renderer holds on the card outlives the renderer
    return context


@functools.cache
def _programs() -> dict[str, Any]:
    """Compiled shaders, once a process."""
    sources = {
        "scene": (_SCENE_VERTEX, _SCENE_FRAGMENT),
        "person": (_PERSON_VERTEX, _PERSON_FRAGMENT),
        "sky": (_SKY_VERTEX, _SKY_FRAGMENT),
        "shadow": (_SHADOW_VERTEX, _SHADOW_FRAGMENT),
    }
    return {
        name: open_context().program(vertex_shader=_source(vertex), fragment_shader=_source(fragment))
        for name, (vertex, fragment) in sources.items()
    }


@functools.lru_cache(maxsize=VARIANTS)
def _surfaces(variant: int) -> Any:
    """The layers of one set of textures on the card."""
    layers = make_textures(variant)
    count, height, width, _ = layers.shape
    array = open_context().texture_array((width, height, count), 3, layers.tobytes())
    array.build_mipmaps()
    array.repeat_x = array.repeat_y = True
    return array


class GlRenderer:
    """`render.Renderer` on OpenGL."""

    def __init__(self, stage: Stage, size: tuple[int, int], *, supersample: int, shadows: bool) -> None:
        """Upload what does not move."""
        self._context = context = open_context()
        self._size, self._supersample, self._shadows = size, supersample, shadows
        self._light = stage.scene.light
        self._drawn = (size[0] * supersample, size[1] * supersample)
        self._targets = [context.texture(self._drawn, 4), context.texture(self._drawn, 2, dtype="f4")]
        self._depth = context.depth_renderbuffer(self._drawn)
        self._frame = context.framebuffer(self._targets, self._depth)
        self._programs = _programs()
        self._upload_scene(stage)
        self._upload_people(stage)
        quad = context.buffer(np.array([-1, -1, 3, -1, -1, 3], "f4").tobytes())
        self._sky = context.vertex_array(self._programs["sky"], [(quad, "2f", "corner")])
        self._textures = _surfaces(stage.variant)
        self._shadow_map = context.depth_texture((SHADOW_SIDE, SHADOW_SIDE))
        self._shadow_map.compare_func = "<="
        self._shadow_frame = context.framebuffer(depth_attachment=self._shadow_map)

    def _upload_scene(self, stage: Stage) -> None:
        mesh = stage.scene.mesh
        a, b, c = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
        normals = np.zeros_like(mesh.vertices)
        normals[mesh.faces] = normalise(np.cross(b - a, c - a))[:, None]
        tile = np.array([TILE_M[name] for name in MATERIALS])[mesh.layer]
        columns = (mesh.vertices, normals, mesh.uv, mesh.shift, mesh.tint, np.column_stack((mesh.layer, tile)))
        buffer = self._context.buffer(np.concatenate(columns, axis=1).astype("f4").tobytes())
        index = self._context.buffer(mesh.faces.astype("i4").tobytes())
        names = ("position", "normal", "uv", "shift", "tint", "layer_tile")
        self._scene = self._context.vertex_array(
            self._programs["scene"], [(buffer, "3f 3f 2f 2f 3f 2f", *names)], index
        )
        self._scene_shadow = self._context.vertex_array(
            self._programs["shadow"], [(buffer, "3f 48x", "position")], index
        )

    def _upload_people(self, stage: Stage) -> None:
        self._people: list[tuple[Any, Any, Any]] = []
        index = self._context.buffer(stage.faces.astype("i4").tobytes())
        for colours in stage.colours:
            positions = self._context.buffer(reserve=len(colours) * 12)
            tints = self._context.buffer(colours.astype("f4").tobytes())
            drawn = self._context.vertex_array(
                self._programs["person"], [(positions, "3f", "position"), (tints, "3f", "tint")], index
            )
            shadow = self._context.vertex_array(self._programs["shadow"], [(positions, "3f", "position")], index)
            self._people.append((positions, drawn, shadow))

    def draw(self, people: Array, K: Array, world_from_cam: Array) -> Picture:
        """See `render.Renderer.draw`."""
        for (positions, _, _), vertices in zip(self._people, people, strict=True):
            positions.write(np.ascontiguousarray(vertices, "f4").tobytes())
        self._context.enable(self._context.DEPTH_TEST)
        shadow_from_world = self._draw_shadows(people)
        self._set_uniforms(K, world_from_cam, shadow_from_world)
        self._frame.use()
        self._frame.clear(depth=1.0)
        self._textures.use(0)
        self._shadow_map.use(1)
        self._scene.render()
        for index, (_, drawn, _) in enumerate(self._people):
            self._programs["person"]["identity"] = float(index + 1)
            drawn.render()
        self._context.depth_func = "<="
        self._sky.render()
        self._context.depth_func = "<"
        return self._read()

    def _draw_shadows(self, people: Array) -> Array:
        """Fill the shadow map; returns the light's clip_from_world [4, 4]."""
        centre = people.reshape(-1, 3).mean(axis=0)
        side = normalise(np.cross([0.0, 0.0, 1.0], self._light))
        axes = np.stack((side, np.cross(self._light, side), -self._light)) / SHADOW_RADIUS
        axes[2] *= 0.25  # depth reaches four times as far
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = axes, -axes @ centre
        if self._shadows:
            self._programs["shadow"]["clip_from_world"].write(_columns(matrix))
            self._shadow_frame.use()
            self._shadow_frame.clear(depth=1.0)
            self._scene_shadow.render()
            for _, _, shadow in self._people:
                shadow.render()
        return matrix

    def _set_uniforms(self, K: Array, world_from_cam: Array, shadow_from_world: Array) -> None:
        clip_from_cam = clip_from_camera(K, self._size)
        clip_from_world = _columns(clip_from_cam @ np.linalg.inv(world_from_cam))
        for name in ("scene", "person"):
            program = self._programs[name]
            program["clip_from_world"].write(clip_from_world)
            program["sun"].write(self._light.astype("f4").tobytes())
            program["eye"].write(world_from_cam[:3, 3].astype("f4").tobytes())
            program["shadow_from_world"].write(_columns(shadow_from_world))
            program["shadows"] = float(self._shadows)
            program["shadow_map"] = 1
        self._programs["scene"]["surfaces"] = 0
        pixel_from_ndc = np.array(
            [[self._size[0] / 2, 0, self._size[0] / 2], [0, self._size[1] / 2, self._size[1] / 2], [0, 0, 1]]
        )
        world_from_ndc = world_from_cam[:3, :3] @ np.linalg.inv(K) @ pixel_from_ndc
        self._programs["sky"]["world_from_ndc"].write(_columns(world_from_ndc))

    def _read(self) -> Picture:
        width, height = self._drawn
        step, middle = self._supersample, self._supersample // 2
        rgb = np.frombuffer(self._frame.read(components=3, attachment=0, alignment=1), np.uint8)
        geometry = np.frombuffer(self._frame.read(components=2, attachment=1, dtype="f4", alignment=1), np.float32)
        centres = geometry.reshape(height, width, 2)[middle::step, middle::step]
        return Picture(
            rgb=average_samples(rgb.reshape(height, width, 3), step),
            depth=centres[..., 0].copy(),
            ids=centres[..., 1].astype(np.uint8),
        )


def clip_from_camera(K: Array, size: tuple[int, int]) -> Array:
    """OpenGL's projection [4, 4] of a camera; the first row that is read is the image's first row.

    With u = K x / z in pixels, normalised coordinates are 2 u / size - 1: the centre of pixel (0, 0) is (0.5, 0.5).
    """
    width, height = size
    clip = np.zeros((4, 4))
    clip[0, :3] = 2 * K[0] / width - [0, 0, 1]
    clip[1, :3] = 2 * K[1] / height - [0, 0, 1]
    clip[2, 2], clip[2, 3] = (FAR + NEAR) / (FAR - NEAR), -2 * FAR * NEAR / (FAR - NEAR)
    clip[3, 2] = 1.0
    return clip


def _columns(matrix: Array) -> bytes:
    """A matrix as OpenGL reads it: float32, column by column."""
    return np.ascontiguousarray(matrix.T, "f4").tobytes()
