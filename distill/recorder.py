"""Turn a stream's frames into a result folder: people as arrays, a bounded cloud of points, a world with gravity.

Frames lie on disk until `result` is asked for (`distill.spool`); memory holds a shape and a stature per person, and the
cloud, which is bounded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from distill.cloud import MAX_POINTS, Cloud
from distill.fuser.scale import in_one_scale, smooth_log_scale
from distill.fuser.so3 import inverse, turn
from distill.fuser.whole import WholePaths
from distill.geometry.conventions import CONTACT_SITES, SMPL_JOINTS
from distill.results import Cameras, Motion, Result
from distill.spool import Rows

if TYPE_CHECKING:  # a recorder needs no network
    from distill.runner.stream import Frame
    from distill.stream_types import FrameResult

__all__ = ["MAX_POINTS", "Cloud", "Recorder", "stand_up"]

Array = NDArray[Any]
_FEET: Final = [SMPL_JOINTS.index(name) for name in ("left_ankle", "right_ankle", "left_foot", "right_foot")]
_FRAME: Final = np.dtype([
    ("timestamp", "f8"), ("world_from_cam", "f8", (4, 4)), ("log_scale", "f8"), ("log_scale_sigma", "f8"),
    ("static_prob", "f8"), ("sigma_m", "f4"),
])  # fmt: skip
_PERSON: Final = np.dtype([
    ("frame", "i8"), ("id", "i8"), ("cam_from_body", "f4", (4, 4)), ("body_rot", "f4", (23, 3, 3)),
    ("joints_cam", "f4", (24, 3)), ("contact_prob", "f4", (len(CONTACT_SITES),)), ("confidence", "f4"),
    ("sigma_m", "f4"),
])  # fmt: skip


class Recorder:
    """Collects frames; about 1.3 kilobytes per person and frame, on disk."""

    def __init__(
        self, K: Array, size: tuple[int, int], body_model: str, *, scale_seconds: float = 20.0,
        folder: Path | None = None,
    ) -> None:  # fmt: skip
        """Empty.

        Args:
            K: [3, 3] in pixels of images of `size`.
            body_model: whose parameters people have.
            scale_seconds: time in which the scene's scale changes (`FuserConfig.scale_seconds`).
            folder: existing; frames lie there, in files without names. None: where temporary files are.
        """
        self.scale_seconds = scale_seconds
        self.K, self.size, self.body_model = K, size, body_model
        self.cloud = Cloud()
        self.breaks: list[dict[str, Any]] = []
        """Frame and reason of every break in relative motion."""
        self._frames, self._people = Rows(_FRAME, folder), Rows(_PERSON, folder)
        self._betas: dict[int, Array] = {}
        self._stature: dict[int, float] = {}

    def __len__(self) -> int:
        """Frames so far."""
        return len(self._frames)

    def add(self, frame: FrameResult | Frame, statures: dict[int, float]) -> None:
        """The next frame; `statures`: person's id -> metres."""
        index = len(self._frames)
        if frame.broken:
            self.breaks.append({"frame": index, "why": frame.broken})
        self._frames.add({
            "timestamp": frame.timestamp, "world_from_cam": np.asarray(frame.world_from_cam),
            "log_scale": frame.log_scale, "log_scale_sigma": frame.log_scale_sigma, "static_prob": frame.static_prob,
            "sigma_m": float(frame.camera_sigma[1]),
        })  # fmt: skip
        for person in frame.people:
            self._people.add({
                "frame": index, "id": person.id, "cam_from_body": np.asarray(person.cam_from_body),
                "body_rot": np.asarray(person.body_rot), "joints_cam": np.asarray(person.joints_cam),
                "contact_prob": np.asarray(person.contact_prob),
                "confidence": 1.0 / (1.0 + (person.depth_sigma / 0.1) ** 2), "sigma_m": float(person.root_sigma[1]),
            })  # fmt: skip
            self._betas[person.id] = np.asarray(person.betas).copy()
            self._stature[person.id] = statures[person.id]

    @property
    def starts(self) -> list[int]:
        """First frames of the parts that breaks divide the clip into, the first one 0."""
        return [0, *(found["frame"] for found in self.breaks)]

    def paths(self) -> WholePaths:
        """Cameras and people as recorded: what a pass over the whole clip begins with."""
        frames, rows = self._frames.read(), self._people.read()
        poses, people = frames["world_from_cam"].copy(), {}
        for person in np.unique(rows["id"]).tolist():
            own = rows[rows["id"] == person]
            people[person] = own["frame"].copy(), poses[own["frame"]] @ own["cam_from_body"].astype(np.float64)
        return WholePaths(
            world_from_cam=poses, log_scale=frames["log_scale"].copy(), static_prob=frames["static_prob"].copy(),
            world_from_body=people,
        )  # fmt: skip

    def result(self, *, min_frames: int = 5, smoothed: WholePaths | None = None) -> Result:
        """Everything so far; people seen in fewer than `min_frames` frames are left out.

        Args:
            smoothed: better paths of the same frames (`fuser.whole`), which take the place of those recorded.
        """
        frames, rows = self._frames.read(), self._people.read()
        motion = self._motion(rows, len(frames), min_frames)
        poses, log_scale = frames["world_from_cam"].copy(), frames["log_scale"].copy()
        recorded, sigma = poses.copy(), frames["log_scale_sigma"].copy()
        if smoothed is not None:
            poses, log_scale = smoothed.world_from_cam, smoothed.log_scale
            _move_bodies(motion, smoothed.cam_from_body())
        starts = self.starts
        wanted, path = log_scale.copy(), poses.copy()
        for begin, end in zip(starts, [*starts[1:], len(frames)], strict=True):
            part = slice(begin, end)
            wanted[part] = smooth_log_scale(log_scale[part], sigma[part], frames["timestamp"][part], self.scale_seconds)
        pelvis = motion.cam_from_body[..., :3, 3].astype(np.float64)
        path, roots = in_one_scale(poses, pelvis, log_scale, wanted)
        motion.joints_cam += (roots - pelvis)[:, :, None] * motion.present[..., None, None]
        motion.cam_from_body[..., :3, 3] = roots
        points, rgb = self.cloud.arrays()
        seen_in = self.cloud.frames()
        points = _move_points(points, seen_in, recorded, path, np.exp(frames["log_scale"] - wanted))
        result = Result(
            cameras=Cameras(
                K=self.K, size=self.size, timestamps=frames["timestamp"].copy(), world_from_cam=path,
                valid=np.ones(len(frames), bool), sigma_m=frames["sigma_m"].copy(),
            ),
            motion=motion, scene_points=points, scene_rgb=rgb, meta={"world": "first_camera"},
        )  # fmt: skip
        if self.breaks:
            result.meta["breaks"] = self.breaks
        return stand_up(result, starts, seen_in)

    def _motion(self, rows: Array, frames: int, min_frames: int) -> Motion:
        """People as arrays."""
        found, counts = np.unique(rows["id"], return_counts=True)
        ids = found[counts >= min_frames]
        count = len(ids)
        motion = Motion(
            ids=ids.astype(np.int64), present=np.zeros((frames, count), bool), body_model=self.body_model,
            betas=np.stack([self._betas[int(k)] for k in ids]) if count else np.zeros((0, 10), np.float32),
            body_rot=np.tile(np.eye(3, dtype=np.float32), (frames, count, 23, 1, 1)),
            cam_from_body=np.tile(np.eye(4, dtype=np.float32), (frames, count, 1, 1)),
            joints_cam=np.zeros((frames, count, 24, 3), np.float32),
            contact_prob=np.zeros((frames, count, len(CONTACT_SITES)), np.float32),
            stature=np.array([self._stature[int(k)] for k in ids], np.float32),
            confidence=np.zeros((frames, count), np.float32),
            sigma_m=np.zeros((frames, count), np.float32),
        )  # fmt: skip
        for column, person in enumerate(ids):
            own = rows[rows["id"] == person]
            at = own["frame"]
            motion.present[at, column] = True
            for name in ("cam_from_body", "body_rot", "joints_cam", "contact_prob", "confidence", "sigma_m"):
                getattr(motion, name)[at, column] = own[name]
        return motion


