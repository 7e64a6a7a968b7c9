"""Points of a body as a few rigid pieces, with their derivatives in closed form.

A point that is a fixed weighted sum of skinned vertices, p = sum_v w_v sum_j W_vj (R_j (v - J_j) + x_j)
(SMPL, eq. 7, summed over vertices), where R_j and x_j are the rotation and position of joint j in the target
frame and v, J_j depend linearly on shape. Exchanging the sums leaves one offset and one mass per joint,

    p = sum_j (R_j a_j + m_j x_j),   a_j = sum_v w_v W_vj (v - J_j),   m_j = sum_v w_v W_vj,

so that posing a point costs as much as posing 24 points, however many vertices it is made of. With pose
correctives (eq. 9) v, and so a_j, also depend linearly on the entries of (R - I).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distill.body.model import BodyModel, forward_kinematics
from distill.geometry.conventions import CONTACT_SITES, SMPL_PARENTS
from distill.geometry.rotations import cross_matrix

JOINTS = len(SMPL_PARENTS)
Row = tuple[Tensor, Tensor]
"""Vertex ids [k] and weights [k] of one point."""


def keypoint_rows(body: BodyModel) -> list[Row]:
    """The 23 points of `conventions.KEYPOINTS`."""
    return list(zip(body.keypoint_ids, body.keypoint_weights, strict=True))


def site_rows(body: BodyModel) -> list[Row]:
    """The points of `conventions.CONTACT_SITES`: each the mean of its vertices."""
    chosen = [body.site_vertices[site] for site in CONTACT_SITES]
    return [(ids, torch.full((len(ids),), 1 / len(ids))) for ids in chosen]


@dataclass(kw_only=True)
class Linearised:
    """K points and their derivatives at one pose, in the target frame."""

    points: Tensor
    """[..., K, 3] metres."""
    rotations: Tensor
    """[..., 24, 3, 3] of the joints, target from joint."""
    by_turn: Tensor
    """[..., K, 24, 3, 3] metres per radian: by small turns about the target's axes of joint i and all below it."""
    by_shape: Tensor
    """[..., K, 3, B] metres per unit of each shape coefficient."""


class BodyPieces:
    """Chosen points of a body model, after all 24 joints if `with_joints`: the masses m_j, and a_j linear in shape."""

    mass: Tensor
    """[K, 24]."""
    offset: Tensor
    """[K, 24, 3] metres, a_j of the mean shape."""
    offset_dirs: Tensor
    """[K, 24, 3, B] metres per unit of each shape coefficient."""

    def __init__(
        self, body: BodyModel, rows: Sequence[Row], *, with_joints: bool = False, dtype: torch.dtype = torch.float64
    ) -> None:
        self._rest, self._rest_dirs = body.joint_template.to(dtype), body.joint_shapedirs.to(dtype)
        first = JOINTS if with_joints else 0
        zeros = self._rest.new_zeros
        self.mass = zeros(first + len(rows), JOINTS)
        self.offset = zeros(first + len(rows), JOINTS, 3)
        self.offset_dirs = zeros(first + len(rows), JOINTS, 3, body.num_betas)
        self._correctives = None
        if body.posedirs is not None:
            self._correctives = zeros(first + len(rows), JOINTS, 3, body.posedirs.shape[-1])
        if with_joints:  # a joint is a vertex at its own place
            self.mass[:first] = torch.eye(JOINTS).to(self.mass)
            self.offset[:first] = self.mass[:first, :, None] * self._rest
            self.offset_dirs[:first] = self.mass[:first, :, None, None] * self._rest_dirs
        for row, (ids, weights) in enumerate(rows, start=first):
            share = weights.to(self.mass)[:, None] * body.weights[ids].to(dtype)  # [k, 24]
            self.mass[row] = share.sum(0)
            self.offset[row] = share.T @ body.v_template[ids].to(dtype)
            self.offset_dirs[row] = torch.einsum("vj,vdb->jdb", share, body.shapedirs[ids].to(dtype))
            if self._correctives is not None and body.posedirs is not None:
                self._correctives[row] = torch.einsum("vj,vdp->jdp", share, body.posedirs[ids].to(dtype))
        self.offset -= self.mass[..., None] * self._rest
        self.offset_dirs -= self.mass[..., None, None] * self._rest_dirs
        self._below = _descendants().to(self.mass)

    def points(self, betas: Tensor, body_rot: Tensor, target_from_body: Tensor) -> Tensor:
        """[..., K, 3] metres in the target frame.

        Args:
            betas: [..., B], leading dimensions that broadcast with those of the pose.
            body_rot: [..., 23, 3, 3] joint rotations relative to the parent.
            target_from_body: [..., 4, 4].
        """
        rotations, joints = self._pose(betas, body_rot, target_from_body)
        offset = self._offsets(betas, body_rot)
        return torch.einsum("...jde,...kje->...kd", rotations, offset) + self.mass @ joints

    def linearise(self, betas: Tensor, body_rot: Tensor, target_from_body: Tensor) -> Linearised:
        """Points and derivatives; arguments as `points`. The turn of pose correctives (millimetres) is left out."""
        rotations, joints = self._pose(betas, body_rot, target_from_body)
        offset = self._offsets(betas, body_rot)
        pieces = (
            torch.einsum("...jde,...kje->...kjd", rotations, offset) + self.mass[..., None] * joints[..., None, :, :]
        )
        # A turn w about joint i moves all below it: dp = w x sum_{j below i} (piece_j - m_j x_i).
        arm = self._below @ pieces - (self.mass @ self._below.T)[..., None] * joints[..., None, :, :]
        return Linearised(
            points=pieces.sum(-2),
            rotations=rotations,
            by_turn=-cross_matrix(arm),
            by_shape=torch.einsum("...jde,kjeb->...kdb", rotations, self.offset_dirs)
            + torch.einsum("kj,...jdb->...kdb", self.mass, self._joints_by_shape(rotations)),
        )

    def _pose(self, betas: Tensor, body_rot: Tensor, target_from_body: Tensor) -> tuple[Tensor, Tensor]:
        rest = self._rest + torch.einsum("jdb,...b->...jd", self._rest_dirs, betas)
        return forward_kinematics(rest, body_rot, target_from_body)

    def _offsets(self, betas: Tensor, body_rot: Tensor) -> Tensor:
        """[..., K, 24, 3] the a_j of every point."""
        offset = self.offset + torch.einsum("kjdb,...b->...kjd", self.offset_dirs, betas)
        if self._correctives is None:
            return offset
        feature = (body_rot - torch.eye(3).to(body_rot)).flatten(-3)
        return offset + torch.einsum("kjdp,...p->...kjd", self._correctives, feature)

    def _joints_by_shape(self, rotations: Tensor) -> Tensor:
        """[..., 24, 3, B] derivative of the joints' positions."""
        moved = [torch.zeros_like(rotations[..., 0, :, :] @ self._rest_dirs[0])]
        for joint in range(1, JOINTS):
            parent = SMPL_PARENTS[joint]
            step = self._rest_dirs[joint] - self._rest_dirs[parent]
            moved.append(moved[parent] + rotations[..., parent, :, :] @ step)
        return torch.stack(moved, -3)


def _descendants() -> Tensor:
    """[24, 24]: 1 where joint j moves when joint i turns (j = i or below it)."""
    below = torch.eye(JOINTS)
    for joint in range(1, JOINTS):
        below[:, joint] += below[:, SMPL_PARENTS[joint]]
    return below
