"""Streaming inference: frames in, one after the other; cameras and people out; memory that does not grow.

Each frame is encoded once. Its features are kept for the longest gap and paired with those of a few earlier
frames in one call. What is said of one person in one frame is averaged over the pairs; `distill.fuser` turns
motions, roots and contacts into cameras and people in one world. `Stream.step` gives what is known at once,
`Stream.settled` the same frame some frames later, when later frames have improved it and nothing will change it.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any, Final, Literal, Protocol, get_args, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.body import BodyModel, load_body_model
from distill.errors import FootfallError
from distill.fuser import (
    FEET,
    CameraMode,
    FrameObservation,
    FusedFrame,
    Fuser,
    FuserConfig,
    Motions,
    PersonObservation,
    cam_from_body,
)
from distill.geometry.cameras import make_intrinsics, resize_intrinsics
from distill.geometry.rotations import average_rotations
from distill.geometry.transforms import make_transform, transform_points
from distill.models.backbones import Tokens
from distill.models.detection_head import Candidates, best_candidates
from distill.models.prediction import PairPrediction, Prompts
from distill.odometry import CornerOdometry, Measured, OdometryConfig
from distill.people.token_tracker import TokenTracker, TokenTrackerConfig

Array = NDArray[Any]
TIMES_KEPT: Final = 2000
"""Latencies are kept of the last this many frames."""


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


SCALE_MEMORY: Final = 0.95
"""How slowly the scale of the backbone's points follows new frames."""
FARTHEST: Final = 30.0
"""Points farther than this are no landmarks, in the backbone's unit."""


@dataclass(kw_only=True)
class StreamConfig:
    """Streaming."""

    gaps: list[int] = field(default_factory=lambda: [1, 3, 10])
    """Earlier frames that each new frame is paired with."""
    focal_px: float = 0.0
    """Focal length in pixels of the video; 0 takes `focal_guess`."""
    focal_guess: float = 0.8
    """Focal length where none is given, as a multiple of the image diagonal."""
    shape_memory: float = 0.98
    """How slowly a person's shape follows new frames."""
    corners: Literal["auto", "never"] = "auto"
    """Measure the camera's motion by corners on the backbone's points too (auto: where there are points and OpenCV)."""
    odometry: OdometryConfig = field(default_factory=OdometryConfig)
    tracker: TokenTrackerConfig = field(default_factory=TokenTrackerConfig)
    camera: Literal["auto", "static", "moving"] = "auto"
    """Whether the camera stands: tested all the time (auto), or known."""
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

    def intrinsics(self, size: tuple[int, int]) -> Tensor:
        """K [3, 3] for images of (width, height)."""
        focal = self.focal_px or self.focal_guess * float(np.hypot(*size))
        return make_intrinsics(torch.tensor(focal), size)


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


@dataclass
class _Kept:
    tokens: Tokens
    boxes: dict[int, Tensor]
    looks: dict[int, Tensor]
    """[width] per person, `Prompts.looks`."""
    timestamp: float


@dataclass(kw_only=True)
class _Bodies:
    """What the network says of the P people of one frame, apart from where they are in the world."""

    ids: list[int]
    cam_from_body: Tensor
    """[P, 4, 4]."""
    root_log_var: Tensor
    """[P, 3]."""
    body_rot: Tensor
    """[P, 23, 3, 3]."""
    betas: Tensor
    """[P, B]."""
    contact_prob: Tensor
    """[P, 6]."""
    joints: Tensor
    """[P, 24, 3] in the body, metres."""
    feet: Tensor
    """[P, 4, 3] heels and toes in the body, metres."""


