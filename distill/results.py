"""The result of a clip: cameras, people and scene. Truth, teacher and student all use this one form.

On disk a result is a folder:

    meta.json     format, world frame, source of the result, anything worth knowing
    cameras.npz   K, image size, timestamps, world_from_cam as quaternion and translation, valid
    motion.npz    per person: pose, shape, root in camera and world, joints, contacts, confidence
    scene.ply     coloured points in the world, metres
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from distill.errors import FootfallError, refuse_damage
from distill.files import atomic_path, load_arrays, read_json, save_arrays, write_json
from distill.geometry.conventions import CONTACT_SITES, WORLDS
from distill.geometry.quaternions import matrix_from_quat, quat_from_matrix

RESULT_FORMAT: Final = "footfall-result/1"
Array = NDArray[Any]


@dataclass(kw_only=True)
class Cameras:
    """One moving pinhole camera with shared intrinsics over T frames."""

    K: Array
    """[3, 3] intrinsics in pixels of an image of `size`."""
    size: tuple[int, int]
    """Width and height in pixels."""
    timestamps: Array
    """[T] seconds."""
    world_from_cam: Array
    """[T, 4, 4] rigid, metres."""
    valid: Array
    """[T] bool: measured (True) or filled from neighbours in time (False)."""
    sigma_m: Array | None = None
    """[T] standard deviation per axis of the camera's centre in the world, metres; None where nobody stated it."""


@dataclass(kw_only=True)
class Motion:
    """P people over T frames. Entries where `present` is False are to be ignored, and finite."""

    ids: Array
    """[P] int, unique."""
    present: Array
    """[T, P] bool."""
    body_model: str
    """Whose parameters `betas` and `body_rot` are: "anny", "smpl" or "smplx"."""
    betas: Array
    """[P, B] shape, one per person and clip."""
    body_rot: Array
    """[T, P, 23, 3, 3] joint rotations relative to the parent (`conventions`)."""
    cam_from_body: Array
    """[T, P, 4, 4] orientation and pelvis position in the camera, metres."""
    joints_cam: Array
    """[T, P, 24, 3] joints in the camera, metres."""
    contact_prob: Array
    """[T, P, 6] probability that each of `CONTACT_SITES` touches the scene."""
    stature: Array
    """[P] standing height, metres."""
    confidence: Array
    """[T, P] in [0, 1]."""
    sigma_m: Array | None = None
    """[T, P] standard deviation per axis of the pelvis in the world, metres; None where nobody stated it."""


@dataclass(kw_only=True)
class Result:
    """Everything known about a clip, in one world."""

    cameras: Cameras
    motion: Motion
    scene_points: Array = field(default_factory=lambda: np.zeros((0, 3), np.float32))
    """[N, 3] metres, world."""
    scene_rgb: Array = field(default_factory=lambda: np.zeros((0, 3), np.uint8))
    """[N, 3] uint8."""
    meta: dict[str, Any] = field(default_factory=dict)
    """JSON-able; `meta["world"]` is one of `conventions.WORLDS`."""

    @property
    def world_from_body(self) -> Array:
        """[T, P, 4, 4] orientation and pelvis position in the world, metres."""
        return self.cameras.world_from_cam[:, None] @ self.motion.cam_from_body

    @property
    def joints_world(self) -> Array:
        """[T, P, 24, 3] joints in the world, metres."""
        rotation = self.cameras.world_from_cam[:, None, :3, :3]
        turned = self.motion.joints_cam @ np.swapaxes(rotation, -1, -2)
        return turned + self.cameras.world_from_cam[:, None, None, :3, 3]

    def check(self) -> None:
        """Raise `ValueError` if shapes disagree or anything is not finite."""
        frames, people = self.motion.present.shape
        shapes = {
            "K": (self.cameras.K, (3, 3)),
            "timestamps": (self.cameras.timestamps, (frames,)),
            "world_from_cam": (self.cameras.world_from_cam, (frames, 4, 4)),
            "valid": (self.cameras.valid, (frames,)),
            "ids": (self.motion.ids, (people,)),
            "body_rot": (self.motion.body_rot, (frames, people, 23, 3, 3)),
            "cam_from_body": (self.motion.cam_from_body, (frames, people, 4, 4)),
            "joints_cam": (self.motion.joints_cam, (frames, people, 24, 3)),
            "contact_prob": (self.motion.contact_prob, (frames, people, len(CONTACT_SITES))),
            "stature": (self.motion.stature, (people,)),
            "confidence": (self.motion.confidence, (frames, people)),
            "scene_rgb": (self.scene_rgb, self.scene_points.shape),
        }
        if self.cameras.sigma_m is not None:
            shapes["cameras.sigma_m"] = self.cameras.sigma_m, (frames,)
        if self.motion.sigma_m is not None:
            shapes["motion.sigma_m"] = self.motion.sigma_m, (frames, people)
        for name, (array, shape) in shapes.items():
            if array.shape != shape:
                raise ValueError(f"result: {name} has shape {array.shape}, expected {shape}")
            if not np.isfinite(array).all():
                raise ValueError(f"result: {name} is not finite")
        if self.meta.get("world") not in WORLDS:
            raise ValueError(f"result: meta['world'] is {self.meta.get('world')!r}, expected one of {WORLDS}")


def _quat(matrix: Array) -> Array:
    return quat_from_matrix(np.asarray(matrix, np.float64)).astype(np.float32)


def _quat_trans(transform: Array) -> tuple[Array, Array]:
    return _quat(transform[..., :3, :3]), transform[..., :3, 3].astype(np.float32)


