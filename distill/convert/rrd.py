"""Recordings for Rerun's viewer (`rerun FILE.rrd`): everything of a result that moves, on the clock of the video.

Entities, below the result's name, whose transform turns its world to z up; values are those of the result's own world:

    camera                 pinhole and pose, and small pictures of the video where there are some
    camera_path            the way of its centre
    scene, gaussians       points; splats as they are in gaussians.ply
    people/person_ID/body, joints, bones, contacts, doubt
                           doubt: one standard deviation of the pelvis's place, where one was stated; camera_doubt too
    paths/person_ID        the way of the pelvis, interrupted where they were absent
    plots/person_ID        confidence, 0 to 1
    plots/camera_measured  1 where the camera was measured, 0 where it was filled in

Timelines: `time` (seconds of the video) and `frame`. Who is absent is cleared. Archetypes: https://ref.rerun.io.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from distill.convert.axes import Z_UP_FROM_WORLD, person_colour
from distill.convert.source import Source
from distill.convert.splats import FILE as GAUSSIANS_FILE
from distill.convert.tracks import Track
from distill.errors import require
from distill.files import atomic_path
from distill.geometry.conventions import SMPL_PARENTS
from distill.geometry.rotations import quat_from_matrix
from distill.render.ply import read_gaussians

Array = NDArray[Any]
FILE: Final = "result.rrd"
CHUNK: Final = 64
"""Frames of a person that are posed and sent at once."""
BONES: Final = [(parent, joint) for joint, parent in enumerate(SMPL_PARENTS) if parent >= 0]
LIGHT: Final = np.array([0.35, 0.8, 0.49])
"""Direction of the light that is painted on bodies at rest (x left, y up, z front): the viewer shades no moving mesh
without normals, and those would double the file."""
TOUCH: Final = np.array([255, 200, 0])
"""Colour of a contact site that touches for certain; the less likely, the more see-through."""


@dataclass(kw_only=True)
class Shown:
    """A result in a recording."""

    name: str
    """Of the entity that everything of it is below."""
    source: Source
    """The result."""
    page_from_world: Array
    """[4, 4] rigid, into the recording's z-up axes."""
    picture: Callable[[float], Array | None] | None = None
    """Seconds of the video -> [H, W, 3] uint8 RGB of any size, the same for all, or None where there is none."""


def write_rrd(source: Source, folder: Path) -> dict[str, Any]:
    """Write `result.rrd`, without pictures (`footfall view RESULT --rerun` adds them).

    Raises:
        FootfallError: the result is empty, or rerun-sdk is not installed.
    """
    source.need_anything("rrd")
    shown = Shown(name="result", source=source, page_from_world=Z_UP_FROM_WORLD[source.world])
    return write_recording(folder / FILE, [shown])


