"""Pictures of the video by time, small, a few kept."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from distill.errors import FootfallError
from distill.files import read_json
from distill.video import Decoder

Array = NDArray[Any]
WIDTH: Final = 320
"""Pixels: as large as a frustum is looked at."""
KEPT: Final = 64


class Frames:
    """Frames of a video; none at all where there is no video."""

    def __init__(self, video: Path | None, size: tuple[int, int]) -> None:
        """Open a video.

        Args:
            video: a file or a folder of images, or None.
            size: width and height of the result's images, whose shape is kept.

        Raises:
            FootfallError: it cannot be read.
        """
        height = 2 * round(WIDTH * size[1] / size[0] / 2)
        self._decoder = None if video is None else Decoder(video, fps=None, size=(WIDTH, height))
        self._picture = functools.lru_cache(maxsize=KEPT)(self._read)

    def at(self, seconds: float) -> Array | None:
        """[H, W, 3] uint8 RGB of the frame nearest to a time of the video, or None."""
        if self._decoder is None:
            return None
        return self._picture(int(np.abs(self._decoder.timestamps - seconds).argmin()))

    def _read(self, index: int) -> Array | None:
        assert self._decoder is not None
        return next(iter(self._decoder.frames(range(index, index + 1))))[1]


def find_video(named: str, result: Path) -> Path | None:
    """The video to show: the one named, `video.mp4` beside a result, or the one that a labelled clip was made from.

    Raises:
        FootfallError: a named one is not there.
    """
    if named:
        if not Path(named).exists():
            raise FootfallError(f"video {named}", got="no such file", expected="a video", do="check the path")
        return Path(named)
    beside = result.resolve().parent / "video.mp4"
    if beside.is_file():
        return beside
    clip = beside.with_name("clip.json")  # of `clips/ID/joint/`
    about = read_json(clip) if clip.is_file() else {}
    keeps_clock = about.get("start_s", 0) == 0 and about.get("fps") is None
    path = Path(about.get("path", ""))
    return path if keeps_clock and path.is_file() else None
