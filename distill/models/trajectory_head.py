"""Trajectory head: where people and camera are and how they move between two frames, with uncertainty."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.geometry.conventions import CONTACT_SITES
from distill.geometry.rotations import matrix_from_sixd
from distill.geometry.transforms import make_transform
from distill.models.precision import full_precision
from distill.models.prediction import Prompts
from distill.models.rays import place_body

LOG_VAR_FLOOR: Final = 2 * math.log(0.005)
"""No predicted standard deviation is below 5 mm, 0.3 degrees or half a per cent of depth."""

_IDENTITY_6D: Final = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
_FACING_6D: Final = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
"""Rows of the orientation of a person who stands upright and faces the camera."""


def output_layers(width: int, bias: tuple[float, ...]) -> nn.Sequential:
    """Two layers `width` -> len(bias) whose first answer is `bias`, whatever the input."""
    last = nn.Linear(width // 2, len(bias))
    nn.init.zeros_(last.weight)
    last.bias.data.copy_(torch.tensor(bias))
    return nn.Sequential(nn.Linear(width, width // 2), nn.GELU(), last)


def log_var_from_raw(raw: Tensor) -> Tensor:
    """Network output -> log variance, at least `LOG_VAR_FLOOR`."""
    return LOG_VAR_FLOOR + F.softplus(raw)


@dataclass(kw_only=True)
class Trajectory:
    """Output of the head; fields as in `PairPrediction`, `view` axis 0 for frame a and 1 for frame b."""

    cam_from_body: Tensor
    """[B, P, 2, 4, 4]."""
    root_log_var: Tensor
    """[B, P, 2, 3]."""
    contact_logit: Tensor
    """[B, P, 2, 6]."""
    body_a_from_body_b: Tensor
    """[B, P, 4, 4]."""
    body_log_var: Tensor
    """[B, P, 2]."""
    cam_a_from_cam_b: Tensor
    """[B, 4, 4]."""
    camera_log_var: Tensor
    """[B, 2]."""
    log_scene_scale: Tensor
    """[B]."""


class TrajectoryHead(nn.Module):
    """Tokens of scene and people -> `Trajectory`. Starts at: everybody stands, faces us, nothing moves."""

    def __init__(self, width: int) -> None:
        super().__init__()
        certain = -LOG_VAR_FLOOR  # softplus(x) is nearly x there: standard deviations start at 1
        contacts = (0.0,) * len(CONTACT_SITES)
        self.root = output_layers(width, (*_FACING_6D, 0.0, 0.0, 0.0, *(certain,) * 3, *contacts))
        self.body_motion = output_layers(2 * width, (*_IDENTITY_6D, 0.0, 0.0, 0.0, *(certain,) * 2))
        self.camera_motion = output_layers(2 * width, (*_IDENTITY_6D, 0.0, 0.0, 0.0, *(certain,) * 2, 0.0))

    def forward(self, scene: Tensor, person: Tensor, people: Prompts) -> Trajectory:
        """Scene [B, 2, width] and people [B, P, 2, width] tokens -> `Trajectory`."""
        root = self.root(person)
        body = self.body_motion(person.flatten(-2))
        camera = self.camera_motion(scene.flatten(-2))
        # Rotations and depths are composed in full precision, whatever autocast does to the layers above.
        with full_precision(person.device):
            root, body, camera = root.float(), body.float(), camera.float()
            placed = [self._place(root[:, :, view], people, view) for view in range(2)]
            return Trajectory(
                cam_from_body=torch.stack(placed, dim=2),
                root_log_var=log_var_from_raw(root[..., 9:12]),
                contact_logit=root[..., 12:],
                body_a_from_body_b=make_transform(matrix_from_sixd(body[..., :6]), body[..., 6:9]),
                body_log_var=log_var_from_raw(body[..., 9:11]),
                cam_a_from_cam_b=make_transform(matrix_from_sixd(camera[..., :6]), camera[..., 6:9]),
                camera_log_var=log_var_from_raw(camera[..., 9:11]),
                log_scene_scale=camera[..., 11],
            )

    @staticmethod
    def _place(root: Tensor, people: Prompts, view: int) -> Tensor:
        """cam_from_body [B, P, 4, 4] of one view from the root layer's output [B, P, >= 9]."""
        boxes, K = people.boxes[:, :, view].float(), people.K[:, view].float()
        return place_body(matrix_from_sixd(root[..., :6]), root[..., 6:8], root[..., 8], boxes, K)
