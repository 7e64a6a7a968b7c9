"""Settings of the fuser, and the uncertainty scale of every term, which is measured and not chosen."""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from distill.errors import FootfallError
from distill.files import read_json

SCALES_FILE: Final = Path(__file__).parent / "uncertainty.json"
"""Shipped scales, with the command that measured them."""


@dataclass(kw_only=True)
class FuserConfig:
    """Fixed-lag smoothing of cameras and people (docs/fuser.md)."""

    lag: int = 12
    """Frames for which a pose may still change; at least the longest gap."""
    iterations: int = 1
    """Gauss-Newton steps per frame."""
    student_dof: float = 5.0
    """Degrees of freedom of the Student-t noise of every prediction; small values trust outliers less."""
    camera_accel: float = 8.0
    """Standard deviation of the camera's acceleration, m/s^2."""
    camera_turn_accel: float = 20.0
    """Standard deviation of the camera's angular acceleration, rad/s^2."""
    body_accel: float = 10.0
    """Standard deviation of a pelvis's acceleration, m/s^2."""
    body_turn_accel: float = 30.0
    """Standard deviation of a pelvis's angular acceleration, rad/s^2."""
    scale_sigma: float = 0.1
    """Standard deviation of the log factor by which a network's scene is too big."""
    scale_seconds: float = 20.0
    """Time in which that factor is forgotten, s."""
    offset_sigma: float = 0.05
    """Standard deviation of the log factor by which one person's depth is off, beyond the scene's."""
    offset_seconds: float = 5.0
    """Time in which that factor is forgotten, s."""
    foot_sigma_m: float = 0.03
    """Standard deviation of a foot's place in the body, per axis, m."""
    contact_from: float = 0.5
    """Probability of contact from which a foot counts as standing."""
    static_rotation: float = 0.0002
    """Standard deviation per frame of the turn of a camera that was found static, rad."""
    static_translation_m: float = 0.0003
    """Standard deviation per frame of the motion of a camera that was found static, m."""

    def __post_init__(self) -> None:
        if self.lag < 1 or self.iterations < 1:
            raise ValueError("fuser: lag and iterations of at least 1 are expected")
        if not 0 < self.contact_from < 1:
            raise ValueError(f"fuser: contact_from is {self.contact_from}, expected between 0 and 1")
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(f"fuser: {field.name} is {getattr(self, field.name)}, expected more than 0")


@dataclass(kw_only=True, frozen=True)
class UncertaintyScales:
    """By how much the standard deviations of each term are stretched.

    A student's variances may be wrong, and successive frames and different gaps see the same pixels, so that their
    errors are not independent. Both are measured on recorded predictions (`distill.fuser.calibration`).
    """

    camera_rotation: float = 1.0
    """Camera motion, rotation."""
    camera_translation: float = 1.0
    """Camera motion, translation."""
    corner_rotation: float = 1.0
    """Camera motion from tracked corners, rotation."""
    corner_translation: float = 1.0
    """Camera motion from tracked corners, translation."""
    body_rotation: float = 1.0
    """Body motion, rotation."""
    body_translation: float = 1.0
    """Body motion, translation."""
    root_orientation: float = 1.0
    """Orientation of the root in the camera."""
    root_direction: float = 1.0
    """Ray to the root."""
    root_depth: float = 1.0
    """Log depth of the root."""
    contact: float = 1.0
    """Place of a standing foot."""
    result: float = 1.0
    """What is given out: for correlations between terms, which nothing models."""


@functools.cache
def shipped_scales() -> UncertaintyScales:
    """The scales of `SCALES_FILE`."""
    return read_scales(SCALES_FILE)


def read_scales(path: Path) -> UncertaintyScales:
    """Scales from a file that `benchmarks/fuser_calibration.py` wrote.

    Raises:
        FootfallError: no such file, or not one scale above 0 for every term.
    """
    record = read_json(path)
    scales = record.get("scales", {})
    names = {field.name for field in fields(UncertaintyScales)}
    if set(scales) != names or not all(isinstance(value, float | int) and value > 0 for value in scales.values()):
        raise FootfallError(
            f"uncertainty scales {path}", got=scales or "none",
            expected=f"a number above 0 for each of {sorted(names)}",
            do="measure them again with benchmarks/fuser_calibration.py",
        )  # fmt: skip
    return UncertaintyScales(**scales)
