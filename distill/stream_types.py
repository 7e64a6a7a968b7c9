"""What goes into a stream and comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.models.backbones import Tokens
from distill.models.detection_head import Candidates
from distill.models.prediction import PairPrediction, Prompts
from distill.runner.frames import Frame, Person


class Network(Protocol):
    """What a stream needs: `Student`, or the graphs of `export.load_exported`."""

    @property
    def look_width(self) -> int:
        """Channels of a closer look."""
        ...

    def network_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Network size for an image size."""
        ...

    def encode(self, images: Tensor) -> Tokens:
        """Features of frames."""
        ...

    def look(self, images: Tensor, boxes: Tensor) -> Tensor:
        """A closer look at people."""
        ...

    def pair(self, a: Tokens, b: Tokens, people: Prompts) -> PairPrediction:
        """People and motion of pairs."""
        ...


@runtime_checkable
class Finder(Network, Protocol):
    """What a network offers beyond `Network` if it finds people and sees points itself: `Student`, `OnDevice`."""

    @property
    def has_points(self) -> bool:
        """Whether there are points."""
        ...

    def detect(self, tokens: Tokens) -> Candidates:
        """Candidate people of frames."""
        ...

    def identify(self, tokens: Tokens, boxes: Tensor) -> Tensor:
        """Who is in boxes."""
        ...

    def points(self, a: Tokens, b: Tokens) -> tuple[Tensor, Tensor]:
        """Points of frames a and their confidence."""
        ...

    def pair(self, a: Tokens, b: Tokens, people: Prompts, *, points: bool = False) -> PairPrediction:
        """People and motion of pairs, with points if wanted."""
        ...


@dataclass(kw_only=True)
class GivenBody:
    """A body from elsewhere, in the parameters of the student's body model; it takes the place of the student's."""

    body_rot: Tensor
    """[23, 3, 3] joint rotations relative to the parent."""
    betas: Tensor
    """[B]."""
    cam_from_body: Tensor | None = None
    """[4, 4] orientation and pelvis in the camera, metres; None keeps the student's."""


@dataclass(kw_only=True)
class PersonResult:
    """One person in one frame."""

    id: int
    cam_from_body: Tensor
    """[4, 4] metres."""
    body_rot: Tensor
    """[23, 3, 3]."""
    betas: Tensor
    """[B]."""
    joints_cam: Tensor
    """[24, 3] metres."""
    contact_prob: Tensor
    """[6]."""
    depth_sigma: float
    """Standard deviation of the root's depth, relative, as the network says."""
    root_sigma: Tensor
    """[2] standard deviations per axis of the body in the world: rotation (rad), translation (m)."""

    @staticmethod
    def of(person: Person) -> PersonResult:
        """The same of a stream of arrays."""
        return PersonResult(
            id=person.id, cam_from_body=_tensor(person.cam_from_body), body_rot=_tensor(person.body_rot),
            betas=_tensor(person.betas), joints_cam=_tensor(person.joints_cam),
            contact_prob=_tensor(person.contact_prob), depth_sigma=person.depth_sigma,
            root_sigma=_tensor(person.root_sigma),
        )  # fmt: skip


@dataclass(kw_only=True)
class FrameResult:
    """What is known after a frame."""

    index: int
    timestamp: float
    world_from_cam: Tensor
    """[4, 4] metres; the world is the first camera."""
    camera_sigma: Tensor
    """[2] standard deviations per axis: rotation (rad), translation (m); they grow with the way from the start."""
    static_prob: float
    """Probability that the camera stands."""
    log_scale: float
    """Log of the network's count of metres over the true one; already taken out of all positions."""
    log_scale_sigma: float
    """Its standard deviation."""
    people: list[PersonResult]
    broken: str | None = None
    """Why relative motion began anew with this frame (a pause, a cut); None where it goes on."""

    @staticmethod
    def of(frame: Frame) -> FrameResult:
        """The same of a stream of arrays."""
        return FrameResult(
            index=frame.index, timestamp=frame.timestamp, world_from_cam=_tensor(frame.world_from_cam),
            camera_sigma=_tensor(frame.camera_sigma), static_prob=frame.static_prob, log_scale=frame.log_scale,
            log_scale_sigma=frame.log_scale_sigma, people=[PersonResult.of(person) for person in frame.people],
            broken=frame.broken,
        )  # fmt: skip


@dataclass(kw_only=True)
class Seen:
    """The frame just given, as heads beside the stream look at it (`gaussian_stream`)."""

    tokens: Tokens
    """Of this one frame, with its image."""
    other: Tokens
    """Of the oldest frame that is kept."""
    K: Tensor
    """[3, 3] in pixels of the network's image."""
    boxes: dict[int, Tensor]
    """Person's id -> [4] in pixels of the network's image."""
    log_scale: float
    """Log of the network's metres per unit of the backbone's points, averaged over time."""


def _tensor(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(values).float()
