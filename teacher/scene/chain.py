"""Corrections of all frames at once: quadratic terms of single frames, tied over time by accelerations.

A term of one frame adds to a block on the diagonal of the normal equations, an acceleration ties three frames. So the
matrix is a band, and its Cholesky factor solves a clip in time linear in its frames. One unknown may be shared by all
frames; it makes a border, which is eliminated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from scipy.linalg import solveh_banded
from torch import Tensor

from distill.geometry.rotations import rotvec_from_matrix

REACH: Final = 2
"""Frames over which a term reaches: an acceleration spans three."""
FRAME_S: Final = 1 / 30
"""Between two frames of an ordinary video."""
DAMPING: Final = 1e-3
"""Of the first step, relative to `Chain.own`."""
LEAST_DAMPING, MOST_DAMPING = 1e-4, 10.0
"""A step that does not help is tried again with ten times the damping, up to the most."""
ENOUGH: Final = 3e-3
"""Share of the cost that a step must gain for another one to follow."""


class Chain:
    """Normal equations of T frames with K unknowns each, about the present values: cost, gradient, matrix."""

    def __init__(self, frames: int, unknowns: int) -> None:
        self.blocks = [torch.zeros(frames, unknowns, unknowns, dtype=torch.float64) for _ in range(REACH + 1)]
        """Block o of frame t ties the unknowns of t (rows) and t + o (columns)."""
        self.gradient = torch.zeros(frames, unknowns, dtype=torch.float64)
        self.border = torch.zeros(frames, unknowns, dtype=torch.float64)
        """Ties each unknown to the shared one."""
        self.own = torch.zeros(frames, unknowns, dtype=torch.float64)
        """Diagonal of the terms of single frames: what is damped. Accelerations are stiff, but not against a move of
        all frames alike; with their share in the damping such a move took dozens of steps."""
        self.shared_normal, self.shared_gradient = 0.0, 0.0
        self.cost = 0.0

    def add_frame(self, frame: int, cost: float, normal: Tensor, gradient: Tensor) -> None:
        """A term of one frame: value, normal matrix [K, K] and gradient [K]; with K + 1 the last is the shared one."""
        normal, gradient, size = normal.double().cpu(), gradient.double().cpu(), self.gradient.shape[1]
        self.cost += cost
        self.blocks[0][frame] += normal[:size, :size]
        self.own[frame] += normal.diagonal()[:size]
        self.gradient[frame] += gradient[:size]
        if len(gradient) > size:
            self.border[frame] += normal[:size, size]
            self.add_shared(0.0, float(normal[size, size]), float(gradient[size]))

    def add_rows(self, frame: int, residual: Tensor, slopes: list[Tensor], weight: float = 1.0) -> None:
        """Robust lengths sqrt(1 + |r|^2) - 1 of residuals [R, D], by IRLS, times a weight.

        Args:
            residual: over their usual sizes. slopes: [R, D, K] by the unknowns of `frame` and, if two, of the next one.
        """
        residual, slopes = residual.double().cpu(), [slope.double().cpu() for slope in slopes]
        size = (1 + residual.square().sum(-1)).sqrt()
        self.cost += weight * float((size - 1).sum())
        heavy = (weight / size)[:, None]
        for first, left in enumerate(slopes):
            pulled = (left * heavy[..., None]).flatten(0, 1).T
            self.gradient[frame + first] += pulled @ residual.flatten()
            for last in range(first, len(slopes)):
                self.blocks[last - first][frame + first] += pulled @ slopes[last].flatten(0, 1)

    def add_shared(self, cost: float, normal: float, gradient: float) -> None:
        """A term of the shared unknown alone."""
        self.cost += cost
        self.shared_normal += normal
        self.shared_gradient += gradient

    def add_accelerations(self, residual: Tensor, slopes: list[Tensor], unknowns: Tensor, weight: Tensor) -> None:
        """Sum of sqrt(1 + |r|^2) - 1 over accelerations, a sum of squares under the weights 1 / sqrt(1 + |r|^2).

        Args:
            residual: [T - 2, J, 3] over their usual sizes.
            slopes: three [T - 2, J, 3, 3], by the unknowns of the first, middle and last frame.
            unknowns: [J, 3] numbers of these. weight: [T - 2] of each acceleration.
        """
        residual, unknowns, weight = residual.double().cpu(), unknowns.cpu(), weight.double().cpu()[:, None]
        slopes = [slope.double().cpu() for slope in slopes]
        size = (1 + residual.square().sum(-1)).sqrt()
        self.cost += float(((size - 1) * weight).sum())
        weight = weight / size
        number = torch.arange(len(residual))
        for first, left in enumerate(slopes):
            pull = torch.einsum("tj,tjab,tja->tjb", weight, left, residual)
            frames = (number + first)[:, None, None].expand_as(pull)
            self.gradient.index_put_((frames, unknowns.expand_as(pull)), pull, accumulate=True)
            for last in range(first, REACH + 1):
                tie = torch.einsum("tj,tjab,tjac->tjbc", weight, left, slopes[last])
                where = torch.broadcast_tensors(
                    (number + first)[:, None, None, None], unknowns[None, :, :, None], unknowns[None, :, None, :]
                )
                self.blocks[last - first].index_put_(where, tie, accumulate=True)

    def solve(self, damping: float) -> tuple[Tensor, float]:
        """Step [T, K] of all frames and step of the shared unknown, with `damping` times `own` on the diagonal."""
        frames, size = self.gradient.shape
        last = (REACH + 1) * size - 1  # upper band: entry (i, j) is at row last + i - j, column j
        band = np.zeros((last + 1, frames * size))
        row, column = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
        for ahead, block in enumerate(self.blocks):
            for frame in range(frames - ahead):
                i, j = frame * size + row, (frame + ahead) * size + column
                upper = i <= j
                band[(last + i - j)[upper], j[upper]] = block[frame].numpy()[upper]
        band[last] += damping * self.own.numpy().reshape(-1) + 1e-9  # nothing may say anything of an absent person
        border = self.border.numpy().reshape(-1)
        alone, answer = solveh_banded(band, np.stack((-self.gradient.numpy().reshape(-1), border), 1)).T
        rest = self.shared_normal * (1 + damping) + 1e-9 - border @ answer
        shared = (-self.shared_gradient - border @ alone) / rest
        return torch.from_numpy((alone - shared * answer).reshape(frames, size)), float(shared)


def descend(
    equations: Callable[[], Chain], move: Callable[[Tensor, float], Callable[[], None]], steps: int
) -> list[float]:
    """Levenberg and Marquardt's steps while they help; returns the cost at the start and after each.

    Args:
        equations: about the present values. move: takes a step and returns how to take it back. steps: at most.
    """
    chain = equations()
    costs, damping = [chain.cost], DAMPING
    for _ in range(steps):
        take_back = move(*chain.solve(damping))
        found = equations()
        if found.cost < chain.cost:
            chain, damping = found, max(damping / 10, LEAST_DAMPING)
            costs.append(found.cost)
            if costs[-2] - costs[-1] < ENOUGH * costs[-1]:
                break
        else:
            take_back()
            damping *= 10
            if damping > MOST_DAMPING:
                break
    return costs


def time_shares(dt: Tensor) -> Tensor:
    """[T - 2] seconds that each acceleration stands for, over `FRAME_S`: sums over frames are integrals over time, so
    that motion is as smooth with half the frames."""
    return (dt[1:] + dt[:-1]) / (2 * FRAME_S)


def turn_rows(rotations: Tensor, dt: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Accelerations [T - 2, J, 3] rad/s^2 of rotations [T, J, 3, 3] at steps dt [T - 1] s, in the source's axes, and
    their three slopes [T - 2, J, 3, 3] by small turns d of R exp(d).

    The turn from one frame to the next, s = log(R0^T R1), changes by d1 - exp(s)^T d0, to first order in s.
    """
    step = rotations[:-1].transpose(-1, -2) @ rotations[1:]
    before, after = dt[:-1, None, None], dt[1:, None, None]
    half = 2 / (before + after)
    speed = rotvec_from_matrix(step)
    acceleration = half * (speed[1:] / after - speed[:-1] / before)
    eye = torch.eye(3).to(rotations).expand_as(step[1:])
    before, after, half = before[..., None], after[..., None], half[..., None]
    first = half * step[:-1].transpose(-1, -2) / before
    middle = -half * (step[1:].transpose(-1, -2) / after + eye / before)
    return acceleration, [first, middle, half * eye / after]


def place_rows(places: Tensor, axes: Tensor, dt: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Accelerations [T - 2, J, 3] m/s^2 of places [T, J, 3] at steps dt [T - 1] s, and their three slopes
    [T - 2, J, 3, 3] by shifts along the columns of axes [T, J, 3, 3]."""
    before, after = dt[:-1, None, None], dt[1:, None, None]
    half = 2 / (before + after)
    acceleration = half * ((places[2:] - places[1:-1]) / after - (places[1:-1] - places[:-2]) / before)
    before, after, half = before[..., None], after[..., None], half[..., None]
    slopes = [half * axes[:-2] / before, -half * (1 / before + 1 / after) * axes[1:-1], half * axes[2:] / after]
    return acceleration, slopes
