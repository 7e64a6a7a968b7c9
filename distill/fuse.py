"""Combine what a student says about several frame gaps into one path, causally, weighing by its own doubt.

Every gap g gives an estimate of the current camera: `world_from_cam[t-g] @ cam[t-g]_from_cam[t]`, whose variance is
that of the old pose plus that of the motion. Estimates are averaged with inverse variances: translations
linearly, rotations on the manifold. Long gaps thus carry the path where they are sure, so that errors
do not add up frame by frame.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import roma
import torch
from torch import Tensor

from distill.geometry.rotations import matrix_from_rotvec, rotvec_from_matrix
from distill.geometry.transforms import make_transform


@dataclass(kw_only=True)
class Pose:
    """A camera in the world and how sure it is."""

    world_from_cam: Tensor
    """[4, 4] metres."""
    variance: Tensor
    """[2] rotation (rad^2) and translation (m^2)."""


def average_rotations(rotations: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over N of rotations [N, ..., 3, 3] with weights [N]: two steps from the chordal mean."""
    weights = weights / weights.sum()
    mean = roma.special_procrustes(torch.einsum("n,n...->...", weights, rotations))
    for _ in range(2):
        step = rotvec_from_matrix(mean.transpose(-1, -2) @ rotations)
        mean = mean @ matrix_from_rotvec(torch.einsum("n,n...->...", weights, step))
    return mean


class CameraFuser:
    """Poses of the last `lag` frames; memory does not grow."""

    def __init__(self, lag: int) -> None:
        self._past: deque[Pose] = deque(maxlen=lag)

    def start(self) -> Pose:
        """The first frame is the world."""
        pose = Pose(world_from_cam=torch.eye(4), variance=torch.full((2,), 1e-8))
        self._past.append(pose)
        return pose

    def step(self, gaps: list[int], past_from_now: Tensor, log_var: Tensor) -> Pose:
        """Pose of a new frame.

        Args:
            gaps: N frame gaps, each at most the frames seen so far and the lag.
            past_from_now: [N, 4, 4] motion from the new camera to that of `gap` frames ago.
            log_var: [N, 2] its log variance: rotation, translation.
        """
        past = [self._past[-gap] for gap in gaps]
        estimates = torch.stack([p.world_from_cam for p in past]) @ past_from_now
        variance = torch.stack([p.variance for p in past]) + log_var.exp()
        weight = 1 / variance
        rotation = average_rotations(estimates[:, :3, :3], weight[:, 0])
        share = weight[:, 1:] / weight[:, 1].sum()
        pose = Pose(
            world_from_cam=make_transform(rotation, (share * estimates[:, :3, 3]).sum(0)), variance=1 / weight.sum(0)
        )
        self._past.append(pose)
        return pose
