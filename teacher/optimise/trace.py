"""What a solve leaves behind of its way: the convergence trace, and an error where it diverges."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from torch import Tensor

from distill.errors import FootfallError
from teacher.initialisers.registry import Report
from teacher.optimise.config import OptimiseConfig

SMALL_LOSS: Final = 1.0
"""A stage that begins below this (nearly solved) has not diverged when it ends a little above."""


class Trace:
    """Both solvers write here; it also reports progress."""

    def __init__(self, *, clip_id: str, config: OptimiseConfig, report: Report) -> None:
        self.entries: list[dict[str, object]] = []
        """Stage, step, loss and weighted value of each term."""
        self._clip_id, self._config, self._report = clip_id, config, report
        self._first: dict[int, dict[str, float]] = {}

    def add(self, stage: int, step: int, steps: int, values: Mapping[str, Tensor], *, keep: bool = True) -> None:
        """Take note of the terms' values at a step of a stage.

        Raises:
            FootfallError: one of them is not finite, or this is the last step and the loss has grown.
        """
        now = {name: float(value.detach()) for name, value in values.items()}
        loss = sum(now.values())
        first = self._first.setdefault(stage, now)
        grown = step >= steps - 1 and loss > self._config.divergence * max(sum(first.values()), SMALL_LOSS)
        if not math.isfinite(loss) or grown:
            raise self._diverged(stage, step, now, first)
        if keep:
            terms = {name: round(value, 6) for name, value in now.items()}
            self.entries.append({"stage": stage, "step": step, "loss": round(loss, 6), "terms": terms})
            part = 0.5 * (stage - 1) + 0.5 * step / max(steps, 1)
            self._report(part, f"stage {stage}, step {step}, loss {loss:.4f}")

    def _diverged(self, stage: int, step: int, now: dict[str, float], first: dict[str, float]) -> FootfallError:
        """Name the term that is not finite, else the one that grew most."""
        broken = [name for name, value in now.items() if not math.isfinite(value)]
        worst = broken[0] if broken else max(now, key=lambda name: now[name] - first.get(name, 0.0))
        change = f"{first.get(worst, math.nan):.4g} to {now[worst]:.4g}"
        return FootfallError(
            f"clip {self._clip_id}: joint optimisation, stage {stage}, step {step}",
            got=f"a diverging objective; term {worst} went from {change}", expected="a falling objective",
            do="check the stage that this term comes from, or take optimise.solver=second_order",
        )  # fmt: skip
