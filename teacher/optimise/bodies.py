"""The points of the bodies that the terms need."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distill.body import BodyModel
from distill.body.pieces import BodyPieces, keypoint_rows, site_rows
from distill.geometry.conventions import CONTACT_SITES, KEYPOINTS, SMPL_JOINTS


@dataclass(kw_only=True)
class Points:
    """Points of the bodies, metres, in the frame asked for."""

    joints: Tensor
    """[T, P, 24, 3]."""
    keypoints: Tensor
    """[T, P, 23, 3]."""
    sites: Tensor
    """[T, P, 6, 3]."""


class BodyParts:
    """Joints, keypoints and contact sites of a model at once, each as a few rigid pieces and not as a mesh."""

    def __init__(self, model: BodyModel, dtype: torch.dtype = torch.float32) -> None:
        self.model = model
        self.pieces = BodyPieces(model, [*keypoint_rows(model), *site_rows(model)], with_joints=True, dtype=dtype)

    def __call__(self, betas: Tensor, body_rot: Tensor, target_from_body: Tensor) -> Points:
        """Betas [P, B], body_rot [T, P, 23, 3, 3], target_from_body [T, P, 4, 4]."""
        return split(self.pieces.points(betas, body_rot, target_from_body))


def split(points: Tensor) -> Points:
    """All points [..., 53, 3] of `BodyParts.pieces` by their kind."""
    joints, keypoints, sites = points.split((len(SMPL_JOINTS), len(KEYPOINTS), len(CONTACT_SITES)), dim=-2)
    return Points(joints=joints, keypoints=keypoints, sites=sites)
