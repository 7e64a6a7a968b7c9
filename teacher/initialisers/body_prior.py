"""What is believed of a pose before it is seen: how far joints usually turn, and which are hinges.

Rotation vectors are relative to the parent, in the axes of the rest pose (x left, y up, z front; T-pose).
Arms hang rather than stand out, knees bend back (+x), the left elbow bends about -y and the right about +y.
Standard deviations are round numbers for everyday motion; they are loose enough for a vault or a serve.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from distill.geometry.conventions import SMPL_JOINTS
from distill.geometry.rotations import left_jacobian_inverse, matrix_from_rotvec, rotvec_from_matrix

Triple = tuple[float, float, float]

# Joint without its side -> (mean, standard deviation), radians, of the LEFT joint. The right one is its mirror
# image in x: rotation vectors keep x and change the sign of y and z.
_USUAL: Final[dict[str, tuple[Triple, Triple]]] = {
    "hip": ((-0.1, 0.0, 0.0), (0.6, 0.35, 0.25)),
    "knee": ((0.3, 0.0, 0.0), (0.8, 0.15, 0.08)),
    "ankle": ((0.0, 0.0, 0.0), (0.35, 0.25, 0.2)),
    "foot": ((0.0, 0.0, 0.0), (0.15, 0.05, 0.05)),
    "spine1": ((0.0, 0.0, 0.0), (0.2, 0.15, 0.12)),
    "spine2": ((0.0, 0.0, 0.0), (0.15, 0.15, 0.12)),
    "spine3": ((0.0, 0.0, 0.0), (0.12, 0.15, 0.1)),
    "neck": ((0.0, 0.0, 0.0), (0.25, 0.25, 0.2)),
    "head": ((0.0, 0.0, 0.0), (0.2, 0.25, 0.2)),
    "collar": ((0.0, 0.0, -0.1), (0.1, 0.15, 0.15)),
    "shoulder": ((0.0, 0.0, -1.0), (0.7, 0.7, 0.6)),
    "elbow": ((0.0, -0.4, 0.0), (0.5, 0.8, 0.1)),
    "wrist": ((0.0, 0.0, 0.0), (0.2, 0.2, 0.2)),
    "hand": ((0.0, 0.0, 0.0), (0.1, 0.1, 0.1)),
}
# (joint, component of the rotation vector, sign of the allowed side)
_HINGES: Final = (("left_knee", 0, 1.0), ("right_knee", 0, 1.0), ("left_elbow", 1, -1.0), ("right_elbow", 1, 1.0))
_HINGE_SD: Final = 0.08
"""Radians beyond straight that count as one standard deviation."""


def _table() -> tuple[Tensor, Tensor]:
    means, deviations = [], []
    for name in SMPL_JOINTS[1:]:
        side, _, part = name.partition("_")
        mean, deviation = _USUAL[part or side]
        mirror = torch.tensor([1.0, -1.0, -1.0] if side == "right" else [1.0, 1.0, 1.0], dtype=torch.float64)
        means.append(torch.tensor(mean, dtype=torch.float64) * mirror)
        deviations.append(torch.tensor(deviation, dtype=torch.float64))
    return torch.stack(means), torch.stack(deviations)


MEAN, DEVIATION = _table()
"""[23, 3] radians each, joints 1..23."""


def usual_pose(frames: int) -> Tensor:
    """[T, 23, 3, 3] float64: the mean pose, arms hanging."""
    return matrix_from_rotvec(MEAN).expand(frames, -1, -1, -1).clone()


def prior_residuals(body_rot: Tensor) -> tuple[Tensor, Tensor]:
    """Distance from the usual pose in standard deviations, and hinges bent the wrong way.

    Args:
        body_rot: [T, 23, 3, 3] float64.

    Returns:
        Residuals [T, 73], and their derivatives [T, 73, 69] by small rotations of the joints on the left.
    """
    rotvec = rotvec_from_matrix(body_rot)
    turned = left_jacobian_inverse(rotvec)
    frames = len(body_rot)
    usual = (rotvec - MEAN) / DEVIATION
    by_joint = torch.zeros(frames, 23, 3, 23, 3, dtype=body_rot.dtype)
    joints = torch.arange(23)
    by_joint[:, joints, :, joints] = (turned / DEVIATION[:, :, None]).transpose(0, 1)
    limits, by_limits = [], torch.zeros(frames, len(_HINGES), 23, 3, dtype=body_rot.dtype)
    for row, (name, axis, sign) in enumerate(_HINGES):
        joint = SMPL_JOINTS.index(name) - 1
        beyond = (sign * rotvec[:, joint, axis]).clamp(max=0) / _HINGE_SD
        limits.append(beyond)
        by_limits[:, row, joint] = torch.where(beyond[:, None] < 0, sign / _HINGE_SD * turned[:, joint, axis], 0.0)
    residuals = torch.cat((usual.flatten(1), torch.stack(limits, 1)), 1)
    return residuals, torch.cat((by_joint.flatten(3).flatten(1, 2), by_limits.flatten(2)), 1)
