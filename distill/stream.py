"""Streaming inference: frames in, one after the other; cameras and people out; memory that does not grow.

Each frame is encoded once. Its features are kept for the longest gap and paired with those of a few earlier
frames in one call. What is said of one person in one frame is averaged over the pairs; `distill.fuser` turns
motions, roots and contacts into cameras and people in one world. `Stream.step` gives what is known at once,
`Stream.settled` the same frame some frames later, when later frames have improved it and nothing will change it.

`step` is `encode`, `predict` and `fuse` in a row. Each keeps what it remembers to itself, so that three threads may do
them for three frames at the same time, each for all frames in order (`distill.live.pipeline`).
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.body import BodyModel, load_body_model
from distill.breaks import Breaks
from distill.errors import FootfallError
from distill.fuser import FrameObservation, FusedFrame, Motions, cam_from_body
from distill.geometry.cameras import resize_intrinsics
from distill.geometry.transforms import transform_points
from distill.models.backbones import Tokens
from distill.models.detection_head import best_candidates
from distill.models.prediction import PairPrediction, Prompts
from distill.odometry import CornerOdometry, Measured
from distill.people.token_tracker import TokenTracker
from distill.stream_bodies import Bodies, BodyAverage, observe
from distill.stream_config import FARTHEST, MIN_CONFIDENCE, SCALE_MEMORY, TIMES_KEPT, StreamConfig
from distill.stream_types import Finder, FrameResult, GivenBody, Network, PersonResult, Seen
from distill.worlds import Worlds

__all__ = [
    "TIMES_KEPT", "Encoded", "Finder", "FrameResult", "GivenBody", "Network", "PersonResult", "Predicted", "Seen",
    "Stream", "StreamConfig",
]  # fmt: skip

Array = NDArray[Any]


@dataclass
class _Kept:
    tokens: Tokens
    boxes: dict[int, Tensor]
    looks: dict[int, Tensor]
    """[width] per person, `Prompts.looks`."""
    timestamp: float


@dataclass(kw_only=True)
class Encoded:
    """A frame after `Stream.encode`."""

    index: int
    timestamp: float
    image: Array
    """[H, W, 3] uint8 as given."""
    prepared: Tensor
    """[1, 3, h, w] at the network's size."""
    tokens: Tokens
    broken: str | None
    """Why nothing joins it to the frame before; None where they belong together."""


