"""Turn a stream's frames into a result folder: people as arrays, a bounded cloud of points, a world with gravity."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from distill.fuser.scale import in_one_scale, smooth_log_scale
from distill.geometry.conventions import CONTACT_SITES, SMPL_JOINTS
from distill.results import Cameras, Motion, Result
from distill.stream import FrameResult

Array = NDArray[Any]
MAX_POINTS: Final = 60_000
_FEET: Final = [SMPL_JOINTS.index(name) for name in ("left_ankle", "right_ankle", "left_foot", "right_foot")]


class Cloud:
    """Points, one per cell of a grid; full at `MAX_POINTS`, so memory is bounded."""

    def __init__(self, cell_m: float = 0.08) -> None:
        self.cell_m = cell_m
        self._cells: dict[tuple[int, int, int], tuple[Array, Array]] = {}

    def add(self, points: Array, rgb: Array) -> None:
        """Add points [N, 3] (metres) and colours [N, 3] uint8 to cells that are still free."""
        for key, point, colour in zip(map(tuple, np.floor(points / self.cell_m).astype(int)), points, rgb, strict=True):
            if len(self._cells) >= MAX_POINTS:
                return
            self._cells.setdefault(key, (point, colour))

    def arrays(self) -> tuple[Array, Array]:
        """[N, 3] float32 and [N, 3] uint8."""
        if not self._cells:
            return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8)
        points, rgb = zip(*self._cells.values(), strict=True)
        return np.asarray(points, np.float32), np.asarray(rgb, np.uint8)


class Recorder:
    """Collects frames; about one kilobyte per person and frame."""

    def __init__(self, K: Array, size: tuple[int, int], body_model: str, *, scale_seconds: float = 20.0) -> None:
        """Empty; `scale_seconds`: time in which the scene's scale changes (`FuserConfig.scale_seconds`)."""
        self.scale_seconds = scale_seconds
        self.K, self.size, self.body_model = K, size, body_model
        self.cloud = Cloud()
        self._frames: list[tuple[float, Array]] = []
        self._scales: list[tuple[float, float]] = []
        self._people: dict[int, dict[int, tuple[Array, ...]]] = {}
        self._betas: dict[int, Array] = {}
        self._stature: dict[int, float] = {}

    def add(self, frame: FrameResult, statures: dict[int, float]) -> None:
        """The next frame; `statures`: person's id -> metres."""
        index = len(self._frames)
        self._frames.append((frame.timestamp, frame.world_from_cam.numpy().copy()))
        self._scales.append((frame.log_scale, frame.log_scale_sigma))
        for person in frame.people:
            confidence = 1.0 / (1.0 + (person.depth_sigma / 0.1) ** 2)
            row = (person.cam_from_body, person.body_rot, person.joints_cam, person.contact_prob)
            self._people.setdefault(person.id, {})[index] = (
                *(tensor.numpy().astype(np.float32) for tensor in row), np.array(confidence, np.float32),
            )  # fmt: skip
            self._betas[person.id] = person.betas.numpy()
            self._stature[person.id] = statures[person.id]

    def result(self, *, min_frames: int = 5) -> Result:
        """Everything so far; people seen in fewer than `min_frames` frames are left out."""
        ids = sorted(k for k, rows in self._people.items() if len(rows) >= min_frames)
        frames, count = len(self._frames), len(ids)
        present = np.zeros((frames, count), bool)
        cam_from_body = np.tile(np.eye(4, dtype=np.float32), (frames, count, 1, 1))
        body_rot = np.tile(np.eye(3, dtype=np.float32), (frames, count, 23, 1, 1))
        joints = np.zeros((frames, count, 24, 3), np.float32)
        contact = np.zeros((frames, count, len(CONTACT_SITES)), np.float32)
        confidence = np.zeros((frames, count), np.float32)
        for column, person in enumerate(ids):
            for index, row in self._people[person].items():
                present[index, column] = True
                cam_from_body[index, column], body_rot[index, column] = row[0], row[1]
                joints[index, column], contact[index, column], confidence[index, column] = row[2:]
        points, rgb = self.cloud.arrays()
        timestamps = np.array([t for t, _ in self._frames])
        log_scale, sigma = np.array(self._scales).T
        wanted = smooth_log_scale(log_scale, sigma, timestamps, self.scale_seconds)
        poses = np.stack([pose for _, pose in self._frames]).astype(np.float64)
        pelvis = cam_from_body[..., :3, 3].astype(np.float64)
        world_from_cam, roots = in_one_scale(poses, pelvis, log_scale, wanted)
        joints += (roots - cam_from_body[..., :3, 3])[:, :, None] * present[..., None, None]
        cam_from_body[..., :3, 3] = roots
        result = Result(
            cameras=Cameras(
                K=self.K, size=self.size, timestamps=timestamps, world_from_cam=world_from_cam,
                valid=np.ones(frames, bool),
            ),
            motion=Motion(
                ids=np.array(ids, np.int64), present=present, body_model=self.body_model,
                betas=np.stack([self._betas[k] for k in ids]) if ids else np.zeros((0, 10), np.float32),
                body_rot=body_rot, cam_from_body=cam_from_body, joints_cam=joints, contact_prob=contact,
                stature=np.array([self._stature[k] for k in ids], np.float32), confidence=confidence,
            ),
            scene_points=points, scene_rgb=rgb, meta={"world": "first_camera"},
        )  # fmt: skip
        return stand_up(result)


def stand_up(result: Result) -> Result:
    """Turn the world so that z is up and the ground is at zero, from how people stand.

    Up is the mean direction from pelvis to neck over all people and frames: people lean, but rarely all the
    same way for long. The ground is where feet are lowest (second percentile). Without people the world stays
    that of the first camera.
    """
    present = result.motion.present
    if not present.any():
        return result
    joints = result.joints_world[present]
    trunk = joints[:, SMPL_JOINTS.index("neck")] - joints[:, 0]
    trunk /= np.linalg.norm(trunk, axis=-1, keepdims=True)
    up = trunk.mean(0)
    spread = float(np.degrees(np.arccos(np.clip((trunk @ (up / np.linalg.norm(up))), -1, 1)).mean()))
    up /= np.linalg.norm(up)
    forward = result.cameras.world_from_cam[0, :3, 2]
    x = forward - (forward @ up) * up
    if np.linalg.norm(x) < 1e-3:  # the camera looks straight down
        x = np.cross(up, result.cameras.world_from_cam[0, :3, 0])
    x /= np.linalg.norm(x)
    turn = np.eye(4)
    turn[:3, :3] = np.stack((x, np.cross(up, x), up))
    turn[2, 3] = -float(np.percentile(joints[:, _FEET] @ up, 2))
    result.cameras.world_from_cam = turn @ result.cameras.world_from_cam
    result.scene_points = (result.scene_points @ turn[:3, :3].T + turn[:3, 3]).astype(np.float32)
    result.meta |= {
        "world": "z_up_ground", "gravity": {"from": "trunks of people", "spread_deg": round(spread, 2)},
        "world_from_first_camera": turn.tolist(),
    }  # fmt: skip
    return result
