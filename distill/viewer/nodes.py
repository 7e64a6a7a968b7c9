"""The things of one result on the page: made once, then moved with time.

Only bones travel when time moves, 24 turns and places per person: the browser skins the mesh (with the four strongest
weights of a vertex), so that a page through ssh plays as smoothly as a near one.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from distill.convert.axes import person_colour
from distill.convert.splats import FILE
from distill.geometry.rotations import matrix_from_quat, quat_from_matrix
from distill.render.gaussians import Gaussians
from distill.render.ply import read_gaussians
from distill.viewer.clip import Array, Clip, Person
from distill.viewer.frames import Frames

LAYERS: Final = ("people", "paths", "contacts", "camera", "camera path", "points", "gaussians", "uncertainty")
"""Groups of nodes that are shown and hidden together; the last also colours bodies and paths by confidence."""
SURE: Final = np.array([60, 170, 90])
UNSURE: Final = np.array([215, 40, 40])
"""Colours of confidence 1 and 0."""
DOT: Final = 0.05
"""Metres: size of a mark of contact."""


def _rings(steps: int = 24) -> Array:
    """[3 steps, 2, 3] ends of segments of three circles of radius 1 about the axes."""
    angle = np.linspace(0, 2 * np.pi, steps + 1)
    circle = np.stack((np.cos(angle), np.sin(angle), np.zeros_like(angle)), axis=-1)
    lines = np.stack((circle[:-1], circle[1:]), axis=1)
    return np.concatenate([np.roll(lines, axis, axis=-1) for axis in range(3)]).astype(np.float32)


RINGS: Final = _rings()


class ClipNodes:
    """Everything of one result, below `/NAME`."""

    def __init__(self, server: Any, clip: Clip, *, number: int, limit: int, threshold: float, frames: Frames) -> None:
        self.clip, self._server, self._threshold, self._frames = clip, server, threshold, frames
        self._by_confidence = False
        quat = quat_from_matrix(torch.from_numpy(clip.page_from_world[:3, :3].copy())).numpy()
        self.root = server.scene.add_frame(f"/{clip.name}", show_axes=False, wxyz=quat)
        self.groups = {layer: server.scene.add_frame(self._path(layer), show_axes=False) for layer in LAYERS}
        self.groups["uncertainty"].visible = False
        self.move_aside(np.zeros(3))
        first = number * 3
        self._colours = [_srgb(person_colour(first + k)) for k in range(len(clip.people))]
        self._meshes = [
            self._add_mesh(person, colour) for person, colour in zip(clip.people, self._colours, strict=True)
        ]
        self._paths: list[Any] = []
        self._draw_paths()
        self._contacts = server.scene.add_point_cloud(
            f"{self._path('contacts')}/sites",
            np.zeros((1, 3)),
            np.zeros((1, 3), np.uint8),
            DOT,
            "circle",
            visible=False,
        )
        self._add_points(limit)
        self._add_gaussians(limit)
        self._frustum: Any = self._add_camera() if clip.source.has_camera else None
        self._doubts: dict[str, Any] = {}

    def move_aside(self, shift: Array) -> None:
        """Move the whole result by a vector [3] of the page, metres."""
        self.root.position = self.clip.page_from_world[:3, 3] + shift

    def colour_by_confidence(self, on: bool) -> None:
        """Colour bodies and paths by confidence, or by person; with it come the stated deviations."""
        self._by_confidence = self.groups["uncertainty"].visible = on
        self._draw_paths()

    def show(self, seconds: float) -> None:
        """Move everything to a time."""
        marks = []
        for person, mesh, colour in zip(self.clip.people, self._meshes, self._colours, strict=True):
            row = person.frame_at(seconds)
            mesh.visible = row is not None
            if person.sigma_m is not None:
                place = None if row is None else person.bone_places[row, 0]
                self._draw_doubt(person.track.name, place, 0.0 if row is None else float(person.sigma_m[row]), colour)
            if row is None:
                continue
            for bone, quat, place in zip(mesh.bones, person.bone_quats[row], person.bone_places[row], strict=True):
                bone.wxyz, bone.position = quat, place
            mesh.color = _confidence_colour(person.confidence[row]) if self._by_confidence else colour
            marks.append(person.sites[row][person.contact_prob[row] >= self._threshold])
        points = np.concatenate(marks) if marks else np.zeros((0, 3))
        self._contacts.visible = len(points) > 0
        if len(points):
            self._contacts.position = points[0]  # points travel in half precision: keep them near their origin
            self._contacts.points = (points - points[0]).astype(np.float16)
            self._contacts.colors = np.tile(np.array([[255, 200, 0]], np.uint8), (len(points), 1))
        if self._frustum is not None:
            self._move_camera(seconds)

    def _draw_doubt(self, name: str, place: Array | None, sigma_m: float, colour: tuple[int, int, int]) -> None:
        """Rings of one standard deviation about a place [3]; none without a place, or while nobody looks at them."""
        if place is None or not self._by_confidence:
            if name in self._doubts:
                self._doubts[name].visible = False
            return
        if name not in self._doubts:
            path = f"{self._path('uncertainty')}/{name}"
            self._doubts[name] = self._server.scene.add_line_segments(
                path, RINGS, np.array(colour, np.uint8), line_width=1.5
            )
        rings = self._doubts[name]
        rings.visible, rings.position, rings.points = True, place, sigma_m * RINGS

    def _path(self, layer: str) -> str:
        return f"/{self.clip.name}/{layer.replace(' ', '_')}"

    def _add_mesh(self, person: Person, colour: tuple[int, int, int]) -> Any:
        rig = person.rig
        weights = np.zeros((len(rig.vertices), len(rig.joints)))
        rows = np.arange(len(weights))[:, None]
        np.add.at(weights, (rows, rig.influences[:, :4]), rig.weights[:, :4])  # unused places name the pelvis with 0
        return self._server.scene.add_mesh_skinned(
            f"{self._path('people')}/{person.track.name}", rig.vertices, rig.faces,
            np.tile([1.0, 0, 0, 0], (len(rig.joints), 1)), rig.joints,
            weights / weights.sum(1, keepdims=True), color=colour,
        )  # fmt: skip

    def _draw_paths(self) -> None:
        """The way of each pelvis, one line for each stretch of presence."""
        for line in self._paths:
            line.remove()
        self._paths = []
        for person, colour in zip(self.clip.people, self._colours, strict=True):
            for number, (begin, end) in enumerate(person.track.spans):
                inside = (person.track.times >= begin) & (person.track.times < end)
                places, sure = person.bone_places[inside, 0], person.confidence[inside]
                if len(places) < 2:
                    continue
                ends = np.stack((places[:-1], places[1:]), axis=1)
                shade = np.tile(np.array(colour, np.uint8), (*ends.shape[:2], 1))
                if self._by_confidence:
                    each = np.array([_confidence_colour(value) for value in sure], np.uint8)
                    shade = np.stack((each[:-1], each[1:]), axis=1)
                name = f"{self._path('paths')}/{person.track.name}_{number}"
                self._paths.append(self._server.scene.add_line_segments(name, ends, shade, line_width=3))

    def _add_points(self, limit: int) -> None:
        result = self.clip.source.result
        if len(result.scene_points) == 0:
            return
        chosen = _evenly(len(result.scene_points), limit)
        points = result.scene_points[chosen]
        middle = np.median(points, axis=0)
        self._server.scene.add_point_cloud(
            f"{self._path('points')}/cloud", points - middle, result.scene_rgb[chosen], 0.02, "circle", position=middle
        )

    def _add_gaussians(self, limit: int) -> None:
        path = self.clip.source.folder / FILE
        if not path.is_file():
            return
        everything = read_gaussians(path)
        some: Gaussians = everything[torch.from_numpy(_evenly(len(everything), limit))]
        turn = matrix_from_quat(some.quats)
        spread = turn @ torch.diag_embed(some.scales**2) @ turn.transpose(-1, -2)
        self._server.scene.add_gaussian_splats(
            f"{self._path('gaussians')}/splats", some.means.numpy(), spread.numpy(), some.colors.numpy(),
            some.opacities.numpy()[:, None],
        )  # fmt: skip

    def _add_camera(self) -> Any:
        cameras = self.clip.source.result.cameras
        width, height = cameras.size
        way = cameras.world_from_cam[:, :3, 3]
        if len(way) > 1:
            ends, grey = np.stack((way[:-1], way[1:]), axis=1), (110, 110, 110)
            self._server.scene.add_line_segments(f"{self._path('camera path')}/way", ends, grey, line_width=2)
        return self._server.scene.add_camera_frustum(
            f"{self._path('camera')}/frustum", fov=float(2 * np.arctan(height / (2 * cameras.K[1, 1]))),
            aspect=float(width * cameras.K[1, 1] / (height * cameras.K[0, 0])), scale=0.4,
        )  # fmt: skip

    def _move_camera(self, seconds: float) -> None:
        """The frustum of a frame with its picture; red where the camera was not measured but filled in."""
        cameras, frame = self.clip.source.result.cameras, self.clip.camera_at(seconds)
        pose = cameras.world_from_cam[frame]
        self._frustum.wxyz = quat_from_matrix(torch.from_numpy(pose[:3, :3].copy())).numpy()
        self._frustum.position = pose[:3, 3]
        if cameras.sigma_m is not None:
            self._draw_doubt("camera", pose[:3, 3], float(cameras.sigma_m[frame]), (110, 110, 110))
        self._frustum.color = (20, 20, 20) if cameras.valid[frame] else tuple(UNSURE.tolist())
        picture = self._frames.at(float(cameras.timestamps[frame]))
        if picture is not None:
            self._frustum.image = picture


def _evenly(count: int, limit: int) -> NDArray[np.int64]:
    """At most `limit` of `count` indices, spread evenly."""
    return np.unique(np.linspace(0, count - 1, min(count, limit)).astype(np.int64))


def _confidence_colour(confidence: float) -> tuple[int, int, int]:
    red, green, blue = np.rint(UNSURE + float(confidence) * (SURE - UNSURE)).astype(int).tolist()
    return red, green, blue


def _srgb(linear: tuple[float, float, float]) -> tuple[int, int, int]:
    """Linear light to 8-bit sRGB, by the power law: these are labels, not measurements."""
    red, green, blue = (round(255 * value ** (1 / 2.2)) for value in linear)
    return red, green, blue


__all__ = ["LAYERS", "Array", "ClipNodes"]
