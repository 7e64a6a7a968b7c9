"""What a network says of one frame, as the fuser takes it: plain arrays, people by id."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from distill.fuser.so3 import Array, Ints

FEET: Final = 4
"""Sites whose contact means standing still: heels and toes, the first of `conventions.CONTACT_SITES`. A hand that
touches something may move with it."""

VARIANCE_PER_AXIS: Final = {1: 2 * 2 / np.pi, 2: 2 * np.pi / 2, 3: 2 * 8 / np.pi}
"""Students learn the variance of a Laplace distribution of the error's norm (`losses.laplace_nll`), which is best at
2 E[e]^2. For Gaussian errors of variance a^2 per axis E[e] is a sqrt(2/pi), a sqrt(pi/2), a sqrt(8/pi) in one, two
and three dimensions, so that a^2 is the learnt variance over this number."""


def axis_variance(log_var: Array, dims: int) -> Array:
    """Variance per axis of an error in `dims` dimensions whose norm was said to have exp(log_var); any shape."""
    return np.exp(np.clip(log_var, -30.0, 20.0)) / VARIANCE_PER_AXIS[dims]


@dataclass(kw_only=True)
class Motions:
    """Motions from the current frame back to G earlier ones."""

    gaps: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """[G] how many of the frames given so far each goes back."""
    past_from_now: Array = field(default_factory=lambda: np.zeros((0, 4, 4)))
    """[G, 4, 4] metres of the network."""
    log_var: Array = field(default_factory=lambda: np.zeros((0, 2)))
    """[G, 2] log variance: rotation (rad^2), translation (m^2), of the norm of the error."""

    def usable(self, longest: int) -> Motions:
        """Those that are finite and go back 1 to `longest` frames."""
        finite = np.isfinite(self.past_from_now).all((1, 2)) & np.isfinite(self.log_var).all(1)
        keep = finite & (self.gaps >= 1) & (self.gaps <= longest)
        return Motions(gaps=self.gaps[keep], past_from_now=self.past_from_now[keep], log_var=self.log_var[keep])


@dataclass(kw_only=True)
class PersonObservation:
    """One person in one frame."""

    cam_from_body: Array
    """[4, 4] orientation and pelvis, metres of the network."""
    root_log_var: Array
    """[3] log variance: orientation (rad^2), ray (rad^2), log depth."""
    contact_prob: Array
    """[6] of `conventions.CONTACT_SITES`."""
    feet: Array
    """[4, 3] heels and toes in the body, metres."""
    motions: Motions = field(default_factory=Motions)
    """Of the body in the world: body_past_from_body_now."""

    def is_finite(self) -> bool:
        """Whether it can be used at all."""
        parts = (self.cam_from_body, self.root_log_var, self.contact_prob, self.feet)
        return all(bool(np.isfinite(part).all()) for part in parts)


@dataclass(kw_only=True)
class FrameObservation:
    """One frame. Anything may be missing: nobody seen, no camera motion, some gaps only."""

    timestamp: float
    """Seconds, increasing."""
    camera: Motions = field(default_factory=Motions)
    """cam_past_from_cam_now, as the heads say."""
    corners: Motions = field(default_factory=Motions)
    """The same from tracked corners (`distill.odometry`), in metres of the network; several may go back as far."""
    people: dict[int, PersonObservation] = field(default_factory=dict)
    """By id."""
