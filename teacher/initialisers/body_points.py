"""The keypoints of a body with derivatives by what the body fit moves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distill.body import BodyModel
from distill.body.pieces import BodyPieces, keypoint_rows
from distill.geometry.conventions import SMPL_PARENTS


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
        self._pieces = BodyPieces(body, keypoint_rows(body))

    def points(self, betas: Tensor, body_rot: Tensor, cam_from_body: Tensor) -> Tensor:
        """[T, K, 3]; betas [B], body_rot [T, 23, 3, 3], cam_from_body [T, 4, 4]."""
        return self._pieces.points(betas, body_rot, cam_from_body)

    def linearise(self, betas: Tensor, body_rot: Tensor, cam_from_body: Tensor) -> Linearised:
        """Points and derivatives; arguments as `points`."""
        at = self._pieces.linearise(betas, body_rot, cam_from_body)
        parents = at.rotations[:, list(SMPL_PARENTS[1:])]
        in_parent = at.by_turn[:, :, 1:] @ parents[:, None]
        columns = torch.cat((at.by_turn[:, :, :1], in_parent), 2).movedim(2, 3).flatten(3)
        move = torch.eye(3, dtype=columns.dtype).expand(*columns.shape[:2], 3, 3)
        return Linearised(points=at.points, by_move=torch.cat((move, columns), -1), by_shape=at.by_shape)
