"""People by landmarks: who is where in every frame, with 2D and 3D keypoints and masks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from distill.errors import FootfallError
from distill.people.blazepose import Pose
from distill.people.tracker import PeopleTracker, TrackerConfig, identity_map
from distill.people.weights import ALL_WEIGHTS
from teacher.initialisers.masks_sam import MasksConfig, refine_masks
from teacher.initialisers.registry import Outcome, Report, register
from teacher.initialisers.sides import restore_sides
from teacher.stagefiles import Frames, People, read_image, write_image
from teacher.workspace import ClipFolder


@dataclass(kw_only=True)
class PeopleConfig:
    """Detection and tracking."""

    use: str = "landmarks"
    """Registered initialiser, files:FOLDER, or FORMAT:PATH of another system (docs/initialisers.md)."""
    max_people: int = 4
    """People kept: those seen longest and largest."""
    min_track_frames: int = 12
    """Shorter tracks are dropped, unless the whole clip is shorter."""
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    """Frame-by-frame following."""
    masks: MasksConfig = field(default_factory=MasksConfig)
    """Which masks people have."""

    def __post_init__(self) -> None:
        if self.max_people < 1 or self.min_track_frames < 1:
            raise ValueError("people: max_people and min_track_frames of at least 1 are expected")


@register("people", "landmarks", needs=("frames",), licence="Apache-2.0")
def run(clip: ClipFolder, config: PeopleConfig, report: Report) -> Outcome:
    """Track people with BlazePose.

    Raises:
        FootfallError: nobody is seen for long enough.
    """
    frames = Frames.load(clip.require("frames"))
    count = len(frames.timestamps)
    tracker = PeopleTracker(config.tracker)
    tracks: dict[int, dict[int, Pose]] = {}
    for index in range(count):
        report(0.9 * index / count, f"frame {index}")
        image = read_image(Frames.image_path(clip.require("frames"), index))
        for person in tracker.step(image):
            tracks.setdefault(person.id, {})[index] = person.pose
    needed = min(config.min_track_frames, count)
    kept = choose_people(tracks, needed, config.max_people)
    if not kept:
        seen = max((len(t) for t in tracks.values()), default=0)
        raise FootfallError(
            f"clip {clip.id}", got=f"no person seen for {needed} frames (longest: {seen} of {count})",
            expected="people who are at least an eighth of the frame's height tall", do="leave this clip out",
        )  # fmt: skip
    folder = clip.stage_dir("people")
    people = to_arrays([tracks[k] for k in kept], count)
    exchanged = [_restore_sides(people, person) for person in range(len(kept))]
    people.save(folder)
    for index in range(count):
        report(0.9 + 0.1 * index / count, f"mask {index}")
        present = [(k, tracks[name][index]) for k, name in enumerate(kept) if index in tracks[name]]
        write_image(People.mask_path(folder, index), identity_map(present, (frames.size[0], frames.size[1])))
    weights = {w.id: {"sha256": w.sha256, "licence": w.licence} for w in ALL_WEIGHTS}
    if config.masks.use == "sam":
        weights |= refine_masks(clip, people, config.masks, report)
    return Outcome(
        summary={
            "found": len(tracks), "kept": len(kept), "visible_frames": people.visible.sum(0).tolist(),
            "sides_restored_frames": exchanged,
            "mean_score": round(float(people.score[people.visible].mean()), 3),
        },
        weights=weights,
    )  # fmt: skip


def _restore_sides(people: People, person: int) -> int:
    """Put left and right back where the network exchanged them; returns the number of such frames."""
    arrays = (people.keypoints_px, people.keypoint_score, people.keypoints_hip)
    visible, hip = people.visible[:, person], people.keypoints_hip[:, person]
    restored, frames = restore_sides(tuple(array[:, person] for array in arrays), hip, visible)
    for array, values in zip(arrays, restored, strict=True):
        array[:, person] = values
    return frames


def choose_people(tracks: dict[int, dict[int, Pose]], needed: int, most: int) -> list[int]:
    """Ids to keep, most visible first: frames seen times height."""

    def presence(track: dict[int, Pose]) -> float:
        return sum(float(pose.box_xyxy[3] - pose.box_xyxy[1]) for pose in track.values())

    long_enough = [name for name, track in tracks.items() if len(track) >= needed]
    return sorted(long_enough, key=lambda name: -presence(tracks[name]))[:most]


def to_arrays(tracks: list[dict[int, Pose]], frames: int) -> People:
    """Tracks (frame -> pose) as arrays over `frames` frames."""
    shape = (frames, len(tracks))
    people = People(
        visible=np.zeros(shape, bool),
        box_xyxy=np.zeros((*shape, 4), np.float32),
        score=np.zeros(shape, np.float32),
        keypoints_px=np.zeros((*shape, 23, 2), np.float32),
        keypoint_score=np.zeros((*shape, 23), np.float32),
        keypoints_hip=np.zeros((*shape, 23, 3), np.float32),
    )
    for k, track in enumerate(tracks):
        for index, pose in track.items():
            people.visible[index, k] = True
            people.box_xyxy[index, k] = pose.box_xyxy
            people.score[index, k] = pose.score
            people.keypoints_px[index, k] = pose.keypoints_px
            people.keypoint_score[index, k] = pose.keypoint_score
            people.keypoints_hip[index, k] = pose.keypoints_hip
    return people
