"""What a synthetic clip is: one config, from which everything follows by its seed."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from distill.errors import FootfallError

Motion = Literal["walk", "turn", "stand", "bvh", "jog", "cross", "loop", "sit", "clap", "kick"]
CameraMove = Literal["walk", "pan", "shake", "static"]
Ground = Literal["paving", "asphalt", "grass", "tiles"]
TerrainKind = Literal["flat", "stairs_up", "stairs_down", "ramp_up", "ramp_down", "kerb_up", "kerb_down"]
MAX_PEOPLE: Final = 4
"""More than this do not fit in view without hiding one another."""


@dataclass(kw_only=True)
class ClipSpec:
    """A synthetic clip. Two equal specs give equal worlds, motions and cameras."""

    id: str = "clip"
    """Name of the clip and of its folder: letters, digits, '-' and '_'. Held-out clips begin with "test-"."""
    seed: int = 0
    """Seed of everything that is drawn."""
    frames: int = 60
    """Number of frames."""
    fps: float = 30.0
    """Frames per second; frame k is at k / fps seconds."""
    size: list[int] = field(default_factory=lambda: [480, 270])
    """Width and height, pixels; both even (H.264)."""
    people: int = 1
    """Number of people, 1 to 4, each with a shape and clothes of their own."""
    motion: Motion = "walk"
    """walk: along a gently curved path; turn: with a strong turn; jog: with a phase of flight; cross: everybody
    straight on, their ways crossing; loop: once around a circle; stand: feet planted, swaying and gesturing;
    sit: down on a bench and up again; clap, kick: standing, with fast hands or a fast leg; bvh: motion capture
    from the file `bvh` (its feet may slide)."""
    terrain: TerrainKind = "flat"
    """What a walk (motion=walk) leads over."""
    speed: float = 0.0
    """Speed of walking, m/s, 0.6 to 2.0, or of jogging, up to 3.2; 0 draws a usual one."""
    bvh: str = ""
    """Motion capture file for motion=bvh: y up, metres, CMU's 31 joints."""
    camera: CameraMove = "walk"
    """walk: carried along, bobbing; pan: a standing person turns it; shake: as walk, shaken; static: fixed."""
    focal: float = 0.0
    """Focal length, pixels; 0 draws one between 0.75 and 1.05 image widths."""
    ground: Ground = "paving"
    """Surface of the ground."""
    objects: int = 14
    """Boxes, crates, pillars, benches, low walls and steps that stand around, beside four long walls."""
    image_noise: float = 0.008
    """Standard deviation of the noise of each pixel and channel; the image is in [0, 1]."""
    exposure: float = 0.04
    """Standard deviation of the slow change of exposure, relative."""
    supersample: int = 3
    """Samples per pixel and axis; odd, so that one lies on the pixel's centre and gives exact depth."""
    crf: int = 16
    """H.264 quality of the video: 0 (lossless) to 51."""

    def __post_init__(self) -> None:
        checks: list[tuple[str, Any, bool, str]] = [
            ("id", self.id, re.fullmatch(r"[A-Za-z0-9_-]+", self.id) is not None, "letters, digits, '-' and '_'"),
            ("seed", self.seed, self.seed >= 0, "0 or more"),
            ("frames", self.frames, 2 <= self.frames <= 100_000, "2 to 100000"),
            ("fps", self.fps, 1 <= self.fps <= 240, "1 to 240"),
            (
                "size", self.size,
                len(self.size) == 2 and all(n % 2 == 0 and 32 <= n <= 4096 for n in self.size),
                "two even numbers of pixels, 32 to 4096",
            ),
            ("people", self.people, 1 <= self.people <= MAX_PEOPLE, f"1 to {MAX_PEOPLE}"),
            (
                "speed", self.speed, self.speed == 0 or 0.6 <= self.speed <= (3.2 if self.motion == "jog" else 2.0),
                "0 (drawn), or 0.6 to 2.0 m/s (jogging: to 3.2)",
            ),
            ("terrain", self.terrain, self.terrain == "flat" or self.motion == "walk", "flat unless motion=walk"),
            ("people", self.people, self.people <= 2 or self.terrain == "flat", "at most 2 on stairs, ramps and kerbs"),
            ("people", self.people, self.people >= 2 or self.motion != "cross", "2 or more with motion=cross"),
            ("bvh", self.bvh, bool(self.bvh) == (self.motion == "bvh"), "a path with motion=bvh, else empty"),
            ("focal", self.focal, self.focal == 0 or self.focal >= 0.3 * max(self.size), "0 (drawn), or pixels"),
            ("objects", self.objects, 0 <= self.objects <= 40, "0 to 40"),
            ("image_noise", self.image_noise, 0 <= self.image_noise <= 0.2, "0 to 0.2"),
            ("exposure", self.exposure, 0 <= self.exposure <= 0.3, "0 to 0.3"),
            ("supersample", self.supersample, self.supersample in (1, 3, 5), "1, 3 or 5"),
            ("crf", self.crf, 0 <= self.crf <= 51, "0 to 51"),
        ]  # fmt: skip
        for name, got, good, expected in checks:
            if not good:
                raise FootfallError(
                    f"clip {self.id}: {name}", got=got, expected=expected, do="see docs/synthetic.md for the fields"
                )
        if self.bvh and not Path(self.bvh).is_file():
            raise FootfallError(f"clip {self.id}: bvh", got=f"no file {self.bvh}", expected="a BVH file", do="check it")

    @property
    def width(self) -> int:
        """Pixels."""
        return self.size[0]

    @property
    def height(self) -> int:
        """Pixels."""
        return self.size[1]

    @property
    def times(self) -> np.ndarray:
        """[frames] seconds."""
        return np.arange(self.frames) / self.fps

    def rng(self, purpose: str) -> np.random.Generator:
        """A generator of its own for each purpose, so that one part drawing more leaves the others alone."""
        return np.random.default_rng([self.seed, *purpose.encode()])
