"""Looking at every shot a few times a second: who is there, and how the camera moves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill.errors import require
from distill.people.tracker import PeopleTracker
from distill.video import Decoder
from teacher.collect.config import CollectConfig, SurveyConfig
from teacher.collect.duplicates import picture_hash
from teacher.collect.shots import find_shots, probe
from teacher.initialisers.background import follow

Array = NDArray[Any]


@dataclass(kw_only=True)
class Look:
    """One frame that was looked at."""

    time_s: float
    people: list[list[float]] = field(default_factory=list)
    """Boxes x0, y0, x1, y1 as shares of width and height."""
    motion: float | None = None
    """How far the background moved since the last look, share of the longer side per second; None: not measurable."""
    parallax: float | None = None
    """What a homography leaves of that, same unit."""
    hash: str = ""
    """Perceptual hash, 16 hexadecimal digits; empty for a plain picture."""


@dataclass(kw_only=True)
class Shot:
    """One shot and the looks at it."""

    start_s: float
    end_s: float
    looks: list[Look]


@dataclass(kw_only=True)
class VideoSurvey:
    """All that is known of a video."""

    seconds: float
    size: list[int]
    """Width and height, pixels."""
    shots: list[Shot]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> VideoSurvey:
        """From what `to_json` gave."""
        shots = [
            Shot(start_s=s["start_s"], end_s=s["end_s"], looks=[Look(**look) for look in s["looks"]])
            for s in stored["shots"]
        ]
        return cls(seconds=stored["seconds"], size=stored["size"], shots=shots)


def survey_video(path: Path, config: CollectConfig) -> VideoSurvey:
    """Cut a video into shots and look at each.

    Raises:
        FootfallError: it cannot be opened or decoded.
    """
    stream = probe(path)
    decoder = Decoder(path, fps=None)
    shots = [
        Shot(start_s=start, end_s=end, looks=list(_look_at(decoder, start, end, config.survey)))
        for start, end in find_shots(path, config.shots, stream.seconds)
    ]
    return VideoSurvey(seconds=stream.seconds, size=[stream.width, stream.height], shots=shots)


def _look_at(decoder: Decoder, start: float, end: float, config: SurveyConfig) -> Iterator[Look]:
    tracker = PeopleTracker(config.tracker)
    before: tuple[float, Array, list[Array]] | None = None
    for index in _indices(decoder.timestamps, start, end, config.fps):
        frame = next(iter(decoder.frames(range(index, index + 1))))[1]
        if frame is None:
            continue
        image = Image.fromarray(frame)
        scale = min(1.0, config.long_side / max(image.size))
        small = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
        boxes = [person.pose.box_xyxy for person in tracker.step(np.asarray(small))]
        look = Look(time_s=float(decoder.timestamps[index]), hash=picture_hash(small))
        shares = np.array([small.width, small.height, small.width, small.height])
        look.people = [np.clip(box / shares, 0, 1).round(4).tolist() for box in boxes]
        grey = np.asarray(small.convert("L"))
        if before is not None and look.time_s > before[0]:
            moved = background_motion(before[1], grey, before[2])
            if moved is not None:
                rate = max(grey.shape) * (look.time_s - before[0])
                look.motion, look.parallax = round(moved[0] / rate, 5), round(moved[1] / rate, 5)
        before = (look.time_s, grey, boxes)
        yield look


def _indices(timestamps: Array, start: float, end: float, fps: float) -> list[int]:
    """Frames nearest to every 1/fps seconds of [start, end), each once."""
    wanted = np.arange(start, min(end, float(timestamps[-1]) + 1e-6), 1 / fps)
    return sorted(set(np.clip(np.searchsorted(timestamps, wanted - 1e-6), 0, len(timestamps) - 1).tolist()))


def background_motion(before: Array, now: Array, people: list[Array]) -> tuple[float, float] | None:
    """Median motion of points outside people, and what the best homography leaves of it, pixels.

    Args:
        before, now: [H, W] uint8.
        people: boxes [4] in `before`, pixels.

    Returns:
        None where too few points can be followed.
    """
    cv2 = require("cv2", extra="collect")
    mask = np.full(before.shape, 255, np.uint8)
    for x0, y0, x1, y1 in people:
        mask[max(int(y0), 0) : max(int(y1) + 1, 0), max(int(x0), 0) : max(int(x1) + 1, 0)] = 0
    corners = cv2.goodFeaturesToTrack(before, 300, 0.01, 8, mask=mask)
    if corners is None:
        return None
    points = corners.reshape(-1, 2) + 0.5
    found, good = follow(before, now, points)
    if good.sum() < 20:
        return None
    start, end = points[good].astype(np.float64), found[good].astype(np.float64)
    homography, _ = cv2.findHomography(start, end, cv2.RANSAC, 2.0)
    if homography is None:
        return None
    mapped = np.concatenate((start, np.ones((len(start), 1))), 1) @ homography.T
    left = np.linalg.norm(mapped[:, :2] / mapped[:, 2:] - end, axis=-1)
    return float(np.median(np.linalg.norm(end - start, axis=-1))), float(np.mean(np.minimum(left, 20.0)))
