"""The fuser: what a student says of pairs of frames becomes one world (docs/fuser.md)."""

from distill.fuser.config import FuserConfig, UncertaintyScales, read_scales, shipped_scales
from distill.fuser.observation import FEET, FrameObservation, Motions, PersonObservation
from distill.fuser.smoother import FusedFrame, FusedPerson, Fuser, cam_from_body
from distill.fuser.static_camera import CameraMode

__all__ = [
    "FEET", "CameraMode", "FrameObservation", "FusedFrame", "FusedPerson", "Fuser", "FuserConfig", "Motions",
    "PersonObservation", "UncertaintyScales", "cam_from_body", "read_scales", "shipped_scales",
]  # fmt: skip
