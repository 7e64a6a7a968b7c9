"""Which way is up, and where the ground is: from how people stand, from where their feet stand, and from the scene.

Three witnesses speak about the ground's normal, each in the tangent plane of a first guess:

* bodies: the mean direction from ankles to neck while a foot stands. People lean forwards as they walk, by
  some degrees that no average removes, and sideways much less.
* stance feet: the plane through the places where feet stood. Precise across the walked path, blind along it.
* ground: the plane through scene points near those places. The most precise where the ground is flat.

Each gives an estimate e_k (2 numbers, radians) with information matrix A_k (inverse covariance); together

    e = (sum A_k)^-1 sum A_k e_k,    covariance (sum A_k)^-1.

The ground's slope is not told from gravity: on a hill "up" is the hill's normal, as far as the feet say so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from teacher.stagefiles import Array

MAX_SD_DEG: Final = 8.0
"""An up direction less certain than this is not used."""
MAX_DISAGREEMENT_DEG: Final = 30.0
"""Witnesses farther than this from the bodies' up direction are not believed."""
FORWARD_SD: Final = np.radians(7.0)
"""Lean of a person along the way that the body faces, as it remains in the average over a clip."""
SIDE_SD: Final = np.radians(2.5)
"""Lean of a person to the side, as it remains in the average over a clip."""
SLOPE_SD: Final = np.radians(1.0)
"""Floor of the other witnesses: grounds slope."""
REACH_M: Final = 2.0
"""Scene points within this distance of a stance belong to its ground, if they lie near its height."""


@dataclass(kw_only=True)
class Gravity:
    """Up and ground in the solved world."""

    up: Array
    """[3] unit."""
    sd_deg: float
    """Uncertainty of `up`, degrees (root mean square over its two directions)."""
    ground: Array
    """[3] a point of the ground below the first person's first stance."""
    found: bool
    """Whether up is certain enough to be used."""
    reason: str
    """Why not, or ""."""
    witnesses: dict[str, Any] = field(default_factory=dict)
    """For each witness: angle to `up` in degrees, and its standard deviation."""


def find_gravity(
    body_up: Array, body_front: Array, stances: Array, first_stance: Array | None, points: Array, *, bodies: int
) -> Gravity:
    """Estimate up and ground.

    Args:
        body_up: [N, 3] unit directions from ankles to neck, of bodies with a foot on the ground (or of all
            bodies, if no foot ever is).
        body_front: [N, 3] the way that each of them faces.
        stances: [S, 3] places where feet stood, metres.
        first_stance: [3] place of the first person's first stance, or None.
        points: [M, 3] scene points, metres.
        bodies: independent bodies behind them (people, not frames).
    """
    guess = _unit(body_up.mean(axis=0))
    basis = _tangent(guess)
    estimates = {"bodies": _from_bodies(body_front @ basis, bodies)}
    estimates["stances"] = _from_stances(stances, guess, basis)
    estimates["ground"] = _from_points(stances, points, guess, basis)
    believed = {
        name: (tilt, information)
        for name, (tilt, information) in estimates.items()
        if np.linalg.norm(tilt) < np.radians(MAX_DISAGREEMENT_DEG) and information.any()
    }
    information = np.sum([a for _, a in believed.values()], axis=0)
    tilt = np.linalg.solve(information, np.sum([a @ e for e, a in believed.values()], axis=0))
    sd_deg = float(np.degrees(np.sqrt(np.trace(np.linalg.inv(information)) / 2)))
    up = _unit(guess + basis @ tilt)
    ground = first_stance if first_stance is not None else np.zeros(3)
    reason = ""
    if first_stance is None:
        reason = "no foot of the first person ever stands"
    elif sd_deg > MAX_SD_DEG:
        reason = f"up is uncertain by {sd_deg:.1f} degrees, more than {MAX_SD_DEG:.0f}"
    return Gravity(
        up=up, sd_deg=sd_deg, ground=ground, found=not reason, reason=reason,
        witnesses={name: _describe(e, a, guess, basis, up) for name, (e, a) in believed.items()},
    )  # fmt: skip


def world_from_solved(gravity: Gravity, first_camera: Array) -> Array:
    """[4, 4] the z-up world: z = 0 at the ground, y along the first camera's heading, x to its right.

    The origin lies below the first camera. A camera that looks straight down heads where its top points.

    Args:
        gravity: found. first_camera: [4, 4] solved world from camera.
    """
    z = gravity.up
    forward = first_camera[:3, 2] - (first_camera[:3, 2] @ z) * z
    if np.linalg.norm(forward) < 0.1:
        forward = -first_camera[:3, 1] + (first_camera[:3, 1] @ z) * z
    y = _unit(forward)
    rotation = np.stack((np.cross(y, z), y, z))
    below = first_camera[:3, 3] - ((first_camera[:3, 3] - gravity.ground) @ z) * z
    transform = np.eye(4)
    transform[:3, :3], transform[:3, 3] = rotation, -rotation @ below
    return transform


