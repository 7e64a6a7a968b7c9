"""Where people walk: smooth curves on the ground, run through in time, never closer than `CLEARANCE`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distill.synthetic.axes import Array, smooth_noise, smooth_step
from distill.synthetic.spec import ClipSpec

CLEARANCE = 0.95
"""Least distance between two people's paths at the same time, metres."""
_STEP = 1 / 240
_LEAD = 2.5
"""Paths begin this many seconds before the clip and end as long after it, for steps that reach over its ends."""


@dataclass(kw_only=True, frozen=True)
class GroundPath:
    """Position and heading over time."""

    times: Array
    """[N] seconds, evenly spaced."""
    xy: Array
    """[N, 2] metres."""
    heading: Array
    """[N] radians from world x, counter-clockwise, unwrapped."""

    def at(self, times: Array) -> tuple[Array, Array]:
        """Positions [T, 2] and headings [T] at `times` [T]."""
        xy = np.stack([np.interp(times, self.times, self.xy[:, axis]) for axis in range(2)], axis=-1)
        return xy, np.interp(times, self.times, self.heading)

    @property
    def speed(self) -> float:
        """Mean speed, m/s."""
        return float(np.linalg.norm(np.diff(self.xy, axis=0), axis=-1).sum() / (self.times[-1] - self.times[0]))

    def beside(self, left: float, ahead: float) -> GroundPath:
        """The path of someone who keeps `left` metres to the left and `ahead` metres in front."""
        front = np.stack((np.cos(self.heading), np.sin(self.heading)), axis=-1)
        side = np.stack((-front[:, 1], front[:, 0]), axis=-1)
        xy = self.xy + left * side + ahead * front
        # Heading follows the motion of the shifted point, which curves a little otherwise than the first.
        velocity = np.gradient(xy, self.times, axis=0)
        heading = np.unwrap(np.arctan2(velocity[:, 1], velocity[:, 0]))
        return GroundPath(times=self.times, xy=xy, heading=heading)


def plan_paths(spec: ClipSpec) -> list[GroundPath]:
    """One path per person; people who walk keep their formation, so that one camera sees them all."""
    rng = spec.rng("paths")
    if spec.motion == "cross":
        return _crossing(spec, rng)
    offsets = _formation(rng, spec.people)
    if spec.motion in ("walk", "turn", "jog", "loop"):
        base = _curve(spec, rng)
        return [base.beside(left, ahead) for left, ahead in offsets]
    times = np.array([-_LEAD, spec.frames / spec.fps + _LEAD])
    facing = rng.uniform(-np.pi, np.pi)
    paths = []
    for left, ahead in offsets:
        heading = facing + rng.uniform(-0.6, 0.6)
        xy = np.array([ahead, left])
        paths.append(GroundPath(times=times, xy=np.stack((xy, xy)), heading=np.array([heading, heading])))
    return paths


def _curve(spec: ClipSpec, rng: np.random.Generator) -> GroundPath:
    """A path of gently changing heading; `turn` adds a turn of 70 to 150 degrees within the clip."""
    duration = spec.frames / spec.fps
    times = np.arange(-_LEAD, duration + _LEAD, _STEP)
    speed = spec.speed or (rng.uniform(2.3, 2.9) if spec.motion == "jog" else rng.uniform(1.0, 1.5))
    heading = rng.uniform(-np.pi, np.pi) + 0.12 * smooth_noise(rng, times, period=3.0, channels=1)[:, 0]
    if spec.motion == "loop":
        heading = heading[0] + 2 * np.pi * times / duration
    if spec.motion == "turn":
        # Turns no tighter than 0.9 rad/s alone and 0.5 rad/s in company, so that inner walkers keep walking.
        total = np.radians(rng.uniform(70, 150)) * rng.choice([-1.0, 1.0])
        rate = 0.9 if spec.people == 1 else 0.5
        length = 1.875 * abs(total) / rate  # 1.875 is the steepest slope of smooth_step
        heading = heading + total * smooth_step((times - duration / 2) / length + 0.5)
        speed = min(speed, spec.speed or 1.2)
    velocity = speed * np.stack((np.cos(heading), np.sin(heading)), axis=-1)
    xy = np.cumsum(velocity, axis=0) * _STEP
    return GroundPath(times=times, xy=xy - xy[np.searchsorted(times, duration / 2)], heading=heading)


def _crossing(spec: ClipSpec, rng: np.random.Generator) -> list[GroundPath]:
    """Straight ways that meet near the origin at times far enough apart that nobody walks through anybody."""
    duration = spec.frames / spec.fps
    times = np.arange(-_LEAD, duration + _LEAD, _STEP)
    while True:
        paths = []
        facing = rng.uniform(-np.pi, np.pi)
        for person in range(spec.people):
            heading = facing + np.pi * (person % 2) + rng.uniform(-0.5, 0.5)
            velocity = (spec.speed or rng.uniform(0.8, 1.2)) * np.array([np.cos(heading), np.sin(heading)])
            side = rng.uniform(-1.5, 1.5) * np.array([-np.sin(heading), np.cos(heading)])
            xy = side + (times - duration / 2 - rng.uniform(-0.8, 0.8))[:, None] * velocity
            paths.append(GroundPath(times=times, xy=xy, heading=np.full(len(times), heading)))
        if all(_meet(a, b) for k, a in enumerate(paths) for b in paths[:k]):
            return paths


def _meet(a: GroundPath, b: GroundPath) -> bool:
    """Whether two people pass each other nearby, but never closer than `CLEARANCE`."""
    nearest = np.linalg.norm(a.xy - b.xy, axis=-1).min()
    return bool(CLEARANCE <= nearest <= CLEARANCE + 1.3)


def _formation(rng: np.random.Generator, people: int) -> list[tuple[float, float]]:
    """(left, ahead) offsets in metres, at least `CLEARANCE` apart, around the origin."""
    spread = 0.75 * CLEARANCE * people
    while True:
        offsets = rng.uniform(-1, 1, (people, 2)) * [spread, 0.7 * spread] * (people > 1)
        gaps = np.linalg.norm(offsets[:, None] - offsets[None], axis=-1)
        if (gaps[~np.eye(people, dtype=bool)] >= CLEARANCE).all():
            return [(float(left), float(ahead)) for left, ahead in offsets - offsets.mean(axis=0)]
