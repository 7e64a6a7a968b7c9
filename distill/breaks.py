"""Where relative motion ends: a pause, a step back in time, a cut. Nothing on one side says where the other is."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill.cuts import Look, is_cut, look_at

THUMBNAIL: Final = (64, 36)
AFTER_STEP_BACK_S: Final = 1 / 30
"""After a step back in time the clock goes on by this."""


class Breaks:
    """Call `step` for every frame, in order."""

    def __init__(self, seconds: float, cuts: bool) -> None:
        """`seconds`: a longer pause is a break; `cuts`: look for cuts too."""
        self.seconds, self.cuts = seconds, cuts
        self.shift = 0.0
        """Seconds to add to a source's time stamps so that they ascend although the source's went back."""
        self._time: float | None = None
        self._look: Look | None = None

    def step(self, image: NDArray[np.uint8], timestamp: float) -> str | None:
        """Why nothing joins this frame to the one before, in words; None where they belong together."""
        before, self._time = self._time, timestamp + self.shift
        seen, self._look = self._look, self._look_at(image) if self.cuts else None
        if before is None:
            return None
        pause = self._time - before
        if pause < 0:
            self._time = before + AFTER_STEP_BACK_S
            self.shift = self._time - timestamp
            return f"time went back by {-pause:.3f} s"
        if pause > self.seconds:
            return f"nothing for {pause:.3f} s"
        if seen is not None and self._look is not None and is_cut(seen, self._look):
            return "cut"
        return None

    @staticmethod
    def _look_at(image: NDArray[np.uint8]) -> Look:
        small = Image.fromarray(image).resize(THUMBNAIL, Image.Resampling.BILINEAR, reducing_gap=2.0)
        return look_at(np.asarray(small))
