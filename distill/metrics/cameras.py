"""How well the camera's path is known: absolute and relative trajectory errors."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.transform import Rotation

from distill.metrics.inputs import Array, DegenerateError, Protocol, align, masked_pair

Alignment = Literal["none", "se3", "sim3", "scale", "origin"]
"""How the predicted path is laid on the true one: not at all; rigidly (metric scale kept); with scale; only
the scale; or by the first pose."""


def _aligned(target: Array, prediction: Array, how: Alignment, allow_degenerate: bool) -> Array:
    """Predicted poses [T, 4, 4] after the alignment."""
    poses = prediction.copy()
    if how == "none":
        return poses
    if how == "origin":
        poses[:] = target[0] @ np.linalg.inv(prediction[0]) @ prediction
        return poses
    true, predicted = target[:, :3, 3], prediction[:, :3, 3]
    if not allow_degenerate or how != "se3":
        _require_spread(true, predicted)
    scale, rotation, translation = align(true, predicted, with_scale=how != "se3")
    poses[:, :3, 3] *= scale
    if how != "scale":
        poses[:, :3, :3] = rotation @ poses[:, :3, :3]
        poses[:, :3, 3] = poses[:, :3, 3] @ rotation.T + translation
    return poses


def _require_spread(true: Array, predicted: Array) -> None:
    """Refuse paths along which the alignment is not unique: a line or a point (evo's criterion)."""
    covariance = (true - true.mean(0)).T @ (predicted - predicted.mean(0)) / len(true)
    singular = np.linalg.svd(covariance, compute_uv=False)
    if np.count_nonzero(singular > np.finfo(np.float64).eps) < 2:
        raise DegenerateError("the camera moves along a line or not at all, so the alignment is not unique")


def world_to_camera_columns(world_from_cam: ArrayLike) -> Array:
    """Poses whose translation is the last column of world-to-camera, relative to frame 0 (what JOSH evaluates).

    Rotation errors enter it, so that it is not the error of camera centres.
    """
    poses = np.asarray(world_from_cam, dtype=np.float64)
    return np.asarray(np.linalg.inv(np.linalg.inv(poses[0]) @ poses), dtype=np.float64)


def ate(
    target: ArrayLike, prediction: ArrayLike, *, mask: ArrayLike | None = None, align_to: Alignment = "se3",
    allow_degenerate: bool = False, protocol: Protocol = "footfall",
) -> Array:  # fmt: skip
    """Absolute trajectory error per frame, m.

    We report mean and root mean square of the centres' error, both with "se3" and "sim3". TRAM reports the
    means ("sim3" as ATE, "se3" as ATE-S), Human3R the root mean square of "sim3"; "josh" evaluates columns of
    world-to-camera matrices (`world_to_camera_columns`) with "se3", as mean (EMDB) or root mean square
    (SLOPER4D, with `allow_degenerate`).

    Args:
        target, prediction: [T, 4, 4] world_from_cam, metres.
        allow_degenerate: with "se3" the error is defined for a camera that stays or moves along a line, though
            the rotation of the alignment is not.

    Returns:
        [N] for the N kept frames.

    Raises:
        DegenerateError: the alignment is not unique.
    """
    true, predicted = _poses(target, prediction, mask, protocol)
    placed = _aligned(true, predicted, align_to, allow_degenerate)
    return np.linalg.norm(placed[:, :3, 3] - true[:, :3, 3], axis=-1)


def ate_rotation(
    target: ArrayLike, prediction: ArrayLike, *, mask: ArrayLike | None = None, align_to: Alignment = "se3"
) -> Array:
    """Error of the camera's orientation per frame after the alignment of `ate`, degrees."""
    true, predicted = _poses(target, prediction, mask, "footfall")
    placed = _aligned(true, predicted, align_to, allow_degenerate=False)
    return _angle(np.swapaxes(true[:, :3, :3], -1, -2) @ placed[:, :3, :3])


def rpe(
    target: ArrayLike, prediction: ArrayLike, *, mask: ArrayLike | None = None, delta: int = 1,
    all_pairs: bool = True, align_to: Alignment = "none",
) -> tuple[Array, Array]:  # fmt: skip
    """Relative pose error over `delta` frames: metres [M] and degrees [M].

    E = (Q_i^-1 Q_j)^-1 (P_i^-1 P_j) for j = i + delta. Human3R: root mean square, delta 1, "sim3".

    Args:
        target, prediction: [T, 4, 4] world_from_cam, metres.
        all_pairs: every i; otherwise i = 0, delta, 2 delta, ...
    """
    true, predicted = _poses(target, prediction, mask, "footfall")
    placed = _aligned(true, predicted, align_to, allow_degenerate=False)
    first = np.arange(0, len(true) - delta, 1 if all_pairs else delta)
    if len(first) == 0:
        raise DegenerateError(f"no two frames are {delta} apart")
    true_step = np.linalg.inv(true[first]) @ true[first + delta]
    placed_step = np.linalg.inv(placed[first]) @ placed[first + delta]
    error = np.linalg.inv(true_step) @ placed_step
    return np.linalg.norm(error[:, :3, 3], axis=-1), _angle(error[:, :3, :3])


def _poses(target: ArrayLike, prediction: ArrayLike, mask: ArrayLike | None, protocol: Protocol) -> tuple[Array, Array]:
    true, predicted, _ = masked_pair(target, prediction, mask, 4, 4)
    if protocol == "josh":
        return world_to_camera_columns(true), world_to_camera_columns(predicted)
    return true, predicted


def _angle(rotation: Array) -> Array:
    return np.rad2deg(Rotation.from_matrix(rotation).magnitude())


def rmse(errors: ArrayLike) -> float:
    """Root mean square of errors."""
    return float(np.sqrt(np.mean(np.square(np.asarray(errors, dtype=np.float64)))))
