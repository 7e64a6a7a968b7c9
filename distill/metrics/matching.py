"""Which predicted frame and person is which true one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from distill.results import Result

GATE: Final = 0.5
"""A predicted person farther off than this part of the true one's height in the image is somebody else."""


def match_frames(true_s: NDArray[Any], predicted_s: NDArray[Any]) -> NDArray[np.int64]:
    """For each true timestamp the predicted frame at the same moment, or -1.

    Two frames are at the same moment if each is the other's nearest and they are less than half a true frame
    apart.

    Args:
        true_s: [T] seconds. predicted_s: [S] seconds; both increasing.

    Returns:
        [T] indices into the predicted frames.
    """
    if len(true_s) == 0 or len(predicted_s) == 0:
        return np.full(len(true_s), -1)
    gap = np.abs(np.asarray(true_s)[:, None] - np.asarray(predicted_s)[None])
    nearest, back = gap.argmin(1), gap.argmin(0)
    tolerance = np.median(np.diff(true_s)) / 2 if len(true_s) > 1 else np.inf
    rows = np.arange(len(true_s))
    mutual = (back[nearest] == rows) & (gap[rows, nearest] < tolerance)
    return np.where(mutual, nearest, -1)


@dataclass(frozen=True)
class PersonMatch:
    """A true person and the predicted one that was found for them."""

    true: int
    """Index into the true people."""
    predicted: int | None
    """Index into the predicted people; None if the person was missed."""
    frames: NDArray[np.bool_]
    """[T] true frames in which both are present."""


def match_people(truth: Result, prediction: Result, frame_of: NDArray[np.int64]) -> list[PersonMatch]:
    """The one-to-one assignment of people that agrees best in the image.

    The agreement of a pair is the sum over shared frames of 1 - d / (`GATE` x height), not below 0, where d is
    the mean distance of the 24 projected joints and height the extent of the true ones. Long tracks therefore
    beat short ones, and a wrong focal length, which shifts depth, does not hurt.

    Args:
        frame_of: [T] predicted frame of each true one (`match_frames`).

    Returns:
        One entry per true person.
    """
    shared = frame_of >= 0
    true_px = _project(truth)
    scale = np.asarray(truth.cameras.size) / np.asarray(prediction.cameras.size)
    predicted_px = _project(prediction)[np.maximum(frame_of, 0)] * scale
    height = np.ptp(true_px[..., 1], axis=-1)  # [T, P]
    distance = np.linalg.norm(true_px[:, :, None] - predicted_px[:, None], axis=-1).mean(-1)  # [T, P, Q]
    present = shared[:, None, None] & truth.motion.present[:, :, None]
    present = present & prediction.motion.present[np.maximum(frame_of, 0)][:, None]
    agreement = np.maximum(1 - distance / np.maximum(GATE * height, 1.0)[..., None], 0) * present
    gain = agreement.sum(0)
    found = {int(p): int(q) for p, q in zip(*linear_sum_assignment(-gain), strict=True) if gain[p, q] > 0}
    nothing = np.zeros(len(frame_of), bool)
    return [
        PersonMatch(p, found.get(p), present[:, p, found[p]] if p in found else nothing)
        for p in range(truth.motion.present.shape[1])
    ]


def _project(result: Result) -> NDArray[Any]:
    """Joints in the image [T, P, 24, 2], pixels; points behind the camera are moved before it."""
    joints = result.motion.joints_cam.astype(np.float64)
    projected = joints @ result.cameras.K.astype(np.float64).T
    return projected[..., :2] / np.maximum(projected[..., 2:], 0.1)
