"""Which stages use a GPU, and what that makes of a clip: one or several tasks, each for the workers that suit it."""

from __future__ import annotations

from collections.abc import Collection
from itertools import groupby
from typing import TYPE_CHECKING

from teacher.execution.tasks import Lane
from teacher.initialisers.registry import SLOTS, get_initialiser

if TYPE_CHECKING:
    from teacher.config import LabelConfig


def uses_gpu(stage: str, config: LabelConfig) -> bool:
    """Whether a stage works on a GPU under this config, where there is one."""
    if stage == "people" and config.people.masks.use == "sam":
        return True
    if stage == "joint":
        return config.optimise.device.startswith("cuda")
    if stage == "gaussians":
        return config.gaussians.enabled != "never" and config.gaussians.device != "cpu"
    return stage in SLOTS and get_initialiser(stage, getattr(config, stage).use).gpu


def split_by_lane(stages: Collection[str], config: LabelConfig, *, has_gpu: bool) -> list[tuple[tuple[str, ...], Lane]]:
    """Cut a clip's stages, in order, where the kind of worker changes. Without GPUs there is one part."""

    def lane(stage: str) -> Lane:
        return "gpu" if has_gpu and uses_gpu(stage, config) else "cpu"

    return [(tuple(part), kind) for kind, part in groupby(stages, key=lane)]
