"""Streaming inference: frames in, one after the other; cameras and people out; memory that does not grow.

Each frame is encoded once. Its features are kept for the longest gap and paired with those of a few earlier
frames in one call; `fuse` turns the motions into a path. What is known of people is averaged over the pairs.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.body import BodyModel, load_body_model
from distill.errors import FootfallError
from distill.fuse import CameraFuser, average_rotations
from distill.geometry.cameras import make_intrinsics, resize_intrinsics
from distill.geometry.transforms import make_transform
from distill.models.backbones import Tokens
from distill.models.prediction import PairPrediction, Prompts
from distill.models.student import Student

Array = NDArray[Any]
TIMES_KEPT: Final = 2000
"""Latencies are kept of the last this many frames."""


class Network(Protocol):
    """What a stream needs: `Student`, or the graphs of `export.load_exported`."""

    def network_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Network size for an image size."""
        ...

    def encode(self, images: Tensor) -> Tokens:
        """Features of frames."""
        ...

    def pair(self, a: Tokens, b: Tokens, people: Prompts) -> PairPrediction:
        """People and motion of pairs."""
        ...


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

    def __post_init__(self) -> None:
        if not self.gaps or min(self.gaps) < 1 or self.focal_px < 0 or self.focal_guess <= 0:
            raise ValueError("stream: gaps of at least 1, focal_px >= 0 and focal_guess > 0 are expected")

    def intrinsics(self, size: tuple[int, int]) -> Tensor:
        """K [3, 3] for images of (width, height)."""
        focal = self.focal_px or self.focal_guess * float(np.hypot(*size))
        return make_intrinsics(torch.tensor(focal), size)


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
    """Standard deviation of the root's depth, relative."""


@dataclass(kw_only=True)
class FrameResult:
    """What is known after a frame."""

    index: int
    timestamp: float
    world_from_cam: Tensor
    """[4, 4] metres; the world is the first camera."""
    camera_sigma: Tensor
    """[2] standard deviations: rotation (rad), translation (m)."""
    people: list[PersonResult]


@dataclass
class _Kept:
    tokens: Tokens
    boxes: dict[int, Tensor]


