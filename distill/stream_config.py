"""Settings of a stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from distill.fuser import CameraMode, FuserConfig
from distill.odometry import OdometryConfig
from distill.people.token_tracker import TokenTrackerConfig

TIMES_KEPT: Final = 2000
"""Latencies are kept of the last this many frames."""
SCALE_MEMORY: Final = 0.95
"""How slowly the scale of the backbone's points follows new frames."""
FARTHEST: Final = 30.0
"""Points farther than this are no landmarks, in the backbone's unit."""
MIN_CONFIDENCE: Final = 1.5
"""Points that are less sure are not of the scene."""
FORGET_AFTER: Final = 900
"""Frames for which the shape of somebody who is away is remembered."""


@dataclass(kw_only=True)
class StreamConfig:
    """Streaming."""

    gaps: list[int] = field(default_factory=lambda: [1, 3, 10])
    """Earlier frames that each new frame is paired with."""
    focal_px: float = 0.0
    """Focal length in pixels of the video; 0 takes `focal_guess`."""
    focal_guess: float = 0.8
    """Focal length where none is given, as a multiple of the image diagonal."""
    lens: list[float] = field(default_factory=list)
    """fx, fy, cx, cy in pixels of the video, then k1, k2, p1, p2, k3 of its distortion (OpenCV's model) if it has any;
    empty: only `focal_px` is known, or nothing."""
    shape_memory: float = 0.98
    """How slowly a person's shape follows new frames."""
    corners: Literal["auto", "never"] = "auto"
    """Measure the camera's motion by corners on the backbone's points too (auto: where there are points and OpenCV)."""
    odometry: OdometryConfig = field(default_factory=OdometryConfig)
    tracker: TokenTrackerConfig = field(default_factory=TokenTrackerConfig)
    camera: Literal["auto", "static", "moving"] = "auto"
    """Whether the camera stands: tested all the time (auto), or known."""
    break_seconds: float = 1.0
    """A longer pause between two frames breaks relative motion, s; what comes after it begins a new path."""
    cuts: Literal["auto", "never"] = "auto"
    """Whether hard cuts break relative motion too."""
    settle: bool = True
    """Written results hold each frame as known `fuser.lag` frames later; false: as known at once."""
    fuser: FuserConfig = field(default_factory=FuserConfig)

    def __post_init__(self) -> None:
        if self.camera not in get_args(CameraMode):
            raise ValueError(f"stream: camera is {self.camera!r}, expected one of {', '.join(get_args(CameraMode))}")
        if self.gaps and self.fuser.lag < max(self.gaps):
            raise ValueError(
                f"stream: fuser.lag is {self.fuser.lag}, expected at least the longest of gaps {self.gaps}"
            )
        if not self.gaps or min(self.gaps) < 1 or self.focal_px < 0 or self.focal_guess <= 0:
            raise ValueError("stream: gaps of at least 1, focal_px >= 0 and focal_guess > 0 are expected")
        if self.break_seconds <= 0 or self.cuts not in ("auto", "never"):
            raise ValueError("stream: break_seconds > 0 and cuts of auto or never are expected")
        if len(self.lens) not in (0, 4, 9) or (self.lens and min(self.lens[:2]) <= 0) or (self.lens and self.focal_px):
            raise ValueError("stream: lens is fx, fy, cx, cy or those and k1, k2, p1, p2, k3, instead of focal_px")

    @property
    def knows_lens(self) -> bool:
        """Whether intrinsics are more than a guess."""
        return bool(self.lens) or self.focal_px > 0

    def matrix(self, size: tuple[int, int]) -> NDArray[np.float64]:
        """Intrinsics K [3, 3] in pixels of the video, of (width, height)."""
        focal = self.focal_px or self.focal_guess * float(np.hypot(*size))
        fx, fy, cx, cy = self.lens[:4] or (focal, focal, size[0] / 2, size[1] / 2)
        return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
