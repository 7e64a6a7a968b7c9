"""The solve: two stages of Adam over the objective, with contacts found again as the world moves.

Stage 1 settles cameras, bodies and scale in 3D with the focal length fixed; stage 2 refines all of it in the
images with the focal length free (JOSH, section 3; its schedule of 500 and 200 steps at one learning rate
becomes shorter because every kind of unknown has a step of its own and scale is one unknown, not T).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from distill.errors import FootfallError
from teacher.initialisers.registry import Report
from teacher.optimise.config import OptimiseConfig
from teacher.optimise.contacts import follow_motion
from teacher.optimise.evidence import Evidence, make_evidence
from teacher.optimise.objective import objective
from teacher.optimise.problem import Problem
from teacher.optimise.variables import BLOCKS, State, Unknowns, free_blocks

SMALL_LOSS: Final = 1.0
"""A stage that begins below this (nearly solved) has not diverged when it ends a little above."""


@dataclass(kw_only=True)
class Solution:
    """What the solve found, and where it began."""

    before: State
    """The initial values."""
    after: State
    """The solution."""
    evidence: Evidence
    """With the partners and contact probabilities of the solution."""
    trace: list[dict[str, object]]
    """Convergence: stage, step, loss and weighted value of each term, every `trace_every` steps."""


def solve(problem: Problem, config: OptimiseConfig, report: Report) -> Solution:
    """Solve a problem.

    Raises:
        FootfallError: the objective became NaN or infinite, or grew; the message names the term.
    """
    with _one_thread():
        return _solve(problem, config, report)


def _solve(problem: Problem, config: OptimiseConfig, report: Report) -> Solution:
    evidence = make_evidence(problem, config)
    unknowns = Unknowns(evidence)
    with torch.no_grad():
        before = unknowns.decode()
    free = free_blocks(problem)
    trace: list[dict[str, object]] = []
    total = max(config.stage1_steps + config.stage2_steps, 1)
    done = 0
    for stage, steps in ((1, config.stage1_steps), (2, config.stage2_steps)):
        _descend(unknowns, free, config, stage, steps, trace, _shifted(report, done, total), problem.clip_id)
        done += steps
    with torch.no_grad():
        after = unknowns.decode()
        _renew_contacts(evidence, after, config, stage=2)
    return Solution(before=before, after=after, evidence=evidence, trace=trace)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """The tensors are small: one thread is faster than several, and adds in the same order every time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _shifted(report: Report, done: int, total: int) -> Report:
    """A report that takes steps of one stage and passes on the fraction of the whole solve."""
    return lambda step, text: report((done + step) / total, text)


def _descend(
    unknowns: Unknowns, free: set[str], config: OptimiseConfig, stage: int, steps: int,
    trace: list[dict[str, object]], report: Report, clip_id: str,
) -> None:  # fmt: skip
    """One stage; betas (0.9, 0.9) and cosine to 0 as JOSH."""
    factor = 1.0 if stage == 1 else config.stage2_rate
    moving = [name for name in BLOCKS if name in free and stage in BLOCKS[name].stages]
    groups = [
        {"params": [unknowns.blocks[name]], "lr": factor * getattr(config.rates, BLOCKS[name].rate)} for name in moving
    ]
    optimiser = torch.optim.Adam(groups, betas=(0.9, 0.9))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    first: dict[str, float] = {}
    for step in range(steps):
        if step % config.search_every == 0:
            with torch.no_grad():
                _renew_contacts(unknowns.evidence, unknowns.decode(), config, stage)
        optimiser.zero_grad()
        loss, values = objective(unknowns, config, stage)
        if not torch.isfinite(loss):
            raise _diverged(clip_id, stage, step, values, first)
        if not first:
            first = {name: float(value.detach()) for name, value in values.items()}
        if step % config.trace_every == 0 or step == steps - 1:
            trace.append(_entry(stage, step, loss, values))
            report(step, f"stage {stage}, step {step}, loss {float(loss.detach()):.4f}")
        loss.backward()
        optimiser.step()
        schedule.step()
    if steps and float(loss.detach()) > config.divergence * max(sum(first.values()), SMALL_LOSS):
        raise _diverged(clip_id, stage, steps, values, first)


def _renew_contacts(evidence: Evidence, state: State, config: OptimiseConfig, stage: int) -> None:
    """Search the partners again; from stage 2 on, let the motion speak on what touches."""
    evidence.renew(state.cam.sites, state.K, state.depth_scale, config)
    if stage == 2:
        evidence.contact_prob = follow_motion(evidence.given_contact, state.world.sites, evidence.dt)


def _entry(stage: int, step: int, loss: Tensor, values: dict[str, Tensor]) -> dict[str, object]:
    rounded = {name: round(float(value.detach()), 6) for name, value in values.items()}
    return {"stage": stage, "step": step, "loss": round(float(loss.detach()), 6), "terms": rounded}


def _diverged(clip_id: str, stage: int, step: int, values: dict[str, Tensor], first: dict[str, float]) -> FootfallError:
    """Name the term that is not finite, else the one that grew most."""
    now = {name: float(value.detach()) for name, value in values.items()}
    broken = [name for name, value in now.items() if not torch.isfinite(torch.tensor(value))]
    worst = broken[0] if broken else max(now, key=lambda name: now[name] - first.get(name, 0.0))
    return FootfallError(
        f"clip {clip_id}: joint optimisation, stage {stage}, step {step}",
        got=f"a diverging objective; term {worst} went from {first.get(worst, float('nan')):.4g} to {now[worst]:.4g}",
        expected="a falling objective", do="lower optimise.rates, or check the stage that this term comes from",
    )  # fmt: skip
