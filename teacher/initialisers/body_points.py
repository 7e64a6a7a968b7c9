"""Body keypoints as a few rigid pieces, with their derivatives in closed form.

A keypoint is a fixed weighted sum of skinned vertices, p = sum_v w_v sum_j W_vj (R_j (v - J_j) + x_j)
(SMPL, eq. 7, summed over vertices), where R_j and x_j are the rotation and position of joint j in the target
frame and v, J_j depend linearly on shape. Exchanging the sums leaves one offset and one mass per joint,

    p = sum_j (R_j a_j(betas) + m_j x_j),   a_j = sum_v w_v W_vj (v - J_j),   m_j = sum_v w_v W_vj,

so that posing a keypoint costs as much as posing 24 points, however many vertices it is made of. This is exact
for bodies without pose correctives; with them (SMPL) the correctives, some millimetres, are left out here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distill.body import BodyModel
from distill.body.model import forward_kinematics
from distill.geometry.conventions import SMPL_PARENTS

JOINTS = len(SMPL_PARENTS)


def _descendants() -> Tensor:
    """[24, 24]: 1 where joint j moves when joint i turns (j = i or below it)."""
    below = torch.eye(JOINTS, dtype=torch.float64)
    for joint in range(1, JOINTS):
        parent = SMPL_PARENTS[joint]
        below[:, joint] += below[:, parent]
    return below


@dataclass(kw_only=True)
class Linearised:
    """Points and their derivatives at one pose."""

    points: Tensor
    """[T, K, 3] metres in the target frame."""
    by_move: Tensor
    """[T, K, 3, 75]: by the root's translation (3) and small rotations on the left: of the root in the target
    frame (3), then of joints 1..23 in their parents' frames (69)."""
    by_shape: Tensor
    """[T, K, 3, B] by the shape coefficients."""


class KeypointPieces:
    """The keypoints of a body model; float64."""

    def __init__(self, body: BodyModel) -> None:
        weights = body.keypoint_weights.double()
        ids = body.keypoint_ids
        skin = body.weights[ids].double()  # [K, k, 24]
        mass = weights[..., None] * skin
        rest = body.joint_template.double()
        self._mass = mass.sum(1)
        self._offset = torch.einsum("kvj,kvd->kjd", mass, body.v_template[ids].double())
        self._offset -= self._mass[..., None] * rest
        self._offset_dirs = torch.einsum("kvj,kvdb->kjdb", mass, body.shapedirs[ids].double())
        self._offset_dirs -= self._mass[..., None, None] * body.joint_shapedirs.double()
        self._rest, self._rest_dirs = rest, body.joint_shapedirs.double()
        self._below = _descendants()

    def points(self, betas: Tensor, body_rot: Tensor, cam_from_body: Tensor) -> Tensor:
        """[T, K, 3]; betas [B], body_rot [T, 23, 3, 3], cam_from_body [T, 4, 4]."""
        rotations, joints = self._pose(betas, body_rot, cam_from_body)
        return self._pieces(rotations, joints, betas).sum(2)

    def linearise(self, betas: Tensor, body_rot: Tensor, cam_from_body: Tensor) -> Linearised:
        """Points and derivatives; arguments as `points`."""
        rotations, joints = self._pose(betas, body_rot, cam_from_body)
        pieces = self._pieces(rotations, joints, betas)
        # A turn w about joint i moves all below it: dp = w x sum_{j below i} (piece_j - m_j x_i).
        arm = torch.einsum("ij,tkjd->tkid", self._below, pieces)
        arm -= torch.einsum("ij,kj->ki", self._below, self._mass)[..., None] * joints[:, None]
        turned = -_cross_matrix(arm)  # [T, K, 24, 3, 3]
        parents = rotations[:, list(SMPL_PARENTS[1:])]
        in_parent = turned[:, :, 1:] @ parents[:, None]
        frames, count = pieces.shape[:2]
        move = torch.eye(3, dtype=pieces.dtype).expand(frames, count, 3, 3)
        columns = torch.cat((turned[:, :, :1], in_parent), 2).movedim(2, 3).flatten(3)
        return Linearised(
            points=pieces.sum(2),
            by_move=torch.cat((move, columns), -1),
            by_shape=torch.einsum("tjde,kjeb->tkdb", rotations, self._offset_dirs)
            + torch.einsum("kj,tjdb->tkdb", self._mass, self._joints_by_shape(rotations)),
        )

    def _pose(self, betas: Tensor, body_rot: Tensor, cam_from_body: Tensor) -> tuple[Tensor, Tensor]:
        rest = self._rest + self._rest_dirs @ betas
        return forward_kinematics(rest.expand(len(body_rot), -1, -1), body_rot, cam_from_body)

    def _pieces(self, rotations: Tensor, joints: Tensor, betas: Tensor) -> Tensor:
        """[T, K, 24, 3] what each joint contributes to each point."""
        offset = self._offset + self._offset_dirs @ betas
        return torch.einsum("tjde,kje->tkjd", rotations, offset) + self._mass[..., None] * joints[:, None]

    def _joints_by_shape(self, rotations: Tensor) -> Tensor:
        """[T, 24, 3, B] derivative of the joints' positions."""
        moved = [rotations.new_zeros(len(rotations), 3, self._rest_dirs.shape[-1])]
        for joint in range(1, JOINTS):
            parent = SMPL_PARENTS[joint]
            moved.append(moved[parent] + rotations[:, parent] @ (self._rest_dirs[joint] - self._rest_dirs[parent]))
        return torch.stack(moved, 1)


def _cross_matrix(vector: Tensor) -> Tensor:
    """[..., 3] v -> [..., 3, 3] with matrix @ u = v x u."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).unflatten(-1, (3, 3))


def left_jacobian_inverse(rotvec: Tensor) -> Tensor:
    """[..., 3] w -> [..., 3, 3] J with log(exp(d) exp(w)) = w + J d for small d (SO(3), left)."""
    angle = rotvec.norm(dim=-1)[..., None, None].clamp(1e-4, 3.1)
    matrix = _cross_matrix(rotvec)
    factor = 1 / angle**2 - (1 + angle.cos()) / (2 * angle * angle.sin())
    return torch.eye(3, dtype=rotvec.dtype) - 0.5 * matrix + factor * matrix @ matrix
