"""What a source of frames is. A new kind: a class with `Source`'s four members, and a line in `opening.open_source`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(kw_only=True)
class Picture:
    """A frame as it comes from its source."""

    index: int
    """Count of the source's frames before it, whether or not they were used."""
    timestamp: float
    """Seconds on the source's clock, from its first frame."""
    image: Array
    """[H, W, 3] uint8 RGB, upright."""
    came: float = field(default_factory=time.monotonic)
    """When it was read, seconds of `time.monotonic`."""


class Source(Protocol):
    """Frames, once, in order."""

    live: bool
    """Whether it goes on by itself: a frame that nobody takes in time is lost."""
    length: int | None
    """Number of frames, if it is known."""

    def frames(self) -> Iterator[Picture]:
        """All frames; frames that cannot be decoded are left out, and show as gaps in `Picture.index`."""
        ...

    def close(self) -> None:
        """Stop: `frames` ends soon. May be called by another thread, and twice."""
        ...
