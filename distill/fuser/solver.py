"""The normal equations of a small window: assembly, solution, marginalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg import lapack

from distill.fuser.so3 import Array, Ints, Marks


class Part(NamedTuple):
    """Whitened factors of one kind."""

    columns: Ints
    """[F, k] columns of the unknowns of each factor."""
    residual: Array
    """[F, r]."""
    jacobian: Array
    """[F, r, k]."""


def assemble(parts: Sequence[Part], size: int) -> tuple[Array, Array]:
    """Information matrix J^T J [size, size] and gradient J^T r [size] of all factors."""
    index, blocks, columns, slopes = [], [], [], []
    for part in parts:
        index.append((part.columns[:, :, None] * size + part.columns[:, None, :]).ravel())
        turned = part.jacobian.transpose(0, 2, 1)
        blocks.append((turned @ part.jacobian).ravel())
        columns.append(part.columns.ravel())
        slopes.append((turned @ part.residual[:, :, None]).ravel())
    if not parts:
        return np.zeros((size, size)), np.zeros(size)
    H: Array = np.bincount(np.concatenate(index), np.concatenate(blocks), minlength=size * size).astype(
        np.float64, copy=False
    )
    g: Array = np.bincount(np.concatenate(columns), np.concatenate(slopes), minlength=size).astype(
        np.float64, copy=False
    )
    return H.reshape(size, size), g


def factorise(H: Array) -> Array:
    """Lower Cholesky factor; rounding below zero is met with a little damping.

    Raises:
        FloatingPointError: not finite, or far from positive.
    """
    damping = 0.0
    for _ in range(4):
        factor, info = lapack.dpotrf(H + damping * np.diag(np.diag(H)) if damping else H, lower=1)
        if info == 0:
            return factor
        damping = max(1e-9, 100 * damping)
    raise FloatingPointError("the fuser's information matrix is not positive")


def solve(factor: Array, right: Array) -> Array:
    """Solve with a factor of `factorise`."""
    solution, _ = lapack.dpotrs(factor, right, lower=1)
    return solution


def marginalise(H: Array, g: Array, drop: Marks) -> tuple[Array, Array]:
    """Schur complement: what the dropped unknowns [size] bool leave behind about the kept ones.

    H' = H_kk - H_kd H_dd^-1 H_dk, g' = g_k - H_kd H_dd^-1 g_d: for a linear system, solving for the kept ones gives
    what the whole would have given.
    """
    dropped, keep = np.flatnonzero(drop), np.flatnonzero(~drop)
    rows = H[dropped]
    factor, across = factorise(rows[:, dropped]), rows[:, keep]
    eliminated = solve(factor, np.concatenate((across, g[dropped, None]), axis=1))
    left = across.T @ eliminated
    reduced = H[keep][:, keep] - left[:, :-1]
    return 0.5 * (reduced + reduced.T), g[keep] - left[:, -1]