class Stream:
    """Call `step` for every frame, in order."""

    def __init__(
        self, network: Network, size: tuple[int, int], config: StreamConfig | None = None, *,
        K: Tensor | None = None, body: BodyModel | None = None,
    ) -> None:  # fmt: skip
        """Prepare for frames of `size` (width, height).

        Args:
            network: a student, or exported graphs.
            K: [3, 3] known intrinsics in pixels of the frames; None takes the config's.
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
        self._fuser = CameraFuser(self._lag)
        self._betas: dict[int, Tensor] = {}
        self._last_seen: dict[int, int] = {}
        self._index = -1
        self.times: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=TIMES_KEPT))
        """Part -> seconds of the last frames."""

    @torch.inference_mode()
    def step(self, image: Array, timestamp: float, boxes: dict[int, Array]) -> FrameResult:
        """The next frame.

        Args:
            image: [H, W, 3] uint8 RGB of the announced size.
            timestamp: seconds.
            boxes: person's id -> [4] x0, y0, x1, y1 in pixels of the frame.

        Raises:
            FootfallError: a frame of another size.
        """
        if image.shape != (self.size[1], self.size[0], 3):
            raise FootfallError(
                f"frame {self._index + 1}", got=f"shape {image.shape}", expected=f"({self.size[1]}, {self.size[0]}, 3)",
                do="start a new stream for another size",
            )  # fmt: skip
        self._index += 1
        tokens = self._timed("encode", lambda: self.network.encode(self._prepare(image)))
        now = _Kept(tokens, {k: torch.as_tensor(box).float() * self._box_scale for k, box in boxes.items()})
        gaps = [gap for gap in self.config.gaps if gap <= self._index]
        past = [self._past[-gap] for gap in gaps] or [now]
        ids = sorted(now.boxes)
        prediction = self._timed("pair", lambda: self._pair(past, now, ids))
        result = self._timed("fuse", lambda: self._fuse(prediction, gaps, ids, timestamp))
        self._past.append(now)
        return result

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
        for column, person in enumerate(ids):
            boxes[:, column, 1], valid[:, column, 1] = now.boxes[person], True
            for row, before in enumerate(past):
                if person in before.boxes:
                    boxes[row, column, 0], valid[row, column, 0] = before.boxes[person], True
        K = self._network_K.expand(count, 2, 3, 3)
        return self.network.pair(a, b, Prompts(boxes=boxes, valid=valid, K=K))

    def _fuse(self, prediction: PairPrediction, gaps: list[int], ids: list[int], timestamp: float) -> FrameResult:
        if gaps:
            pose = self._fuser.step(gaps, prediction.cam_a_from_cam_b, prediction.camera_log_var)
        else:
            pose = self._fuser.start()
        people = [self._person(prediction, column, person) for column, person in enumerate(ids)]
        self._forget()
        return FrameResult(
            index=self._index, timestamp=timestamp, world_from_cam=pose.world_from_cam,
            camera_sigma=pose.variance.sqrt(), people=people,
        )  # fmt: skip

    def _person(self, prediction: PairPrediction, column: int, person: int) -> PersonResult:
        """Average over the pairs, weighted by how sure each is of the root."""
        log_var = prediction.root_log_var_b[:, column]
        weight = (-log_var).exp()
        root = prediction.cam_from_body_b[:, column]
        log_depth = (weight[:, 2] * root[:, 2, 3].clamp(min=0.1).log()).sum() / weight[:, 2].sum()
        ray = (weight[:, 1, None] * root[:, :3, 3] / root[:, 2:3, 3].clamp(min=0.1)).sum(0) / weight[:, 1].sum()
        rotation = average_rotations(root[:, :3, :3], weight[:, 0])
        body_rot = average_rotations(prediction.body_rot_b[:, column], weight[:, 0])
        betas = prediction.betas[:, column].mean(0)
        if person in self._betas:
            betas = torch.lerp(betas, self._betas[person], self.config.shape_memory)
        self._betas[person], self._last_seen[person] = betas, self._index
        cam_from_body = make_transform(rotation, ray * log_depth.exp())
        joints = self._body(betas, body_rot, cam_from_body).joints
        return PersonResult(
            id=person, cam_from_body=cam_from_body, body_rot=body_rot, betas=betas, joints_cam=joints,
            contact_prob=prediction.contact_logit_b[:, column].sigmoid().mean(0),
            depth_sigma=float((1 / weight[:, 2].sum()).sqrt()),
        )  # fmt: skip

    def _forget(self, after: int = 900) -> None:
        """Shapes of people who have been away for long are dropped, so that memory is bounded."""
        for person in [k for k, seen in self._last_seen.items() if self._index - seen > after]:
            del self._last_seen[person], self._betas[person]

    @torch.inference_mode()
    def scene(self, image: Array, result: FrameResult, *, min_confidence: float = 1.5) -> tuple[Array, Array]:
        """Points of the background of the frame just given: [N, 3] metres in the world, [N, 3] uint8.

        Empty if the network has no points (exported graphs, feature-only backbones).
        """
        if not isinstance(self.network, Student) or not self.network.backbone.module.has_points:
            return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8)
        now = self._past[-1]
        nobody = Prompts(
            boxes=torch.zeros(1, 1, 2, 4), valid=torch.zeros(1, 1, 2, dtype=torch.bool),
            K=self._network_K.expand(1, 2, 3, 3),
        )  # fmt: skip
        pair = self.network.pair(now.tokens, self._past[0].tokens, nobody, points=True)
        assert pair.points_a is not None and pair.conf_a is not None
        points = pair.points_a[0] * pair.log_scene_scale.exp()
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
