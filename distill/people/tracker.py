"""Follow people through a video, frame by frame, with bounded memory.

Every frame, each known person is read again in the region that the last frame predicted. Every few frames,
and whenever somebody was lost, the whole frame is searched for new people. A person who was lost is known
again by place and by the colours of the clothes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from distill.people.blazepose import (
    LANDMARK_SIDE,
    BlazePose,
    Pose,
    Region,
    affine_from_region,
    box_overlap,
    invert_affine,
    mask_in_image,
)

Array = NDArray[Any]


@dataclass(kw_only=True)
class TrackerConfig:
    """Finding and following."""

    search_every: int = 8
    """Frames between searches of the whole frame."""
    min_score: float = 0.5
    """Least score of a pose to be believed, in [0, 1]."""
    min_height: float = 0.12
    """Least height of a person, as a share of the frame's height."""
    clear_keypoints: float = 0.8
    """A new person's mean keypoint score above which no second look is taken, in [0, 1]."""
    min_again: float = 0.3
    """Least score of the detector when it takes that second look, in [0, 1]."""
    max_people: int = 8
    """At most this many are followed at once."""
    forget_after: int = 90
    """A lost person is remembered for this many frames."""
    same_look: float = 0.6
    """Least similarity of colour histograms (in [0, 1]) to be the same person again."""

    def __post_init__(self) -> None:
        if self.search_every < 1 or not 0 < self.min_score < 1 or not 0 < self.min_height < 1:
            raise ValueError("tracker: search_every >= 1, min_score and min_height in (0, 1) are expected")


@dataclass(kw_only=True)
class Tracked:
    """A person in the current frame."""

    id: int
    pose: Pose


@dataclass
class _Track:
    id: int
    pose: Pose
    look: Array
    age: int = 1
    missed: int = 0
    velocity: Array = field(default_factory=lambda: np.zeros(2))
    """Pixels per frame of the box centre."""
    anywhere: bool = False
    """Lost at a break in time or a cut: the place means nothing any more."""


LOOK_RATE: Final = 0.1
"""How fast the remembered colours follow the seen ones."""