def write_recording(path: Path, results: Sequence[Shown]) -> dict[str, Any]:
    """Write results into one recording; an existing file is replaced when the new one is complete.

    Returns:
        For the record: whether bodies are meshes, or skeletons because meshes would take more than `rrd_mb`.

    Raises:
        FootfallError: a licensed body's file is missing, or rerun-sdk is not installed.
    """
    rr = require("rerun", extra="rerun")
    meshes = True
    with atomic_path(path) as temporary:
        recording = rr.RecordingStream("footfall", recording_id=None)
        recording.save(temporary)
        recording.log("/", rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
        for number, shown in enumerate(results):
            meshes &= _Writer(rr, recording, shown, first_colour=3 * number).write()
        recording.flush()
        recording.disconnect()
    return {"bodies": "meshes" if meshes else "skeletons: meshes would take more than rrd_mb"}


class _Writer:
    """One result into a recording."""

    def __init__(self, rr: Any, recording: Any, shown: Shown, *, first_colour: int) -> None:
        self.rr, self.recording, self.shown, self.first_colour = rr, recording, shown, first_colour
        self.source, self.stamps = shown.source, shown.source.result.cameras.timestamps

    def write(self) -> bool:
        """Everything; whether bodies are meshes."""
        page = self.shown.page_from_world
        self.recording.log(
            self.shown.name, self.rr.Transform3D(translation=page[:3, 3], mat3x3=page[:3, :3]), static=True
        )
        self._scene()
        if self.source.has_camera:
            self._camera()
        meshes = self._meshes_fit()
        for number, track in enumerate(self.source.tracks):
            self._person(track, _srgb(person_colour(self.first_colour + number)), meshes=meshes)
        return meshes

    def _send(self, entity: str, frames: Array, columns: Any) -> None:
        """Columns of an entity at frames [K]."""
        clocks = [
            self.rr.TimeColumn("frame", sequence=frames),
            self.rr.TimeColumn("time", duration=self.stamps[frames]),
        ]
        self.recording.send_columns(f"{self.shown.name}/{entity}", indexes=clocks, columns=columns)

    def _log(self, entity: str, archetype: Any) -> None:
        """Something that does not change."""
        self.recording.log(f"{self.shown.name}/{entity}", archetype, static=True)

    def _scene(self) -> None:
        result, splats = self.source.result, self.source.folder / GAUSSIANS_FILE
        if len(result.scene_points):
            self._log("scene", self.rr.Points3D(result.scene_points, colors=result.scene_rgb, radii=0.01))
        if splats.is_file():
            some = read_gaussians(splats)
            rgba = torch.cat((some.colors, some.opacities[:, None]), dim=1).clamp(0, 1)
            self._log("gaussians", self.rr.GaussianSplats3D(
                some.means.numpy(), scales=some.scales.numpy(), quaternions=some.quats.roll(-1, dims=1).numpy(),
                colors=(rgba * 255).round().byte().numpy(),
            ))  # fmt: skip

    def _camera(self) -> None:
        cameras = self.source.result.cameras
        frames = np.arange(len(self.stamps))
        turns = torch.from_numpy(np.ascontiguousarray(cameras.world_from_cam[:, :3, :3], np.float64))
        centres = cameras.world_from_cam[:, :3, 3]
        self._send("camera", frames, self.rr.Transform3D.columns(
            translation=centres, quaternion=quat_from_matrix(turns).roll(-1, dims=1).numpy(),
        ))  # fmt: skip
        self._log("camera_path", self.rr.LineStrips3D([centres], colors=(110, 110, 110)))
        self._send("plots/camera_measured", frames, self.rr.Scalars.columns(scalars=cameras.valid.astype(float)))
        if cameras.sigma_m is not None:
            self._doubt("camera_doubt", frames, centres, cameras.sigma_m)
        size, pictures = cameras.size, self._pictures()
        if pictures:
            size = Image.open(io.BytesIO(pictures[0][1])).size
            seen = np.array([frame for frame, _ in pictures])
            media = ["image/jpeg"] * len(seen)
            columns = self.rr.EncodedImage.columns(blob=[jpeg for _, jpeg in pictures], media_type=media)
            self._send("camera", seen, columns)
        shrink = np.array([[size[0] / cameras.size[0]], [size[1] / cameras.size[1]], [1.0]])
        self._log("camera", self.rr.Pinhole(
            image_from_camera=shrink * cameras.K, resolution=size, camera_xyz=self.rr.ViewCoordinates.RDF,
            image_plane_distance=0.4,
        ))  # fmt: skip

    def _doubt(self, entity: str, frames: Array, places: Array, sigma_m: Array) -> None:
        """Spheres of one standard deviation [K] about places [K, 3]."""
        sizes = np.repeat(sigma_m[:, None], 3, axis=1)
        self._send(entity, frames, self.rr.Ellipsoids3D.columns(centers=places, half_sizes=sizes))
        self._log(entity, self.rr.Ellipsoids3D.from_fields(colors=(150, 150, 150), line_radii=0.003))

    def _pictures(self) -> list[tuple[int, bytes]]:
        """(frame, JPEG) of every frame of which there is a picture."""
        found = []
        for frame, seconds in enumerate(self.stamps):
            picture = None if self.shown.picture is None else self.shown.picture(float(seconds))
            if picture is not None:
                stream = io.BytesIO()
                Image.fromarray(picture).save(stream, "JPEG", quality=80)
                found.append((frame, stream.getvalue()))
        return found

    def _meshes_fit(self) -> bool:
        """Whether the vertices of all bodies take `rrd_mb` at most; without people no body model is asked for."""
        shown = sum(len(track.times) for track in self.source.tracks)
        return shown == 0 or shown * self.source.body.num_vertices * 12 <= self.source.config.rrd_mb * 1e6

    def _person(self, track: Track, colour: Array, *, meshes: bool) -> None:
        """A person: posed chunk by chunk, cleared in the first frame of every absence."""
        motion, name = self.source.result.motion, f"people/{track.name}"
        present = motion.present[:, track.index]
        frames = np.flatnonzero(present)
        for begin in range(0, len(frames), CHUNK):
            self._bodies(name, track, frames[begin : begin + CHUNK], slice(begin, begin + CHUNK), meshes=meshes)
        confidence = motion.confidence[frames, track.index].astype(float)
        self._send(f"plots/{track.name}", frames, self.rr.Scalars.columns(scalars=confidence))
        if motion.sigma_m is not None:
            places = self.source.result.world_from_body[frames, track.index, :3, 3]
            self._doubt(f"{name}/doubt", frames, places, motion.sigma_m[frames, track.index])
        edges = np.diff(np.concatenate(([False], present, [False])).astype(np.int8))
        begins, ends = np.flatnonzero(edges > 0), np.flatnonzero(edges < 0)
        if meshes:
            self._surface(name, track, begins, colour)
        gone = ends[ends < len(present)]
        if len(gone):
            self._send(name, gone, self.rr.Clear.columns(is_recursive=[True] * len(gone)))
        pelvis = self.source.result.world_from_body[:, track.index, :3, 3]
        ways = [pelvis[begin:end] for begin, end in zip(begins, ends, strict=True)]
        self._log(f"paths/{track.name}", self.rr.LineStrips3D(ways, colors=colour))
        self._log(f"{name}/joints", self.rr.Points3D.from_fields(radii=0.015, colors=colour))
        self._log(f"{name}/bones", self.rr.LineStrips3D.from_fields(radii=0.01, colors=colour))
        self._log(f"{name}/contacts", self.rr.Points3D.from_fields(radii=0.03))

    def _bodies(self, name: str, track: Track, frames: Array, rows: slice, *, meshes: bool) -> None:
        """Joints, bones, contact sites and, if wanted, vertices of a person at some of their frames."""
        rr, body, count = self.rr, self.source.body, len(frames)
        betas = torch.from_numpy(np.asarray(track.betas, np.float32)).expand(count, -1)
        pose = (torch.from_numpy(part[rows]).float() for part in (track.body_rot, track.world_from_body))
        turns, roots = pose
        with torch.no_grad():
            points = body(betas, turns, roots, body.all_vertices if meshes else None)
            sites = body.sites(betas, turns, roots).numpy()
        joints = points.joints.numpy()
        dots = rr.Points3D.columns(positions=joints.reshape(-1, 3))
        self._send(f"{name}/joints", frames, dots.partition([joints.shape[1]] * count))
        strips = rr.LineStrips3D.columns(strips=joints[:, BONES].reshape(-1, 2, 3))
        self._send(f"{name}/bones", frames, strips.partition([len(BONES)] * count))
        touch = self.source.result.motion.contact_prob[frames, track.index]
        rgba = np.concatenate((np.broadcast_to(TOUCH, (*touch.shape, 3)), 255 * touch[..., None]), axis=-1)
        marks = rr.Points3D.columns(positions=sites.reshape(-1, 3), colors=rgba.reshape(-1, 4).round().astype(np.uint8))
        self._send(f"{name}/contacts", frames, marks.partition([sites.shape[1]] * count))
        if meshes:
            vertices = points.vertices.numpy()
            columns = rr.Mesh3D.columns(vertex_positions=vertices.reshape(-1, 3))
            self._send(f"{name}/body", frames, columns.partition([vertices.shape[1]] * count))

    def _surface(self, name: str, track: Track, begins: Array, colour: Array) -> None:
        """Faces and painted light whenever somebody appears: clearing takes them away as well."""
        rig, times = self.source.rig(track), len(begins)
        light = 0.55 + 0.45 * (rig.normals @ LIGHT)
        shade = (light[:, None] * colour).clip(0, 255).astype(np.uint8)
        mesh = self.rr.Mesh3D.columns
        faces = mesh(triangle_indices=np.tile(rig.faces, (times, 1))).partition([len(rig.faces)] * times)
        colours = mesh(vertex_colors=np.tile(shade, (times, 1))).partition([len(shade)] * times)
        self._send(f"{name}/body", begins, [*faces, *colours])


def _srgb(linear: tuple[float, float, float]) -> Array:
    """[3] uint8 sRGB of linear light, by the power law: a label, not a measurement."""
    return np.rint(255 * np.array(linear) ** (1 / 2.2)).astype(np.uint8)
