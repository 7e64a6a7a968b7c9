"""How well a body is posed: errors per frame after removing position, or position, rotation and scale."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike

from distill.metrics.inputs import Array, Protocol, align, as_floats, kept_frames, masked_pair, moved, windows

HIPS: Final = (1, 2)
"""Joints whose mean is the pelvis of camera-space metrics (left and right hip of SMPL); 3DPW's set has (2, 3)."""

_TRIMMED: Final = ("wham", "tram", "josh")
"""These drop the first and the last acceleration."""


def _mean_distance_mm(target: Array, prediction: Array) -> Array:
    return 1000 * np.linalg.norm(target - prediction, axis=-1).mean(-1)


def _pelvis(joints: Array, hips: tuple[int, int]) -> Array:
    return joints[:, list(hips)].mean(1, keepdims=True)


def mpjpe(
    target: ArrayLike, prediction: ArrayLike, *, mask: ArrayLike | None = None,
    align_to: Literal["pelvis", "none"] = "pelvis", hips: tuple[int, int] = HIPS,
) -> Array:  # fmt: skip
    """Mean joint error per frame, mm.

    Args:
        target, prediction: [T, J, 3] camera-space joints, metres.
        mask: [T] frames to keep, or None for all.
        align_to: "pelvis" subtracts the mean of the `hips` from each; "none" keeps the metric position.

    Returns:
        [N] for the N kept frames.
    """
    true, predicted, _ = masked_pair(target, prediction, mask, None, 3)
    if align_to == "pelvis":
        true, predicted = true - _pelvis(true, hips), predicted - _pelvis(predicted, hips)
    return _mean_distance_mm(true, predicted)


def pa_mpjpe(target: ArrayLike, prediction: ArrayLike, *, mask: ArrayLike | None = None) -> Array:
    """Mean point error per frame after the best similarity of that frame (Procrustes), mm.

    Works for joints and for vertices (PA-PVE). WHAM, TRAM, GVHMR and JOSH misread a batch of exactly two or
    three frames as transposed; that is not reproduced.

    Args:
        target, prediction: [T, J, 3], metres.

    Returns:
        [N] for the N kept frames.
    """
    true, predicted, _ = masked_pair(target, prediction, mask, None, 3)
    return _mean_distance_mm(true, moved(predicted, align(true, predicted, with_scale=True)))


def pve(
    target_vertices: ArrayLike, predicted_vertices: ArrayLike, target_joints: ArrayLike, predicted_joints: ArrayLike,
    *, mask: ArrayLike | None = None, hips: tuple[int, int] = HIPS,
) -> Array:  # fmt: skip
    """Mean vertex error per frame after subtracting the pelvis, mm.

    For vertices that stay where they are, use `mpjpe(..., align_to="none")`.

    Args:
        target_vertices, predicted_vertices: [T, V, 3] camera space, metres.
        target_joints, predicted_joints: [T, J, 3]; the pelvis is the mean of their `hips`.

    Returns:
        [N] for the N kept frames.
    """
    true, predicted, _ = masked_pair(target_vertices, predicted_vertices, mask, None, 3)
    true_joints, predicted_joints_, _ = masked_pair(target_joints, predicted_joints, mask, None, 3)
    return _mean_distance_mm(true - _pelvis(true_joints, hips), predicted - _pelvis(predicted_joints_, hips))


def root_error(
    target: ArrayLike, prediction: ArrayLike, *, mask: ArrayLike | None = None, hips: tuple[int, int] = HIPS
) -> Array:
    """Distance of the pelvis in the camera per frame, mm; joints [T, J, 3] in metres."""
    true, predicted, _ = masked_pair(target, prediction, mask, None, 3)
    return _mean_distance_mm(_pelvis(true, hips), _pelvis(predicted, hips))


def accel_error(
    target: ArrayLike, prediction: ArrayLike, *, fps: float = 30.0, mask: ArrayLike | None = None,
    align_to: Literal["pelvis", "none"] = "pelvis", hips: tuple[int, int] = HIPS, protocol: Protocol = "footfall",
) -> Array:  # fmt: skip
    """Mean error of the joints' accelerations, m/s^2.

    Protocols: "footfall" leaves out triples across masked frames; "gvhmr" and "human3r" bridge them; "wham",
    "tram" and "josh" bridge and drop the first and last value (JOSH on RICH: world joints, `align_to="none"`);
    "slahmr" takes the norm over joints of the difference of magnitudes.

    Args:
        target, prediction: [T, J, 3] joints, metres.
        fps: frames per second; 1 gives m/frame^2.

    Returns:
        [M] for the M triples.
    """
    true, predicted, frames = masked_pair(target, prediction, mask, None, 3)
    if align_to == "pelvis":
        true, predicted = true - _pelvis(true, hips), predicted - _pelvis(predicted, hips)
    starts = windows(frames, 5 if protocol in _TRIMMED else 3, bridge=protocol != "footfall")
    first = starts + 1 if protocol in _TRIMMED else starts
    true_accel, predicted_accel = (p[first + 2] - 2 * p[first + 1] + p[first] for p in (true, predicted))
    if protocol == "slahmr":
        magnitudes = np.linalg.norm(true_accel, axis=-1) - np.linalg.norm(predicted_accel, axis=-1)
        return np.linalg.norm(magnitudes, axis=-1) * fps**2
    return np.linalg.norm(true_accel - predicted_accel, axis=-1).mean(-1) * fps**2


def stature_error(target: ArrayLike, prediction: ArrayLike) -> Array:
    """Difference of standing heights per person, cm, positive if predicted too tall; both [P] in metres."""
    true, predicted = as_floats("target", target, None), as_floats("prediction", prediction, None)
    kept_frames(len(true), None)
    return 100 * (predicted - true)
