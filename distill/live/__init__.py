"""Where frames come from, and threads that work on several of them at a time."""

from distill.live.capture import CameraSource, UrlSource
from distill.live.files import FileSource, PacedSource
from distill.live.opening import is_file, open_source
from distill.live.pipeline import overlapped
from distill.live.source import Picture, Source

__all__ = [
    "CameraSource", "FileSource", "PacedSource", "Picture", "Source", "UrlSource", "is_file", "open_source",
    "overlapped",
]  # fmt: skip
