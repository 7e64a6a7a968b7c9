"""Gaussians of a stream: one scene of bounded size, and one avatar per person that improves with every frame.

    gaussians = GaussianStream(stream, GaussianStreamConfig())
    result = stream.step(image, seconds)
    gaussians.look(result)                       # people at once; the scene waits until its camera has settled
    for settled in stream.settled(): gaussians.settle(settled)

Keyframes wait in their cameras for the fuser's lag, so that they are placed where the camera was found in the end.
What is kept: the map (at most `map.most` cells), the evidence of at most `max_people` people, the keyframes of one lag,
and at most `SHOWN` small pictures for comparison.
"""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Final, Literal

import torch
from torch import Tensor

from distill.avatar import Avatar
from distill.body import BodyModel
from distill.errors import FootfallError
from distill.gaussian_map import GaussianMap, MapConfig
from distill.models.gaussian_human import Evidence
from distill.models.gaussian_scene import grow
from distill.models.gaussian_visibility import body_mask, look_at_anchors, posed_vertices
from distill.models.student import Student
from distill.on_device import OnDevice
from distill.render import Gaussians
from distill.stream import FrameResult, Network, PersonResult, Seen, Stream
from distill.stream_config import TIMES_KEPT

SHOWN: Final = 12
"""Pictures that are kept for comparison; every other one goes when there are more."""
PEOPLE_EDGE: Final = 4
"""Pixels around a person's posed body that become no Gaussians of the scene: poses are not exact."""
IN_FRONT_M: Final = 0.6
"""Inside a person's box, what is nearer than the pelvis plus this is taken for the person."""
TRUST_SIGMA: Final = 0.1
"""Relative error of a root's depth at which a frame counts half for the avatar."""


@dataclass(kw_only=True)
class GaussianStreamConfig:
    """Gaussians of a stream."""

    use: Literal["auto", "never"] = "auto"
    """Whether Gaussians are made: where the checkpoint has a head for them (auto), or never."""
    keyframe_every: int = 10
    """Frames between those that join the scene."""
    look_every: int = 2
    """Frames between those in which people are looked at."""
    max_people: int = 8
    """Avatars that are kept; those seen least go first."""
    map: MapConfig = field(default_factory=MapConfig)

    def __post_init__(self) -> None:
        if min(self.keyframe_every, self.look_every, self.max_people) < 1:
            raise ValueError("gaussians: keyframe_every, look_every and max_people of at least 1 are expected")


@dataclass(kw_only=True)
class Shown:
    """A keyframe to compare the scene with."""

    image: Tensor
    """[3, H, W] uint8 at the network's size."""
    frame: FrameResult
    """Where camera and people were found to be in the end."""


@dataclass
class _Person:
    evidence: Evidence
    betas: Tensor


@dataclass
class _Waiting:
    index: int
    gaussians: Gaussians
    confidence: Tensor
    image: Tensor


def student_of(network: Network) -> Student | None:
    """The student behind a stream's network; None for exported graphs and for JOSH3R."""
    if isinstance(network, OnDevice):
        return network.student
    return network if isinstance(network, Student) else None