class PeopleTracker:
    """Call `step` for every frame, in order."""

    def __init__(self, config: TrackerConfig | None = None, *, threads: int = 1) -> None:
        self.config = config or TrackerConfig()
        self._net = BlazePose(threads)
        self._tracks: list[_Track] = []
        self._next_id = 0
        self._frame = -1

    def step(self, image: Array) -> list[Tracked]:
        """People in the next frame [H, W, 3] uint8, in order of their ids."""
        self._frame += 1
        lost_one = False
        for track in self._tracks:
            lost_one |= not self._follow(track, image)
        self._drop_doubles()
        if self._frame % self.config.search_every == 0 or lost_one:
            self._search(image)
        self._tracks = [t for t in self._tracks if t.missed <= self.config.forget_after]
        seen = [Tracked(id=t.id, pose=t.pose) for t in self._tracks if t.missed == 0]
        return sorted(seen, key=lambda person: person.id)

    def interrupt(self) -> None:
        """After a break in time or a cut: whoever is there is known again by the colours of the clothes alone."""
        for track in self._tracks:
            track.missed, track.anywhere = max(track.missed, 1), True

    def _follow(self, track: _Track, image: Array) -> bool:
        """Read the pose where the last frame points to; False if it has just been lost."""
        if track.missed:
            track.missed += 1
            return True
        pose = self._net.landmarks(image, track.pose.next_region)
        if not self._believable(pose, image) or _moved_too_far(track.pose, pose):
            track.missed = 1
            return False
        track.velocity = 0.7 * track.velocity + 0.3 * (_centre(pose) - _centre(track.pose))
        track.pose = pose
        track.age += 1
        track.look = (1 - LOOK_RATE) * track.look + LOOK_RATE * colours(image, pose)
        return True

    def _believable(self, pose: Pose, image: Array) -> bool:
        height, width = image.shape[:2]
        box = pose.box_xyxy
        inside = box[2] > 0 and box[3] > 0 and box[0] < width and box[1] < height
        return bool(inside and pose.score > self.config.min_score and box[3] - box[1] > self.config.min_height * height)

    def _drop_doubles(self) -> None:
        """Two tracks on one person: the older one stays, the other one counts as lost."""
        kept: list[_Track] = []
        for track in sorted(self._tracks, key=lambda t: (t.missed > 0, -t.age)):
            if track.missed == 0 and any(t.missed == 0 and same_person(t.pose, track.pose) for t in kept):
                if track.age < self.config.search_every:
                    continue
                track.missed = 1  # the other one stands in front: remembered, and known again afterwards
            kept.append(track)
        self._tracks = kept

    def _search(self, image: Array) -> None:
        """Find people who are not followed yet."""
        for region in self._candidates(image):
            followed = [t for t in self._tracks if t.missed == 0]
            if len(followed) >= self.config.max_people:
                return
            if any(_covers(t.pose, region) for t in followed):
                continue
            pose = self._net.landmarks(image, region)
            if not self._believable(pose, image):
                continue
            pose = self._net.landmarks(image, pose.next_region)  # once more, well centred
            if self._believable(pose, image) and self._is_somebody(pose, image, [t.pose for t in followed]):
                self._adopt(pose, colours(image, pose))

    def _is_somebody(self, pose: Pose, image: Array, followed: list[Pose]) -> bool:
        """Whether a pose is a person of its own: the landmarks network draws one into anything it is shown.

        Its trunk must not lie on somebody who is followed, and either its keypoints are clear or the detector
        finds it again in a picture of its own.
        """
        trunk = pose.keypoints_px[[5, 6, 11, 12]]
        if any(same_person(other, pose) or on_person(other, trunk).mean() > 0.5 for other in followed):
            return False
        clear = float(pose.keypoint_score[:17].mean())
        return clear > self.config.clear_keypoints or self._found_again(pose.region, image)

    def _found_again(self, region: Region, image: Array) -> bool:
        """Whether the detector, shown the surroundings of a region, finds about that region."""
        side = 1.3 * region.side
        low = np.maximum(region.centre - side / 2, 0).astype(int)
        high = np.minimum(region.centre + side / 2, image.shape[1::-1]).astype(int)
        if (high <= low).any():
            return False
        surroundings = image[low[1] : high[1], low[0] : high[0]]
        for _, found in self._net.detect(surroundings, min_score=self.config.min_again):
            apart = np.hypot(*(found.centre + low - region.centre))
            if apart < 0.2 * region.side and 0.6 < found.side / region.side < 1.6:
                return True
        return False

    def _candidates(self, image: Array) -> list[Region]:
        """Regions in the whole frame and in overlapping tiles of two sizes, best first, without repeats."""
        height, width = image.shape[:2]
        found: list[tuple[float, Region]] = []
        for left, top, side in tiles(width, height):
            tile = image[top : top + side, left : left + side]
            for score, region in self._net.detect(tile):
                region.centre = region.centre + np.array([left, top])
                found.append((score, region))
        kept: list[Region] = []
        for _, region in sorted(found, key=lambda item: -item[0]):
            if all(np.hypot(*(region.centre - k.centre)) > 0.15 * max(region.side, k.side) for k in kept):
                kept.append(region)
        return kept

    def _adopt(self, pose: Pose, look: Array) -> None:
        """A new person, or a lost one who is back."""
        best, best_score = None, self.config.same_look
        for track in self._tracks:
            if track.missed == 0:
                continue
            reach = 0.5 * track.pose.region.side * (1 + 0.1 * track.missed)
            expected = _centre(track.pose) + track.velocity * min(track.missed, 15)
            likeness = float(np.minimum(look, track.look).sum())
            near = track.anywhere or np.hypot(*(_centre(pose) - expected)) < reach
            if near and likeness > best_score:
                best, best_score = track, likeness
        if best is None:
            best = _Track(id=self._next_id, pose=pose, look=look)
            self._next_id += 1
            self._tracks.append(best)
        best.pose, best.missed, best.anywhere = pose, 0, False


def tiles(width: int, height: int) -> Iterator[tuple[int, int, int]]:
    """(left, top, side): the whole frame, then overlapping squares of the short side, then of 0.6 of it."""
    yield 0, 0, max(width, height)
    short = min(width, height)
    for share in (1.0, 0.6):
        side = int(short * share)
        for top in _starts(height, side):
            for left in _starts(width, side):
                yield left, top, side


def _starts(length: int, side: int) -> list[int]:
    count = 1 if length == side else int(np.ceil((length - side) / (0.6 * side))) + 1
    return [round(k * (length - side) / max(count - 1, 1)) for k in range(count)]


