"""The order of steps: warm-up, separate, joint, and what moves how fast in each (JOintGS, section 3.4)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from teacher.scene.config import PHASES, GaussiansConfig, PhotoRates
from teacher.scene.world import BODY, CAMERA

LAST_FACTOR = 0.1
"""Rates at the end of a section over those at its start."""
SCENE_EVERY = 3
"""Visits of a frame, in the separate phase, for one in which its scene is drawn: bodies need more steps than scenes."""
JOINT_FACTOR = 0.3
"""Rates of cameras and bodies in the joint phase over those of the separate one."""
HELD_FACTOR = 0.1
"""Rate of offsets while bodies move freely, over that afterwards: offsets would take up the error of a pose first."""


@dataclass(kw_only=True, frozen=True)
class Step:
    """One update."""

    phase: str
    level: int
    """Factor by which the scene's pictures are smaller; people, who are small in them, are drawn at half of it."""
    scene: bool
    """Whether the scene is drawn, or people alone."""
    begins: bool
    """Whether a section (a phase at one level) begins here."""
    frames: tuple[int, ...]
    """Frames that are drawn."""
    factor: float
    """On all rates: 1 at the start of a section, then a cosine."""


def plan(config: GaussiansConfig, frames: int) -> list[Step]:
    """Every step of a fit of so many frames; the same for the same config."""
    rng = np.random.default_rng(config.seed)
    steps: list[Step] = []
    for phase, visits in zip(PHASES, config.visits, strict=True):
        levels = {"warm_up": config.levels[:1], "separate": config.levels, "joint": config.levels[-1:]}[phase]
        bounds = np.linspace(0, visits, len(levels) + 1).round().astype(int)
        for level, (begin, end) in zip(levels, pairwise(bounds), strict=True):
            order = [(visit, int(frame)) for visit in range(end - begin) for frame in rng.permutation(frames)]
            for number, (visit, frame) in enumerate(order):
                factor = LAST_FACTOR + (1 - LAST_FACTOR) * 0.5 * (1 + math.cos(math.pi * number / len(order)))
                scene = phase != "separate" or visit % SCENE_EVERY == 0
                steps.append(
                    Step(phase=phase, level=level, scene=scene, begins=number == 0, frames=(frame,), factor=factor)
                )
    return steps


def rates(phase: str, config: PhotoRates, pivot_m: float, people: int) -> dict[str, float]:
    """Name of each unknown that moves in a phase -> its rate.

    Args:
        pivot_m: the scene's middle depth, metres. people: how many.
    """
    shape = {
        "log_scales": config.log_scales,
        "quats": config.quats,
        "logits": config.opacities,
        "colors": config.colors,
    }
    found = {"background": config.colors, "scene/means": config.scene_means * pivot_m}
    found |= {f"scene/{name}": rate for name, rate in shape.items()}
    if phase != "warm_up":
        factor = 1.0 if phase == "separate" else JOINT_FACTOR
        found |= {name: factor * getattr(config, name) for name in (*CAMERA, *BODY)}
    for person in range(people):
        found |= {f"person{person}/{name}": rate for name, rate in shape.items()}
        found[f"person{person}/offsets"] = config.person_offsets * (1.0 if phase == "joint" else HELD_FACTOR)
        if phase == "joint":
            found[f"person{person}/skinning"] = config.skinning
            found |= {f"field{person}/{name}": config.field for name in ("hidden", "bias", "last")}
    return found
