"""How well people move through the world: errors after one alignment of a stretch of frames, path, jitter."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import gaussian_filter1d

from distill.metrics.inputs import (
    Array,
    DegenerateError,
    Protocol,
    align,
    as_floats,
    kept_frames,
    masked_pair,
    moved,
    require_finite,
    windows,
)  # fmt: skip

SEGMENT: Final = 100
"""Frames that share one alignment."""


def segments(count: int, protocol: Protocol = "footfall", length: int = SEGMENT) -> list[tuple[int, int]]:
    """[start, end) of the stretches that are aligned as one.

    All cut every `length` frames and keep the short last stretch, except TRAM, which joins what is left to the
    last whole one and loses the very last frame (and, at exact multiples, the last `length` frames).

    Raises:
        DegenerateError: none.
    """
    if protocol != "tram":
        cut = [(start, min(start + length, count)) for start in range(0, count, length)]
    else:
        starts = range(0, count - length, length)
        cut = [(start, start + length if start + 2 * length <= count else count - 1) for start in starts]
    if not cut:
        raise DegenerateError(f"protocol {protocol!r} has no segment in {count} frames")
    return cut


def _aligned_error_mm(
    target: ArrayLike, prediction: ArrayLike, mask: ArrayLike | None, protocol: Protocol, length: int,
    anchor: int | None,
) -> Array:  # fmt: skip
    """Per-frame error after one similarity per segment, found on its first `anchor` frames (None: all)."""
    true, predicted, frames = masked_pair(target, prediction, mask, None, 3)
    errors = []
    for start, end in segments(len(frames), protocol, length):
        part, whole = slice(start, min(end, start + anchor) if anchor else end), slice(start, end)
        similarity = align(true[part].reshape(-1, 3), predicted[part].reshape(-1, 3), with_scale=True)
        placed = moved(predicted[whole].reshape(-1, 3), similarity).reshape(predicted[whole].shape)
        errors.append(1000 * np.linalg.norm(placed - true[whole], axis=-1).mean(-1))
    return np.concatenate(errors)


def w_mpjpe(
    target: ArrayLike, prediction: ArrayLike, *, mask: ArrayLike | None = None, protocol: Protocol = "footfall",
    length: int = SEGMENT,
) -> Array:  # fmt: skip
    """World joint error per frame after aligning the first two frames of each segment (with scale), mm.

    Args:
        target, prediction: [T, J, 3] world joints, metres; each in its own world.
        mask: [T] frames to keep; segments are counted in kept frames.
        protocol: "tram" cuts segments differently (`segments`).

    Returns:
        [N], one value per frame of every segment.
    """
    return _aligned_error_mm(target, prediction, mask, protocol, length, 2)


def wa_mpjpe(
    target: ArrayLike, prediction: ArrayLike, *, mask: ArrayLike | None = None, protocol: Protocol = "footfall",
    length: int = SEGMENT,
) -> Array:  # fmt: skip
    """World joint error per frame after aligning each whole segment (with scale), mm; arguments as `w_mpjpe`."""
    return _aligned_error_mm(target, prediction, mask, protocol, length, None)


def path_length(root: ArrayLike) -> float:
    """Length of a path [T, 3], metres."""
    return float(np.linalg.norm(np.diff(as_floats("root", root, None, 3), axis=0), axis=-1).sum())


def rte(target: ArrayLike, prediction: ArrayLike, *, mask: ArrayLike | None = None, with_scale: bool = False) -> Array:
    """Root error per frame after one rigid alignment of the whole path, % of the true path's length.

    We, GVHMR, TRAM and Human3R pass joint 0; WHAM and JOSH pass SMPL's `transl`.

    Args:
        target, prediction: [T, 3] world path of the root, metres.
        with_scale: align with scale ("Scaled-RTE" of Human3R).

    Raises:
        DegenerateError: the person stays on the spot.
    """
    true, predicted, _ = masked_pair(target, prediction, mask, 3)
    length = path_length(true)
    if length < 1e-9:
        raise DegenerateError("the true root does not move, so its path has no length to divide by")
    placed = moved(predicted, align(true, predicted, with_scale=with_scale))
    return 100 * np.linalg.norm(placed - true, axis=-1) / length


def root_drift(target: ArrayLike, prediction: ArrayLike, *, mask: ArrayLike | None = None) -> Array:
    """Root error per frame after aligning all joints of the first two frames of the clip (with scale), m.

    TRAM computes it without reporting it: unlike W-MPJPE nothing is aligned again every 100 frames.

    Args:
        target, prediction: [T, J, 3] world joints, metres; joint 0 is the root.

    Returns:
        [N] for the N kept frames.
    """
    true, predicted, _ = masked_pair(target, prediction, mask, None, 3)
    similarity = align(true[:2].reshape(-1, 3), predicted[:2].reshape(-1, 3), with_scale=True)
    return np.linalg.norm(moved(predicted[:, 0], similarity) - true[:, 0], axis=-1)


def root_velocity_error(
    target_root: ArrayLike, predicted_root: ArrayLike, target_rotation: ArrayLike, predicted_rotation: ArrayLike,
    *, mask: ArrayLike | None = None,
) -> Array:  # fmt: skip
    """Error of the root's step in the person's own heading (TRAM's ERVE), mm per frame.

    ||R_true R_pred^T step_pred - step_true|| with the rotations of the step's first frame.

    Args:
        target_root, predicted_root: [T, 3] metres. target_rotation, predicted_rotation: [T, 3, 3].

    Returns:
        [N - 1].
    """
    true, predicted, frames = masked_pair(target_root, predicted_root, mask, 3)
    true_rot, predicted_rot, _ = masked_pair(target_rotation, predicted_rotation, mask, 3, 3)
    starts = windows(frames, 2, bridge=True)
    turn = true_rot[starts] @ np.swapaxes(predicted_rot[starts], -1, -2)
    step = (turn @ (predicted[starts + 1] - predicted[starts])[..., None])[..., 0]
    return 1000 * np.linalg.norm(step - (true[starts + 1] - true[starts]), axis=-1)


def jitter(
    prediction: ArrayLike, *, fps: float = 30.0, mask: ArrayLike | None = None, protocol: Protocol = "footfall"
) -> Array:
    """Mean size of the joints' third differences, 10 m/s^3.

    "footfall" leaves out windows across masked frames; the others bridge them.

    Args:
        prediction: [T, J, 3] world joints, metres.

    Returns:
        [M] for the M windows of four frames.
    """
    joints = as_floats("prediction", prediction, None, None, 3)
    frames = kept_frames(len(joints), mask)
    joints = require_finite("prediction", joints[frames])
    s = windows(frames, 4, bridge=protocol != "footfall")
    third = joints[s + 3] - 3 * joints[s + 2] + 3 * joints[s + 1] - joints[s]
    return np.linalg.norm(third, axis=-1).mean(-1) * fps**3 / 10


def smooth_root(joints: ArrayLike, sigma: float = 3.0) -> Array:
    """Joints [T, J, 3] moved rigidly so that joint 0 follows a Gaussian average of its path.

    TRAM does this to its prediction, before masking, and then evaluates.
    """
    points = as_floats("joints", joints, None, None, 3)
    root = points[:, :1]
    return points + gaussian_filter1d(root, sigma, axis=0, mode="reflect") - root


def world_size_error(target: ArrayLike, prediction: ArrayLike) -> float:
    """How much too big (+) or small (-) the predicted world is, %.

    The ratio of the points' root-mean-square distances from their centre.

    Args:
        target, prediction: [N, 3] the same points (roots over time, camera centres, scene), each in its own world.
    """
    true, predicted, _ = masked_pair(target, prediction, None, 3)
    spread_true, spread_predicted = (np.sqrt((p - p.mean(0)).var(0).sum()) for p in (true, predicted))
    if spread_true < 1e-9:
        raise DegenerateError("all true points coincide, so the world has no size")
    return float(100 * (spread_predicted / spread_true - 1))
