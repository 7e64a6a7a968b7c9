"""How feet meet the ground: sliding, floating, contact, gap, penetration, slip."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from distill.metrics.inputs import (
    Array,
    DegenerateError,
    Protocol,
    as_floats,
    kept_frames,
    masked_pair,
    require_finite,
    windows,
)  # fmt: skip

SMPL_FOOT_VERTICES: Final = (3216, 3387, 6617, 6787)
"""The vertices of SMPL's mesh that papers use; other bodies use their own sole (`BodyModel.site_vertices`)."""
STILL_M: Final = 0.01
"""A foot that moves less than this from one frame to the next (at 30 fps) is in contact."""
FLOATING_M: Final = 0.20
"""A person floats if no foot vertex is as near to the scene as this."""
CHUNK: Final = 100
"""Frames that JOSH's floating rate takes together."""


def _steps(feet: Array, starts: NDArray[np.int64]) -> Array:
    return np.linalg.norm(feet[starts + 1] - feet[starts], axis=-1)


def foot_sliding(
    target: ArrayLike, prediction: ArrayLike, *, mask: ArrayLike | None = None, still_m: float = STILL_M,
    protocol: Protocol = "footfall",
) -> Array:  # fmt: skip
    """How far predicted foot vertices move while the true ones stand, mm per frame.

    "footfall" leaves out steps across masked frames; the others bridge them.

    Args:
        target, prediction: [T, V, 3] world positions of foot vertices, metres.
        still_m: a true vertex that moves less per frame stands; use 0.3 / fps away from 30 fps.

    Returns:
        [C], one value per (frame, vertex) in contact.

    Raises:
        DegenerateError: nothing is in contact.
    """
    true, predicted, frames = masked_pair(target, prediction, mask, None, 3)
    starts = windows(frames, 2, bridge=protocol != "footfall")
    contact = _steps(true, starts) < still_m
    if not contact.any():
        raise DegenerateError("no true foot vertex stands still")
    return 1000 * _steps(predicted, starts)[contact]


def contacts_from_motion(
    feet: ArrayLike, *, mask: ArrayLike | None = None, still_m: float = STILL_M
) -> NDArray[np.bool_]:
    """Contact [N - 1, V] of foot vertices [T, V, 3]: whether each moves less than `still_m` to the next kept frame."""
    points = as_floats("feet", feet, None, None, 3)
    frames = kept_frames(len(points), mask)
    points = require_finite("feet", points[frames])
    return _steps(points, windows(frames, 2, bridge=True)) < still_m


def contact_f1(target: ArrayLike, prediction: ArrayLike) -> float:
    """F1 of contact flags of any (equal) shape, in [0, 1].

    Raises:
        DegenerateError: there is no contact in either.
    """
    true, predicted = np.asarray(target, bool), np.asarray(prediction, bool)
    if true.shape != predicted.shape:
        raise ValueError(f"target {true.shape} and prediction {predicted.shape} differ")
    if not (true.any() or predicted.any()):
        raise DegenerateError("no contact at all")
    return float(2 * (true & predicted).sum() / (true.sum() + predicted.sum()))


def foot_floating_rate(
    feet: ArrayLike, scene_points: ArrayLike, *, feet_frames: ArrayLike | None = None,
    scene_frames: ArrayLike | None = None, floating_m: float = FLOATING_M, protocol: Protocol = "footfall",
) -> Array:  # fmt: skip
    """Whether a person floats, per frame (1 or 0); the mean is the rate.

    A frame floats if the nearest pair of foot vertex and scene point is farther apart than `floating_m`.
    "footfall" compares with the whole scene. "josh" takes chunks of 100 frames, compares with points seen in
    the same chunk, and never counts the last frame.

    Args:
        feet: [T, V, 3] predicted foot vertices in the world, metres.
        scene_points: [M, 3] predicted scene in the same world, metres.
        feet_frames: [T] frame of each row, for "josh". scene_frames: [M] frame of each point, for "josh".

    Raises:
        DegenerateError: no scene point to compare with.
    """
    points = require_finite("feet", as_floats("feet", feet, None, None, 3))
    scene = require_finite("scene_points", as_floats("scene_points", scene_points, None, 3))
    if protocol != "josh":
        return (_nearest(points, scene) > floating_m).astype(np.float64)
    if feet_frames is None or scene_frames is None:
        raise ValueError("protocol 'josh' needs feet_frames and scene_frames")
    frame_of_foot, frame_of_point = np.asarray(feet_frames), np.asarray(scene_frames)
    last = frame_of_foot.max()
    flags = []
    for start in range(0, last, CHUNK):
        end = min(start + CHUNK, last)
        rows = points[(frame_of_foot >= start) & (frame_of_foot < end)]
        flags.append(_nearest(rows, scene[(frame_of_point >= start) & (frame_of_point < end)]) > floating_m)
    return np.concatenate(flags).astype(np.float64)


