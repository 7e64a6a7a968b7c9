"""Sources of frames that tests make up."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from distill.live import Picture


class Given:
    """Frames from a list, at given times; a live one waits between them."""

    def __init__(
        self, images: list[np.ndarray], times: list[float] | None = None, *, live: bool = False, wait_s: float = 0.0
    ) -> None:
        self.images, self.live, self.wait_s = images, live, wait_s
        self.times = [k / 30 for k in range(len(images))] if times is None else times
        self.length: int | None = None if live else len(images)
        self.closed = 0
        self.read = 0

    def frames(self) -> Iterator[Picture]:
        for index, (image, moment) in enumerate(zip(self.images, self.times, strict=True)):
            if self.closed:
                return
            self.read += 1
            yield Picture(index=index, timestamp=moment, image=image)
            time.sleep(self.wait_s)

    def close(self) -> None:
        self.closed += 1


def noise(count: int, size: tuple[int, int] = (96, 64), seed: int = 0) -> list[np.ndarray]:
    """Frames of slowly changing noise of (width, height): no two alike, and no cut between them."""
    rng = np.random.default_rng(seed)
    still = rng.integers(0, 200, (size[1], size[0], 3))
    return [(still + rng.integers(0, 50, still.shape)).astype(np.uint8) for _ in range(count)]


def python_blocks(page: str) -> list[str]:
    """The Python examples of a page, by its path in the repository."""
    text = (Path(__file__).resolve().parent.parent / page).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)
