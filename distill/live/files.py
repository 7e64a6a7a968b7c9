"""Files and folders of images; and any source at its own speed, as if it were live."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from distill.live.source import Picture, Source
from distill.video import Decoder


class FileSource:
    """A video file or a folder of numbered images, with the container's time stamps."""

    live = False

    def __init__(self, path: Path, *, image_fps: float) -> None:
        """`image_fps`: frame rate of a folder of images.

        Raises:
            FootfallError: missing, empty, or not a video.
        """
        self._decoder = Decoder(path, fps=image_fps if path.is_dir() else None)
        self.length: int | None = len(self._decoder)
        self._closed = False

    def frames(self) -> Iterator[Picture]:
        """See `Source`."""
        for index, image in self._decoder.frames(range(len(self._decoder))):
            if self._closed:
                return
            if image is not None:
                yield Picture(index=index, timestamp=float(self._decoder.timestamps[index]), image=image)

    def close(self) -> None:
        """See `Source`."""
        self._closed = True


class PacedSource:
    """Another source played at its own speed, as if it were live."""

    live = True

    def __init__(self, source: Source) -> None:
        self._source = source
        self.length = source.length

    def frames(self) -> Iterator[Picture]:
        """See `Source`."""
        start: float | None = None
        for picture in self._source.frames():
            now = time.monotonic()
            start = now - picture.timestamp if start is None else start
            time.sleep(max(0.0, start + picture.timestamp - now))
            yield picture

    def close(self) -> None:
        """See `Source`."""
        self._source.close()
