"""The loop: draw, compare, move. Goes on where a killed run stopped, with the same result."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from distill.errors import FootfallError
from teacher.initialisers.registry import Report
from teacher.scene.adam import RowAdam
from teacher.scene.align_bodies import align_bodies, recolour
from teacher.scene.align_cameras import align_cameras
from teacher.scene.config import GaussiansConfig
from teacher.scene.densify import densify
from teacher.scene.objective import Objective
from teacher.scene.saved import load_state, save_state
from teacher.scene.schedule import Step, plan, rates
from teacher.scene.world import BODY, BY_FRAME, CAMERA, World

TRACE_EVERY = 20
"""Steps between two entries of the trace."""


def fit(
    world: World, objective: Objective, config: GaussiansConfig, report: Report,
    *, state: Path | None = None, key: str = "", frozen: frozenset[str] = frozenset(), keep_state: bool = False,
    stop_after: int | None = None,
) -> list[dict[str, float]]:  # fmt: skip
    """Move the world's unknowns through all phases; returns the trace of the terms.

    Args:
        world: whose unknowns are moved, in place. objective: of the same world.
        report: told the fraction done.
        state: file for the state; a state of the same `key` in it is continued.
        key: changes with everything that the fit depends on.
        keep_state: leave the last state there when done, for a run that is killed later; else it is removed.
        frozen: unknowns that stay as they are, for comparisons.
        stop_after: steps after which to return early, as if killed; None: never.

    Raises:
        FootfallError: the loss is not finite.
    """
    fitting = _Fitting(world, objective, config, frozen)
    steps = plan(config, len(world.base.times))
    begin = fitting.resume(state, key) if state is not None else 0
    for number in range(begin, len(steps)):
        if stop_after is not None and number >= stop_after:
            return fitting.trace
        fitting.take(number, steps[number])
        if fitting.splits(steps, number):
            fitting.split()
        if state is not None and (number + 1) % config.save_every == 0:
            save_state(state, fitting.tensors(), step=number + 1, key=key, trace=fitting.trace)
        if number % 5 == 0:
            report(number / len(steps), f"{steps[number].phase}, step {number} of {len(steps)}")
    if state is not None and keep_state and begin < len(steps):
        save_state(state, fitting.tensors(), step=len(steps), key=key, trace=fitting.trace)
    elif state is not None and not keep_state:
        state.unlink(missing_ok=True)
    return fitting.trace


class _Fitting:
    """The moving parts of a fit."""

    def __init__(self, world: World, objective: Objective, config: GaussiansConfig, frozen: frozenset[str]) -> None:
        self.world, self.objective, self.config, self.frozen = world, objective, config, frozen
        self.adam = RowAdam(world.unknowns)
        self.pull = torch.zeros(len(world.unknowns["scene/means"]), device=world.base.times.device)
        self.trace: list[dict[str, float]] = []

    def take(self, number: int, step: Step) -> None:
        """One step."""
        if self.config.align_steps and step.begins:
            self._align(number, step)
        generator = torch.Generator().manual_seed((self.config.seed << 32) + number)
        loss = self.objective(step.phase, step.level, step.frames, generator, scene=step.scene)
        if not bool(torch.isfinite(loss)):
            worst = max(self.objective.parts, key=lambda name: abs(self.objective.parts[name]))
            raise FootfallError(
                f"photometric stage, step {number}", got=f"a loss of {float(loss)}; largest term {worst}",
                expected="a finite loss", do="lower gaussians.rates, or switch the stage off (gaussians.enabled=never)",
            )  # fmt: skip
        loss.backward()  # type: ignore[no-untyped-call]
        grad = self.world.unknowns["scene/means"].grad
        if grad is not None:
            self.pull += grad.norm(dim=-1)
        base = self.world.base
        chosen = rates(step.phase, self.config.rates, base.pivot_m, len(base.avatars))
        moving = {name: step.factor * rate for name, rate in chosen.items() if name not in self.frozen}
        self.adam.step(moving, torch.tensor(step.frames, device=base.times.device), BY_FRAME)
        if number % TRACE_EVERY == 0:
            about = {"step": number, "level": step.level, "loss": float(loss.detach())}
            self.trace.append(about | self.objective.parts)

    def _align(self, number: int, step: Step) -> None:
        """Cameras and bodies aligned directly: before anything is learnt, coarse to fine; before the joint phase."""
        views, steps, prior = self.objective.views, self.config.align_steps, self.config.prior
        levels = self.config.levels if number == 0 else [step.level] if step.phase == "joint" else []
        for level in levels:
            if self.frozen.isdisjoint(CAMERA):
                align_cameras(self.world, views[level], prior, steps)
            if not self.frozen.isdisjoint(BODY):
                continue
            for person in range(len(self.world.base.avatars)):
                align_bodies(self.world, views[max(1, level // 2)], person, prior, steps)
            if number == 0:  # later their colours have been learnt
                recolour(self.world, views[1].footage)

    def splits(self, steps: list[Step], number: int) -> bool:
        """Whether the scene's Gaussians are split after this step: as the warm-up ends, a third into the joint one."""
        if self.config.densify == 0 or number + 1 >= len(steps):
            return False
        joint = [k for k, step in enumerate(steps) if step.phase == "joint"]
        ends = steps[number].phase == "warm_up" and steps[number + 1].phase != "warm_up"
        return ends or (bool(joint) and number == joint[len(joint) // 3])

    def split(self) -> None:
        """Split the scene's Gaussians that are pulled at most."""
        count = densify(self.world.unknowns, self.adam, self.pull, self.config.densify)
        self.pull = self.pull.new_zeros(count)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that the next steps depend on."""
        unknowns = {f"unknown/{name}": value for name, value in self.world.unknowns.items()}
        return unknowns | {f"adam/{name}": value for name, value in self.adam.state().items()} | {"pull": self.pull}

    def resume(self, path: Path, key: str) -> int:
        """Take a saved state back; returns the number of steps that it holds."""
        saved = load_state(path, key, self.pull.device)
        if saved is None:
            return 0
        tensors, step, self.trace = saved
        for name in self.world.unknowns:
            self.world.unknowns[name] = tensors[f"unknown/{name}"].clone().requires_grad_()
        self.adam.load({name.removeprefix("adam/"): value for name, value in tensors.items()})
        self.pull = tensors["pull"].clone()
        return step