class GaussianStream:
    """Call `look` after every `Stream.step`, and `settle` for every settled frame, in order."""

    def __init__(self, stream: Stream, config: GaussianStreamConfig, body: BodyModel) -> None:
        """`body`: the model of the student's parameters.

        Raises:
            FootfallError: a network without a Gaussian head.
        """
        student = student_of(stream.network)
        if student is None or student.gaussians is None:
            raise FootfallError(
                "Gaussians of a stream", got="a network without a Gaussian head", expected="a student that has one",
                do="train one on it (docs/gaussian_head.md), or leave Gaussians out",
            )  # fmt: skip
        self.stream, self.config, self.body = stream, config, body
        self.student, self.head = student, student.gaussians
        self.map = GaussianMap(config.map)
        self.device = next(self.head.parameters()).device
        self.template = self.head.template(body).to(self.device)
        self.shown: list[Shown] = []
        self.backdrop = torch.full((3,), 0.5)
        """[3] mean colour of what became no Gaussian: sky, and what is too far or unsure."""
        self.times: dict[str, deque[float]] = {"scene": deque(maxlen=TIMES_KEPT), "people": deque(maxlen=TIMES_KEPT)}
        """Part -> seconds of the last frames in which there was something to do."""
        self._people: dict[int, _Person] = {}
        self._waiting: deque[_Waiting] = deque()
        self.keyframes = 0
        """Keyframes that joined the scene."""
        self.K = torch.eye(3)
        """[3, 3] intrinsics in pixels of the network's image, once a frame was looked at."""
        self._show_every = 1

    @torch.no_grad()
    def look(self, result: FrameResult) -> None:
        """Take in the frame just given to the stream; `result` is what `Stream.step` returned."""
        keyframe = result.index % self.config.keyframe_every == 0 and result.index > 0
        people = result.people if result.index % self.config.look_every == 0 or keyframe else []
        if not keyframe and not people:
            return
        seen = self.stream.seen()
        self.K = seen.K
        vertices = self._posed(people)
        if people:
            began = time.perf_counter()
            self._look_at_people(seen, people, vertices)
            self.times["people"].append(time.perf_counter() - began)
        if keyframe:
            began = time.perf_counter()
            self._take_keyframe(seen, result, vertices)
            self.times["scene"].append(time.perf_counter() - began)

    @torch.no_grad()
    def settle(self, frame: FrameResult) -> None:
        """A frame of the stream that nothing will change any more: its Gaussians join the scene."""
        while self._waiting and self._waiting[0].index < frame.index:  # the stream left it out
            self._waiting.popleft()
        if not self._waiting or self._waiting[0].index != frame.index:
            return
        waiting = self._waiting.popleft()
        began = time.perf_counter()
        metres = math.exp(-frame.log_scale)
        scaled = _scaled(waiting.gaussians, metres)
        self.map.add(scaled.moved(frame.world_from_cam), waiting.confidence)
        self.times["scene"][-1] += time.perf_counter() - began
        self.keyframes += 1
        if self.keyframes % self._show_every == 0:
            self.shown.append(Shown(image=waiting.image, frame=frame))
        if len(self.shown) > SHOWN:
            self.shown, self._show_every = self.shown[::2], 2 * self._show_every

    @torch.no_grad()
    def avatars(self) -> dict[int, Avatar]:
        """Person's id -> the avatar as it is by now."""
        return {
            person: self.head.human(known.evidence, self.template, known.betas.to(self.device)).to("cpu")
            for person, known in self._people.items()
        }

    def frames_of(self, person: int) -> int:
        """Frames in which a person was looked at."""
        return int(self._people[person].evidence.frames)

    def _posed(self, people: list[PersonResult]) -> Tensor:
        """[P, V, 3] in the camera, metres."""
        if not people:
            return torch.zeros(0, self.body.num_vertices, 3)
        betas, body_rot, roots = (
            torch.stack([getattr(person, name) for person in people]) for name in ("betas", "body_rot", "cam_from_body")
        )
        return posed_vertices(self.body, betas, body_rot, roots)

    def _look_at_people(self, seen: Seen, people: list[PersonResult], vertices: Tensor) -> None:
        """One more frame for everybody in it; those seen least make room."""
        trust = torch.tensor([1 / (1 + (person.depth_sigma / TRUST_SIGMA) ** 2) for person in people])
        there = (vertices, self.body.faces, self.template.anchors, seen.K)
        sight = look_at_anchors(seen.tokens, *(tensor.to(self.device) for tensor in there), trust=trust.to(self.device))
        for row, person in enumerate(people):
            known = self._people.get(person.id)
            fresh = Evidence.none(len(self.template.anchors), sight.features.shape[-1], self.device)
            before = known.evidence if known else fresh
            self._people[person.id] = _Person(before.with_sight(sight, row), person.betas.clone())
        while len(self._people) > self.config.max_people:
            del self._people[min(self._people, key=lambda k: self._people[k].evidence.frames)]

    def _take_keyframe(self, seen: Seen, result: FrameResult, vertices: Tensor) -> None:
        """Gaussians of the background in this camera; they wait for the camera's place."""
        pair = self.student.backbone.decode(seen.tokens, seen.other)
        assert pair.points_a is not None and pair.conf_a is not None
        hidden = self._hidden(seen, result, vertices, pair.points_a[0, ..., 2])
        cells = self.head.scene(seen.tokens, pair.tokens_a[-1], pair.points_a, pair.conf_a, seen.K[None], hidden[None])
        gaussians, confidence = cells.of(0, float(torch.tensor(seen.log_scale).exp()))
        assert seen.tokens.images is not None
        image = seen.tokens.images[0]
        self._waiting.append(_Waiting(result.index, gaussians, confidence, (image * 255).byte()))
        left_out = cells.backdrop[0]
        self.backdrop = torch.lerp(self.backdrop, left_out, 1 / (1 + self.keyframes))

    def _hidden(self, seen: Seen, result: FrameResult, vertices: Tensor, depth: Tensor) -> Tensor:
        """[H, W] bool pixels of people: their posed bodies, and in their boxes what is as near as they are."""
        width, height = seen.tokens.size
        hidden = torch.zeros(height, width, dtype=torch.bool)
        if len(vertices):
            hidden |= body_mask(vertices, seen.K, (width, height), PEOPLE_EDGE)
        roots = {person.id: float(person.cam_from_body[2, 3]) for person in result.people}
        metres = math.exp(seen.log_scale - result.log_scale)
        for person, box in seen.boxes.items():
            left, top, right, bottom = (int(v) for v in box.clamp(min=0))
            inside = torch.zeros_like(hidden)
            inside[top : bottom + 1, left : right + 1] = True
            if person in roots:
                inside &= depth * metres < roots[person] + IN_FRONT_M
            hidden |= inside
        return grow(hidden[None], 1)[0]


def _scaled(gaussians: Gaussians, factor: float) -> Gaussians:
    """Larger or smaller about the origin."""
    return Gaussians(
        means=gaussians.means * factor, quats=gaussians.quats, scales=gaussians.scales * factor,
        opacities=gaussians.opacities, colors=gaussians.colors,
    )  # fmt: skip


def posed_in_world(avatar: Avatar, body: BodyModel, person: PersonResult, world_from_cam: Tensor) -> Gaussians:
    """An avatar as the stream found its person in one frame, in the world."""
    return avatar.posed(body, person.body_rot, world_from_cam @ person.cam_from_body)
