"""Where heads are, so that they can be blurred: people's landmarks, and a face detector for whoever is not followed.

Landmarks give the heads of followed people whichever way they look; the face detector (Bazarevsky et al., "BlazeFace",
CVPR workshops 2019, the published full-range network) adds faces without a visible body. In a clip, a head that is
missed for a few frames is filled in from before and after.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill.errors import require
from distill.people.blazepose import Pose, box_overlap, warp
from distill.people.blur import blur_heads
from distill.people.tracker import PeopleTracker, Tracked, TrackerConfig, tiles
from distill.people.weights import ALL_WEIGHTS, FACE_DETECTOR, get_weights

Array = NDArray[Any]
HEAD_WEIGHTS: Final = (*ALL_WEIGHTS, FACE_DETECTOR)
"""What `HeadFinder` loads."""
FACE_SIDE: Final = 192
FACE_POINTS: Final = slice(0, 5)
"""Nose, eyes and ears in `conventions.KEYPOINTS`."""
NECK: Final = 12
HEAD: Final = 15
"""SMPL's joints at the foot of the neck and of the skull."""
JPEG: Final[dict[str, Any]] = {"quality": 92, "subsampling": 0}


@dataclass(kw_only=True)
class HeadsConfig:
    """Finding heads."""

    radius: float = 0.17
    """Radius of the ellipse around the middle of a face, metres: the head, its hair, and some error."""
    face_score: float = 0.65
    """Least score in [0, 1] of a face."""
    bridge: int = 8
    """A head that is not found for at most this many frames is filled in."""
    together: int = 64
    """Frames that are held in memory and searched forwards and backwards."""
    hold: int = 2
    """Frames for which a head is blurred before it is found first and after it is found last."""
    tracker: TrackerConfig = field(
        default_factory=lambda: TrackerConfig(search_every=4, min_score=0.3, min_height=0.08, max_people=24)
    )
    """Following people, readier to believe than for labels."""

    def __post_init__(self) -> None:
        if self.radius <= 0 or not 0 < self.face_score < 1 or min(self.bridge, self.hold) < 0:
            raise ValueError("heads: radius > 0, face_score in (0, 1), bridge and hold of 0 or more are expected")
        if self.together < 1:
            raise ValueError(f"heads.together: got {self.together}, expected at least 1")


class FaceDetector:
    """BlazeFace, full range. One instance serves one thread."""

    def __init__(self, threads: int = 1) -> None:
        litert = require("ai_edge_litert.interpreter", extra="people")
        self._net = litert.Interpreter(model_path=str(get_weights(FACE_DETECTOR)), num_threads=threads)
        self._net.allocate_tensors()
        cells = FACE_SIDE // 4
        y, x = np.mgrid[:cells, :cells]
        self._anchors = (np.stack((x, y), -1).reshape(-1, 2) + 0.5) * 4  # one per cell of 4 pixels

    def faces(self, image: Array, *, min_score: float) -> Array:
        """Boxes [N, 4] of faces (brow to chin), pixels, in the whole image [H, W, 3] uint8 and in its tiles."""
        boxes, scores = [np.zeros((0, 4))], [np.zeros(0)]
        for left, top, side in tiles(image.shape[1], image.shape[0]):
            found, sure = self._in_tile(image[top : top + side, left : left + side], min_score)
            boxes.append(found + np.array([left, top, left, top]))
            scores.append(sure)
        everything, certainty = np.concatenate(boxes), np.concatenate(scores)
        kept: list[Array] = []
        for index in np.argsort(-certainty):
            box = everything[index]
            if all(box_overlap(box[:2], box[2:], k[:2], k[2:]) < 0.3 for k in kept):
                kept.append(box)
        return np.array(kept).reshape(-1, 4)

    def _in_tile(self, tile: Array, min_score: float) -> tuple[Array, Array]:
        """Boxes [N, 4] and scores [N], pixels of the tile."""
        height, width = tile.shape[:2]
        scale = FACE_SIDE / max(width, height)
        shift = (FACE_SIDE - scale * np.array([width, height])) / 2
        crop = warp(tile, np.concatenate((scale * np.eye(2), shift[:, None]), 1), (FACE_SIDE, FACE_SIDE))
        self._net.set_tensor(self._net.get_input_details()[0]["index"], crop[None].astype(np.float32) / 127.5 - 1)
        self._net.invoke()
        outputs = {d["shape"][-1]: self._net.get_tensor(d["index"])[0] for d in self._net.get_output_details()}
        score = 1 / (1 + np.exp(-np.clip(outputs[1][:, 0], -80, 80)))
        sure = score > min_score
        centre, size = outputs[16][sure, :2] + self._anchors[sure], outputs[16][sure, 2:4]
        boxes = np.concatenate((centre - size / 2, centre + size / 2), 1)
        return (boxes - np.tile(shift, 2)) / scale, score[sure]


