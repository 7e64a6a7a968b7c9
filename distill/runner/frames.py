"""What passes through a stream of arrays: frames on their way, and what is known of them in the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from distill.fuser import Motions
from distill.odometry import Measured

Array = NDArray[Any]


@dataclass(kw_only=True)
class Person:
    """One person in one frame; see `distill.stream_types.PersonResult`."""

    id: int
    cam_from_body: Array
    """[4, 4] metres."""
    body_rot: Array
    """[23, 3, 3]."""
    betas: Array
    """[B]."""
    joints_cam: Array
    """[24, 3] metres."""
    contact_prob: Array
    """[6]."""
    depth_sigma: float
    """Standard deviation of the root's depth, relative, as the network says."""
    root_sigma: Array
    """[2] standard deviations per axis of the body in the world: rotation (rad), translation (m)."""


@dataclass(kw_only=True)
class Frame:
    """What is known after a frame; see `distill.stream_types.FrameResult`."""

    index: int
    timestamp: float
    world_from_cam: Array
    """[4, 4] metres; the world is the first camera."""
    camera_sigma: Array
    """[2] standard deviations per axis: rotation (rad), translation (m)."""
    static_prob: float
    log_scale: float
    log_scale_sigma: float
    people: list[Person]
    broken: str | None
    """Why relative motion began anew with this frame (a pause, a cut); None where it goes on."""


@dataclass(kw_only=True)
class Encoded:
    """A frame after `encode`."""

    index: int
    timestamp: float
    """Seconds, ascending even where the source's went back."""
    image: Array
    """[H, W, 3] uint8 as given."""
    small: Array
    """[h, w, 3] uint8 at the network's size."""
    prepared: Array
    """[3, h, w] float32 in [0, 1], the same."""
    features: Any
    broken: str | None
    """Why nothing joins it to the frame before; None where they belong together."""


@dataclass(kw_only=True)
class Kept:
    """What is kept of a frame for pairs with later ones."""

    features: Any
    boxes: dict[int, Array]
    """Person's id -> [4] float32 in pixels of the network's image."""
    looks: dict[int, Array]
    """Person's id -> [width]."""
    timestamp: float


@dataclass(kw_only=True)
class Found:
    """A frame after `find`."""

    frame: Encoded
    now: Kept
    past: list[Kept]
    """Those of `gaps` frames ago; the frame itself where there is none."""
    gaps: list[int]
    oldest: Kept
    """The oldest frame that is kept; the frame itself where it is the first."""
    corners: list[Measured]


@dataclass(kw_only=True)
class Predicted:
    """A frame after `predict`."""

    frame: Found
    prediction: dict[str, Array]
    ids: list[int]
    corners: Motions
    log_scale: float
    """Log of the network's metres per unit of the backbone's points, averaged over time."""