class Stream:
    """Call `step` for every frame, in order."""

    def __init__(
        self, network: Network, size: tuple[int, int], config: StreamConfig | None = None, *,
        K: Tensor | None = None, K_known: bool | None = None, body: BodyModel | None = None,
    ) -> None:  # fmt: skip
        """Prepare for frames of `size` (width, height).

        Args:
            network: a student, or exported graphs.
            K: [3, 3] intrinsics in pixels of the frames; None takes the config's.
            K_known: whether they are more than a guess; None: if they were given here or in the config.
            body: body model of the network's parameters; None takes the free one.
        """
        self.network, self.size, self.config = network, size, config or StreamConfig()
        self.K = self.config.intrinsics(size) if K is None else K.float()
        self.network_size = network.network_size(size)
        self._network_K = resize_intrinsics(self.K, size, self.network_size)
        self._box_scale = torch.tensor([self.network_size[0] / size[0], self.network_size[1] / size[1]] * 2)
        self._body = body or load_body_model("anny")
        self._lag = max(self.config.gaps)
        self._past: deque[_Kept] = deque(maxlen=self._lag)
        self._fuser = Fuser(self.config.fuser, camera=self.config.camera)
        self._K_known = K_known if K_known is not None else K is not None or self.config.focal_px > 0
        self._bodies: deque[_Bodies] = deque(maxlen=self.config.fuser.lag + 1)
        self.observation: FrameObservation | None = None
        """What the network said of the last frame."""
        self._odometry = self._make_odometry()
        self._tracker = TokenTracker(self.config.tracker)
        self._log_scale: float | None = None
        self._betas: dict[int, Tensor] = {}
        self._last_seen: dict[int, int] = {}
        self._index = -1
        self.times: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=TIMES_KEPT))
        """Part -> seconds of the last frames."""

    def _make_odometry(self) -> CornerOdometry | None:
        """None where it is not wanted or cannot be."""
        possible = isinstance(self.network, Finder) and self.network.has_points and find_spec("cv2") is not None
        if self.config.corners == "never" or not possible:
            return None
        return CornerOdometry(self.K.numpy(), self.config.odometry)

    @torch.inference_mode()
    def step(
        self, image: Array, timestamp: float, boxes: dict[int, Array] | None = None,
        bodies: dict[int, GivenBody] | None = None,
    ) -> FrameResult:  # fmt: skip
        """The next frame.

        Args:
            image: [H, W, 3] uint8 RGB of the announced size.
            timestamp: seconds.
            boxes: person's id -> [4] x0, y0, x1, y1 in pixels of the frame; None: the student finds and follows
                people itself.
            bodies: person's id -> a body from elsewhere, for any of the people in the frame.

        Raises:
            FootfallError: a frame of another size, or no boxes for a network that finds nobody.
        """
        if image.shape != (self.size[1], self.size[0], 3):
            raise FootfallError(
                f"frame {self._index + 1}", got=f"shape {image.shape}", expected=f"({self.size[1]}, {self.size[0]}, 3)",
                do="start a new stream for another size",
            )  # fmt: skip
        self._index += 1
        prepared = self._prepare(image)
        tokens = self._timed("encode", lambda: self.network.encode(prepared))
        if boxes is None:
            scaled = self._timed("people", lambda: self._find(tokens))
        else:
            scaled = {k: torch.as_tensor(box).float() * self._box_scale for k, box in boxes.items()}
        looks = self._timed("look", lambda: self._look(prepared, scaled))
        now = _Kept(replace(tokens, images=None), scaled, looks, timestamp)
        corners = self._timed("corners", lambda: self._odometry.step(image)) if self._odometry else []
        gaps = [gap for gap in self.config.gaps if gap <= self._index]
        past = [self._past[-gap] for gap in gaps] or [now]
        ids = sorted(now.boxes)
        prediction = self._timed("pair", lambda: self._pair(past, now, ids))
        in_both = [[person in before.boxes for person in ids] for before in past]
        moved = self._scaled(corners, float(prediction.log_scene_scale.mean()))
        result = self._timed("fuse", lambda: self._fuse(prediction, gaps, ids, in_both, timestamp, moved, bodies))
        if self._odometry is not None and self._odometry.wants_keyframe:
            self._timed("keyframe", lambda: self._take_keyframe(now, past[-1]))
        self._past.append(now)
        return result

    def _find(self, tokens: Tokens) -> dict[int, Tensor]:
        """People whom the student finds in its tokens: id -> box [4] in pixels of the network."""
        if not isinstance(self.network, Finder):
            raise FootfallError(
                "stream", got="no boxes of people", expected="boxes: these graphs find nobody themselves",
                do="give boxes, or take the checkpoint instead of its exported graphs",
            )  # fmt: skip
        config = self.config.tracker
        ((found, scores),) = best_candidates(
            self.network.detect(tokens), threshold=config.stay_score, overlap=config.overlap, most=config.max_people
        )
        vectors = self.network.identify(tokens, found[None])[0]
        followed = self._tracker.step(found.numpy(), scores.numpy(), vectors.numpy())
        return {person: torch.from_numpy(box).float() for person, box in followed.items()}

    def _look(self, prepared: Tensor, boxes: dict[int, Tensor]) -> dict[int, Tensor]:
        """A closer look at everybody, once per frame."""
        if not boxes:
            return {}
        return dict(zip(boxes, self.network.look(prepared, torch.stack(list(boxes.values()))[None])[0], strict=True))

    def _scaled(self, corners: list[Measured], log_scale: float) -> Motions:
        """What corners say, in metres of the network: points times their scale, which is averaged over time."""
        last = log_scale if self._log_scale is None else self._log_scale
        self._log_scale = SCALE_MEMORY * last + (1 - SCALE_MEMORY) * log_scale
        if not corners:
            return Motions()
        moves = np.stack([measured.key_from_now for measured in corners])
        moves[:, :3, 3] *= np.exp(self._log_scale)
        log_var = np.stack([measured.log_var for measured in corners]) + [0, 2 * self._log_scale]
        return Motions(gaps=np.array([measured.gap for measured in corners]), past_from_now=moves, log_var=log_var)

    def _take_keyframe(self, now: _Kept, other: _Kept) -> None:
        """Give the odometry the points of the background of the frame just given."""
        assert isinstance(self.network, Finder) and self._odometry is not None
        points = self.network.points(now.tokens, other.tokens)[0][0]
        usable = (points[..., 2] > 0.1) & (points[..., 2] < FARTHEST)
        for box in now.boxes.values():
            left, top, right, bottom = (int(v) for v in box.clamp(min=0))
            usable[top : bottom + 1, left : right + 1] = False
        self._odometry.add_keyframe(points.numpy(), usable.numpy())

    def settled(self) -> list[FrameResult]:
        """Frames that left the fuser's window with the last `step` (at most one); nothing will change them."""
        return [self._result(frame, self._bodies[0]) for frame in self._fuser.settled()]

    def finish(self) -> list[FrameResult]:
        """After the last `step` and `settled`: the frames that are still in the window, in order."""
        frames = self._fuser.finish()
        return [
            self._result(frame, bodies)
            for frame, bodies in zip(frames, list(self._bodies)[-len(frames) :], strict=True)
        ]

    def _timed(self, part: str, call: Any) -> Any:
        start = time.perf_counter()
        value = call()
        self.times[part].append(time.perf_counter() - start)
        return value

    def _prepare(self, image: Array) -> Tensor:
        pixels = torch.tensor(image).permute(2, 0, 1)[None].float() / 255
        height_width = (self.network_size[1], self.network_size[0])
        return torch.nn.functional.interpolate(pixels, height_width, mode="bilinear", antialias=True).clamp(0, 1)

    def _pair(self, past: list[_Kept], now: _Kept, ids: list[int]) -> PairPrediction:
        """All gaps in one batch; people of the current frame, and where they were."""
        count = len(past)
        a = replace(now.tokens, features=torch.cat([p.tokens.features for p in past]))
        b = replace(now.tokens, features=now.tokens.features.expand(count, -1, -1))
        boxes, valid = (
            torch.zeros(count, max(len(ids), 1), 2, 4),
            torch.zeros(count, max(len(ids), 1), 2, dtype=torch.bool),
        )
        boxes[..., 2:] = 16.0
        looks = torch.zeros(*valid.shape, self.network.look_width)
        for column, person in enumerate(ids):
            boxes[:, column, 1], looks[:, column, 1], valid[:, column, 1] = now.boxes[person], now.looks[person], True
            for row, before in enumerate(past):
                if person in before.boxes:
                    boxes[row, column, 0], valid[row, column, 0] = before.boxes[person], True
                    looks[row, column, 0] = before.looks[person]
        prompts = Prompts(
            boxes=boxes, valid=valid, K=self._network_K.expand(count, 2, 3, 3),
            K_known=torch.full((count,), self._K_known),
            seconds=torch.tensor([now.timestamp - before.timestamp for before in past]), looks=looks,
        )  # fmt: skip
        return self.network.pair(a, b, prompts)

    def _fuse(
        self, prediction: PairPrediction, gaps: list[int], ids: list[int], in_both: list[list[bool]], timestamp: float,
        corners: Motions, given: dict[int, GivenBody] | None,
    ) -> FrameResult:  # fmt: skip
        bodies = self._average(prediction, ids, given or {})
        self._forget()
        self.observation = replace(_observe(prediction, bodies, gaps, in_both, timestamp), corners=corners)
        self._bodies.append(bodies)
        return self._result(self._fuser.step(self.observation), bodies)

    def _average(self, prediction: PairPrediction, ids: list[int], given: dict[int, GivenBody]) -> _Bodies:
        """Average over the pairs, weighted by how sure each is of the root; shapes also over time.

        All pairs see the same pixels of the current frame, so that their mean is no surer than one of them.
        """
        count = len(ids)
        log_var = prediction.root_log_var_b[:, :count]
        weight = (-log_var).exp()
        weight = weight / weight.sum(0)
        root = prediction.cam_from_body_b[:, :count]
        depth = root[..., 2:3, 3].clamp(min=0.1)
        log_depth = (weight[..., 2:] * depth.log()).sum(0)
        ray = (weight[..., 1:2] * root[..., :3, 3] / depth).sum(0)
        body_rot = average_rotations(prediction.body_rot_b[:, :count], weight[..., :1].expand(-1, -1, 23))
        betas = prediction.betas[:, :count].mean(0)
        for column, person in enumerate(ids):
            if person in self._betas:
                betas[column] = torch.lerp(betas[column], self._betas[person], self.config.shape_memory)
            self._betas[person], self._last_seen[person] = betas[column].clone(), self._index
        cam_from_body = make_transform(average_rotations(root[..., :3, :3], weight[..., 0]), ray * log_depth.exp())
        for column, person in enumerate(ids):
            if person in given:
                outside = given[person]
                body_rot[column], betas[column] = outside.body_rot, outside.betas
                cam_from_body[column] = (
                    cam_from_body[column] if outside.cam_from_body is None else outside.cam_from_body
                )
        here = torch.eye(4).expand(count, 4, 4)
        return _Bodies(
            ids=ids, root_log_var=(weight * log_var).sum(0), body_rot=body_rot, betas=betas,
            cam_from_body=cam_from_body,
            contact_prob=prediction.contact_logit_b[:, :count].sigmoid().mean(0),
            joints=self._body(betas, body_rot, here).joints, feet=self._body.sites(betas, body_rot, here)[:, :FEET],
        )  # fmt: skip

    def _result(self, fused: FusedFrame, bodies: _Bodies) -> FrameResult:
        """Poses of the fuser with the bodies of the network; people whom the fuser could not use are left out."""
        people = []
        for row, person in enumerate(bodies.ids):
            if person not in fused.people:
                continue
            root = torch.from_numpy(cam_from_body(fused, person)).float()
            people.append(PersonResult(
                id=person, cam_from_body=root, body_rot=bodies.body_rot[row], betas=bodies.betas[row],
                joints_cam=transform_points(root, bodies.joints[row]), contact_prob=bodies.contact_prob[row],
                depth_sigma=float((0.5 * bodies.root_log_var[row, 2]).exp()),
                root_sigma=_per_axis(fused.people[person].covariance),
            ))  # fmt: skip
        return FrameResult(
            index=fused.index, timestamp=fused.timestamp, static_prob=fused.static_prob, people=people,
            log_scale=fused.log_scale, log_scale_sigma=fused.log_scale_sigma,
            world_from_cam=torch.from_numpy(fused.world_from_cam).float(), camera_sigma=_per_axis(fused.covariance),
        )  # fmt: skip

    def _forget(self, after: int = 900) -> None:
        """Shapes of people who have been away for long are dropped, so that memory is bounded."""
        for person in [k for k, seen in self._last_seen.items() if self._index - seen > after]:
            del self._last_seen[person], self._betas[person]

    def seen(self, image: Array) -> Seen:
        """What is known of the frame just given, besides its result; `image` as given to `step`."""
        now = self._past[-1]
        images = self._prepare(image).to(now.tokens.features.device)
        return Seen(
            tokens=replace(now.tokens, images=images), other=self._past[0].tokens, K=self._network_K, boxes=now.boxes,
            log_scale=self._log_scale or 0.0,
        )  # fmt: skip

    @torch.inference_mode()
    def scene(self, image: Array, result: FrameResult, *, min_confidence: float = 1.5) -> tuple[Array, Array]:
        """Points of the background of the frame just given: [N, 3] metres in the world, [N, 3] uint8.

        Empty if the network has no points (exported graphs, feature-only backbones).
        """
        if not isinstance(self.network, Finder) or not self.network.has_points:
            return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8)
        now = self._past[-1]
        nobody = Prompts(
            boxes=torch.zeros(1, 0, 2, 4), valid=torch.zeros(1, 0, 2, dtype=torch.bool),
            K=self._network_K.expand(1, 2, 3, 3), looks=torch.zeros(1, 0, 2, self.network.look_width),
        )  # fmt: skip
        pair = self.network.pair(now.tokens, self._past[0].tokens, nobody, points=True)
        assert pair.points_a is not None and pair.conf_a is not None
        points = pair.points_a[0] * (pair.log_scene_scale - result.log_scale).exp()
        small = (self._prepare(image)[0].permute(1, 2, 0) * 255).byte()
        keep = pair.conf_a[0] > min_confidence
        for box in now.boxes.values():
            left, top, right, bottom = (int(v) for v in box.clamp(min=0))
            keep[top : bottom + 1, left : right + 1] = False
        world = points[keep] @ result.world_from_cam[:3, :3].T + result.world_from_cam[:3, 3]
        return world.numpy(), small[keep].numpy()

    def latency(self) -> dict[str, dict[str, float]]:
        """Part -> {p50, p95, p99} in milliseconds over the last frames."""
        rows = {}
        for part, seconds in self.times.items():
            p50, p95, p99 = 1e3 * np.percentile(seconds, [50, 95, 99])
            rows[part] = {
                "p50_ms": round(float(p50), 3),
                "p95_ms": round(float(p95), 3),
                "p99_ms": round(float(p99), 3),
            }
        return rows


