"""The solve of one clip, by the solver of the config, in two stages.

Stage 1 settles cameras, bodies and scale in 3D with the focal length fixed; stage 2 refines all of it in the
images with the focal length free (JOSH, section 3). Contacts are found again as the world moves.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from distill.errors import FootfallError
from teacher.initialisers.registry import Report
from teacher.optimise import adam, levenberg
from teacher.optimise.config import OptimiseConfig
from teacher.optimise.evidence import Evidence, make_evidence
from teacher.optimise.precision import moved_tensors
from teacher.optimise.problem import Problem
from teacher.optimise.renewal import renew_contacts
from teacher.optimise.trace import Trace
from teacher.optimise.variables import BLOCKS, State, Unknowns, free_blocks
from teacher.optimise.windows import spans, start_from_windows


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
    with _threads(config.threads):
        return _solve(problem, config, report)


def _solve(problem: Problem, config: OptimiseConfig, report: Report) -> Solution:
    evidence = make_evidence(problem, config)
    unknowns = Unknowns(evidence)
    with torch.no_grad():
        before = unknowns.decode()
    free = _free(problem, config)
    trace = Trace(clip_id=problem.clip_id, config=config, report=report)
    if config.solver == "adam":
        for stage in (1, 2):
            adam.descend(unknowns, free, config, stage, trace)
    else:
        stages: tuple[int, ...] = (1, 2)
        if _is_long(problem, config):
            solve_windows(problem, unknowns, config, report)
            stages = (2,)
        _second_order(unknowns, free, config, trace, stages)
    with torch.no_grad():
        after = unknowns.decode()
        renew_contacts(evidence, after, config, stage=2)
    return Solution(before=before, after=after, evidence=evidence, trace=trace.entries)


def _free(problem: Problem, config: OptimiseConfig) -> set[str]:
    """Blocks that move.

    Raises:
        FootfallError: `optimise.frozen` names no block.
    """
    unknown = set(config.frozen) - set(BLOCKS)
    if unknown:
        raise FootfallError(
            f"optimise.frozen={sorted(unknown)}", got="no such block of unknowns", expected=", ".join(BLOCKS),
            do="name some of these",
        )  # fmt: skip
    return free_blocks(problem) - set(config.frozen)


def _is_long(problem: Problem, config: OptimiseConfig) -> bool:
    """Cameras that are known, or fixed, do not drift."""
    return len(problem.timestamps) > config.windows.longest and not problem.cameras_known and not config.frozen


def solve_windows(problem: Problem, unknowns: Unknowns, config: OptimiseConfig, report: Report) -> None:
    """Solve the windows of a long clip with few iterations each, and begin the whole clip where they end."""
    total, done = len(spans(len(problem.timestamps), config.windows.length, config.windows.overlap)), 0
    quick = replace(config, levenberg=replace(config.levenberg, stage2_steps=config.windows.steps))

    def solve_window(part: Problem) -> Solution:
        nonlocal done
        report(0.5 * done / total, f"window {done + 1} of {total}")
        done += 1
        return _solve(part, quick, lambda fraction, text: None)

    start_from_windows(problem, unknowns, config, solve_window)


@torch.no_grad()
def _second_order(
    unknowns: Unknowns, free: set[str], config: OptimiseConfig, trace: Trace, stages: tuple[int, ...]
) -> None:
    """In double precision, on the device of the config; contacts are searched on the processor."""
    evidence, device = unknowns.evidence, torch.device(config.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise FootfallError(
            f"optimise.device={config.device}", got="a machine, or a torch, without CUDA", expected="a CUDA GPU",
            do="leave it at cpu",
        )  # fmt: skip
    fine = Unknowns(moved_tensors(evidence, torch.float64, device))
    fine.blocks = {name: block.detach().to(device, torch.float64) for name, block in unknowns.blocks.items()}

    def renew(stage: int) -> None:
        state = moved_tensors(fine.decode(), torch.float32, torch.device("cpu"))
        renew_contacts(evidence, state, config, stage)
        if evidence.partners is not None:
            fine.evidence.partners = moved_tensors(evidence.partners, torch.float64, device)
        fine.evidence.contact_prob = evidence.contact_prob.to(device, torch.float64)
        fine.evidence.align_sd, fine.evidence.people_near = evidence.align_sd, evidence.people_near

    for stage in stages:
        levenberg.descend(fine, free, config, stage, functools.partial(renew, stage), trace)
    for name, block in fine.blocks.items():
        unknowns.blocks[name].copy_(block)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """The tensors are small: on a busy machine one thread is many times faster than several that wait for others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