def _move_bodies(motion: Motion, cam_from_body: dict[int, tuple[Array, Array]]) -> None:
    """Put people at better places in the camera, with their joints: id -> frames [N] and poses [N, 4, 4]."""
    for column, person in enumerate(motion.ids.tolist()):
        if person not in cam_from_body:
            continue
        frames, poses = cam_from_body[person]
        moved = poses @ inverse(motion.cam_from_body[frames, column].astype(np.float64))
        joints = motion.joints_cam[frames, column].astype(np.float64)
        motion.joints_cam[frames, column] = turn(moved[:, None, :3, :3], joints) + moved[:, None, :3, 3]
        motion.cam_from_body[frames, column] = poses


def _move_points(points: Array, seen_in: Array, before: Array, after: Array, grown: Array) -> Array:
    """Points [N, 3] of the cameras that saw them, from where those were to where they are, at another scale [T]."""
    if not len(points):
        return points
    back = inverse(before[seen_in])
    local = (turn(back[:, :3, :3], points) + back[:, :3, 3]) * grown[seen_in, None]
    return (turn(after[seen_in, :3, :3], local) + after[seen_in, :3, 3]).astype(np.float32)


def stand_up(result: Result, starts: list[int] | None = None, seen_in: Array | None = None) -> Result:
    """Turn the world so that z is up and the ground is at zero, from how people stand.

    Up is the mean direction from pelvis to neck over all people and frames: people lean, but rarely all the
    same way for long. The ground is where feet are lowest (second percentile). Without people the world stays
    that of the first camera.

    Args:
        starts: first frames of the parts that breaks divide the clip into, the first one 0: each is turned by its own
            people, and the camera goes on from where it was, looking the same way on the map. None: one part.
        seen_in: [N] the frame that each point of the scene came from; None: all from the first.
    """
    if not result.motion.present.any():
        return result
    frames = len(result.cameras.timestamps)
    starts = starts or [0]
    owner = np.zeros(len(result.scene_points), np.int64) if seen_in is None else seen_in
    path, points, spreads = result.cameras.world_from_cam.astype(np.float64), result.scene_points.copy(), []
    first = np.eye(4)
    before: Array | None = None
    for begin, end in zip(starts, [*starts[1:], frames], strict=True):
        upright, spread = _upright(result, begin, end, before)
        path[begin:end] = upright @ path[begin:end]
        before = path[end - 1]
        inside = (owner >= begin) & (owner < end)
        points[inside] = points[inside] @ upright[:3, :3].T + upright[:3, 3]
        first = upright if begin == 0 else first
        spreads.append(round(spread, 2))
    result.cameras.world_from_cam, result.scene_points = path, points.astype(np.float32)
    result.meta |= {
        "world": "z_up_ground", "gravity": {"from": "trunks of people", "spread_deg": max(spreads)},
        "world_from_first_camera": first.tolist(),
    }  # fmt: skip
    return result


