"""Cameras and URLs, read with OpenCV.

What is live gets the time at which each frame came: containers of live streams often carry none, or one that was made
up (the frames of motion JPEG over HTTP have no time stamps). A URL that has an end is a file somewhere else, and keeps
its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from distill.errors import FootfallError, require
from distill.live.source import Picture

OPEN_TIMEOUT_MS: Final = 10_000
READ_TIMEOUT_MS: Final = 10_000
"""A source from which nothing comes for so long has ended."""


class _Capture:
    """What cameras and URLs share."""

    live = True
    length: int | None = None

    def __init__(self, name: str, capture: Any, do: str) -> None:
        self.name = name
        self._capture = capture
        self._lock = threading.Lock()
        self._closed = False
        if not capture.isOpened():
            raise FootfallError(f"video {shown(name)}", got="nothing that opens", expected="a live picture", do=do)

    def frames(self) -> Iterator[Picture]:
        """See `Source`."""
        start, index = None, 0
        while True:
            with self._lock:
                if self._closed or not self._capture.grab():
                    break
                came = time.monotonic()
                stamp = self._stamp()
                good, image = self._capture.retrieve()
            moment = came if self.live else stamp
            start = moment if start is None else start
            if good and image is not None:
                rgb = np.ascontiguousarray(image[..., ::-1])
                yield Picture(index=index, timestamp=moment - start, image=rgb)
            index += 1
        self.close()

    def _stamp(self) -> float:
        cv2 = require("cv2", extra="people")
        return float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000

    def close(self) -> None:
        """See `Source`; waits for the frame that is being read, at most `READ_TIMEOUT_MS`."""
        self._closed = True
        with self._lock:
            self._capture.release()


class CameraSource(_Capture):
    """A camera of this machine."""

    def __init__(self, name: str) -> None:
        """`name`: its number, or its device file.

        Raises:
            FootfallError: no such camera, or it is in use.
        """
        cv2 = require("cv2", extra="people")
        capture = cv2.VideoCapture(int(name) if name.isdigit() else name)
        super().__init__(
            name, capture, "see that it is plugged in, that no other program has it, and try another number"
        )


class UrlSource(_Capture):
    """A picture from elsewhere; live unless it has an end."""

    def __init__(self, url: str) -> None:
        """Connect, for at most `OPEN_TIMEOUT_MS`.

        Raises:
            FootfallError: nothing there, or nothing that can be read.
        """
        cv2 = require("cv2", extra="people")
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_TIMEOUT_MS]
        capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, limits)
        super().__init__(url, capture, "open it in a player; check address, user and password")
        frames = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        if frames > 0:
            self.live, self.length = False, int(frames)


def shown(name: str) -> str:
    """An address without user and password: it ends up in messages and files."""
    scheme, separator, rest = name.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}" if separator else name
