"""One scale for a whole clip, once all of it is known."""

from __future__ import annotations

import numpy as np

from distill.fuser.so3 import Array


def smooth_log_scale(log_scale: Array, sigma: Array, timestamps: Array, seconds: float) -> Array:
    """[T] mean of all log scales [T], weighted by how sure each was and by its distance in time.

    Args:
        log_scale, sigma: [T] as the fuser gave them out, and their standard deviations.
        timestamps: [T] seconds.
        seconds: time in which a scale is forgotten: weights are exp(-|dt| / seconds) / sigma^2.
    """
    out = np.empty(len(log_scale))
    for k, time in enumerate(timestamps):
        weight = np.exp(-np.abs(timestamps - time) / seconds) / sigma**2
        out[k] = weight @ log_scale / weight.sum()
    return out


def in_one_scale(world_from_cam: Array, cam_from_x: Array, log_scale: Array, wanted: Array) -> tuple[Array, Array]:
    """Camera path and positions in the camera at other scales than those they were given out at.

    Every step of the camera was divided by e^s of its frame, and so was every distance from the camera.

    Args:
        world_from_cam: [T, 4, 4]. cam_from_x: [T, ..., 3] positions in the camera, metres.
        log_scale, wanted: [T] scales that were used, and that should be.

    Returns:
        world_from_cam [T, 4, 4] and cam_from_x [T, ..., 3].
    """
    grown = np.exp(log_scale - wanted)
    path = world_from_cam.copy()
    steps = np.diff(world_from_cam[:, :3, 3], axis=0) * grown[1:, None]
    path[1:, :3, 3] = world_from_cam[0, :3, 3] + np.cumsum(steps, axis=0)
    return path, cam_from_x * grown.reshape(-1, *(1,) * (cam_from_x.ndim - 1))
