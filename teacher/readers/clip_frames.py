"""Which frames of the video a clip holds: other systems number the frames of the whole file, from 0."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.errors import FootfallError
from distill.video import Decoder
from teacher.stagefiles import Frames
from teacher.workspace import ClipFolder

Array = NDArray[Any]


@dataclass(kw_only=True)
class ClipFrames:
    """The frames of a clip, as outside files have to be read against them. T frames."""

    numbers: Array
    """[T] int, frame of the video, rising."""
    total: int | None
    """Frames of the video, where the clip is the whole of it."""
    timestamps: Array
    """[T] seconds, as in the video's container."""
    size: tuple[int, int]
    """Width and height of the clip's images, pixels."""
    source_size: tuple[int, int]
    """Width and height of the video, rotation applied, pixels."""
    K: Array | None = None
    """[3, 3] if the lens was given."""

    def rows_of(self, where: str, count: int) -> Array:
        """Rows [T] of an array that has one entry per frame of the video.

        Raises:
            FootfallError: the array is of a video with another number of frames.
        """
        if count <= self.numbers[-1] or (self.total is not None and count != self.total):
            wanted = f"{self.total}" if self.total is not None else f"more than {self.numbers[-1]}"
            raise FootfallError(
                where, got=f"{count} frames", expected=f"{wanted}, as the video has",
                do="make it from all frames of this video",
            )  # fmt: skip
        return self.numbers


def clip_frames(clip: ClipFolder) -> ClipFrames:
    """The clip's frames in the numbers of its video.

    Raises:
        FootfallError: the video is needed for that (a later shot, unreadable frames), and is gone.
    """
    frames, source = Frames.load(clip.require("frames")), clip.source
    timestamps = np.asarray(frames.timestamps, np.float64)
    numbers = np.arange(len(timestamps))
    if source.start_s > 0 or frames.unreadable:
        path = Path(source.path)
        fps = source.fps or (1 / float(np.median(np.diff(timestamps))) if path.is_dir() else None)
        numbers = np.abs(timestamps[:, None] - np.asarray(Decoder(path, fps=fps).timestamps)).argmin(1)
    whole = source.start_s == 0 and source.end_s is None
    return ClipFrames(
        numbers=numbers, total=len(timestamps) + frames.unreadable if whole else None, timestamps=timestamps,
        size=(frames.size[0], frames.size[1]), source_size=(frames.source_size[0], frames.source_size[1]),
        K=None if frames.K is None else np.asarray(frames.K, np.float64),
    )  # fmt: skip
