"""Settings of `footfall serve`, every one a bound."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from distill.stream_config import StreamConfig

LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
"""Addresses that only this machine reaches."""


@dataclass(kw_only=True)
class ServeConfig:
    """`footfall serve`."""

    host: str = "127.0.0.1"
    """Address to listen at. Any but this machine's own needs a token."""
    port: int = 8765
    """0 takes a free one, and prints it."""
    token_file: str = ""
    """File whose first line is the token, 16 characters at least; empty: the environment variable FOOTFALL_TOKEN."""
    origins: list[str] = field(default_factory=list)
    """Web pages that may connect from a browser, like `https://example.org`; no other page may."""
    people: Literal["auto", "tokens", "landmarks"] = "auto"
    """Who finds and follows people (as for `footfall run`)."""
    device: str = "auto"
    """Where the network runs."""
    long_side: int = 640
    """Frames are reduced to this longer side, pixels."""
    max_frame_mb: float = 8.0
    """Largest frame, as sent, MB."""
    max_pixels: int = 4096 * 2304
    """Largest frame, decoded, pixels; read from its header before it is decoded."""
    max_video_mb: float = 200.0
    """Largest video, MB."""
    max_video_seconds: float = 600.0
    """Time that a video may take to be worked on, s."""
    max_video_memory_gb: float = 8.0
    """Memory of the process that works on a video, GB (Linux)."""
    max_streams: int = 2
    """WebSocket clients at the same time."""
    max_videos: int = 1
    """Videos that are worked on at the same time."""
    max_connections: int = 64
    """Open connections of any kind; more are closed at once."""
    header_seconds: float = 10.0
    """Time for a client to send a whole request but its body, s."""
    idle_seconds: float = 30.0
    """A client that neither sends nor takes anything for so long is let go, s."""
    upload_seconds: float = 300.0
    """Time for a client to send a video, s."""
    stream: StreamConfig = field(default_factory=StreamConfig)

    def __post_init__(self) -> None:
        bounds = (
            self.max_frame_mb, self.max_pixels, self.max_video_mb, self.max_video_seconds, self.max_video_memory_gb,
            self.max_streams, self.max_videos, self.max_connections, self.header_seconds, self.idle_seconds,
            self.upload_seconds,
        )  # fmt: skip
        if min(bounds) <= 0 or self.long_side < 64 or not 0 <= self.port < 65536:
            raise ValueError("serve: bounds above 0, long_side >= 64 and a port below 65536 are expected")
        if self.people not in ("auto", "tokens", "landmarks"):
            raise ValueError(f"serve: people is {self.people!r}, expected auto, tokens or landmarks")