def _from_bodies(front: Array, bodies: int) -> tuple[Array, Array]:
    """Tilt 0 (the guess is theirs) and information of upright bodies; front [N, 2] in the tangent plane."""
    front = front / np.maximum(np.linalg.norm(front, axis=-1, keepdims=True), 1e-9)
    along = np.einsum("ni,nj->ij", front, front) / len(front)
    return np.zeros(2), bodies * (along / FORWARD_SD**2 + (np.eye(2) - along) / SIDE_SD**2)


def _from_stances(stances: Array, guess: Array, basis: Array) -> tuple[Array, Array]:
    """Tilt [2] and information [2, 2] of the plane through stances; heights known to about 3 cm."""
    if len(stances) < 3:
        return np.zeros(2), np.zeros((2, 2))
    offset = stances - np.median(stances, axis=0)
    return _fit_tilt(offset @ basis, offset @ guess, noise=0.03, floor=np.radians(2.0), count=6)


def _from_points(stances: Array, points: Array, guess: Array, basis: Array) -> tuple[Array, Array]:
    """Tilt and information of the plane through scene points around the stances."""
    if len(stances) == 0 or len(points) == 0:
        return np.zeros(2), np.zeros((2, 2))
    from scipy.spatial import cKDTree

    flat = cKDTree(stances @ basis)
    distance, index = flat.query(points @ basis)
    rise = (points - stances[index]) @ guess
    near = (distance < REACH_M) & (np.abs(rise) < 0.15 + np.tan(np.radians(12)) * distance)
    if near.sum() < 12:
        return np.zeros(2), np.zeros((2, 2))
    centre = np.median(points[near], axis=0)
    offset = points[near] - centre
    return _fit_tilt(offset @ basis, offset @ guess, noise=0.05, floor=SLOPE_SD, count=60)


def _fit_tilt(
    flat: Array, height: Array, *, noise: float, floor: float, count: int, rounds: int = 20
) -> tuple[Array, Array]:
    """Robust plane height = s . flat + h; its tilt is -s.

    Args:
        flat: [N, 2] metres. height: [N] metres. noise: of heights, metres. floor: least standard deviation of
            the tilt, radians. count: as how many independent heights all of them count at most.
    """
    design = np.column_stack((flat, np.ones(len(flat))))
    weight = np.ones(len(flat))
    slope = np.zeros(3)
    for _ in range(rounds):
        weighted = design * weight[:, None]
        slope = np.linalg.solve(weighted.T @ design + 1e-9 * np.eye(3), weighted.T @ height)
        residual = height - design @ slope
        sd = max(noise, 1.4826 * float(np.median(np.abs(residual))))
        weight = 1 / (1 + (residual / (2 * sd)) ** 2) ** 2  # Geman-McClure
    centred = flat - (weight[:, None] * flat).sum(0) / weight.sum()
    share = min(1.0, count / weight.sum())
    scatter = share * (centred * weight[:, None]).T @ centred / sd**2
    values, vectors = np.linalg.eigh(scatter)
    values = 1 / (1 / np.maximum(values, 1e-9) + floor**2)
    return -slope[:2], (vectors * values) @ vectors.T


def _describe(tilt: Array, information: Array, guess: Array, basis: Array, up: Array) -> dict[str, float]:
    own = _unit(guess + basis @ tilt)
    sd = np.sqrt(1 / np.linalg.eigvalsh(information).clip(1e-9))
    return {
        "angle_deg": round(float(np.degrees(np.arccos(np.clip(own @ up, -1, 1)))), 2),
        "sd_best_deg": round(float(np.degrees(sd.min())), 2),
        "sd_worst_deg": round(float(np.degrees(min(sd.max(), np.pi))), 2),
    }


def _tangent(direction: Array) -> Array:
    """[3, 2] two unit vectors at right angles to `direction` and to one another."""
    helper = np.eye(3)[np.argmin(np.abs(direction))]
    first = _unit(np.cross(direction, helper))
    return np.stack((first, np.cross(direction, first)), axis=-1)


def _unit(vector: Array) -> Array:
    return vector / np.linalg.norm(vector)
