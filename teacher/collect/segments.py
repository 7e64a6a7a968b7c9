"""Choosing what is worth labelling: parts of shots with people in them and a camera that moves."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from teacher.collect.config import SegmentsConfig
from teacher.collect.survey import Look, Shot


@dataclass(kw_only=True)
class Segment:
    """A part of a shot, kept or not."""

    start_s: float
    end_s: float
    verdict: str
    """"keep", or why not."""
    people: int = 0
    """How many are there in nine looks of ten, at most."""
    motion: float | None = None
    """Median motion of the background, share of the longer side per second."""
    camera: str = "unknown"
    """still, turning, travelling or unknown."""

    @property
    def kept(self) -> bool:
        """Whether it goes into the manifest."""
        return self.verdict == "keep"


def choose(shot: Shot, config: SegmentsConfig) -> list[Segment]:
    """The segments of a shot; one that is not kept stands for a shot without any."""
    period = _period(shot)
    parts = [shot.looks[run] for run in _runs([_has_people(look, config) for look in shot.looks])]
    chosen: list[Segment] = []
    for looks in parts:
        start = max(shot.start_s, looks[0].time_s)
        end = min(shot.end_s, looks[-1].time_s + period)
        if end - start < config.min_s:
            continue
        count = max(1, int(np.ceil((end - start) / config.max_s)))
        edges = np.linspace(start, end, count + 1)
        for low, high in itertools.pairwise(edges):
            inside = [look for look in looks if low - 1e-6 <= look.time_s < high]
            chosen.append(_judge(float(low), float(high), inside, config))
    if chosen:
        return chosen
    why = "no people" if not parts else f"people for less than {config.min_s:g} s"
    return [_judge(shot.start_s, shot.end_s, shot.looks, config, why)]


def _period(shot: Shot) -> float:
    times = [look.time_s for look in shot.looks]
    return float(np.median(np.diff(times))) if len(times) > 1 else 0.0


def _has_people(look: Look, config: SegmentsConfig) -> bool:
    tallest = max((box[3] - box[1] for box in look.people), default=0.0)
    return tallest >= config.min_height and len(look.people) <= config.max_people


def _runs(good: Sequence[bool]) -> list[slice]:
    """Longest runs of good looks; a single bad one in between does not end a run."""
    runs: list[slice] = []
    start: int | None = None
    for index, here in enumerate([*good, False, False]):
        if here and start is None:
            start = index
        elif not here and start is not None and not (index + 1 < len(good) and good[index + 1]):
            runs.append(slice(start, index))
            start = None
    return runs


def _judge(start: float, end: float, looks: Sequence[Look], config: SegmentsConfig, why: str = "") -> Segment:
    motions = [look.motion for look in looks if look.motion is not None]
    motion = float(np.median(motions)) if motions else None
    camera = "unknown"
    if motion is not None:
        left = float(np.median([look.parallax for look in looks if look.parallax is not None]))
        camera = "still" if motion < config.still else "travelling" if left > config.parallax else "turning"
    if not why and camera == "still" and config.camera == "moving":
        why = "the camera stands still"
    people = int(np.quantile([len(look.people) for look in looks], 0.9)) if looks else 0
    return Segment(
        start_s=round(start, 3), end_s=round(end, 3), verdict=why or "keep", people=people, motion=motion, camera=camera
    )
