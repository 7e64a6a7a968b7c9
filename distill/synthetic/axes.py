"""Small rotations about fixed axes, in numpy, for the motion generators.

The `body` frame is x left, y up, z front (`distill.geometry.conventions`); the world is z up.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def rot_x(angle: Array) -> Array:
    """Rotations [..., 3, 3] about x by `angle` [...] radians: y turns to z (in the body: up to front)."""
    return _about(angle, 1, 2)


def rot_y(angle: Array) -> Array:
    """Rotations [..., 3, 3] about y by `angle` [...] radians: z turns to x (in the body: front to left)."""
    return _about(angle, 2, 0)


def rot_z(angle: Array) -> Array:
    """Rotations [..., 3, 3] about z by `angle` [...] radians: x turns to y (in the body: left to up)."""
    return _about(angle, 0, 1)


def _about(angle: Array, first: int, second: int) -> Array:
    angle = np.asarray(angle, np.float64)
    matrix = np.zeros((*angle.shape, 3, 3))
    matrix[..., range(3), range(3)] = 1.0
    matrix[..., first, first] = matrix[..., second, second] = np.cos(angle)
    matrix[..., second, first] = np.sin(angle)
    matrix[..., first, second] = -np.sin(angle)
    return matrix


def world_from_heading(heading: Array) -> Array:
    """Rotation [..., 3, 3] of an upright body that faces `heading` [...] (radians from world x, counter-clockwise)."""
    cos, sin, zero, one = np.cos(heading), np.sin(heading), np.zeros_like(heading), np.ones_like(heading)
    left = np.stack((-sin, cos, zero), axis=-1)
    up = np.stack((zero, zero, one), axis=-1)
    front = np.stack((cos, sin, zero), axis=-1)
    return np.stack((left, up, front), axis=-1)


def turn(rotation: Array, vectors: Array) -> Array:
    """Rotations [..., 3, 3] applied to vectors [..., 3], broadcasting."""
    return (rotation @ vectors[..., None])[..., 0]


def normalise(vectors: Array) -> Array:
    """Vectors [..., 3] scaled to length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def make_rigid(rotation: Array, translation: Array) -> Array:
    """[..., 3, 3] and [..., 3] -> [..., 4, 4]."""
    matrix = np.zeros((*translation.shape[:-1], 4, 4))
    matrix[..., :3, :3] = rotation
    matrix[..., :3, 3] = translation
    matrix[..., 3, 3] = 1.0
    return matrix


def smooth_step(u: Array) -> Array:
    """0 for u <= 0, 1 for u >= 1, and 6u^5 - 15u^4 + 10u^3 (minimum jerk) between."""
    u = np.clip(u, 0.0, 1.0)
    return u**3 * (10 - 15 * u + 6 * u**2)


def smooth_noise(rng: np.random.Generator, times: Array, *, period: float, channels: int) -> Array:
    """Smooth random curves [len(times), channels] of about unit deviation; `period` (s) is the fastest one."""
    periods = period * np.array([1.0, 1.7, 2.9, 4.6])
    weights = np.array([0.35, 0.55, 0.85, 1.0])
    phases = rng.uniform(0, 2 * np.pi, (len(periods), channels))
    waves = np.sin(2 * np.pi * np.asarray(times)[:, None, None] / periods[:, None] + phases)
    return (waves * weights[:, None]).sum(axis=1) / np.sqrt((weights**2).sum() / 2)
