"""What a network says of the people of one frame, averaged over its pairs; and the same as the fuser takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distill.fuser import FrameObservation, Motions, PersonObservation
from distill.fuser.so3 import exp, log, rigid, transpose
from distill.runner.body import Posed
from distill.stream_config import FORGET_AFTER

if TYPE_CHECKING:
    from distill.stream_types import GivenBody

Array = NDArray[Any]


@dataclass(kw_only=True)
class People:
    """The P people of one frame, apart from where they are in the world."""

    ids: list[int]
    cam_from_body: Array
    """[P, 4, 4]."""
    root_log_var: Array
    """[P, 3]."""
    body_rot: Array
    """[P, 23, 3, 3]."""
    betas: Array
    """[P, B]."""
    contact_prob: Array
    """[P, 6]."""
    joints: Array
    """[P, 24, 3] in the body, metres."""
    feet: Array
    """[P, 4, 3] heels and toes in the body, metres."""


class PeopleAverage:
    """Means over pairs, with a memory of everybody's shape. Call for every frame, in order."""

    def __init__(self, body: Posed, shape_memory: float) -> None:
        """`shape_memory`: how slowly a shape follows new frames, in [0, 1]."""
        self.body, self.shape_memory = body, shape_memory
        self.betas: dict[int, Array] = {}
        """Person's id -> [B], of everybody who is remembered."""
        self._last_seen: dict[int, int] = {}
        self._index = -1

    def __call__(
        self, prediction: dict[str, Array], ids: list[int], given: Mapping[int, GivenBody] | None = None
    ) -> People:
        """Average over the pairs, weighted by how sure each is of the root; shapes also over time.

        All pairs see the same pixels of the current frame, so that their mean is no surer than one of them.

        Args:
            prediction: for the pairs of one frame, the frame being the second of each.
            ids: of its people, in the prediction's order.
            given: bodies from elsewhere, which take the place of the network's.
        """
        self._index += 1
        found = {
            name: prediction[name][:, : len(ids)].astype(np.float64)
            for name in ("root_log_var_b", "cam_from_body_b", "body_rot_b", "betas", "contact_logit_b")
        }
        log_var, root = found["root_log_var_b"], found["cam_from_body_b"]
        weight = np.exp(-log_var)
        weight /= weight.sum(0)
        depth = np.maximum(root[..., 2:3, 3], 0.1)
        log_depth = (weight[..., 2:] * np.log(depth)).sum(0)
        ray = (weight[..., 1:2] * root[..., :3, 3] / depth).sum(0)
        betas = self._remembered(found["betas"].mean(0), ids)
        body_rot = average_rotations(found["body_rot_b"], weight[..., :1])
        cam_from_body = rigid(average_rotations(root[..., :3, :3], weight[..., 0]), ray * np.exp(log_depth))
        for column, person in enumerate(ids):
            outside = (given or {}).get(person)
            if outside is not None:
                body_rot[column], betas[column] = outside.body_rot, outside.betas
                if outside.cam_from_body is not None:
                    cam_from_body[column] = outside.cam_from_body
        joints, feet = self.body.pose(betas, body_rot)
        return People(
            ids=ids, root_log_var=(weight * log_var).sum(0), body_rot=body_rot, betas=betas,
            cam_from_body=cam_from_body,
            contact_prob=(1 / (1 + np.exp(-found["contact_logit_b"]))).mean(0), joints=joints, feet=feet,
        )  # fmt: skip

    def _remembered(self, betas: Array, ids: list[int]) -> Array:
        """Shapes [P, B] of one frame, averaged with those before; who has been away for long is forgotten."""
        for column, person in enumerate(ids):
            if person in self.betas:
                betas[column] += self.shape_memory * (self.betas[person] - betas[column])
            self.betas[person], self._last_seen[person] = betas[column].copy(), self._index
        for person in [k for k, seen in self._last_seen.items() if self._index - seen > FORGET_AFTER]:
            del self._last_seen[person], self.betas[person]
        return betas


def average_rotations(rotations: Array, weights: Array) -> Array:
    """Weighted mean over N of rotations [N, ..., 3, 3], weights [N, ...]: two geodesic steps from the chordal mean."""
    share = (weights / weights.sum(0))[..., None]
    u, _, vh = np.linalg.svd((share[..., None] * rotations).sum(0))
    u[..., 2] *= np.sign(np.linalg.det(u @ vh))[..., None]
    mean = u @ vh
    for _ in range(2):
        mean = mean @ exp((share * log(transpose(mean) @ rotations)).sum(0))
    return mean


def observe(
    prediction: dict[str, Array], people: People, gaps: list[int], in_both: list[list[bool]], timestamp: float,
    corners: Motions,
) -> FrameObservation:  # fmt: skip
    """A prediction for `gaps` as the fuser takes it; a body's motion counts where the person was in both frames."""
    steps, count = np.array(gaps, np.int64), len(gaps)  # without gaps the frame was paired with itself
    names = ("body_a_from_body_b", "body_log_var", "cam_a_from_cam_b", "camera_log_var")
    motion, motion_log_var, camera, camera_log_var = (prediction[name][:count].astype(np.float64) for name in names)
    seen = np.array(in_both[:count], bool).reshape(count, len(people.ids))
    found = {
        person: PersonObservation(
            cam_from_body=people.cam_from_body[k], root_log_var=people.root_log_var[k],
            contact_prob=people.contact_prob[k], feet=people.feet[k],
            motions=Motions(
                gaps=steps[seen[:, k]], past_from_now=motion[seen[:, k], k], log_var=motion_log_var[seen[:, k], k]
            ),
        )
        for k, person in enumerate(people.ids)
    }  # fmt: skip
    return FrameObservation(
        timestamp=timestamp, camera=Motions(gaps=steps, past_from_now=camera, log_var=camera_log_var), corners=corners,
        people=found,
    )  # fmt: skip
