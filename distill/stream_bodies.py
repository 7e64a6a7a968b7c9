"""What a network says of the people of one frame, averaged over its pairs; and the same as the fuser takes it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.body import BodyModel
from distill.fuser import FEET, FrameObservation, Motions, PersonObservation
from distill.geometry.rotations import average_rotations
from distill.geometry.transforms import make_transform
from distill.models.prediction import PairPrediction
from distill.stream_config import FORGET_AFTER
from distill.stream_types import GivenBody


@dataclass(kw_only=True)
class Bodies:
    """The P people of one frame, apart from where they are in the world."""

    ids: list[int]
    cam_from_body: Tensor
    """[P, 4, 4]."""
    root_log_var: Tensor
    """[P, 3]."""
    body_rot: Tensor
    """[P, 23, 3, 3]."""
    betas: Tensor
    """[P, B]."""
    contact_prob: Tensor
    """[P, 6]."""
    joints: Tensor
    """[P, 24, 3] in the body, metres."""
    feet: Tensor
    """[P, 4, 3] heels and toes in the body, metres."""


class BodyAverage:
    """Means over pairs, with a memory of everybody's shape. Call for every frame, in order."""

    def __init__(self, body: BodyModel, shape_memory: float) -> None:
        """`shape_memory`: how slowly a shape follows new frames, in [0, 1]."""
        self.body, self.shape_memory = body, shape_memory
        self.betas: dict[int, Tensor] = {}
        """Person's id -> [B], of everybody who is remembered."""
        self._last_seen: dict[int, int] = {}
        self._index = -1

    def __call__(self, prediction: PairPrediction, ids: list[int], given: dict[int, GivenBody]) -> Bodies:
        """Average over the pairs, weighted by how sure each is of the root; shapes also over time.

        All pairs see the same pixels of the current frame, so that their mean is no surer than one of them.

        Args:
            prediction: for the pairs of one frame, the frame being the second of each.
            ids: of its people, in the prediction's order.
            given: bodies from elsewhere, which take the place of the network's.
        """
        self._index += 1
        count = len(ids)
        log_var = prediction.root_log_var_b[:, :count]
        weight = (-log_var).exp()
        weight = weight / weight.sum(0)
        root = prediction.cam_from_body_b[:, :count]
        depth = root[..., 2:3, 3].clamp(min=0.1)
        log_depth = (weight[..., 2:] * depth.log()).sum(0)
        ray = (weight[..., 1:2] * root[..., :3, 3] / depth).sum(0)
        body_rot = average_rotations(prediction.body_rot_b[:, :count], weight[..., :1].expand(-1, -1, 23))
        betas = self._remembered(prediction.betas[:, :count].mean(0), ids)
        cam_from_body = make_transform(average_rotations(root[..., :3, :3], weight[..., 0]), ray * log_depth.exp())
        for column, person in enumerate(ids):
            if person in given:
                outside = given[person]
                body_rot[column], betas[column] = outside.body_rot, outside.betas
                cam_from_body[column] = (
                    cam_from_body[column] if outside.cam_from_body is None else outside.cam_from_body
                )
        here = torch.eye(4).expand(count, 4, 4)
        return Bodies(
            ids=ids, root_log_var=(weight * log_var).sum(0), body_rot=body_rot, betas=betas,
            cam_from_body=cam_from_body,
            contact_prob=prediction.contact_logit_b[:, :count].sigmoid().mean(0),
            joints=self.body(betas, body_rot, here).joints, feet=self.body.sites(betas, body_rot, here)[:, :FEET],
        )  # fmt: skip

    def _remembered(self, betas: Tensor, ids: list[int]) -> Tensor:
        """Shapes [P, B] of one frame, averaged with those before; who has been away for long is forgotten."""
        for column, person in enumerate(ids):
            if person in self.betas:
                betas[column] = torch.lerp(betas[column], self.betas[person], self.shape_memory)
            self.betas[person], self._last_seen[person] = betas[column].clone(), self._index
        for person in [k for k, seen in self._last_seen.items() if self._index - seen > FORGET_AFTER]:
            del self._last_seen[person], self.betas[person]
        return betas


def observe(
    prediction: PairPrediction, bodies: Bodies, gaps: list[int], in_both: list[list[bool]], timestamp: float,
    corners: Motions,
) -> FrameObservation:  # fmt: skip
    """A prediction for `gaps` as the fuser takes it; a body's motion counts where the person was in both frames."""
    steps, rows = np.array(gaps, np.int64), slice(len(gaps))  # without gaps the frame was paired with itself
    people = {}
    for column, person in enumerate(bodies.ids):
        seen = np.array([row[column] for row in in_both[rows]], bool)
        people[person] = PersonObservation(
            cam_from_body=_array(bodies.cam_from_body[column]), root_log_var=_array(bodies.root_log_var[column]),
            contact_prob=_array(bodies.contact_prob[column]), feet=_array(bodies.feet[column]),
            motions=Motions(
                gaps=steps[seen], past_from_now=_array(prediction.body_a_from_body_b[rows, column])[seen],
                log_var=_array(prediction.body_log_var[rows, column])[seen],
            ),
        )  # fmt: skip
    camera = Motions(
        gaps=steps, past_from_now=_array(prediction.cam_a_from_cam_b[rows]),
        log_var=_array(prediction.camera_log_var[rows]),
    )  # fmt: skip
    return FrameObservation(timestamp=timestamp, camera=camera, corners=corners, people=people)


def _array(values: Tensor) -> NDArray[np.float64]:
    return values.double().numpy()
