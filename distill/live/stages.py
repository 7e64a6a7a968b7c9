"""What happens to a frame, stage by stage; each stage has a thread of its own (`pipeline.overlapped`)."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distill.body import BodyModel
from distill.fuser.log import ObservationLog
from distill.gaussian_stream import GaussianStream
from distill.live.shrink import Shrink
from distill.live.source import Picture
from distill.people.tracker import PeopleTracker
from distill.stream import TIMES_KEPT, Encoded, FrameResult, Predicted, Stream

Array = NDArray[Any]
Points = tuple[Array, Array]


@dataclass
class Passing:
    """A frame on its way."""

    picture: Picture
    image: Array | None = None
    """At working size; None for a frame of another shape, which is left out."""
    encoded: Encoded | None = None
    predicted: Predicted | None = None
    background: Points | None = None
    """Of frames whose points join the scene (`Stream.background`)."""
    result: FrameResult | None = None
    """As known at once."""
    settled: list[FrameResult] = field(default_factory=list)
    """Frames that nothing will change any more since the one before."""


class Stages:
    """The stages of a run. Each method is called for all frames in order, by one thread."""

    def __init__(
        self, stream: Stream, shrink: Shrink, tracker: PeopleTracker | None, body: BodyModel, *, scene_every: int,
        gaussians: GaussianStream | None, log: ObservationLog | None,
    ) -> None:  # fmt: skip
        """For one stream.

        Args:
            stream, shrink, body: of the frames and the network.
            tracker: None lets the stream find people.
            scene_every: frames between those whose background is wanted; 0: none is.
            gaussians: beside the stream; None: none.
            log: where observations go, for a pass over the whole clip; None: nowhere.
        """
        self.stream, self.tracker, self.body, self.scene_every = stream, tracker, body, scene_every
        self.gaussians, self.log = gaussians, log
        self._shrink = shrink
        self.times: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=TIMES_KEPT))
        """Part -> seconds of the last frames."""
        self.other_shapes = 0
        """Frames that were left out."""

    def all(self) -> list[Any]:
        """The stages, in order."""
        after = [self.predict, self.fuse] if self.gaussians is None else [self.predict_and_fuse]
        return [self.shrink, self.encode, *after]

    def shrink(self, picture: Picture) -> Passing:
        """To working size."""
        start = time.perf_counter()
        if not self._shrink.fits(picture.image):
            self.other_shapes += 1
            return Passing(picture)
        image = self._shrink(picture.image)
        picture.image = image  # the large one is not needed any more
        self.times["resize"].append(time.perf_counter() - start)
        return Passing(picture, image)

    def encode(self, frame: Passing) -> Passing:
        """Features."""
        if frame.image is not None:
            frame.encoded = self.stream.encode(frame.image, frame.picture.timestamp)
        return frame

    def predict(self, frame: Passing) -> Passing:
        """People, motions, and now and then the background."""
        if frame.encoded is None:
            return frame
        boxes = None
        if self.tracker is not None:
            if frame.encoded.broken:
                self.tracker.interrupt()
            start = time.perf_counter()
            boxes = {p.id: p.pose.box_xyxy for p in self.tracker.step(frame.encoded.image)}
            self.times["people"].append(time.perf_counter() - start)
        frame.predicted = self.stream.predict(frame.encoded, boxes)
        if self.scene_every and frame.encoded.index % self.scene_every == 0:
            start = time.perf_counter()
            frame.background = self.stream.background()
            self.times["background"].append(time.perf_counter() - start)
        return frame

    def fuse(self, frame: Passing) -> Passing:
        """Everything in one world."""
        if frame.predicted is None:
            return frame
        frame.result = self.stream.fuse(frame.predicted)
        frame.settled = self.stream.settled()
        if self.log is not None:
            assert self.stream.observation is not None
            self.log.add(self.stream.observation)
        self.times["end_to_end"].append(time.monotonic() - frame.picture.came)
        return frame

    def predict_and_fuse(self, frame: Passing) -> Passing:
        """Both in one thread: Gaussians look at what the stream has just seen, with its result."""
        frame = self.fuse(self.predict(frame))
        if self.gaussians is not None and frame.result is not None:
            self.gaussians.look(frame.result)
            for ready in frame.settled:
                self.gaussians.settle(ready)
        return frame


def place_points(points: Points, frame: FrameResult) -> Points:
    """Points of a frame's background, in the world."""
    pose = frame.world_from_cam.numpy().astype(np.float64)
    return points[0] * np.exp(-frame.log_scale) @ pose[:3, :3].T + pose[:3, 3], points[1]


def statures(frame: FrameResult, body: BodyModel) -> dict[int, float]:
    """Person's id -> metres."""
    with torch.inference_mode():
        return {person.id: float(body.stature(person.betas)) for person in frame.people}
