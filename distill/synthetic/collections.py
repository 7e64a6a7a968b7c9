"""Named sets of clips. Clips whose id begins with "test-" are held out: no student learns from them."""

from __future__ import annotations

import hashlib
from typing import Any, Final, get_args

import numpy as np

from distill.errors import FootfallError
from distill.synthetic.spec import ClipSpec, Ground
from distill.synthetic.world import SyntheticClip

TEST_PREFIX: Final = "test-"
"""Ids of held-out clips begin so."""
GROUNDS: Final = get_args(Ground)
"""All surfaces of the ground."""


def collection(name: str, seed: int = 0) -> list[ClipSpec]:
    """The clips of a named set.

    Args:
        name: "footsteps-v1" (the teacher's benchmark), "demo" (five short clips and two held-out ones, mostly with a
            moving camera), "debug" (one tiny clip), "tiny:N" for N different clips of the least that the teacher takes
            (eight small frames, a fixed camera), or "train:N" for N varied clips, every eighth of them held out.
        seed: makes another set of the same kind.

    Raises:
        FootfallError: no such set.
    """
    if name == "footsteps-v1":
        return footsteps()
    if name == "demo":
        return _demo(seed)
    if name == "debug":
        return [ClipSpec(id="debug", seed=seed, frames=12, fps=15.0, size=[160, 96], objects=3, supersample=1)]
    kind, _, count = name.partition(":")
    if kind in ("tiny", "train") and count.isdigit() and int(count) > 0:
        make = varied_clip if kind == "train" else _tiny
        return [make(index, seed) for index in range(int(count))]
    raise FootfallError(
        f"set {name!r}",
        got="no such set",
        expected="footsteps-v1, demo, debug, tiny:N or train:N",
        do="name one of them, e.g. train:64",
    )


def _tiny(index: int, seed: int) -> ClipSpec:
    return ClipSpec(
        id=f"tiny-{index:03d}", seed=1000 * seed + index, frames=8, fps=15.0, size=[160, 120], camera="static",
        supersample=1, objects=2,
    )  # fmt: skip


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


_FOOTSTEPS: Final[tuple[dict[str, Any], ...]] = (
    {"id": "flat-walk-1", "camera": "walk", "frames": 120, "ground": "paving"},
    {"id": "flat-walk-2", "camera": "pan", "frames": 110, "ground": "grass", "speed": 1.7},
    {"id": "flat-walk-slow-1", "camera": "walk", "frames": 150, "ground": "tiles", "speed": 0.8},
    {"id": "flat-walk-pair-1", "camera": "shake", "frames": 120, "ground": "asphalt", "people": 2},
    {"id": "flat-walk-three-1", "camera": "walk", "frames": 110, "ground": "paving", "people": 3},
    {"id": "flat-walk-static-1", "camera": "static", "frames": 100, "ground": "asphalt"},
    {"id": "flat-walk-long-1", "camera": "walk", "frames": 400, "ground": "tiles"},
    {"id": "turn-1", "camera": "walk", "motion": "turn", "frames": 130, "ground": "asphalt"},
    {"id": "turn-2", "camera": "shake", "motion": "turn", "frames": 120, "ground": "tiles"},
    {"id": "turn-pair-1", "camera": "pan", "motion": "turn", "frames": 140, "ground": "grass", "people": 2},
    {"id": "stairs-up-1", "camera": "walk", "terrain": "stairs_up", "frames": 150, "ground": "paving"},
    {"id": "stairs-up-pair-1", "camera": "shake", "terrain": "stairs_up", "frames": 140, "people": 2},
    {"id": "stairs-down-1", "camera": "walk", "terrain": "stairs_down", "frames": 150, "ground": "tiles"},
    {"id": "stairs-down-pan-1", "camera": "pan", "terrain": "stairs_down", "frames": 140, "ground": "asphalt"},
    {"id": "ramp-up-1", "camera": "walk", "terrain": "ramp_up", "frames": 130, "ground": "asphalt"},
    {"id": "ramp-down-pair-1", "camera": "walk", "terrain": "ramp_down", "frames": 130, "people": 2},
    {"id": "kerb-up-1", "camera": "shake", "terrain": "kerb_up", "frames": 110, "ground": "asphalt"},
    {"id": "kerb-down-1", "camera": "walk", "terrain": "kerb_down", "frames": 110, "ground": "grass"},
    {"id": "bench-1", "camera": "walk", "motion": "sit", "frames": 200, "ground": "grass"},
    {"id": "bench-pair-1", "camera": "pan", "motion": "sit", "frames": 180, "ground": "paving", "people": 2},
    {"id": "jog-1", "camera": "walk", "motion": "jog", "frames": 110, "ground": "asphalt"},
    {"id": "jog-pair-1", "camera": "shake", "motion": "jog", "frames": 100, "ground": "tiles", "people": 2},
    {"id": "stand-1", "camera": "walk", "motion": "stand", "frames": 120, "ground": "tiles"},
    {"id": "stand-four-1", "camera": "walk", "motion": "stand", "frames": 100, "ground": "paving", "people": 4},
    {"id": "clap-1", "camera": "walk", "motion": "clap", "frames": 130, "ground": "grass"},
    {"id": "kick-1", "camera": "shake", "motion": "kick", "frames": 110, "ground": "asphalt"},
    {"id": "cross-pair-1", "camera": "walk", "motion": "cross", "frames": 130, "people": 2},
    {"id": "cross-four-1", "camera": "walk", "motion": "cross", "frames": 120, "ground": "tiles", "people": 4},
    {"id": "cross-static-1", "camera": "static", "motion": "cross", "frames": 110, "people": 3},
    {"id": "loop-1", "camera": "walk", "motion": "loop", "frames": 300, "ground": "grass"},
)
"""What each clip of the benchmark shows; the rest follows from its place in this list."""


def footsteps() -> list[ClipSpec]:
    """The benchmark `footsteps-v1`: 30 clips over flat ground, stairs, ramps, kerbs and benches. Never change it."""
    varied = [{"objects": 8 + (5 * k) % 12, "image_noise": 0.004 + 0.002 * (k % 4)} for k in range(len(_FOOTSTEPS))]
    return [
        ClipSpec(**{"seed": 7000 + k, "fps": 30.0, **shared, **shown})
        for k, (shown, shared) in enumerate(zip(_FOOTSTEPS, varied, strict=True))
    ]


def truth_hash(clip: SyntheticClip) -> str:
    """Names the truth of a clip, the same on machines whose arithmetic differs in the last digits."""
    return hashlib.sha256((np.round(truth_projections(clip), 2) + 0.0).astype("<f4").tobytes()).hexdigest()[:16]


def truth_projections(clip: SyntheticClip) -> np.ndarray:
    """[8] fixed random projections of all joints (four) and of all cameras (four).

    Few numbers that everything has a part in: rounding thousands of coordinates would sooner or later split two
    machines at an edge. Joints that all move by a centimetre move a projection by about a centimetre.
    """
    rng = np.random.default_rng(1)
    parts = (np.ravel(clip.truth.joints_world), np.ravel(clip.truth.cameras.world_from_cam))
    return np.concatenate([rng.standard_normal((4, part.size)) @ part / np.sqrt(part.size) for part in parts])


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
