"""Settings of the fuser, and the uncertainty scale of every term, which is measured and not chosen."""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np

from distill.errors import FootfallError
from distill.files import read_json
from distill.fuser.so3 import Array

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


Stretch: TypeAlias = tuple[float, ...]
"""By how much to stretch standard deviations, axis by axis; one number is for all axes."""


@dataclass(kw_only=True, frozen=True)
class UncertaintyScales:
    """By how much the standard deviations of each term are stretched, along x, y, z of the body or of the camera.

    A student's variances may be wrong, one for all axes, and different gaps see the same pixels. People walk where they
    face, so that motion sideways is known far better than motion ahead, and networks confuse which way somebody faces
    while they see well enough who is upright. Measured on recorded predictions (`distill.fuser.calibration`).
    """

    camera_rotation: Stretch = (1.0,)
    """Camera motion, rotation."""
    camera_translation: Stretch = (1.0,)
    """Camera motion, translation."""
    corner_rotation: Stretch = (1.0,)
    """Camera motion from tracked corners, rotation."""
    corner_translation: Stretch = (1.0,)
    """Camera motion from tracked corners, translation."""
    body_rotation: Stretch = (1.0,)
    """Body motion, rotation."""
    body_translation: Stretch = (1.0,)
    """Body motion, translation."""
    root_orientation: Stretch = (1.0,)
    """Orientation of the root in the camera; y is the body's long axis."""
    root_direction: Stretch = (1.0,)
    """Ray to the root, two axes."""
    root_depth: Stretch = (1.0,)
    """Log depth of the root."""
    contact: Stretch = (1.0,)
    """Place of a standing foot."""
    camera_result: Stretch = (1.0,)
    """Cameras that are given out, rotation and translation: for errors that stay wrong over many frames."""
    root_result: Stretch = (1.0,)
    """People who are given out, rotation and translation."""

    def rows(self, name: str, dims: int) -> Array:
        """[dims] of a term."""
        return np.broadcast_to(np.array(getattr(self, name)), (dims,))


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
    scales = record.get("scales") if isinstance(record, dict) else None
    scales = scales if isinstance(scales, dict) else {}
    names = {field.name for field in fields(UncertaintyScales)}
    numbers = [value for values in scales.values() for value in (values if isinstance(values, list) else [values])]
    if set(scales) != names or not all(isinstance(value, float | int) and value > 0 for value in numbers):
        raise FootfallError(
            f"uncertainty scales {path}", got=scales or "none",
            expected=f"a number above 0 for each axis of {sorted(names)}",
            do="measure them again with benchmarks/fuser_calibration.py",
        )  # fmt: skip
    return UncertaintyScales(**{name: tuple(np.atleast_1d(values).tolist()) for name, values in scales.items()})
