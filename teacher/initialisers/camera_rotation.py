"""Cameras that do not travel: on a tripod, held still, or panning.

Without parallax nothing can be triangulated, and structure from motion fails or invents. Here only rotations
are estimated, from background points seen as rays; how well pure rotation explains them decides whether the
camera is one of these at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from teacher.initialisers.background import Chunk

Array = NDArray[Any]


@dataclass(kw_only=True)
class RotationFit:
    """Rotations of a camera that stays in place."""

    focal: float
    """Pixels: given, found from the rotation, or guessed."""
    focal_found: bool
    """True if the rotation was large enough to tell the focal length."""
    world_from_cam: Array
    """[T, 3, 3]; the world is the first camera."""
    residual_px: Array
    """[T] median distance of background points from where rotation puts them; inf where none was seen."""
    turn_deg: float
    """Largest rotation away from the first frame, degrees."""


def fit_rotations(
    chunks: list[Chunk], size: tuple[int, int], *, focal: float | None, focal_guess: float
) -> RotationFit:
    """Explain the background's motion by rotation alone.

    Args:
        chunks: followed background points.
        size: image width and height, pixels.
        focal: known focal length, pixels, or None to search for one.
        focal_guess: used when the rotation is too small to tell, pixels.
    """
    focal_found = False
    if focal is None:
        candidates = focal_guess * np.geomspace(0.5, 2.2, 13)
        errors = np.array([_score(chunks, size, f) for f in candidates])
        best = int(errors.argmin())
        turn = _rotations(chunks, size, focal_guess)[2]
        # The error must rise clearly on both sides of the best focal length for it to mean anything.
        focal_found = bool(turn > 5.0 and min(errors[0], errors[-1]) > 1.3 * errors[best])
        focal = float(candidates[best]) if focal_found else focal_guess
    world_from_cam, residual, turn = _rotations(chunks, size, focal)
    return RotationFit(
        focal=focal, focal_found=focal_found, world_from_cam=world_from_cam, residual_px=residual, turn_deg=turn
    )


def _score(chunks: list[Chunk], size: tuple[int, int], focal: float) -> float:
    residual = _rotations(chunks, size, focal)[1]
    return float(np.mean(residual[np.isfinite(residual)]))


def _rotations(chunks: list[Chunk], size: tuple[int, int], focal: float) -> tuple[Array, Array, float]:
    """World rotations [T, 3, 3], residuals [T] in pixels, largest turn in degrees, for a focal length."""
    frames = chunks[-1].start + len(chunks[-1].points)
    world_from_cam = np.tile(np.eye(3), (frames, 1, 1))
    residual = np.zeros(frames)
    for chunk in chunks:
        reference = _rays(chunk.points[0], size, focal)
        for k in range(1, len(chunk.points)):
            seen = np.isfinite(chunk.points[k][:, 0])
            index = chunk.start + k
            if seen.sum() < 8:
                residual[index] = np.inf
                world_from_cam[index] = world_from_cam[index - 1]
                continue
            rays = _rays(chunk.points[k][seen], size, focal)
            ref_from_cam, error = _align(reference[seen], rays, focal)
            world_from_cam[index] = world_from_cam[chunk.start] @ ref_from_cam
            residual[index] = error
    cosine = (np.trace(world_from_cam, axis1=1, axis2=2) - 1) / 2
    return world_from_cam, residual, float(np.degrees(np.arccos(np.clip(cosine, -1, 1)).max()))


def _rays(pixels: Array, size: tuple[int, int], focal: float) -> Array:
    rays = np.concatenate(((pixels - np.array(size) / 2) / focal, np.ones((len(pixels), 1))), 1)
    return rays / np.linalg.norm(rays, axis=-1, keepdims=True)


def _align(target: Array, source: Array, focal: float) -> tuple[Array, float]:
    """Robust rotation target_from_source of unit rays [N, 3], and the median residual in pixels."""
    weight = np.ones(len(target))
    rotation = np.eye(3)
    distance = np.zeros(len(target))
    for _ in range(6):  # iteratively reweighted Kabsch with Cauchy weights
        u, _, vt = np.linalg.svd((weight[:, None] * target).T @ source)
        rotation = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
        distance = focal * np.linalg.norm(target - source @ rotation.T, axis=-1)
        scale = max(1.48 * float(np.median(distance)), 0.1)
        weight = 1 / (1 + np.square(distance / scale))
    return rotation, float(np.median(distance))
