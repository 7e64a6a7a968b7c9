"""Read frames of a video file or of a folder of images, with the container's own time stamps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from distill.errors import FootfallError
from distill.untrusted import open_picture

Array = NDArray[Any]

IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png")


class Decoder:
    """Frames of a video file or of a folder of images, by index."""

    def __init__(self, path: Path, *, fps: float | None, size: tuple[int, int] | None = None) -> None:
        """Open; `size` decodes at another (width, height); `fps` overrides the time stamps.

        Raises:
            FootfallError: missing, empty, or not a video.
        """
        self.path = path
        self._size = size
        self._images: list[Path] = []
        if path.is_dir():
            self._images = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
            self.timestamps = np.arange(len(self._images)) / (fps or 30.0)
            return
        self._reader = _open_video(path, size)
        stamps = self._reader.get_frame_timestamp(range(len(self._reader)))
        self.timestamps = np.asarray(stamps, np.float64).reshape(-1, 2)[:, 0]
        if fps is not None:
            self.timestamps = np.arange(len(self.timestamps)) / fps

    def __len__(self) -> int:
        return len(self.timestamps)

    def frames(self, indices: range) -> Iterator[tuple[int, Array | None]]:
        """Yield (index, [H, W, 3] uint8 RGB, or None where it cannot be decoded)."""
        for index in indices:
            yield index, self._image(index) if self._images else self._frame(index)

    def _image(self, index: int) -> Array | None:
        try:
            with open_picture(self._images[index]) as image:
                rgb = image.convert("RGB")
                return np.asarray(rgb.resize(self._size) if self._size else rgb)
        except (OSError, ValueError, SyntaxError, EOFError):  # what Pillow raises for damaged pictures
            return None

    def _frame(self, index: int) -> Array | None:
        import decord

        for _ in range(2):
            try:
                return _three_channels(self._reader[index].asnumpy())
            except (RuntimeError, decord.DECORDError):
                # After damage a reader refuses every later frame; a new one goes on at the next keyframe.
                self._reader = _open_video(self.path, self._size)
        return None


def _three_channels(frame: Array) -> Array:
    """[H, W, 3] of a frame, without the padding that decord takes for a fourth channel in pictures up to 128 wide."""
    height, width, channels = frame.shape
    if channels == 3:
        return frame
    return np.ascontiguousarray(frame.reshape(height, width * channels)[:, : 3 * width]).reshape(height, width, 3)


def _open_video(path: Path, size: tuple[int, int] | None) -> Any:
    import decord  # slow to import, and not needed for folders of images

    decord.logging.set_level(decord.logging.QUIET)  # what matters is raised, not printed by FFmpeg

    if not path.is_file():
        raise FootfallError(f"video {path}", got="no such file", expected="a video", do="check the path")
    if path.stat().st_size == 0:
        raise FootfallError(f"video {path}", got="an empty file", expected="a video", do="copy it again")
    options = {"width": size[0], "height": size[1]} if size else {}
    try:
        reader = decord.VideoReader(str(path), num_threads=2, **options)
        if len(reader) == 0:
            raise RuntimeError("no frame")
        reader[0]
        return reader
    except (RuntimeError, decord.DECORDError) as error:
        raise FootfallError(
            f"video {path}", got="a file that cannot be decoded (damaged, cut short, or no video)",
            expected="a video that plays from start to end", do="check that it plays; copy or re-encode it",
        ) from error  # fmt: skip