def _upright(result: Result, begin: int, end: int, before: Array | None) -> tuple[Array, float]:
    """[4, 4] that turns the frames [begin, end) upright, and how far trunks differ, degrees.

    Args:
        before: [4, 4] the last camera of the part before, upright; None for the first part, whose first camera looks
            along x from the axis of z.
    """
    part = slice(begin, end)
    present = result.motion.present[part]
    poses = result.cameras.world_from_cam[part].astype(np.float64)
    if not present.any():  # nobody says what is up: as it was
        return (np.eye(4) if before is None else before @ inverse(poses[0])), 0.0
    joints = result.motion.joints_cam[part].astype(np.float64)
    joints = (turn(poses[:, None, None, :3, :3], joints) + poses[:, None, None, :3, 3])[present]
    trunk = joints[:, SMPL_JOINTS.index("neck")] - joints[:, 0]
    trunk /= np.linalg.norm(trunk, axis=-1, keepdims=True)
    up = trunk.mean(0)
    spread = float(np.degrees(np.arccos(np.clip((trunk @ (up / np.linalg.norm(up))), -1, 1)).mean()))
    up /= np.linalg.norm(up)
    forward = poses[0, :3, 2]
    x = forward - (forward @ up) * up
    if np.linalg.norm(x) < 1e-3:  # the camera looks straight down
        x = np.cross(up, poses[0, :3, 0])
    x /= np.linalg.norm(x)
    upright = np.eye(4)
    upright[:3, :3] = np.stack((x, np.cross(up, x), up))
    if before is not None:  # the camera looks the same way on the map as before the break, from the same place
        course = float(np.arctan2(before[1, 2], before[0, 2]))
        upright[:3, :3] = _about_z(course) @ upright[:3, :3]
        upright[:2, 3] = before[:2, 3] - (upright[:3, :3] @ poses[0, :3, 3])[:2]
    upright[2, 3] = -float(np.percentile(joints[:, _FEET] @ up, 2))
    return upright, spread


def _about_z(angle: float) -> Array:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
