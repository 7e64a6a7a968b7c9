"""Streaming inference on arrays: frames in, one after the other; cameras and people out; memory that does not grow.

Each frame is encoded once. Its features are kept for the longest gap and paired with those of a few earlier
frames in one call. What is said of one person in one frame is averaged over the pairs; `distill.fuser` turns
motions, roots and contacts into cameras and people in one world. `ArrayStream.step` gives what is known at once,
`ArrayStream.settled` the same frame some frames later, when later frames have improved it and nothing will change it.

This is the one stream there is: `distill.stream.Stream` is the same for tensors. Nothing here needs PyTorch.

`step` is `encode`, `find`, `predict` and `fuse` in a row. Each keeps what it remembers to itself, so that threads may
do them for different frames at the same time, each for all frames in order (`distill.runner.pipeline`).
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill.breaks import Breaks
from distill.errors import FootfallError
from distill.fuser import FrameObservation, FusedFrame, Motions, cam_from_body
from distill.odometry import CornerOdometry, Measured
from distill.people.candidates import best_candidates
from distill.people.token_tracker import TokenTracker
from distill.runner.body import Posed
from distill.runner.frames import Encoded, Found, Frame, Kept, Person, Predicted
from distill.runner.network import ArrayNetwork, PairQuestion
from distill.runner.people import People, PeopleAverage, observe
from distill.stream_config import FARTHEST, MIN_CONFIDENCE, SCALE_MEMORY, TIMES_KEPT, StreamConfig
from distill.worlds import Worlds

if TYPE_CHECKING:
    from distill.stream_types import GivenBody

__all__ = ["ArrayStream", "Encoded", "Found", "Frame", "Person", "Predicted", "prepare_image"]

Array = NDArray[Any]
Value = TypeVar("Value")


class ArrayStream:
    """Call `step` for every frame, in order."""

    def __init__(
        self, network: ArrayNetwork, size: tuple[int, int], body: Posed, config: StreamConfig | None = None, *,
        K: Array | None = None, K_known: bool | None = None,
    ) -> None:  # fmt: skip
        """Prepare for frames of `size` (width, height).

        Args:
            network: of arrays.
            size: of the frames, pixels.
            body: of the network's parameters.
            config: None takes the defaults.
            K: [3, 3] intrinsics in pixels of the frames; None takes the config's.
            K_known: whether they are more than a guess; None: if they were given here or in the config.
        """
        self.network, self.size, self.config = network, size, config or StreamConfig()
        self.K: Array = np.asarray(self.config.matrix(size) if K is None else K, np.float32)
        """[3, 3] intrinsics in pixels of the frames."""
        scale = np.array([network.size[0] / size[0], network.size[1] / size[1]])
        self.network_K: Array = (self.K * np.array([[scale[0]], [scale[1]], [1.0]])).astype(np.float32)
        """[3, 3] intrinsics in pixels of the network's image."""
        self._box_scale = np.tile(scale, 2)
        self._K_known = K_known if K_known is not None else K is not None or self.config.knows_lens
        self.times: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=TIMES_KEPT))
        """Part -> seconds of the last frames."""
        self.processor: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=TIMES_KEPT))
        """Part -> seconds of a processor, of the thread that does it."""
        # What `encode` remembers,
        self._index = -1
        self._breaks = Breaks(self.config.break_seconds, self.config.cuts == "auto")
        # what `find` remembers,
        self._past: deque[Kept] = deque(maxlen=max(self.config.gaps))
        self._odometry = self._make_odometry()
        self._tracker = TokenTracker(self.config.tracker)
        # what `predict` remembers,
        self._log_scale: float | None = None
        # and `fuse`.
        self._average = PeopleAverage(body, self.config.shape_memory)
        self._worlds = Worlds(self.config.fuser, self.config.camera)
        self._people: deque[tuple[People, str | None]] = deque()
        self._settled: list[Frame] = []
        self.observation: FrameObservation | None = None
        """What the network said of the last frame."""

    def _make_odometry(self) -> CornerOdometry | None:
        """None where it is not wanted or cannot be."""
        possible = self.network.has_points and find_spec("cv2") is not None
        if self.config.corners == "never" or not possible:
            return None
        return CornerOdometry(self.K, self.config.odometry)

    def step(
        self, image: Array, timestamp: float, boxes: Mapping[int, Array] | None = None,
        bodies: Mapping[int, GivenBody] | None = None,
    ) -> Frame:  # fmt: skip
        """The next frame.

        Args:
            image: [H, W, 3] uint8 RGB of the announced size.
            timestamp: seconds.
            boxes: person's id -> [4] x0, y0, x1, y1 in pixels of the frame; None: the network finds people itself.
            bodies: person's id -> a body from elsewhere, for any of the people in the frame.

        Raises:
            FootfallError: a frame of another size, or no boxes for a network that finds nobody.
        """
        return self.fuse(self.predict(self.find(self.encode(image, timestamp), boxes)), bodies)

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
        small, prepared = self.timed("prepare", lambda: prepare_image(image, self.network.size))
        return Encoded(
            index=self._index, timestamp=timestamp + self._breaks.shift, image=image, small=small, prepared=prepared,
            features=self.timed("encode", lambda: self.network.encode(prepared)), broken=broken,
        )  # fmt: skip

    def find(self, frame: Encoded, boxes: Mapping[int, Array] | None = None) -> Found:
        """The second part of `step`: people of a frame, corners, and the earlier frames that it is paired with.

        Raises:
            FootfallError: no boxes for a network that finds nobody.
        """
        if frame.broken:
            self._past.clear()
            self._odometry = self._make_odometry()
            self._tracker.interrupt()
        if boxes is None:
            scaled = self.timed("people", lambda: self._find(frame.features))
        else:
            scaled = {k: (np.asarray(box) * self._box_scale).astype(np.float32) for k, box in boxes.items()}
        looks = self.timed("look", lambda: self._look(frame.prepared, scaled))
        now = Kept(features=frame.features, boxes=scaled, looks=looks, timestamp=frame.timestamp)
        gaps = [gap for gap in self.config.gaps if gap <= len(self._past)]
        past = [self._past[-gap] for gap in gaps] or [now]
        odometry = self._odometry
        corners = self.timed("corners", lambda: odometry.step(frame.image)) if odometry is not None else []
        if odometry is not None and odometry.wants_keyframe:
            self.timed("keyframe", lambda: self._take_keyframe(odometry, now, past[-1]))
        self._past.append(now)
        return Found(frame=frame, now=now, past=past, gaps=gaps, oldest=self._past[0], corners=corners)

    def predict(self, frame: Found) -> Predicted:
        """The third part of `step`: what the network says of the people of a frame, and of motion since earlier ones.

        That is most of the work, and so may have a thread for itself.
        """
        ids = sorted(frame.now.boxes)
        prediction = self.timed("pair", lambda: self._pair(frame.past, frame.now, ids))
        moved = self._scaled(frame.corners, float(prediction["log_scene_scale"].mean()))
        return Predicted(
            frame=frame, prediction=prediction, ids=ids, corners=moved, log_scale=self._log_scale or 0.0
        )  # fmt: skip

    def fuse(self, frame: Predicted, bodies: Mapping[int, GivenBody] | None = None) -> Frame:
        """The last part of `step`: everything in one world; `bodies` as there."""
        return self.timed("fuse", lambda: self._fuse(frame, bodies or {}))

    def _fuse(self, frame: Predicted, bodies: Mapping[int, GivenBody]) -> Frame:
        seen, found = self._average(frame.prediction, frame.ids, bodies), frame.frame
        in_both = [[person in before.boxes for person in frame.ids] for before in found.past]
        self.observation = observe(frame.prediction, seen, found.gaps, in_both, found.now.timestamp, frame.corners)
        broken = found.frame.broken
        newest = self._worlds.step(self.observation, broken=broken is not None)
        self._people.append((seen, broken))
        self._settled = [_result(fused, *self._people.popleft()) for fused in self._worlds.settled()]
        return _result(newest, seen, broken)

    def background(self, frame: Found) -> tuple[Array, Array]:
        """Points of the background of a frame, and their colours.

        Returns:
            [N, 3] in its camera, in the backbone's unit (times e^`Predicted.log_scale` they are the network's metres),
            and [N, 3] uint8; empty if the network has no points (feature-only backbones).
        """
        if not self.network.has_points:
            return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8)
        points, confidence = self.network.points(frame.now.features, frame.oldest.features)
        keep = (confidence > MIN_CONFIDENCE) & _outside(points, frame.now)
        return points[keep], frame.frame.small[keep]

    def settled(self) -> list[Frame]:
        """Frames that nothing will change any more since the last `step`: at most one, or all before a break."""
        return self._settled

    def finish(self) -> list[Frame]:
        """After the last `step` and `settled`: the frames that are still in the window, in order."""
        return [_result(frame, *known) for frame, known in zip(self._worlds.finish(), self._people, strict=True)]

    def timed(self, part: str, call: Callable[[], Value]) -> Value:
        """A call's value; its time is kept under a part's name. Each part belongs to one thread."""
        start, began = time.perf_counter(), time.thread_time()
        value = call()
        self.times[part].append(time.perf_counter() - start)
        self.processor[part].append(time.thread_time() - began)
        return value

    def _find(self, features: Any) -> dict[int, Array]:
        """People whom the network finds: id -> box [4] in pixels of the network."""
        if not self.network.finds_people:
            raise FootfallError(
                "stream", got="no boxes of people", expected="boxes: this network finds nobody itself",
                do="give boxes, or take a student",
            )  # fmt: skip
        config = self.config.tracker
        boxes, scores = best_candidates(
            *self.network.detect(features), threshold=config.stay_score, overlap=config.overlap, most=config.max_people
        )
        vectors = self.network.identify(features, boxes) if len(boxes) else np.zeros((0, 1), np.float32)
        followed = self._tracker.step(boxes, scores, vectors)
        return {person: box.astype(np.float32) for person, box in followed.items()}

    def _look(self, prepared: Array, boxes: dict[int, Array]) -> dict[int, Array]:
        """A closer look at everybody, once per frame."""
        if not boxes:
            return {}
        return dict(zip(boxes, self.network.look(prepared, np.stack(list(boxes.values()))), strict=True))

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

    def _take_keyframe(self, odometry: CornerOdometry, now: Kept, other: Kept) -> None:
        """Give the odometry the points of the background of the frame just given."""
        points, _ = self.network.points(now.features, other.features)
        odometry.add_keyframe(points, _outside(points, now) & (points[..., 2] > 0.1) & (points[..., 2] < FARTHEST))

    def _pair(self, past: list[Kept], now: Kept, ids: list[int]) -> dict[str, Array]:
        """All gaps in one batch; people of the current frame, and where they were."""
        count, people = len(past), max(len(ids), 1)
        boxes = np.zeros((count, people, 2, 4), np.float32)
        boxes[..., 2:] = 16.0
        valid = np.zeros((count, people, 2), bool)
        looks = np.zeros((count, people, 2, self.network.look_width), np.float32)
        for column, person in enumerate(ids):
            boxes[:, column, 1], looks[:, column, 1], valid[:, column, 1] = now.boxes[person], now.looks[person], True
            for row, before in enumerate(past):
                if person in before.boxes:
                    boxes[row, column, 0], valid[row, column, 0] = before.boxes[person], True
                    looks[row, column, 0] = before.looks[person]
        question = PairQuestion(
            K=np.tile(self.network_K, (count, 2, 1, 1)), K_known=np.full(count, self._K_known), boxes=boxes,
            seconds=np.array([now.timestamp - before.timestamp for before in past], np.float32), valid=valid,
            looks=looks,
        )  # fmt: skip
        return self.network.pair([before.features for before in past], now.features, question)


