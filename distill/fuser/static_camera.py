"""Does the camera stand? A two-state hidden Markov model over likelihood ratios of the network's camera motions.

A frame's evidence compares two hypotheses about a motion xi over T seconds, measured with covariance S:

    standing   xi ~ N(0, S)
    moving     xi ~ mean over speeds v of N(0, S + T^2 v^2)

Motions over one gap of successive frames share all but one of their frames, so each log ratio is divided by its gap.
The motion is looked at over the longest gap and over several of those in a row, where a slow pan shows; a camera
stands only if both say so, so the smaller ratio counts. States are sticky; the forward-backward algorithm (Rabiner,
Proc. IEEE 1989, eqs. 19-27) gives the probability for every frame of the window, given all so far.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final, Literal

import numpy as np

from distill.fuser.so3 import Array, log

CameraMode = Literal["auto", "static", "moving"]
SPEEDS: Final = ((0.03, 0.05), (0.15, 0.2), (0.6, 1.0))
"""Speeds of a moving camera: rad/s and m/s, one standard deviation per axis. From a slow pan to a run."""
SWITCH: Final = 0.003
"""Probability per frame that a camera that stands begins to move, or the reverse: once in ten seconds."""
MOST: Final = 1.0
"""No frame's evidence is more than this (nats): one bad frame must not decide."""
ROWS: Final = 4
"""Motions of the longest gap in a row that make the long look."""


def log_ratio(motion: Array, variance: Array, seconds: float) -> float:
    """log p(motion | standing) - log p(motion | moving), nats.

    Args:
        motion: [6] rotation vector (rad), translation (m).
        variance: [6] of its measurement.
        seconds: over which it was measured.
    """
    speeds = np.repeat(np.array(SPEEDS), 3, axis=1) * seconds
    moving = variance + speeds**2
    by_speed = -0.5 * (motion**2 / moving + np.log(moving)).sum(1)
    standing = -0.5 * (motion**2 / variance + np.log(variance)).sum()
    return float(standing - (np.logaddexp.reduce(by_speed) - np.log(len(by_speed))))


class StaticCamera:
    """Probability that the camera stood, for each of the last frames."""

    def __init__(self, mode: CameraMode, frames: int) -> None:
        """For windows of `frames` frames; with mode "static" or "moving" nothing is tested."""
        self.mode, self._frames = mode, frames
        self._start = 0.5
        self._evidence: deque[float] = deque()
        self._long: deque[tuple[int, Array, Array, float]] = deque(maxlen=512)

    def step(self, gap: int, past_from_now: Array | None, variance: Array, seconds: float) -> None:
        """A new frame, with the motion over its longest gap.

        Args:
            gap: frames that it goes back.
            past_from_now: [4, 4], or None if the network said nothing: then there is no evidence.
            variance: [6] rotation (rad^2) and translation (m^2) per axis.
            seconds: that it spans.
        """
        if past_from_now is None:
            self._push(0.0)
            self._long.append((1, np.eye(4), np.full(6, np.inf), 0.0))
            return
        self._long.append((gap, past_from_now, variance, seconds))
        short = log_ratio(_vector(past_from_now), variance, seconds) / gap
        chained, total, spread, frames = self._chained()
        self._push(min(short, log_ratio(_vector(chained), spread, total) / frames))

    def _chained(self) -> tuple[Array, float, Array, int]:
        """Up to `ROWS` motions in a row, the latest last: motion, seconds, variance, frames."""
        motion, seconds, spread, frames = np.eye(4), 0.0, np.zeros(6), 0
        for _ in range(ROWS):
            if frames >= len(self._long):
                break
            gap, one, variance, span = self._long[-1 - frames]
            if not np.isfinite(variance).all():
                break
            motion, seconds, spread, frames = one @ motion, seconds + span, spread + variance, frames + gap
        return motion, seconds, spread, frames

    def _push(self, evidence: float) -> None:
        self._evidence.append(min(max(evidence, -MOST), MOST))
        if len(self._evidence) > self._frames:
            self._start = _forward(self._start, self._evidence.popleft())

    def probabilities(self) -> Array:
        """[n] for the last n frames, oldest first: probability that the camera stood when the frame came."""
        count = len(self._evidence)
        if self.mode != "auto":
            return np.full(count, float(self.mode == "static"))
        forward, standing = [], self._start
        for evidence in self._evidence:
            standing = _forward(standing, evidence)
            forward.append(standing)
        # Backward: likelihood of all later frames if the camera stood, over the sum of that and if it moved.
        smooth, later = [], 0.5
        for standing, evidence in zip(reversed(forward), reversed(self._evidence), strict=True):
            smooth.append(_weighed(standing, math.log(later / (1 - later))))
            later = _sticky(_weighed(later, evidence))
        return np.array(smooth[::-1])


def _vector(motion: Array) -> Array:
    return np.concatenate((log(motion[:3, :3]), motion[:3, 3]))


def _sticky(standing: float) -> float:
    """The transition; symmetric, so that it serves both directions."""
    return (1 - SWITCH) * standing + SWITCH * (1 - standing)


def _weighed(standing: float, evidence: float) -> float:
    """Probability of standing after a log likelihood ratio (Bayes)."""
    odds = standing / (1 - standing) * math.exp(evidence)
    return odds / (1 + odds)


def _forward(standing: float, evidence: float) -> float:
    return _weighed(_sticky(standing), evidence)
