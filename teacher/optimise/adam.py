"""The reference solver: Adam over the objective, as JOSH solves its problem.

JOSH's schedule of 500 and 200 steps at one learning rate becomes shorter because every kind of unknown has a step
of its own and scale is one unknown, not T.
"""

from __future__ import annotations

import torch

from teacher.optimise.config import OptimiseConfig
from teacher.optimise.objective import objective
from teacher.optimise.renewal import renew_contacts
from teacher.optimise.trace import Trace
from teacher.optimise.variables import BLOCKS, Unknowns


def descend(unknowns: Unknowns, free: set[str], config: OptimiseConfig, stage: int, trace: Trace) -> None:
    """One stage, in place; betas (0.9, 0.9) and cosine to 0 as JOSH.

    Raises:
        FootfallError: the objective became NaN or infinite, or grew.
    """
    steps = config.stage1_steps if stage == 1 else config.stage2_steps
    factor = 1.0 if stage == 1 else config.stage2_rate
    moving = [name for name in BLOCKS if name in free and stage in BLOCKS[name].stages]
    groups = [
        {"params": [unknowns.blocks[name]], "lr": factor * getattr(config.rates, BLOCKS[name].rate)} for name in moving
    ]
    optimiser = torch.optim.Adam(groups, betas=(0.9, 0.9))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    for step in range(steps):
        if step % config.search_every == 0:
            with torch.no_grad():
                renew_contacts(unknowns.evidence, unknowns.decode(), config, stage)
        optimiser.zero_grad()
        loss, values = objective(unknowns, config, stage)
        trace.add(stage, step, steps, values, keep=step % config.trace_every == 0 or step == steps - 1)
        loss.backward()
        optimiser.step()
        schedule.step()