class HeadFinder:
    """Heads in the frames of one clip, in order, some dozens at a time."""

    def __init__(self, config: HeadsConfig | None = None, *, threads: int = 1) -> None:
        self.config = config or HeadsConfig()
        self._threads = threads
        self._people = PeopleTracker(self.config.tracker, threads=threads)
        self._faces = FaceDetector(threads)

    def find(self, frames: Sequence[Array]) -> list[Array]:
        """Heads in the next frames, T images [H, W, 3] uint8: T boxes [N, 4] of ellipses, pixels.

        People are followed forwards and, within these frames, backwards: whoever is seen well only later on is
        followed back to where nobody was found.
        """
        heads = [self._heads_of(self._people.step(image)) for image in frames]
        backwards = PeopleTracker(self.config.tracker, threads=self._threads)
        for index in reversed(range(len(frames))):
            heads[index] += self._heads_of(backwards.step(frames[index]))
            faces = self._faces.faces(frames[index], min_score=self.config.face_score)
            heads[index] += [head_of_face(face) for face in faces]
        return [np.array(boxes).reshape(-1, 4) for boxes in heads]

    def _heads_of(self, people: Sequence[Tracked]) -> list[Array]:
        return [head_of_pose(person.pose, self.config.radius) for person in people]


def head_of_pose(pose: Pose, radius: float) -> Array:
    """[4] box of a person's head: around the mean of the face's landmarks, as large as the body's 3D landmarks say.

    Pixels per metre are the ratio of the spreads of the 2D and the 3D landmarks (weak perspective).
    """
    weight = pose.keypoint_score + 1e-3 * (pose.keypoint_score > 0)
    weight = weight / max(float(weight.sum()), 1e-9)

    def spread(points: Array) -> float:
        return float(np.sqrt((weight * np.square(points - weight @ points).sum(-1)).sum()))

    scale = spread(pose.keypoints_px) / max(spread(pose.keypoints_hip[:, :2]), 0.05)
    centre, half = pose.keypoints_px[FACE_POINTS].mean(0), radius * scale
    return np.concatenate((centre - half, centre + half)).astype(np.float64)


def head_of_face(face: Array) -> Array:
    """[4] box of the head around a face's box [4]: the face, forehead and hair, and some error."""
    size = face[2:] - face[:2]
    centre = (face[:2] + face[2:]) / 2 - np.array([0, 0.1]) * size
    return np.concatenate((centre - 0.85 * size, centre + 0.85 * size))


def heads_of_labels(K: Array, joints_cam: Array, present: Array, radius: float = 0.17) -> list[Array]:
    """Heads that labels know of, per frame: T boxes [N, 4], pixels.

    Args:
        K: [3, 3] pixels.
        joints_cam: [T, P, 24, 3] SMPL's joints, metres.
        present: [T, P] bool.
        radius: of the ellipse, metres.
    """
    centre = joints_cam[..., HEAD, :] + 0.8 * (joints_cam[..., HEAD, :] - joints_cam[..., NECK, :])
    seen = present & (centre[..., 2] > 0.1)
    depth = np.where(seen, centre[..., 2], 1.0)[..., None]
    pixels = centre[..., :2] / depth * K[[0, 1], [0, 1]] + K[:2, 2]
    half = radius * K[[0, 1], [0, 1]] / depth
    boxes = np.concatenate((pixels - half, pixels + half), -1)
    return [boxes[frame, seen[frame]] for frame in range(len(boxes))]


