"""Heavy tails: how much less a factor counts the further it is from what the others say."""

from __future__ import annotations

import numpy as np

from distill.fuser.so3 import Array, inverse, log


def student_weight(square: Array, dims: int, dof: float) -> Array:
    """Weight of iteratively reweighted least squares under Student's t (Lange, Little and Taylor, JASA 1989, eq. 3).

    Args:
        square: [...] squared Mahalanobis length of a residual in `dims` dimensions.
        dof: degrees of freedom.

    Returns:
        (dof + dims) / (dof + square): 1 at the expected length, towards 0 far out.
    """
    return (dof + dims) / (dof + square)


def whitening(residual: Array, variance: Array, blocks: tuple[int, ...], dof: float) -> Array:
    """What to multiply rows by [F, r] so that squares count as under Student's t.

    Args:
        residual, variance: [F, r].
        blocks: sizes of the groups of rows that are outliers together; their sum is r.
    """
    square = residual * residual / variance
    weights, start = np.empty_like(square), 0
    for size in blocks:
        part = slice(start, start + size)
        weights[:, part] = student_weight(square[:, part].sum(1, keepdims=True), size, dof)
        start += size
    return np.sqrt(weights / variance)


def student_cost(whitened: Array, blocks: tuple[int, ...], dof: float) -> float:
    """Negative log likelihood of residuals under Student's t, up to a constant, nats.

    Args:
        whitened: [F, r] residuals times `whitening`; from q, their squares in a block of d rows, the Mahalanobis
            length is m^2 = dof q / (dof + d - q).
        blocks: as given to `whitening`.
    """
    total, start = 0.0, 0
    for size in blocks:
        q = (whitened[:, start : start + size] ** 2).sum(1)
        square = dof * q / np.maximum(dof + size - q, 1e-9)
        total += float(0.5 * (dof + size) * np.log1p(square / dof).sum())
        start += size
    return total


def least_opposed(poses: Array, variance: Array, dof: float) -> int:
    """Which of N guesses of one pose is the likeliest under Student's t, each guess being a measurement too.

    Args:
        poses: [N, 4, 4]. variance: [N, 6] of each as a measurement, rotation (rad^2) and translation (m^2) per axis.
    """
    local = inverse(poses)[:, None] @ poses[None]
    away = np.concatenate((log(local[..., :3, :3]), local[..., :3, 3]), axis=-1)
    square = away**2 / variance[:, None]
    rotation, translation = square[..., :3].sum(-1), square[..., 3:].sum(-1)
    cost = (np.log1p(rotation / dof) + np.log1p(translation / dof)).sum(0)
    return int(cost.argmin())