def _transform(quat: Array, trans: Array) -> Array:
    out = np.zeros((*trans.shape[:-1], 4, 4), trans.dtype)
    out[..., :3, :3], out[..., :3, 3], out[..., 3, 3] = matrix_from_quat(quat), trans, 1.0
    return out


def save_result(folder: Path, result: Result) -> None:
    """Write a result folder; `meta.json` comes last, so a folder with it is complete."""
    result.check()
    cameras, motion = result.cameras, result.motion
    cam_quat, cam_trans = _quat_trans(cameras.world_from_cam)
    save_arrays(
        folder / "cameras.npz",
        {
            "K": cameras.K.astype(np.float32),
            "size": np.asarray(cameras.size, np.int64),
            "timestamps": cameras.timestamps.astype(np.float64),
            "world_from_cam_quat": cam_quat,
            "world_from_cam_trans": cam_trans,
            "valid": cameras.valid.astype(bool),
            **_stated(cameras.sigma_m),
        },
    )
    root_quat, root_trans = _quat_trans(motion.cam_from_body)
    world_quat, world_trans = _quat_trans(result.world_from_body)
    save_arrays(
        folder / "motion.npz",
        {
            "timestamps": cameras.timestamps.astype(np.float64),
            "ids": motion.ids.astype(np.int64),
            "present": motion.present.astype(bool),
            "betas": motion.betas.astype(np.float32),
            "body_quat": _quat(motion.body_rot),
            "cam_from_body_quat": root_quat,
            "cam_from_body_trans": root_trans,
            "world_from_body_quat": world_quat,
            "world_from_body_trans": world_trans,
            "joints_cam": motion.joints_cam.astype(np.float32),
            "joints_world": result.joints_world.astype(np.float32),
            "contact_prob": motion.contact_prob.astype(np.float32),
            "stature": motion.stature.astype(np.float32),
            "confidence": motion.confidence.astype(np.float32),
            **_stated(motion.sigma_m),
        },
        {"body_model": motion.body_model, "contact_sites": CONTACT_SITES},
    )
    write_ply(folder / "scene.ply", result.scene_points, result.scene_rgb)
    write_json(folder / "meta.json", {"format": RESULT_FORMAT, **result.meta})


def _stated(sigma_m: Array | None) -> dict[str, Array]:
    """The deviations of a file, if there are any."""
    return {} if sigma_m is None else {"sigma_m": sigma_m.astype(np.float32)}


def load_result(folder: Path) -> Result:
    """Read a result folder.

    Raises:
        FootfallError: missing, truncated or of another format.
    """
    meta = read_json(folder / "meta.json")
    found = meta.get("format") if isinstance(meta, dict) else None
    if found != RESULT_FORMAT:
        raise FootfallError(
            str(folder / "meta.json"), got=f"format {found!r}", expected=RESULT_FORMAT,
            do="convert it, or read it with the release that wrote it",
        )  # fmt: skip
    cam, _ = load_arrays(folder / "cameras.npz")
    mot, mot_meta = load_arrays(folder / "motion.npz")
    points, rgb = read_ply(folder / "scene.ply")
    with refuse_damage(folder, expected=f"the arrays of {RESULT_FORMAT}", do="make the result again"):
        cameras = Cameras(
            K=cam["K"],
            size=(int(cam["size"][0]), int(cam["size"][1])),
            timestamps=cam["timestamps"],
            world_from_cam=_transform(cam["world_from_cam_quat"], cam["world_from_cam_trans"]),
            valid=cam["valid"],
            sigma_m=cam.get("sigma_m"),
        )
        motion = Motion(
            ids=mot["ids"],
            present=mot["present"],
            body_model=mot_meta["body_model"],
            betas=mot["betas"],
            body_rot=matrix_from_quat(mot["body_quat"]),
            cam_from_body=_transform(mot["cam_from_body_quat"], mot["cam_from_body_trans"]),
            joints_cam=mot["joints_cam"],
            contact_prob=mot["contact_prob"],
            stature=mot["stature"],
            confidence=mot["confidence"],
            sigma_m=mot.get("sigma_m"),
        )
        del meta["format"]
        result = Result(cameras=cameras, motion=motion, scene_points=points, scene_rgb=rgb, meta=meta)
        result.check()
    return result


_PLY_VERTEX: Final = np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3)])


def write_ply(path: Path, points: Array, rgb: Array) -> None:
    """Coloured points [N, 3] (metres) and [N, 3] uint8 as binary little-endian PLY."""
    vertices = np.empty(len(points), _PLY_VERTEX)
    vertices["xyz"], vertices["rgb"] = points, rgb
    header = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n"
    )
    with atomic_path(path) as temporary:
        temporary.write_bytes(header.encode() + vertices.tobytes())


def read_ply(path: Path) -> tuple[Array, Array]:
    """Read what `write_ply` wrote: points [N, 3] float32 and colours [N, 3] uint8.

    Raises:
        FootfallError: missing, truncated or with other properties.
    """
    try:
        data = path.read_bytes()
        head, body = data.split(b"end_header\n", 1)
        count = int(head.split(b"element vertex ")[1].split(b"\n")[0])
        if len(body) != count * _PLY_VERTEX.itemsize:
            raise ValueError(f"{len(body)} bytes for {count} points")
        vertices = np.frombuffer(body, _PLY_VERTEX)
    except (OSError, ValueError, IndexError) as error:
        raise FootfallError(
            str(path), got=error, expected="a PLY file written by footfall", do="make the result again"
        ) from error
    return vertices["xyz"].copy(), vertices["rgb"].copy()
