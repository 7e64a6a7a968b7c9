"""Which source a word on the command line names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from distill.errors import FootfallError
from distill.live.capture import CameraSource, UrlSource
from distill.live.files import FileSource
from distill.live.source import Source

URL: Final = re.compile(r"(https?|rtsps?|rtmp|udp|tcp)://\S+")
CAMERA: Final = re.compile(r"\d{1,3}|/dev/video\d+")


def is_file(text: str) -> bool:
    """Whether a word names a file or a folder, and neither a camera nor a URL."""
    camera = CAMERA.fullmatch(text) and (not Path(text).exists() or Path(text).is_char_device())
    return not camera and "://" not in text


def open_source(text: str, *, image_fps: float) -> Source:
    """The source that words name: a file, a folder of images, a camera (`0`, `/dev/video0`) or a URL.

    Raises:
        FootfallError: nothing there, or nothing that can be read.
    """
    if URL.fullmatch(text):
        return UrlSource(text)
    if "://" in text:
        raise FootfallError(
            f"video {text}", got="a URL of another kind", expected="http, https, rtsp, rtmp, udp or tcp",
            do="give one of those, or fetch the file first",
        )  # fmt: skip
    return FileSource(Path(text), image_fps=image_fps) if is_file(text) else CameraSource(text)
