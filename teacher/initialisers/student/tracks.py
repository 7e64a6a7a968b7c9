"""Corners of the background followed through the whole clip, with new ones added all the time.

Unlike `background.follow_background`, which starts anew when too few are left, tracks overlap in time: their points tie
all frames into one map, so that its scale cannot change between one set of corners and the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from distill.errors import require
from teacher.initialisers.background import FrameReader, follow
from teacher.initialisers.registry import Report

Array = NDArray[Any]
CORNERS: Final = 300
"""Corners that are followed at a time."""
TOP_UP: Final = 0.85
"""New corners are sought when fewer than this share of them are left."""


@dataclass(kw_only=True)
class PointTracks:
    """Observations of points that are not known yet. M observations of N points."""

    frame: Array
    """[M] int32."""
    point: Array
    """[M] int32."""
    px: Array
    """[M, 2] float32, pixels."""

    def kept(self, chosen: Array) -> PointTracks:
        """Some of the observations, `chosen` [M] bool; points keep their numbers."""
        return PointTracks(frame=self.frame[chosen], point=self.point[chosen], px=self.px[chosen])


def follow_points(reader: FrameReader, report: Report) -> PointTracks:
    """Follow corners of the background from the first frame to the last."""
    numbers, pixels, count = np.zeros(0, np.int64), np.zeros((0, 2), np.float32), 0
    rows: list[tuple[Array, Array, Array]] = []
    before: Array | None = None
    for index in range(len(reader)):
        now, background = reader.grey(index), reader.background(index)
        if before is not None:
            pixels, ok = follow(before, now, pixels)
            column, row = np.clip(pixels.astype(int), 0, np.array(reader.size) - 1).T
            ok &= background[row, column] > 0
            numbers, pixels = numbers[ok], pixels[ok].astype(np.float32)
        if len(numbers) < TOP_UP * CORNERS and index < len(reader) - 1:
            new = _new_corners(now, background, pixels)
            numbers = np.concatenate((numbers, count + np.arange(len(new))))
            pixels, count = np.concatenate((pixels, new)), count + len(new)
        rows.append((np.full(len(numbers), index), numbers, pixels))
        before = now
        report(index / len(reader), f"following the background, frame {index}")
    frame, point, px = (np.concatenate(part) for part in zip(*rows, strict=True))
    return PointTracks(frame=frame.astype(np.int32), point=point.astype(np.int32), px=px.astype(np.float32))


def _new_corners(grey: Array, background: Array, taken: Array) -> Array:
    """[N, 2] corners of the background away from those that are followed already."""
    cv2 = require("cv2", extra="teacher")
    apart = max(6, grey.shape[1] // 80)
    free = background.copy()
    for x, y in taken:
        cv2.circle(free, (int(x), int(y)), apart, 0, -1)
    found = cv2.goodFeaturesToTrack(grey, max(CORNERS - len(taken), 1), 0.005, apart, mask=free)
    return np.zeros((0, 2), np.float32) if found is None else (found[:, 0] + 0.5).astype(np.float32)


def image_motion(tracks: PointTracks) -> float:
    """Median over points of the farthest way from where each was first seen, pixels; 0 without points."""
    ways = []
    order = np.lexsort((tracks.frame, tracks.point))
    for part in np.split(order, np.flatnonzero(np.diff(tracks.point[order])) + 1):
        if len(part) > 1:
            ways.append(np.linalg.norm(tracks.px[part] - tracks.px[part[0]], axis=1).max())
    return float(np.median(ways)) if ways else 0.0