@dataclass(kw_only=True)
class Predicted:
    """A frame after `Stream.predict`."""

    frame: Encoded
    prediction: PairPrediction
    gaps: list[int]
    ids: list[int]
    in_both: list[list[bool]]
    """For every pair, for everybody: whether the person was in both frames."""
    corners: Motions


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
        self._K_known = K_known if K_known is not None else K is not None or self.config.knows_lens
        self.times: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=TIMES_KEPT))
        """Part -> seconds of the last frames."""
        # What `encode` remembers,
        self._index = -1
        self._breaks = Breaks(self.config.break_seconds, self.config.cuts == "auto")
        # what `predict` remembers,
        self._past: deque[_Kept] = deque(maxlen=max(self.config.gaps))
        self._odometry = self._make_odometry()
        self._tracker = TokenTracker(self.config.tracker)
        self._log_scale: float | None = None
        # and `fuse`.
        self._average = BodyAverage(self._body, self.config.shape_memory)
        self._worlds = Worlds(self.config.fuser, self.config.camera)
        self._bodies: deque[tuple[Bodies, str | None]] = deque()
        self._settled: list[FrameResult] = []
        self.observation: FrameObservation | None = None
        """What the network said of the last frame."""

    def _make_odometry(self) -> CornerOdometry | None:
        """None where it is not wanted or cannot be."""
        possible = isinstance(self.network, Finder) and self.network.has_points and find_spec("cv2") is not None
        if self.config.corners == "never" or not possible:
            return None
        return CornerOdometry(self.K.numpy(), self.config.odometry)

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
        return self.fuse(self.predict(self.encode(image, timestamp), boxes), bodies)

    @torch.inference_mode()
    def encode(self, image: Array, timestamp: float) -> Encoded:
        """The first part of `step`: features of a frame, and whether it goes on from the one before.

        Raises:
            FootfallError: a frame of another size.
        """
        if image.shape != (self.size[1], self.size[0], 3):
            raise FootfallError(
                f"frame {self._index + 1}", got=f"shape {image.shape}", expected=f"({self.size[1]}, {self.size[0]}, 3)",
                do="start a new stream for another size",
            )  # fmt: skip
        self._index += 1
        broken = self._breaks.step(image, timestamp)
        prepared = self._prepare(image)
        tokens = self._timed("encode", lambda: self.network.encode(prepared))
        return Encoded(
            index=self._index,
            timestamp=timestamp + self._breaks.shift,
            image=image,
            prepared=prepared,
            tokens=tokens,
            broken=broken,
        )

    @torch.inference_mode()
    def predict(self, frame: Encoded, boxes: dict[int, Array] | None = None) -> Predicted:
        """The second part of `step`: people of a frame, and its motion from earlier ones; `boxes` as there.

        Raises:
            FootfallError: no boxes for a network that finds nobody.
        """
        if frame.broken:
            self._past.clear()
            self._odometry = self._make_odometry()
            self._tracker.interrupt()
        if boxes is None:
            scaled = self._timed("people", lambda: self._find(frame.tokens))
        else:
            scaled = {k: torch.as_tensor(box).float() * self._box_scale for k, box in boxes.items()}
        looks = self._timed("look", lambda: self._look(frame.prepared, scaled))
        now = _Kept(replace(frame.tokens, images=None), scaled, looks, frame.timestamp)
        corners = self._timed("corners", lambda: self._track(frame.image)) if self._odometry else []
        gaps = [gap for gap in self.config.gaps if gap <= len(self._past)]
        past = [self._past[-gap] for gap in gaps] or [now]
        ids = sorted(now.boxes)
        prediction = self._timed("pair", lambda: self._pair(past, now, ids))
        in_both = [[person in before.boxes for person in ids] for before in past]
        moved = self._scaled(corners, float(prediction.log_scene_scale.mean()))
        if self._odometry is not None and self._odometry.wants_keyframe:
            self._timed("keyframe", lambda: self._take_keyframe(now, past[-1]))
        self._past.append(now)
        return Predicted(frame=frame, prediction=prediction, gaps=gaps, ids=ids, in_both=in_both, corners=moved)

    @torch.inference_mode()
    def fuse(self, frame: Predicted, bodies: dict[int, GivenBody] | None = None) -> FrameResult:
        """The third part of `step`: everything in one world; `bodies` as there."""
        return self._timed("fuse", lambda: self._fuse(frame, bodies or {}))

    def _fuse(self, frame: Predicted, given: dict[int, GivenBody]) -> FrameResult:
        seen, broken = self._average(frame.prediction, frame.ids, given), frame.frame.broken
        self.observation = observe(
            frame.prediction, seen, frame.gaps, frame.in_both, frame.frame.timestamp, frame.corners
        )
        newest = self._worlds.step(self.observation, broken=broken is not None)
        self._bodies.append((seen, broken))
        self._settled = [self._result(fused, *self._bodies.popleft()) for fused in self._worlds.settled()]
        return self._result(newest, seen, broken)

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

    def _track(self, image: Array) -> list[Measured]:
        assert self._odometry is not None
        return self._odometry.step(image)

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
        """Frames that nothing will change any more since the last `step`: at most one, or all before a break."""
        return self._settled

    def finish(self) -> list[FrameResult]:
        """After the last `step` and `settled`: the frames that are still in the window, in order."""
        return [self._result(frame, *known) for frame, known in zip(self._worlds.finish(), self._bodies, strict=True)]

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

    def _result(self, fused: FusedFrame, bodies: Bodies, broken: str | None) -> FrameResult:
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
            broken=broken,
        )  # fmt: skip

    def seen(self, image: Array) -> Seen:
        """What is known of the frame just given, besides its result; `image` as given to `step`."""
        now = self._past[-1]
        images = self._prepare(image).to(now.tokens.features.device)
        return Seen(
            tokens=replace(now.tokens, images=images), other=self._past[0].tokens, K=self._network_K, boxes=now.boxes,
            log_scale=self._log_scale or 0.0,
        )  # fmt: skip

    @torch.inference_mode()
    def background(self, image: Array, *, min_confidence: float = MIN_CONFIDENCE) -> tuple[Array, Array]:
        """Points of the background of the frame last predicted, and their colours.

        Returns:
            [N, 3] in its camera, in the network's metres (e^-log_scale of them is true ones), and [N, 3] uint8; empty
            if the network has no points (feature-only backbones).
        """
        if not isinstance(self.network, Finder) or not self.network.has_points:
            return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8)
        now = self._past[-1]
        found, confidence = self.network.points(now.tokens, self._past[0].tokens)
        points = found[0] * float(np.exp(self._log_scale or 0.0))
        small = (self._prepare(image)[0].permute(1, 2, 0) * 255).byte()
        keep = confidence[0] > min_confidence
        for box in now.boxes.values():
            left, top, right, bottom = (int(v) for v in box.clamp(min=0))
            keep[top : bottom + 1, left : right + 1] = False
        return points[keep].numpy(), small[keep].numpy()

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


def _per_axis(covariance: Array) -> Tensor:
    """[6, 6] of rotation and translation -> [2] root of the mean variance per axis."""
    variance = np.diag(covariance).reshape(2, 3).mean(1)
    return torch.from_numpy(np.sqrt(variance)).float()
