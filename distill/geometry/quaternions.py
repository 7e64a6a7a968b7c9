"""Unit quaternions wxyz and matrices in plain numpy: what files hold. `rotations` has the same for tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def quat_from_matrix(matrix: Array) -> Array:
    """[..., 3, 3] -> [..., 4] unit quaternions wxyz with w >= 0.

    The four rows of the symmetric matrix q q^T, times 4, are sums of the rotation's entries; the row with the largest
    diagonal entry is the one furthest from a division by zero (Shepperd, J. Guidance and Control 1978).
    """
    R = np.asarray(matrix)
    d = R[..., 0, 0], R[..., 1, 1], R[..., 2, 2]
    wx, wy, wz = R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]
    xy, xz, yz = R[..., 0, 1] + R[..., 1, 0], R[..., 0, 2] + R[..., 2, 0], R[..., 1, 2] + R[..., 2, 1]
    rows = (
        (1 + d[0] + d[1] + d[2], wx, wy, wz),
        (wx, 1 + d[0] - d[1] - d[2], xy, xz),
        (wy, xy, 1 - d[0] + d[1] - d[2], yz),
        (wz, xz, yz, 1 - d[0] - d[1] + d[2]),
    )
    outer = np.stack([np.stack(row, -1) for row in rows], -2)
    best = np.argmax(np.einsum("...ii->...i", outer), axis=-1)
    quat = np.take_along_axis(outer, best[..., None, None], axis=-2)[..., 0, :]
    quat /= np.linalg.norm(quat, axis=-1, keepdims=True)
    return np.where(quat[..., :1] < 0, -quat, quat)


def matrix_from_quat(quat: Array) -> Array:
    """[..., 4] quaternions wxyz, normalised first -> [..., 3, 3] (the formula in `conventions`)."""
    q = np.asarray(quat)
    w, x, y, z = np.moveaxis(q / np.linalg.norm(q, axis=-1, keepdims=True), -1, 0)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return np.stack([np.stack(row, -1) for row in rows], -2)
