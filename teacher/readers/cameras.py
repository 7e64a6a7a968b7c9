"""From poses and intrinsics of other systems to the cameras stage's file.

Poses are brought to world_from_cam (OpenCV axes) by each format's reader. The unit is the metre only where a system
says so; otherwise the scale is unknown, and the joint solve finds it. Frames without a pose are filled from their
neighbours and marked `registered = False`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from distill.errors import FootfallError
from distill.geometry.cameras import make_intrinsics
from distill.geometry.transforms import interpolate_missing
from teacher.readers.checks import check_intrinsics, check_poses
from teacher.readers.clip_frames import ClipFrames
from teacher.stagefiles import CameraInit

Array = NDArray[Any]
MIN_SPAN: Final = 0.5
"""Share of the clip that poses must span, from the first to the last; beyond them cameras are repeated."""
SAME_ASPECT: Final = 0.02
"""Relative difference of aspect ratios up to which two images may be of one video (sides are rounded)."""


@dataclass(kw_only=True)
class OutsideCameras:
    """What a file says about cameras. N poses."""

    where: str
    """The file, for messages."""
    rows: Array
    """[N] frame of the clip of each pose."""
    world_from_cam: Array
    """[N, 4, 4]."""
    metric: bool = False
    """Whether the system means metres."""
    K: Array | None = None
    """[3, 3] in pixels of an image of `size`, top-left pixel centre at (0.5, 0.5); None if the file has none."""
    size: tuple[float, float] | None = None
    """Width and height of the images that K belongs to."""


@dataclass(kw_only=True)
class Sparse:
    """Points of a reconstruction and where they are seen; see `CameraInit`."""

    points: Array
    rgb: Array
    obs_frame: Array
    obs_point: Array
    obs_px: Array


def make_cameras(
    outside: OutsideCameras, frames: ClipFrames, *, focal_guess: float, sparse: Sparse | None = None
) -> CameraInit:
    """The cameras stage's file; a lens given in the manifest goes before that of the file.

    Args:
        outside: poses, with intrinsics if the file has any.
        frames: the clip.
        focal_guess: focal length as a multiple of the image's diagonal where nobody knows it.
        sparse: points, in the same world.

    Raises:
        FootfallError: an impossible camera, images of another shape, or poses that do not overlap the clip.
    """
    count = len(frames.numbers)
    known = np.unique(outside.rows)
    span = (known[-1] - known[0] + 1) / count if len(known) else 0.0
    if len(known) < 2 or span < MIN_SPAN:
        covered = f"frames {known[0]} to {known[-1]}" if len(known) else "none"
        raise FootfallError(
            outside.where, got=f"poses for {len(known)} frames of this clip ({covered} of {count})",
            expected=f"2 or more poses that span {MIN_SPAN:.0%} of the clip or more",
            do="check that they are of this video, and how frames or times are counted",
        )  # fmt: skip
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[outside.rows] = check_poses(outside.where, outside.world_from_cam)
    registered = np.zeros(count, bool)
    registered[outside.rows] = True
    filled = interpolate_missing(torch.from_numpy(poses), torch.from_numpy(registered)).numpy()
    in_place = np.ptp(filled[:, :3, 3], axis=0).max() < 1e-9
    K = _intrinsics(outside, frames, focal_guess)
    sparse = sparse or _no_points()
    return CameraInit(
        kind="static" if in_place else "sfm", metric=outside.metric, focal_known=frames.K is not None, K=K,
        world_from_cam=filled, registered=registered, points=sparse.points.astype(np.float32),
        points_rgb=sparse.rgb.astype(np.uint8), obs_frame=sparse.obs_frame.astype(np.int32),
        obs_point=sparse.obs_point.astype(np.int32), obs_px=sparse.obs_px.astype(np.float32),
    )  # fmt: skip


def scaled_intrinsics(where: str, K: Array, from_size: tuple[float, float], to_size: tuple[int, int]) -> Array:
    """[3, 3] intrinsics for images of another size.

    Raises:
        FootfallError: impossible intrinsics, or images of another shape.
    """
    K = check_intrinsics(where, K, from_size)
    if abs(from_size[0] * to_size[1] / (from_size[1] * to_size[0]) - 1) > SAME_ASPECT:
        raise FootfallError(
            where, got=f"images of {from_size[0]:.0f} x {from_size[1]:.0f}",
            expected=f"the shape of {to_size[0]} x {to_size[1]}",
            do="give the cameras of this video, uncropped and with the same rotation",
        )  # fmt: skip
    return K * np.array([to_size[0] / from_size[0], to_size[1] / from_size[1], 1.0])[:, None]


def _intrinsics(outside: OutsideCameras, frames: ClipFrames, focal_guess: float) -> Array:
    if frames.K is not None:
        return check_intrinsics("intrinsics of the manifest", frames.K, frames.size)
    if outside.K is None or outside.size is None:
        focal = focal_guess * float(np.hypot(*frames.size))
        return make_intrinsics(torch.tensor(focal, dtype=torch.float64), frames.size).numpy()
    return scaled_intrinsics(outside.where, outside.K, outside.size, frames.size)


def _no_points() -> Sparse:
    none = np.zeros(0, np.int32)
    return Sparse(
        points=np.zeros((0, 3)), rgb=np.zeros((0, 3)), obs_frame=none, obs_point=none, obs_px=np.zeros((0, 2))
    )
