"""The motion of one person as other programs want it: keys in time, spans of visibility, poses at any time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from distill.geometry.rotations import slerp
from distill.geometry.transforms import interpolate
from distill.results import Result

Array = NDArray[Any]
SAME: Final = 1e-6
"""Seconds by which two sums of steps may differ and still mean the same frame."""


@dataclass(kw_only=True)
class Poses:
    """A person at N times."""

    times: Array
    """[N] seconds."""
    present: Array
    """[N] bool: seen, not interpolated over an absence."""
    world_from_body: Array
    """[N, 4, 4] orientation and pelvis position, metres."""
    body_rot: Array
    """[N, 23, 3, 3] joint rotations relative to the parent."""


@dataclass(kw_only=True)
class Track:
    """A person who was seen at least once. K frames in which they are present."""

    id: int
    """As in the result."""
    index: int
    """Row of the result's arrays."""
    betas: Array
    """[B] shape."""
    times: Array
    """[K] seconds, increasing."""
    world_from_body: Array
    """[K, 4, 4] float64, metres."""
    body_rot: Array
    """[K, 23, 3, 3] float64."""
    spans: list[tuple[float, float]]
    """Seconds [begin, end) of every stretch of presence; the end is the first frame without them, or infinity."""

    @property
    def name(self) -> str:
        """What files and nodes of this person are called."""
        return f"person_{self.id}"

    def present_at(self, times: Array) -> Array:
        """[N] bool: inside a span."""
        inside = np.zeros(len(times), bool)
        for begin, end in self.spans:
            inside |= (times >= begin - SAME) & (times < end - SAME)
        return inside

    def switches(self, times: Array) -> tuple[Array, Array]:
        """When a clip with frames at `times` shows and hides them: seconds [M] and visible from there on, bool [M].

        Half-way between frames, so that rounding of times moves no frame to the other side.
        """
        seen = self.present_at(times)
        changes = np.flatnonzero(seen[1:] != seen[:-1]) + 1
        middle = (times[changes] + times[changes - 1]) / 2
        return np.concatenate((times[:1], middle)), np.concatenate((seen[:1], seen[changes]))

    def at(self, times: Array) -> Poses:
        """Poses at `times` [N]: exact at keys, in between on the geodesic, before and after the nearest key."""
        after = np.searchsorted(self.times, times).clip(0, len(self.times) - 1)
        before = np.where(self.times[after] > times, np.maximum(after - 1, 0), after)
        span = self.times[after] - self.times[before]
        weight = np.where(span > 0, (times - self.times[before]) / np.where(span > 0, span, 1), 0).clip(0, 1)
        share = torch.from_numpy(weight)
        root, pose = torch.from_numpy(self.world_from_body), torch.from_numpy(self.body_rot)
        return Poses(
            times=times,
            present=self.present_at(times),
            world_from_body=interpolate(root[before], root[after], share).numpy(),
            body_rot=slerp(pose[before], pose[after], share[:, None].expand(-1, pose.shape[1])).numpy(),
        )


def tracks_of(result: Result) -> list[Track]:
    """The tracks of all people who are present in some frame, in the order of the result.

    Times count from the result's first frame.
    """
    motion, times = result.motion, result.cameras.timestamps - result.cameras.timestamps[0]
    world_from_body = result.world_from_body.astype(np.float64)
    tracks = []
    for index, identity in enumerate(motion.ids):
        present = motion.present[:, index]
        if not present.any():
            continue
        tracks.append(
            Track(
                id=int(identity),
                index=index,
                betas=motion.betas[index],
                times=times[present],
                world_from_body=world_from_body[present, index],
                body_rot=motion.body_rot[present, index].astype(np.float64),
                spans=spans_of(present, times),
            )
        )
    return tracks


def spans_of(flags: Array, times: Array) -> list[tuple[float, float]]:
    """Seconds [begin, end) of every run of True in `flags` [T]; a run that lasts to the end has end = infinity."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    ends = np.append(times, np.inf)
    return [(float(times[begin]), float(ends[end])) for begin, end in edges.reshape(-1, 2)]