def prepare_image(image: Array, size: tuple[int, int]) -> tuple[Array, Array]:
    """An image [H, W, 3] uint8 at the network's (width, height): [h, w, 3] uint8, and [3, h, w] float32 in [0, 1]."""
    small = image
    if (image.shape[1], image.shape[0]) != size:
        small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))
    return small, np.ascontiguousarray(small.transpose(2, 0, 1), np.float32) / np.float32(255)


def _outside(points: Array, now: Kept) -> Array:
    """[h, w] bool: pixels outside everybody's box."""
    outside = np.ones(points.shape[:2], bool)
    for box in now.boxes.values():
        left, top, right, bottom = (int(v) for v in box.clip(min=0))
        outside[top : bottom + 1, left : right + 1] = False
    return outside


def _result(fused: FusedFrame, seen: People, broken: str | None) -> Frame:
    """Poses of the fuser with the bodies of the network; people whom the fuser could not use are left out."""
    people = []
    for row, person in enumerate(seen.ids):
        if person not in fused.people:
            continue
        root = cam_from_body(fused, person)
        people.append(Person(
            id=person, cam_from_body=root, body_rot=seen.body_rot[row], betas=seen.betas[row],
            joints_cam=seen.joints[row] @ root[:3, :3].T + root[:3, 3], contact_prob=seen.contact_prob[row],
            depth_sigma=float(np.exp(0.5 * seen.root_log_var[row, 2])),
            root_sigma=_per_axis(fused.people[person].covariance),
        ))  # fmt: skip
    return Frame(
        index=fused.index, timestamp=fused.timestamp, static_prob=fused.static_prob, people=people,
        log_scale=fused.log_scale, log_scale_sigma=fused.log_scale_sigma, world_from_cam=fused.world_from_cam,
        camera_sigma=_per_axis(fused.covariance), broken=broken,
    )  # fmt: skip


def _per_axis(covariance: Array) -> Array:
    """[6, 6] of rotation and translation -> [2] root of the mean variance per axis."""
    return np.sqrt(np.diag(covariance).reshape(2, 3).mean(1))
