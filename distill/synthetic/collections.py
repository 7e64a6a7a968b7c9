"""Named sets of clips. Clips whose id begins with "test-" are held out: no student learns from them."""

from __future__ import annotations

from typing import Any, Final, get_args

import numpy as np

from distill.errors import FootfallError
from distill.synthetic.spec import ClipSpec, Ground

TEST_PREFIX: Final = "test-"
"""Ids of held-out clips begin so."""
GROUNDS: Final = get_args(Ground)
"""All surfaces of the ground."""


def collection(name: str, seed: int = 0) -> list[ClipSpec]:
    """The clips of a named set.

    Args:
        name: "demo" (five short clips and two held-out ones, mostly with a moving camera), "debug" (one tiny
            clip), or "train:N" for N varied clips, every eighth of them held out.
        seed: makes another set of the same kind.

    Raises:
        FootfallError: no such set.
    """
    if name == "demo":
        return _demo(seed)
    if name == "debug":
        return [ClipSpec(id="debug", seed=seed, frames=12, fps=15.0, size=[160, 96], objects=3, supersample=1)]
    count = name.removeprefix("train:")
    if count != name and count.isdigit() and int(count) > 0:
        return [varied_clip(index, seed) for index in range(int(count))]
    raise FootfallError(
        f"set {name!r}", got="no such set", expected="demo, debug or train:N", do="name one of them, e.g. train:64"
    )


def _demo(seed: int) -> list[ClipSpec]:
    first = 100 * seed
    return [
        ClipSpec(id="walk", seed=first + 1, frames=54, fps=20.0, camera="walk", ground="paving"),
        ClipSpec(id="turn", seed=first + 2, frames=54, fps=20.0, motion="turn", camera="walk", ground="tiles"),
        ClipSpec(id="pair", seed=first + 24, frames=54, fps=20.0, people=2, camera="shake", ground="asphalt"),
        ClipSpec(id="gesture", seed=first + 4, frames=48, fps=20.0, motion="stand", camera="walk", ground="grass"),
        ClipSpec(id="fixed", seed=first + 5, frames=54, fps=20.0, motion="turn", camera="static", ground="asphalt"),
        ClipSpec(id="test-walk", seed=first + 6, frames=60, fps=20.0, camera="walk", ground="tiles"),
        ClipSpec(id="test-fast", seed=first + 7, frames=48, fps=20.0, speed=1.8, camera="shake", ground="paving"),
    ]


def varied_clip(index: int, seed: int) -> ClipSpec:
    """Clip `index` of a training set: everything is drawn. Every eighth is held out."""
    rng = np.random.default_rng([seed, index])
    people = int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))
    held_out = index % 8 == 7

    def pick(values: tuple[Any, ...], weights: list[float]) -> Any:
        return values[rng.choice(len(values), p=weights)]

    return ClipSpec(
        id=f"{TEST_PREFIX if held_out else ''}train-{seed:03d}-{index:05d}",
        seed=int(rng.integers(2**31)),
        frames=60,
        fps=float(rng.choice([15.0, 20.0, 25.0, 30.0])),
        people=people,
        motion=pick(("walk", "turn", "stand"), [0.5, 0.25, 0.25]),
        speed=float(np.round(rng.uniform(0.8, 1.8), 2)) if people == 1 else 0.0,
        camera=pick(("walk", "shake", "pan", "static"), [0.45, 0.25, 0.15, 0.15]),
        ground=GROUNDS[rng.integers(len(GROUNDS))],
        objects=int(rng.integers(6, 20)),
        image_noise=float(np.round(rng.uniform(0.002, 0.02), 4)),
    )
