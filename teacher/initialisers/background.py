"""Points of the background followed through the frames, with people masked out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill.errors import require
from teacher.stagefiles import Frames, People, read_image
from teacher.workspace import ClipFolder

Array = NDArray[Any]


@dataclass(kw_only=True)
class Chunk:
    """Points followed from one reference frame on."""

    start: int
    """Reference frame."""
    points: list[Array]
    """Entry k: [N, 2] pixels in frame start + k; NaN where a point was lost."""


class FrameReader:
    """Grey images and background masks of a clip."""

    def __init__(self, clip: ClipFolder, *, dilate: float = 0.02) -> None:
        """`dilate`: people's masks are grown by this share of the image's longer side."""
        self.frames = Frames.load(clip.require("frames"))
        self._images: Path = clip.require("frames")
        self._masks: Path = clip.require("people")
        self.size = (self.frames.size[0], self.frames.size[1])
        radius = max(3, round(dilate * max(self.size)))
        self._grow = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)

    def __len__(self) -> int:
        return len(self.frames.timestamps)

    def path(self, index: int) -> Path:
        """Path of an image."""
        return Frames.image_path(self._images, index)

    def rgb(self, index: int) -> Array:
        """[H, W, 3] uint8."""
        return read_image(self.path(index))

    def grey(self, index: int) -> Array:
        """[H, W] uint8."""
        with Image.open(self.path(index)) as image:
            return np.asarray(image.convert("L"))

    def background(self, index: int) -> Array:
        """[H, W] uint8: 255 background, 0 on and around people."""
        cv2 = require("cv2", extra="teacher")
        people = (read_image(People.mask_path(self._masks, index)) > 0).astype(np.uint8)
        return (1 - cv2.dilate(people, self._grow)) * np.uint8(255)


def follow(before: Array, now: Array, points: Array, guess: Array | None = None) -> tuple[Array, Array]:
    """Lucas-Kanade from one grey image to another, checked by going back.

    Args:
        before, now: [H, W] uint8.
        points: [N, 2] pixels in `before`.
        guess: [N, 2] where they may be in `now`.

    Returns:
        [N, 2] pixels in `now` and [N] bool: found, inside, and back within 0.7 px.
    """
    cv2 = require("cv2", extra="teacher")
    if len(points) == 0:
        return np.zeros((0, 2), np.float32), np.zeros(0, bool)
    options = {"winSize": (21, 21), "maxLevel": 4}
    start = (points - 0.5).astype(np.float32)[:, None]  # OpenCV's pixel centres are integers
    flags = {} if guess is None else {"flags": cv2.OPTFLOW_USE_INITIAL_FLOW}
    begin = start.copy() if guess is None else (guess - 0.5).astype(np.float32)[:, None]
    found, ok, _ = cv2.calcOpticalFlowPyrLK(before, now, start, begin, **options, **flags)
    back, ok_back, _ = cv2.calcOpticalFlowPyrLK(now, before, found, start.copy(), **options, flags=4)
    error = np.linalg.norm(back - start, axis=-1)[:, 0]
    pixels = found[:, 0] + 0.5
    inside = ((pixels > 0) & (pixels < np.array([now.shape[1], now.shape[0]]))).all(-1)
    return pixels, (ok[:, 0] > 0) & (ok_back[:, 0] > 0) & (error < 0.7) & inside


def follow_background(reader: FrameReader, *, count: int = 400, keep: float = 0.5, report: Any = None) -> list[Chunk]:
    """Follow corners of the background; a new reference is set when fewer than `keep` of them are left."""
    cv2 = require("cv2", extra="teacher")

    def seed(index: int, grey: Array) -> Array:
        mask = reader.background(index)
        corners = cv2.goodFeaturesToTrack(grey, count, 0.005, max(6, reader.size[0] // 80), mask=mask)
        return np.zeros((0, 2), np.float32) if corners is None else corners[:, 0] + 0.5

    before = reader.grey(0)
    chunks = [Chunk(start=0, points=[seed(0, before)])]
    for index in range(1, len(reader)):
        now = reader.grey(index)
        chunk = chunks[-1]
        last = chunk.points[-1]
        alive = np.flatnonzero(np.isfinite(last[:, 0]))
        moved = np.full_like(last, np.nan)
        pixels, ok = follow(before, now, last[alive])
        background = reader.background(index)
        if ok.any():
            columns, rows = np.clip(pixels[ok].astype(int), 0, np.array(reader.size) - 1).T
            clear = background[rows, columns] > 0
            moved[alive[ok][clear]] = pixels[ok][clear]
        chunk.points.append(moved)
        if np.isfinite(moved[:, 0]).sum() < keep * max(len(last), 1) and index < len(reader) - 1:
            chunks.append(Chunk(start=index, points=[seed(index, now)]))
        before = now
        if report is not None:
            report(index / len(reader), f"following the background, frame {index}")
    return chunks


def path_lengths(chunks: list[Chunk], frames: int) -> Array:
    """[T] accumulated median image motion of the background, pixels."""
    step = np.zeros(frames)
    for chunk in chunks:
        for k in range(1, len(chunk.points)):
            shift = np.linalg.norm(chunk.points[k] - chunk.points[k - 1], axis=-1)
            shift = shift[np.isfinite(shift)]
            step[chunk.start + k] = np.median(shift) if len(shift) else 0.0
    return np.cumsum(step)
