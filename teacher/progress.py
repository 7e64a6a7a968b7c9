"""Progress of long work on the terminal: what runs, how far it is, and how long it may still take."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Progress:
    """Progress over several items of equal weight.

    On a terminal one line is rewritten; elsewhere (a log file) a line is written at most every
    `quiet_s` seconds and whenever an item ends.
    """

    def __init__(self, total: int, *, title: str, stream: TextIO | None = None, quiet_s: float = 20.0) -> None:
        self.total, self.title = total, title
        self.stream = stream or sys.stderr
        self.quiet_s = quiet_s
        self.start = time.monotonic()
        self.fractions: dict[str, float] = {}
        self._last = 0.0
        self._width = 0

    def update(self, item: str, fraction: float, text: str) -> None:
        """Report that `item` is `fraction` in [0, 1] done."""
        self.fractions[item] = min(max(fraction, 0.0), 1.0)
        now = time.monotonic()
        interval = 0.1 if self.stream.isatty() else self.quiet_s
        if fraction < 1.0 and now - self._last < interval:
            return
        self._last = now
        share = sum(self.fractions.values()) / max(self.total, 1)
        elapsed = now - self.start
        left = format_seconds(elapsed * (1 - share) / share) if share > 0.02 else "?"
        line = f"{self.title} {share:4.0%}  {format_seconds(elapsed)} gone, about {left} left  {item}: {text}"
        if self.stream.isatty():
            self.stream.write("\r" + line[:110].ljust(self._width))
            self._width = min(len(line), 110)
        else:
            self.stream.write(line + "\n")
        self.stream.flush()

    def message(self, text: str) -> None:
        """Write a line of its own."""
        if self.stream.isatty() and self._width:
            self.stream.write("\r" + " " * self._width + "\r")
        self.stream.write(text + "\n")
        self.stream.flush()


def format_seconds(seconds: float) -> str:
    """3725.2 -> "1h02m", 65 -> "1m05s", 4 -> "4s"."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"
