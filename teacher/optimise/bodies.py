"""The points of the bodies that the terms need, from one pass over a small part of the mesh."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distill.body import BodyModel
from distill.geometry.conventions import CONTACT_SITES


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
    """Joints, keypoints and contact sites at once: one skinning of some hundred vertices, not of the mesh."""

    def __init__(self, model: BodyModel) -> None:
        self.model = model
        site_ids = [model.site_vertices[site] for site in CONTACT_SITES]
        rows = [*model.keypoint_ids, *site_ids]
        row_weights = [*model.keypoint_weights, *(torch.full((len(ids),), 1 / len(ids)) for ids in site_ids)]
        self._vertex_ids, position = torch.unique(torch.cat(rows), return_inverse=True)
        self._gather = torch.zeros(len(rows), len(self._vertex_ids), dtype=model.v_template.dtype)
        row = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([len(ids) for ids in rows]))
        self._gather.index_put_((row, position), torch.cat(row_weights).to(self._gather), accumulate=True)
        self._keypoints = len(model.keypoint_ids)

    def __call__(self, betas: Tensor, body_rot: Tensor, target_from_body: Tensor) -> Points:
        """Betas [T, P, B], body_rot [T, P, 23, 3, 3], target_from_body [T, P, 4, 4]."""
        posed = self.model(betas, body_rot, target_from_body, vertex_ids=self._vertex_ids)
        picked = self._gather @ posed.vertices
        return Points(
            joints=posed.joints, keypoints=picked[..., : self._keypoints, :], sites=picked[..., self._keypoints :, :]
        )