def _observe(
    prediction: PairPrediction, bodies: _Bodies, gaps: list[int], in_both: list[list[bool]], timestamp: float
) -> FrameObservation:
    """A prediction for `gaps` as the fuser takes it; a body's motion counts where the person was in both frames."""
    steps, rows = np.array(gaps, np.int64), slice(len(gaps))  # without gaps the frame was paired with itself
    people = {}
    for column, person in enumerate(bodies.ids):
        seen = np.array([row[column] for row in in_both[rows]], bool)
        people[person] = PersonObservation(
            cam_from_body=_array(bodies.cam_from_body[column]), root_log_var=_array(bodies.root_log_var[column]),
            contact_prob=_array(bodies.contact_prob[column]), feet=_array(bodies.feet[column]),
            motions=Motions(
                gaps=steps[seen], past_from_now=_array(prediction.body_a_from_body_b[rows, column])[seen],
                log_var=_array(prediction.body_log_var[rows, column])[seen],
            ),
        )  # fmt: skip
    camera = Motions(
        gaps=steps, past_from_now=_array(prediction.cam_a_from_cam_b[rows]),
        log_var=_array(prediction.camera_log_var[rows]),
    )  # fmt: skip
    return FrameObservation(timestamp=timestamp, camera=camera, people=people)


def _array(values: Tensor) -> NDArray[np.float64]:
    return values.double().numpy()


def _per_axis(covariance: Array) -> Tensor:
    """[6, 6] of rotation and translation -> [2] root of the mean variance per axis."""
    variance = np.diag(covariance).reshape(2, 3).mean(1)
    return torch.from_numpy(np.sqrt(variance)).float()
