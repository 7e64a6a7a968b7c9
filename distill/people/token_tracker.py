"""Follow the people that a student finds in its own tokens: no detector, one assignment per frame, bounded memory.

Boxes are matched by overlap with where each track should be now, and by the student's identity vectors. Somebody who
left, or was hidden, is known again by identity alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Array = NDArray[Any]
FORBIDDEN: Final = 1e6
"""Cost of a match that must not be."""
FOLLOW: Final = 0.3
"""How fast the speed of a box follows what is seen."""


@dataclass(kw_only=True)
class TokenTrackerConfig:
    """Finding people in tokens, and following them."""

    enter_score: float = 0.55
    """Least score in [0, 1] of somebody new."""
    stay_score: float = 0.3
    """Least score in [0, 1] of somebody who is followed already."""
    overlap: float = 0.5
    """Candidates of one frame that overlap by more are the same person."""
    alike: float = 0.6
    """Least similarity (cosine) by which somebody who was away is known again."""
    identity_weight: float = 0.5
    """What a cosine counts beside an overlap, when boxes are matched."""
    coast: int = 5
    """Frames for which somebody not found is believed to move on, and is matched by place."""
    forget_after: int = 300
    """Frames for which somebody who left is remembered."""
    max_people: int = 16
    """At most this many are followed at once."""
    memory: float = 0.95
    """How slowly a remembered identity follows new frames."""

    def __post_init__(self) -> None:
        if not 0 < self.stay_score <= self.enter_score < 1 or not 0 < self.overlap < 1 or not 0 <= self.memory < 1:
            raise ValueError("token tracker: 0 < stay_score <= enter_score < 1, overlap and memory in (0, 1) expected")
        if min(self.coast, self.forget_after, self.max_people) < 1 or not -1 <= self.alike <= 1:
            raise ValueError("token tracker: coast, forget_after, max_people of 1 or more, alike in [-1, 1] expected")


@dataclass
class _Track:
    id: int
    box: Array
    """[4] pixels, as last seen or believed."""
    speed: Array
    """[4] pixels per frame."""
    vector: Array
    """[D] running mean of identity vectors, of unit length."""
    missed: int = 0


def overlaps(a: Array, b: Array) -> Array:
    """Intersection over union of boxes [N, 4] and [M, 4]: [N, M]."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(-1) for boxes in (a, b)]
    return np.asarray(shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-6))


class TokenTracker:
    """Call `step` with the candidates of every frame, in order."""

    def __init__(self, config: TokenTrackerConfig | None = None) -> None:
        self.config = config or TokenTrackerConfig()
        self._tracks: list[_Track] = []
        self._next = 0

    def step(self, boxes: Array, scores: Array, vectors: Array) -> dict[int, Array]:
        """Who is where: id -> box [4].

        Args:
            boxes: [N, 4] x0, y0, x1, y1 of the candidates, overlapping ones already left out.
            scores: [N] in [0, 1].
            vectors: [N, D] unit identity vectors.
        """
        for track in self._tracks:
            track.missed += 1
            if track.missed <= self.config.coast:
                track.box = track.box + track.speed
        usable = scores >= self.config.stay_score
        boxes, scores, vectors = boxes[usable], scores[usable], vectors[usable]
        taken = self._assign(boxes, vectors)
        found: dict[int, Array] = {}
        for candidate, track in taken.items():
            self._follow(track, boxes[candidate], vectors[candidate])
            found[track.id] = boxes[candidate]
        for candidate in np.argsort(-scores):
            full = len(found) >= self.config.max_people
            if int(candidate) in taken or scores[candidate] < self.config.enter_score or full:
                continue
            track = _Track(self._next, boxes[candidate], np.zeros(4), vectors[candidate])
            self._next += 1
            self._tracks.append(track)
            found[track.id] = boxes[candidate]
        self._tracks = [track for track in self._tracks if track.missed <= self.config.forget_after]
        return found

    def interrupt(self) -> None:
        """After a break in time or a cut, places mean nothing: whoever is there is known again by looks alone."""
        for track in self._tracks:
            track.missed = max(track.missed, self.config.coast)

    def _assign(self, boxes: Array, vectors: Array) -> dict[int, _Track]:
        """Candidate -> track, the best for all together."""
        if not len(boxes) or not self._tracks:
            return {}
        shared = overlaps(boxes, np.stack([track.box for track in self._tracks]))
        alike = vectors @ np.stack([track.vector for track in self._tracks]).T
        near = np.array([track.missed <= self.config.coast for track in self._tracks])
        by_place = 1 - shared + self.config.identity_weight * (1 - alike)
        # One who was away costs more than any who was not, so that nobody is taken from a track that goes on.
        by_look = 2 + self.config.identity_weight * (1 - alike)
        cost = np.where(near & (shared > 0.1), by_place, np.where(alike > self.config.alike, by_look, FORBIDDEN))
        rows, columns = linear_sum_assignment(cost)
        return {int(r): self._tracks[c] for r, c in zip(rows, columns, strict=True) if cost[r, c] < FORBIDDEN}

    def _follow(self, track: _Track, box: Array, vector: Array) -> None:
        before = track.box - track.speed if track.missed <= self.config.coast else box
        track.speed = (1 - FOLLOW) * track.speed + FOLLOW * (box - before) if track.missed == 1 else np.zeros(4)
        track.box, track.missed = box, 0
        mean = self.config.memory * track.vector + (1 - self.config.memory) * vector
        track.vector = mean / max(float(np.linalg.norm(mean)), 1e-6)
