"""Windows of a long video joined in Sim(3): a small graph of similarity transforms with robust edges.

Node k is `global_from_window` of window k. An edge (i, j) measures `i_from_j` from points that both windows know:
shared frames of neighbours (camera centres, points on their axes, joints of people), and shared scene points of
windows far apart where the scene initialiser saw a place again. Each window is also a witness of the metre: the
scale of its transform is 1 within `SCALE_SD`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from distill.geometry.alignment import align_points
from teacher.stagefiles import Array

SCALE_SD: Final = 0.05
"""Standard deviation of a window's own metric scale, natural logarithm."""
EDGE_SD: Final = (0.01, 0.01, 0.05)
"""Of an edge: log scale, rotation (rad), translation (m)."""


@dataclass(kw_only=True, frozen=True)
class Similarity:
    """x -> s R x + t."""

    scale: float
    """s."""
    rotation: Array
    """[3, 3]."""
    translation: Array
    """[3] in the target's unit."""

    def __call__(self, points: Array) -> Array:
        """Move points [..., 3]."""
        return self.scale * points @ self.rotation.T + self.translation

    def __matmul__(self, other: Similarity) -> Similarity:
        return Similarity(
            scale=self.scale * other.scale, rotation=self.rotation @ other.rotation,
            translation=self(other.translation),
        )  # fmt: skip

    def inverse(self) -> Similarity:
        """The way back."""
        return Similarity(
            scale=1 / self.scale, rotation=self.rotation.T,
            translation=-self.rotation.T @ self.translation / self.scale,
        )  # fmt: skip

    def logarithm(self) -> Array:
        """[7] log scale, rotation vector, translation: small for transforms near the identity."""
        turn = Rotation.from_matrix(self.rotation).as_rotvec()
        return np.concatenate(([np.log(self.scale)], turn, self.translation))


IDENTITY: Final = Similarity(scale=1.0, rotation=np.eye(3), translation=np.zeros(3))


@dataclass(kw_only=True, frozen=True)
class Edge:
    """A measured transform between two windows."""

    first: int
    """i."""
    second: int
    """j."""
    first_from_second: Similarity
    """Takes points of window j to window i."""


def align_robustly(target: Array, source: Array, *, rounds: int = 6) -> tuple[Similarity, Array]:
    """The similarity target_from_source of matched points [N, 3] by Umeyama, reweighted (Cauchy) for outliers.

    Returns:
        The transform and the residuals [N] in the target's unit.
    """
    weights = np.ones(len(target))
    found, residual = IDENTITY, np.zeros(len(target))
    for _ in range(rounds):
        scale, rotation, translation = align_points(
            torch.from_numpy(target), torch.from_numpy(source), with_scale=True, weights=torch.from_numpy(weights)
        )
        found = Similarity(scale=float(scale), rotation=rotation.numpy(), translation=translation.numpy())
        residual = np.linalg.norm(target - found(source), axis=-1)
        width = max(1.4826 * float(np.median(residual)), 1e-6)
        weights = 1 / (1 + (residual / (2 * width)) ** 2)
    return found, residual


def glue(count: int, edges: Sequence[Edge]) -> list[Similarity]:
    """`global_from_window` of every window; edges (k, k + 1) must be among the edges.

    The start is the chain of neighbours, moved to the windows' mean scale; then all edges and the windows' own
    scales are weighed in a robust least-squares problem of 7 unknowns a window. The first window's pose is the
    world's.
    """
    chain = {edge.first: edge.first_from_second for edge in edges if edge.second == edge.first + 1}
    start = [IDENTITY]
    for k in range(count - 1):
        start.append(start[-1] @ chain[k])
    mean = float(np.exp(-np.mean([np.log(node.scale) for node in start])))
    start = [Similarity(scale=mean, rotation=np.eye(3), translation=np.zeros(3)) @ node for node in start]

    def nodes(step: Array) -> list[Similarity]:
        return [_stepped(node, part) for node, part in zip(start, step.reshape(-1, 7), strict=True)]

    def residuals(step: Array) -> Array:
        now = nodes(step)
        rows = [np.array([np.log(node.scale) / SCALE_SD for node in now]), step[1:7] / 1e-6]
        deviation = np.repeat(EDGE_SD, (1, 3, 3))
        for edge in edges:
            gap = edge.first_from_second.inverse() @ now[edge.first].inverse() @ now[edge.second]
            rows.append(gap.logarithm() / deviation)
        return np.concatenate(rows)

    solved = least_squares(residuals, np.zeros(7 * count), loss="soft_l1", x_scale="jac")
    return nodes(solved.x)


def _stepped(node: Similarity, step: Array) -> Similarity:
    """A node moved on the right, in its own window's unit."""
    by = Similarity(
        scale=float(np.exp(step[0])), rotation=Rotation.from_rotvec(step[1:4]).as_matrix(), translation=step[4:7]
    )
    return node @ by
