"""Left and right that were exchanged for some frames: put back.

A landmark network that takes a person's front for the back exchanges left and right, often for single frames: in
one view of Pose2Sim's clip in 26 of 100. Nobody turns around within a frame, so names are chosen such that points
move least: the cheapest path through two states per frame (Viterbi, "Error bounds for convolutional codes", 1967).
"""

from __future__ import annotations

import itertools
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from distill.geometry.conventions import KEYPOINTS

Array = NDArray[Any]

MIRRORED: Final = tuple(
    KEYPOINTS.index(name.replace("left", "\0").replace("right", "left").replace("\0", "right")) for name in KEYPOINTS
)
"""Each keypoint's partner on the other side; the nose is its own."""
ARMS: Final = tuple(range(5, 11))
LEGS: Final = tuple(range(11, 17))
"""Points that tell the sides. Legs and arms are judged apart: the network exchanges one pair some frames earlier."""
CHANGE: Final = 0.02
"""Cost of a change of names between two frames, metres of mean motion: less evidence than this changes nothing."""
EXCHANGED: Final = 0.002
"""Cost of each frame whose names are exchanged, metres: the network is right more often than not."""
DEPTH: Final = 0.25
"""Weight of motion along the optical axis, which the network knows least about."""


def restore_sides(keypoints: tuple[Array, ...], keypoints_hip: Array, visible: Array) -> tuple[list[Array], int]:
    """Give every keypoint array [T, 23, ...] of one person the names that the motion asks for.

    Args:
        keypoints: arrays to be renamed. keypoints_hip: [T, 23, 3] metres, camera axes, origin between the hips.
        visible: [T] bool.

    Returns:
        The renamed arrays, and the number of frames in which anything was exchanged.
    """
    halves = [exchanged_frames(keypoints_hip[:, list(part)], visible) for part in (ARMS, LEGS)]
    partner = np.tile(np.arange(len(KEYPOINTS)), (len(visible), 1))
    for exchanged, points in zip(halves, (np.arange(LEGS[0]), np.arange(LEGS[0], len(KEYPOINTS))), strict=True):
        partner[np.ix_(exchanged, points)] = np.array(MIRRORED)[points]
    frames = np.arange(len(visible))[:, None]
    return [array[frames, partner] for array in keypoints], int((halves[0] | halves[1]).sum())


def exchanged_frames(points: Array, visible: Array) -> Array:
    """Frames [T] bool in which left and right are exchanged.

    Args:
        points: [T, 2 n, 3] metres, left and right in turn. visible: [T] bool.
    """
    frames = np.flatnonzero(visible)
    exchanged = np.zeros(len(visible), bool)
    if len(frames) < 2:
        return exchanged
    seen = points[frames] * [1, 1, DEPTH]
    other = seen.reshape(len(seen), -1, 2, 3)[:, :, ::-1].reshape(seen.shape)
    states = np.stack([seen, other], 1)
    cost, came_from = np.array([0.0, EXCHANGED]), []
    for before, now in itertools.pairwise(states):
        motion = np.linalg.norm(now[None] - before[:, None], axis=-1).mean(-1)  # [state before, state now]
        total = cost[:, None] + motion + CHANGE * (1 - np.eye(2)) + [0.0, EXCHANGED]
        came_from.append(total.argmin(0))
        cost = total.min(0)
    path = [int(cost.argmin())]
    for best in reversed(came_from):
        path.append(int(best[path[-1]]))
    exchanged[frames] = np.array(path[::-1], bool)
    return exchanged
