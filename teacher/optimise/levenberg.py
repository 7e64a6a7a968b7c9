"""The second-order solver: Levenberg-Marquardt on the reweighted normal equations of all terms.

Every iteration linearises all terms (`linearise`), solves for all unknowns at once by the block structure of the
problem (`elimination`), and moves along rotations by their exponential. A step is taken only if the objective falls.
Robust functions are rounded at 0 over a width that shrinks from iteration to iteration, so that the first steps
see a smooth problem and the last ones the objective itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from distill.geometry.rotations import matrix_from_rotvec, rotvec_from_matrix
from teacher.optimise.config import LevenbergConfig, OptimiseConfig
from teacher.optimise.elimination import solve
from teacher.optimise.linearise import cost, linearise
from teacher.optimise.normal import Normal, Step
from teacher.optimise.objective import Situation
from teacher.optimise.tangent import FOCAL, PLANE, SCALE
from teacher.optimise.trace import Trace
from teacher.optimise.variables import BLOCKS, Unknowns

LEAST_STEPS = 3
"""Iterations that a stage takes even if the objective hardly falls: contacts are found again in between."""
MOST_DAMPING = 1e8
"""Beyond this a step is too short to matter."""


@dataclass(kw_only=True)
class Kept:
    """Which unknowns move."""

    person: Tensor
    """[75] bool."""
    frame: Tensor
    """[7] bool."""
    common: Tensor
    """[6 + P B] bool."""


def kept(unknowns: Unknowns, free: set[str], stage: int) -> Kept:
    """Masks of the free blocks of a stage."""
    blocks, moving = unknowns.blocks, {name for name in free if stage in BLOCKS[name].stages}
    device = blocks["betas"].device

    def flags(*widths: tuple[str, int]) -> Tensor:
        return torch.tensor([name in moving for name, width in widths for _ in range(width)], device=device)

    person = flags(("root_rot", 3), ("root_ray", 2), ("root_depth", 1), ("pose", 69))
    frame = flags(("camera_rot", 3), ("camera_pos", 3), ("log_drift", 1))
    common = flags(("log_focal", 1), ("log_scale", 1), ("plane_tilt", 3), ("plane_offset", 1))
    betas = torch.full((blocks["betas"].numel(),), "betas" in moving, device=device)
    return Kept(person=person, frame=frame, common=torch.cat((common, betas)))


def moved_blocks(blocks: dict[str, Tensor], step: Step) -> dict[str, Tensor]:
    """The blocks after a step: R exp(d) for rotations, a sum for the rest."""

    def turned(rotvec: Tensor, by: Tensor) -> Tensor:
        return rotvec_from_matrix(matrix_from_rotvec(rotvec) @ matrix_from_rotvec(by))

    root_rot, ray, depth, pose = step.person.split((3, 2, 1, 69), -1)
    camera_rot, camera_pos, drift = step.frame.split((3, 3, 1), -1)
    tilt, offset = step.common[PLANE].split((3, 1))
    return {
        "log_focal": blocks["log_focal"] + step.common[FOCAL],
        "log_scale": blocks["log_scale"] + step.common[SCALE],
        "log_drift": blocks["log_drift"] + drift[..., 0],
        "camera_rot": turned(blocks["camera_rot"], camera_rot),
        "camera_pos": blocks["camera_pos"] + camera_pos,
        "root_rot": turned(blocks["root_rot"], root_rot),
        "root_ray": blocks["root_ray"] + ray,
        "root_depth": blocks["root_depth"] + depth[..., 0],
        "pose": turned(blocks["pose"], pose.unflatten(-1, (23, 3))),
        "betas": blocks["betas"] + step.betas,
        "plane_tilt": turned(tilt, blocks["plane_tilt"]),
        "plane_offset": blocks["plane_offset"] + offset[0],
    }


def descend(
    unknowns: Unknowns, free: set[str], config: OptimiseConfig, stage: int, renew: Callable[[], None], trace: Trace
) -> None:
    """One stage, in place; `renew` finds contacts again.

    Raises:
        FootfallError: the objective became NaN or infinite, or grew.
    """
    settings = config.levenberg
    steps = settings.stage1_steps if stage == 1 else settings.stage2_steps
    keep, damping = kept(unknowns, free, stage), settings.damping
    for iteration in range(steps):
        if iteration % settings.search_every == 0:
            renew()
        width = _width(settings, iteration, steps)
        situation = _situation(unknowns, config)
        before, values = cost(situation, stage, width)
        trace.add(stage, iteration, steps + 1, values)
        normal = linearise(situation, stage, width)
        normal.freeze_person(keep.person)
        gain, damping = _try(unknowns, normal, keep, config, stage, width, float(before), damping)
        if gain < settings.tolerance and iteration >= LEAST_STEPS:
            break
    if steps:
        trace.add(stage, steps, steps + 1, cost(_situation(unknowns, config), stage, settings.last_width)[1])


def _try(
    unknowns: Unknowns, normal: Normal, keep: Kept, config: OptimiseConfig, stage: int, width: float,
    before: float, damping: float,
) -> tuple[float, float]:  # fmt: skip
    """Take the first step that lowers the objective; returns its relative gain (0 if none does) and new damping."""
    start = unknowns.blocks
    while damping <= MOST_DAMPING:
        step = solve(normal, damping, keep.frame, keep.common)
        if step is not None:
            unknowns.blocks = moved_blocks(start, step)
            after = float(cost(_situation(unknowns, config), stage, width)[0])
            if after < before:
                return (before - after) / before, max(damping / 2, 1e-9)
        damping = max(6 * damping, 1e-6)
    unknowns.blocks = start
    return 0.0, config.levenberg.damping


def _situation(unknowns: Unknowns, config: OptimiseConfig) -> Situation:
    return Situation(state=unknowns.decode(), blocks=unknowns.blocks, evidence=unknowns.evidence, config=config)


def _width(settings: LevenbergConfig, iteration: int, steps: int) -> float:
    """From the first width to the last one, by equal factors, reached at three quarters of the steps."""
    done = min(1.0, iteration / max(0.75 * (steps - 1), 1))
    return settings.first_width ** (1 - done) * settings.last_width**done