def _nearest(feet: Array, scene: Array) -> Array:
    """Smallest distance between the feet of each row and the scene, metres."""
    if len(scene) == 0 or len(feet) == 0:
        raise DegenerateError("no scene point, or no foot, to compare with")
    distance, _ = cKDTree(scene).query(feet.reshape(-1, 3))
    return distance.reshape(feet.shape[:2]).min(1)


def height_over_scene(
    points: ArrayLike, scene_points: ArrayLike, *, radius_m: float = 0.15, reach_m: float = 0.5
) -> Array:
    """Height of points over the scene around the place below them, metres; NaN where there is no scene.

    Args:
        points: [..., 3] in a z-up world. scene_points: [M, 3].
        radius_m: scene points this near horizontally count; the median of their heights is the ground.
        reach_m: scene points farther above or below than this are something else (a wall, a floor below).
    """
    asked = as_floats("points", points, 3)
    scene = as_floats("scene_points", scene_points, None, 3)
    flat = asked.reshape(-1, 3)
    if len(scene) == 0:
        raise DegenerateError("no scene point to compare with")
    around = cKDTree(scene[:, :2]).query_ball_point(flat[:, :2], radius_m)
    height = np.full(len(flat), np.nan)
    for row, ids in enumerate(around):
        below = scene[ids, 2]
        below = below[np.abs(below - flat[row, 2]) < reach_m]
        if len(below):
            height[row] = flat[row, 2] - np.median(below)
    return height.reshape(asked.shape[:-1])


def foot_gap(height: ArrayLike, contact: ArrayLike) -> Array:
    """How far above the ground feet are that should touch it, cm.

    Args:
        height: [T, S] over the ground, metres, NaN where unknown. contact: [T, S] true contact.

    Returns:
        [C], one value per contact with a known ground; 0 for a foot in the ground.
    """
    chosen = _known(height, np.asarray(contact, bool))
    return 100 * np.maximum(chosen, 0)


def penetration(height: ArrayLike) -> Array:
    """How deep sites are in the ground, cm; height [T, S] as in `foot_gap`; 0 for a site above it."""
    heights = as_floats("height", height, None, None)
    return 100 * np.maximum(-_known(heights, np.ones(heights.shape, bool)), 0)


def _known(height: ArrayLike, chosen: NDArray[np.bool_]) -> Array:
    heights = as_floats("height", height, None, None)
    kept = heights[chosen & np.isfinite(heights)]
    if len(kept) == 0:
        raise DegenerateError("no contact over a known ground")
    return kept


def slip(feet: ArrayLike, contact: ArrayLike, *, fps: float) -> Array:
    """Speed of sites while they should stand, cm/s.

    Args:
        feet: [T, S, 3] world, metres. contact: [T, S] true contact; a step counts if both its frames touch.
    """
    points = require_finite("feet", as_floats("feet", feet, None, None, 3))
    touching = np.asarray(contact, bool)
    standing = touching[1:] & touching[:-1]
    if not standing.any():
        raise DegenerateError("no site stands for two successive frames")
    return 100 * fps * np.linalg.norm(np.diff(points, axis=0), axis=-1)[standing]
