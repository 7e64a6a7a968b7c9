"""Rotations in the stored forms of `conventions`: quaternions wxyz, matrices, rotation vectors, 6D.

The arithmetic is roma's, which is differentiable everywhere that it is used here; this module only
holds the conventions. Every function takes leading batch dimensions.
"""

from __future__ import annotations

import roma
import torch
import torch.nn.functional as F
from torch import Tensor


def matrix_from_quat(quat: Tensor) -> Tensor:
    """[..., 4] unit quaternions wxyz -> [..., 3, 3]. The input is normalised first."""
    return roma.unitquat_to_rotmat(F.normalize(quat, dim=-1).roll(-1, dims=-1))


def quat_from_matrix(matrix: Tensor) -> Tensor:
    """[..., 3, 3] -> [..., 4] unit quaternions wxyz with w >= 0."""
    quat = roma.rotmat_to_unitquat(matrix).roll(1, dims=-1)
    return torch.where(quat[..., :1] < 0, -quat, quat)


def matrix_from_rotvec(rotvec: Tensor) -> Tensor:
    """[..., 3] axis times angle (radians) -> [..., 3, 3]."""
    return roma.rotvec_to_rotmat(rotvec)


def rotvec_from_matrix(matrix: Tensor) -> Tensor:
    """[..., 3, 3] -> [..., 3] axis times angle (radians), angle in [0, pi]."""
    return roma.rotmat_to_rotvec(matrix)


def sixd_from_matrix(matrix: Tensor) -> Tensor:
    """[..., 3, 3] -> [..., 6]: the first two rows, flattened (Zhou et al., CVPR 2019; PyTorch3D's layout)."""
    return matrix[..., :2, :].flatten(-2)


def matrix_from_sixd(sixd: Tensor) -> Tensor:
    """[..., 6] two unnormalised rows -> [..., 3, 3] by Gram-Schmidt (Zhou et al., CVPR 2019, eq. B)."""
    first = F.normalize(sixd[..., :3], dim=-1)
    second = sixd[..., 3:] - (first * sixd[..., 3:]).sum(-1, keepdim=True) * first
    second = F.normalize(second, dim=-1)
    return torch.stack((first, second, torch.linalg.cross(first, second, dim=-1)), dim=-2)


def rotation_angle(a: Tensor, b: Tensor) -> Tensor:
    """Geodesic angle in radians between rotations [..., 3, 3] and [..., 3, 3]."""
    return roma.rotmat_geodesic_distance(a, b)


def slerp(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Rotations [..., 3, 3] on the geodesic from `a` (weight 0) to `b` (weight 1); weight [...]."""
    step = rotvec_from_matrix(a.transpose(-1, -2) @ b)
    return a @ matrix_from_rotvec(step * weight[..., None])


def cross_matrix(vector: Tensor) -> Tensor:
    """[..., 3] v -> [..., 3, 3] with matrix @ u = v x u."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).unflatten(-1, (3, 3))


def left_jacobian_inverse(rotvec: Tensor) -> Tensor:
    """[..., 3] w -> [..., 3, 3] J with log(exp(d) exp(w)) = w + J d for small d (SO(3), left)."""
    angle = rotvec.norm(dim=-1)[..., None, None].clamp(1e-4, 3.1)
    matrix = cross_matrix(rotvec)
    factor = 1 / angle**2 - (1 + angle.cos()) / (2 * angle * angle.sin())
    return torch.eye(3).to(rotvec) - 0.5 * matrix + factor * matrix @ matrix


def right_jacobian_inverse(rotvec: Tensor) -> Tensor:
    """[..., 3] w -> [..., 3, 3] J with log(exp(w) exp(d)) = w + J d for small d (SO(3), right)."""
    return left_jacobian_inverse(-rotvec)
