"""The solve of one clip, by the solver of the config, in two stages.

Stage 1 settles cameras, bodies and scale in 3D with the focal length fixed; stage 2 refines all of it in the
images with the focal length free (JOSH, section 3). Contacts are found again as the world moves.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from teacher.initialisers.registry import Report
from teacher.optimise import adam, levenberg
from teacher.optimise.config import OptimiseConfig
from teacher.optimise.evidence import Evidence, make_evidence
from teacher.optimise.precision import moved_tensors
from teacher.optimise.problem import Problem
from teacher.optimise.renewal import renew_contacts
from teacher.optimise.trace import Trace
from teacher.optimise.variables import State, Unknowns, free_blocks


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
    free = free_blocks(problem) - set(config.frozen)
    trace = Trace(clip_id=problem.clip_id, config=config, report=report)
    run = _second_order if config.solver == "second_order" else _adam
    run(unknowns, free, config, trace)
    with torch.no_grad():
        after = unknowns.decode()
        renew_contacts(evidence, after, config, stage=2)
    return Solution(before=before, after=after, evidence=evidence, trace=trace.entries)


def _adam(unknowns: Unknowns, free: set[str], config: OptimiseConfig, trace: Trace) -> None:
    for stage in (1, 2):
        adam.descend(unknowns, free, config, stage, trace)


@torch.no_grad()
def _second_order(unknowns: Unknowns, free: set[str], config: OptimiseConfig, trace: Trace) -> None:
    """In double precision, on the device of the config; contacts are searched on the processor."""
    evidence, device = unknowns.evidence, torch.device(config.device)
    fine = Unknowns(moved_tensors(evidence, torch.float64, device))
    fine.blocks = {name: block.detach().to(device, torch.float64) for name, block in unknowns.blocks.items()}

    def renew(stage: int) -> None:
        state = fine.decode()
        found = renew_contacts(evidence, moved_tensors(state, torch.float32, torch.device("cpu")), config, stage)
        fresh = moved_tensors(found, torch.float64, device)
        fine.evidence.partners, fine.evidence.contact_prob = fresh.partners, fresh.contact_prob
        fine.evidence.align_sd = evidence.align_sd

    for stage in (1, 2):
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
