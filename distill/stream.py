"""Streaming inference: `distill.runner.stream` for students and graphs of PyTorch, with tensors as results.

    stream = Stream(student, (640, 360))
    for image, seconds in video: result = stream.step(image, seconds)

`step` is `encode`, `predict` and `fuse` in a row. Each keeps what it remembers to itself, so that three threads may do
them for three frames at the same time, each for all frames in order (`distill.live.pipeline`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.body import BodyModel, load_body_model
from distill.fuser import FrameObservation
from distill.runner.frames import Encoded, Predicted
from distill.runner.stream import ArrayStream
from distill.runner.torch_network import TorchBody, TorchNetwork
from distill.stream_config import TIMES_KEPT, StreamConfig
from distill.stream_types import Finder, FrameResult, GivenBody, Network, PersonResult, Seen

__all__ = [
    "TIMES_KEPT", "Encoded", "Finder", "FrameResult", "GivenBody", "Network", "PersonResult", "Predicted", "Seen",
    "Stream", "StreamConfig",
]  # fmt: skip

Array = NDArray[Any]


class Stream:
    """Call `step` for every frame, in order."""

    def __init__(
        self, network: Network, size: tuple[int, int], config: StreamConfig | None = None, *,
        K: Tensor | None = None, K_known: bool | None = None, body: BodyModel | None = None,
    ) -> None:  # fmt: skip
        """Prepare for frames of `size` (width, height).

        Args:
            network: a student, or exported graphs.
            size: of the frames, pixels.
            config: None takes the defaults.
            K: [3, 3] intrinsics in pixels of the frames; None takes the config's.
            K_known: whether they are more than a guess; None: if they were given here or in the config.
            body: body model of the network's parameters; None takes the free one.
        """
        self.network, self.size, self.config = network, size, config or StreamConfig()
        self.network_size = network.network_size(size)
        self.arrays = ArrayStream(
            TorchNetwork(network, self.network_size), size, TorchBody(body or load_body_model("anny")), self.config,
            K=None if K is None else K.numpy(), K_known=K_known,
        )  # fmt: skip
        """The stream itself."""
        self.K = torch.from_numpy(self.arrays.K)
        self._last: Predicted | None = None

    @property
    def times(self) -> dict[str, deque[float]]:
        """Part -> seconds of the last frames."""
        return self.arrays.times

    @property
    def observation(self) -> FrameObservation | None:
        """What the network said of the last frame."""
        return self.arrays.observation

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

    def encode(self, image: Array, timestamp: float) -> Encoded:
        """The first part of `step`: features of a frame, and whether it goes on from the one before.

        Raises:
            FootfallError: a frame of another size.
        """
        return self.arrays.encode(image, timestamp)

    def predict(self, frame: Encoded, boxes: dict[int, Array] | None = None) -> Predicted:
        """The second part of `step`: people of a frame, and its motion from earlier ones; `boxes` as there.

        Raises:
            FootfallError: no boxes for a network that finds nobody.
        """
        self._last = self.arrays.predict(self.arrays.find(frame, boxes))
        return self._last

    def fuse(self, frame: Predicted, bodies: dict[int, GivenBody] | None = None) -> FrameResult:
        """The third part of `step`: everything in one world; `bodies` as there."""
        return FrameResult.of(self.arrays.fuse(frame, bodies))

    def settled(self) -> list[FrameResult]:
        """Frames that nothing will change any more since the last `step`: at most one, or all before a break."""
        return [FrameResult.of(frame) for frame in self.arrays.settled()]

    def finish(self) -> list[FrameResult]:
        """After the last `step` and `settled`: the frames that are still in the window, in order."""
        return [FrameResult.of(frame) for frame in self.arrays.finish()]

    def seen(self) -> Seen:
        """What is known of the frame last predicted, besides its result."""
        assert self._last is not None
        found = self._last.frame
        tokens = found.now.features
        images = torch.from_numpy(found.frame.prepared)[None].to(tokens.features.device)
        return Seen(
            tokens=replace(tokens, images=images), other=found.oldest.features,
            K=torch.from_numpy(self.arrays.network_K), log_scale=self._last.log_scale,
            boxes={person: torch.from_numpy(box) for person, box in found.now.boxes.items()},
        )  # fmt: skip

    def background(self) -> tuple[Array, Array]:
        """Points of the background of the frame last predicted, and their colours.

        Returns:
            [N, 3] in its camera, in the network's metres (e^-log_scale of them is true ones), and [N, 3] uint8; empty
            if the network has no points (feature-only backbones).
        """
        assert self._last is not None
        points, rgb = self.arrays.background(self._last.frame)
        return points * np.float32(np.exp(self._last.log_scale)), rgb

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
