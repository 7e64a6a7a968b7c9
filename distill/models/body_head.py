"""Body head: pose and shape of each person from their tokens, so that a student needs no outside model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distill.geometry.rotations import matrix_from_sixd
from distill.models.precision import full_precision
from distill.models.trajectory_head import output_layers

_JOINTS = 23


class BodyHead(nn.Module):
    """Person tokens -> joint rotations in both frames and one shape. Starts at the rest pose."""

    def __init__(self, width: int, num_betas: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.LayerNorm(2 * width))
        self.pose = output_layers(2 * width, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0) * _JOINTS)
        self.shape = output_layers(2 * width, (0.0,) * num_betas)

    def forward(self, person: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, P, 2, width], valid [B, P, 2] -> body_rot [B, P, 2, 23, 3, 3], betas [B, P, num_betas].

        The shape is the mean over the frames in which the person is valid.
        """
        hidden = self.hidden(person)
        sixd, betas = self.pose(hidden), self.shape(hidden)
        with full_precision(person.device):
            body_rot = matrix_from_sixd(sixd.float().unflatten(-1, (_JOINTS, 6)))
            weight = valid[..., None].to(torch.float32)
            return body_rot, (betas.float() * weight).sum(2) / weight.sum(2).clamp(min=1)
