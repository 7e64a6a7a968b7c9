"""Rotations in plain numpy, batched: the fuser solves small systems, for which tensors cost more than they bring."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Marks: TypeAlias = NDArray[np.bool_]
_EYE = np.eye(3)


def hat(v: Array) -> Array:
    """[..., 3] v -> [..., 3, 3] with hat(v) @ u = v x u."""
    out = np.zeros((*v.shape, 3))
    out[..., 0, 1], out[..., 0, 2], out[..., 1, 2] = -v[..., 2], v[..., 1], -v[..., 0]
    out[..., 1, 0], out[..., 2, 0], out[..., 2, 1] = v[..., 2], -v[..., 1], v[..., 0]
    return out


def exp(v: Array) -> Array:
    """Rotation vectors [..., 3] (radians) -> matrices [..., 3, 3] (Rodrigues)."""
    square = (v * v).sum(-1)[..., None, None]
    angle = np.sqrt(square)
    small = angle < 1e-5
    safe = np.where(small, 1.0, angle)
    first = np.where(small, 1 - square / 6, np.sin(safe) / safe)
    second = np.where(small, 0.5 - square / 24, (1 - np.cos(safe)) / (safe * safe))
    cross = hat(v)
    return _EYE + first * cross + second * (cross @ cross)


def log(R: Array) -> Array:
    """Matrices [..., 3, 3] -> rotation vectors [..., 3], angle in [0, pi]."""
    skew = 0.5 * np.stack((R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]), -1)
    sine = np.sqrt((skew * skew).sum(-1))
    cosine = 0.5 * (R[..., 0, 0] + R[..., 1, 1] + R[..., 2, 2] - 1)
    angle = np.arctan2(sine, cosine)
    factor = np.where(sine > 1e-7, angle / np.maximum(sine, 1e-7), 1.0)
    out: Array = factor[..., None] * skew
    turned = (sine < 1e-5) & (cosine < 0)  # half a turn: R + R^T = 2 (2 a a^T - I) still has the axis
    if turned.any():
        outer = R[turned] + _EYE
        column = np.argmax(np.einsum("nii->ni", outer), axis=1)
        axis = outer[np.arange(len(outer)), :, column]
        out[turned] = angle[turned, None] * axis / np.linalg.norm(axis, axis=-1, keepdims=True)
    return out


def right_jacobian_inverse(v: Array) -> Array:
    """[..., 3] w -> [..., 3, 3] J with log(exp(w) exp(d)) = w + J d for small d (Sola et al. 2018, eq. 144)."""
    square = (v * v).sum(-1)[..., None, None]
    angle = np.sqrt(square)
    small = angle < 1e-3
    safe = np.clip(angle, 1e-3, 3.1)  # singular at a full turn; residuals of half a turn are outliers anyway
    factor = np.where(small, 1 / 12 + square / 720, 1 / safe**2 - (1 + np.cos(safe)) / (2 * safe * np.sin(safe)))
    cross = hat(v)
    return _EYE + 0.5 * cross + factor * (cross @ cross)


def transpose(R: Array) -> Array:
    """[..., 3, 3] -> its transpose."""
    return np.swapaxes(R, -1, -2)


def turn(R: Array, v: Array) -> Array:
    """Matrices [..., 3, 3] times vectors [..., 3]."""
    return (R @ v[..., None])[..., 0]


def rigid(R: Array, t: Array) -> Array:
    """Rotations [..., 3, 3] and translations [..., 3] -> transforms [..., 4, 4]."""
    out = np.zeros((*t.shape[:-1], 4, 4))
    out[..., :3, :3], out[..., :3, 3], out[..., 3, 3] = R, t, 1.0
    return out


def inverse(target_from_source: Any) -> Array:
    """Inverse of rigid transforms [..., 4, 4]."""
    R = transpose(target_from_source[..., :3, :3])
    return rigid(R, -turn(R, target_from_source[..., :3, 3]))