def _centre(pose: Pose) -> Array:
    return (pose.box_xyxy[:2] + pose.box_xyxy[2:]) / 2


def _moved_too_far(before: Pose, now: Pose) -> bool:
    jump = np.hypot(*(_centre(now) - _centre(before)))
    growth = now.region.side / max(before.region.side, 1e-6)
    return bool(jump > 0.35 * before.region.side or not 0.7 < growth < 1.4)


def _covers(pose: Pose, region: Region) -> bool:
    """Whether a found region is a person who is followed already (hips near the pose's hips)."""
    hips = pose.keypoints_px[11:13].mean(0)
    return bool(np.hypot(*(region.centre - hips)) < 0.12 * max(pose.region.side, region.side))


def same_person(a: Pose, b: Pose) -> bool:
    """Whether two poses of one frame are the same person: keypoints close relative to the size.

    Object keypoint similarity (COCO) with one constant for all points, over the trunk and limbs.
    """
    take = slice(5, 17)
    weight = a.keypoint_score[take] * b.keypoint_score[take]
    if weight.sum() < 1e-3:
        return box_overlap(a.box_xyxy[:2], a.box_xyxy[2:], b.box_xyxy[:2], b.box_xyxy[2:]) > 0.6
    scale = 0.08 * min(a.region.side, b.region.side)
    distance = np.square(a.keypoints_px[take] - b.keypoints_px[take]).sum(-1)
    return bool((weight * np.exp(-distance / (2 * scale**2))).sum() / weight.sum() > 0.5)


def on_person(pose: Pose, points: Array) -> Array:
    """Which of the points [N, 2], pixels, lie on a person's mask: [N] bool."""
    crop_from_image = invert_affine(affine_from_region(pose.region, LANDMARK_SIDE))
    column, row = np.floor(points @ crop_from_image[:, :2].T + crop_from_image[:, 2]).astype(int).T
    inside = (column >= 0) & (column < LANDMARK_SIDE) & (row >= 0) & (row < LANDMARK_SIDE)
    return inside & (pose.mask_logit[row.clip(0, LANDMARK_SIDE - 1), column.clip(0, LANDMARK_SIDE - 1)] > 0)


def colours(image: Array, pose: Pose) -> Array:
    """Histogram [128] of the colours of trunk and legs, sum 1: 64 colours in the upper and in the lower half."""
    height, width = image.shape[:2]
    parts = []
    for joints in ((5, 6, 11, 12), (11, 12, 13, 14)):
        points = pose.keypoints_px[list(joints)]
        low = np.clip(points.min(0), 0, [width - 2, height - 2]).astype(int)
        high = np.clip(points.max(0), low + 1, [width, height]).astype(int)
        patch = image[low[1] : high[1], low[0] : high[0]].reshape(-1, 3)
        cells = (patch >> 6).astype(np.int64) @ np.array([16, 4, 1])
        parts.append(np.bincount(cells, minlength=64) / (2 * max(len(cells), 1)))
    return np.concatenate(parts)


def identity_map(people: list[tuple[int, Pose]], size: tuple[int, int]) -> Array:
    """Masks of several people in one image: 0 background, k+1 person k where its mask is the surest.

    Where two masks claim a pixel about equally, the person whose skeleton is nearer gets it: the network's
    masks flow over to whoever touches the person they were read for.

    Args:
        people: (k, pose).
        size: (width, height).
    """
    width, height = size
    best = np.zeros((height, width), np.float32)
    owner = np.zeros((height, width), np.uint8)
    ys, xs = np.mgrid[:height, :width].astype(np.float32) + 0.5
    for k, pose in people:
        logit = mask_in_image(pose, size)
        if len(people) > 1:
            near = np.full((height, width), np.inf, np.float32)
            for x, y in pose.keypoints_px[[0, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]]:
                np.minimum(near, np.hypot(xs - x, ys - y), out=near)
            logit = np.where(logit > 0, np.clip(logit, 0, 4) + 0.1 - 8 * near / pose.region.side, logit)
            claimed = mask_in_image(pose, size) > 0
        else:
            claimed = logit > 0
        wins = claimed & ((owner == 0) | (logit > best))
        owner[wins], best[wins] = k + 1, logit[wins]
    return owner