def find_heads(frames: Iterable[Array | None], config: HeadsConfig | None = None) -> list[Array]:
    """Heads in every frame of a clip, gaps filled: T boxes [N, 4], pixels. A frame that is None has none of its own."""
    finder = HeadFinder(config)
    found: list[Array] = []
    remaining = iter(frames)
    while part := list(itertools.islice(remaining, finder.config.together)):
        heads = iter(finder.find([frame for frame in part if frame is not None]))
        found += [np.zeros((0, 4)) if frame is None else next(heads) for frame in part]
    return fill_gaps(found, bridge=finder.config.bridge, hold=finder.config.hold)


def fill_gaps(heads: Sequence[Array], *, bridge: int, hold: int) -> list[Array]:
    """Add heads to frames between two sightings of one head, and some frames before the first and after the last.

    Args:
        heads: T boxes [N, 4], pixels.
        bridge: largest number of frames between two sightings.
        hold: frames before the first sighting and after the last.
    """
    filled = [list(boxes) for boxes in heads]
    for frame, boxes in enumerate(heads):
        for box in boxes:
            for step in (1, -1):
                after = _next_sighting(heads, frame, box, step, bridge + 1)
                if after is None:
                    for k in range(1, hold + 1):
                        if 0 <= frame + step * k < len(heads):
                            filled[frame + step * k].append(box)
                elif step == 1:
                    gap, other = after
                    filled_in = (box + (other - box) * k / gap for k in range(1, gap))
                    for k, between in enumerate(filled_in, 1):
                        filled[frame + k].append(between)
    return [np.array(boxes).reshape(-1, 4) for boxes in filled]


def _next_sighting(heads: Sequence[Array], frame: int, box: Array, step: int, reach: int) -> tuple[int, Array] | None:
    """(frames until then, box) of the first later (earlier, if `step` is -1) head that can be the same one."""
    size = float(np.mean(box[2:] - box[:2]))
    for gap in range(1, reach + 1):
        if not 0 <= frame + step * gap < len(heads):
            return None
        for other in heads[frame + step * gap]:
            apart = float(np.hypot(*((other[:2] + other[2:]) - (box[:2] + box[2:])) / 2))
            growth = float(np.mean(other[2:] - other[:2])) / max(size, 1e-6)
            if apart < 0.6 * size * np.sqrt(gap) and 0.5 < growth < 2:
                return gap, other
    return None


def blur_faces(
    frames: Sequence[Array], config: HeadsConfig | None = None, *, also: Sequence[Array] | None = None
) -> list[Array]:
    """Blur the heads in the frames of a clip, in order.

    Args:
        frames: T images [H, W, 3] uint8.
        config: how heads are found.
        also: T boxes [N, 4] of heads known from elsewhere (`heads_of_labels`).
    """
    found = find_heads(frames, config)
    known = also if also is not None else [np.zeros((0, 4))] * len(frames)
    return [blur_heads(f, np.concatenate((a, b))) for f, a, b in zip(frames, found, known, strict=True)]


def blur_jpegs(
    frames: Sequence[bytes], config: HeadsConfig | None = None, *, also: Sequence[Array] | None = None
) -> list[bytes]:
    """`blur_faces` for the JPEG frames of a sample; the frames come back encoded anew."""
    images = [np.asarray(Image.open(io.BytesIO(frame)).convert("RGB")) for frame in frames]
    return [encode_jpeg(image) for image in blur_faces(images, config, also=also)]


def encode_jpeg(image: Array) -> bytes:
    """A picture [H, W, 3] uint8 as a JPEG of high quality."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", **JPEG)
    return buffer.getvalue()
