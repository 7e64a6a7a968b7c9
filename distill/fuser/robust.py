"""Heavy tails: how much less a factor counts the further it is from what the others say."""

from __future__ import annotations

import numpy as np

from distill.fuser.so3 import Array


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
