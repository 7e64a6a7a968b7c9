"""Reader of SAM 3D Body: its keypoints in the image and in space become the `people` stage.

Its bodies are of the Momentum Human Rig, another skeleton and mesh than ours, so its parameters, vertices and joint
rotations are not used; the free body is fitted to its keypoints instead (`bodies.use=landmarks`, the default). What is
read: pred_keypoints_2d [70, 2], pred_keypoints_3d [70, 3], bbox, and mask if there is one. It works picture by
picture, so people are followed here, by the overlap of their boxes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from distill.errors import FootfallError, require
from distill.geometry.conventions import KEYPOINTS
from teacher.readers.attach import box_overlap
from teacher.readers.clip_frames import ClipFrames
from teacher.readers.outside import array_of
from teacher.readers.pickled import load_npz, load_pickled
from teacher.stagefiles import People

Array = NDArray[Any]
MHR_KEYPOINTS: Final = 70
MHR_ORDER: Final = (0, 1, 2, 3, 4, 5, 6, 7, 8, 62, 41, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20)
"""Place of each of our `KEYPOINTS` among its 70 (`mhr70.py`: wrists stand behind the hands' fingers)."""
KEYS: Final = ("pred_keypoints_2d", "pred_keypoints_3d", "bbox", "mask", "image_size")
SCORE: Final = 0.9
"""Its keypoints carry no score; they are about as sure as those of a landmark network on a clear picture."""
MIN_OVERLAP: Final = 0.3
"""Intersection over union from which a person is the one of an earlier frame."""
MAX_GAP: Final = 10
"""Frames after which a person who was lost is somebody new."""
LIMB_SHARE: Final = 0.08
"""Half the thickness of drawn limbs, in heights of the person, where the file has no mask."""
_BONES: Final = (
    ("left_shoulder", "right_shoulder"), ("left_hip", "right_hip"), ("left_shoulder", "left_hip"),
    ("right_shoulder", "right_hip"), ("left_shoulder", "right_hip"), ("right_shoulder", "left_hip"),
    ("left_shoulder", "left_elbow"), ("left_elbow", "left_wrist"), ("right_shoulder", "right_elbow"),
    ("right_elbow", "right_wrist"), ("left_hip", "left_knee"), ("left_knee", "left_ankle"), ("right_hip", "right_knee"),
    ("right_knee", "right_ankle"), ("left_ankle", "left_heel"), ("left_heel", "left_big_toe"),
    ("right_ankle", "right_heel"), ("right_heel", "right_big_toe"), ("nose", "left_ear"), ("nose", "right_ear"),
    ("nose", "left_shoulder"), ("nose", "right_shoulder"),
)  # fmt: skip


@dataclass(kw_only=True)
class _Seen:
    """One person in one frame, pixels of the clip's images."""

    keypoints_px: Array
    keypoints_hip: Array
    box_xyxy: Array
    mask: Array | None


@dataclass(kw_only=True)
class _Followed:
    """A person over the frames of the clip."""

    by_row: dict[int, _Seen] = field(default_factory=dict)


def read_sam3d(path: Path, frames: ClipFrames, *, min_frames: int, max_people: int) -> tuple[People, list[Array]]:
    """The people stage's file and one identity map [H, W] per frame, from a folder of one file per frame.

    Files are `.npz` of one person (or of several, stacked), or `.pkl` and `.npy` of the list that `process_one_image`
    returns; the last number in a name is the frame of the video, from 0. Pixels are those of the video's own images
    (`image_size` [2], width and height, if they were resized).

    Args:
        path: the folder.
        frames: the clip; `source_size` is what pixels belong to.
        min_frames: shorter tracks are dropped, unless the clip is shorter.
        max_people: people kept, those seen longest.

    Raises:
        FootfallError: no such files, or nobody seen for long enough.
    """
    found = {int(re.findall(r"\d+", f.stem)[-1]): f for f in _files(path) if re.findall(r"\d+", f.stem)}
    followed: list[_Followed] = []
    for row, number in enumerate(frames.numbers):
        if int(number) in found:
            _follow(followed, row, _people_of(found[int(number)], frames))
    needed = min(min_frames, len(frames.numbers))
    kept = sorted((f for f in followed if len(f.by_row) >= needed), key=lambda f: -len(f.by_row))[:max_people]
    if not kept:
        longest = max((len(f.by_row) for f in followed), default=0)
        raise FootfallError(
            str(path), got=f"nobody for {needed} frames of this clip (longest {longest})", expected="people in it",
            do="check the numbers in the files' names: frames of the video, from 0",
        )  # fmt: skip
    return _as_people(kept, len(frames.numbers)), [_identity_map(kept, row, frames.size) for row in
                                                  range(len(frames.numbers))]  # fmt: skip


def _files(path: Path) -> list[Path]:
    files = sorted(f for f in path.glob("*") if f.suffix in (".npz", ".pkl", ".npy"))
    if not files:
        raise FootfallError(
            str(path), got="no .npz, .pkl or .npy", expected="one file of SAM 3D Body per frame", do="check the path"
        )
    return files


def _people_of(file: Path, frames: ClipFrames) -> list[_Seen]:
    """Everyone in one file."""
    content = load_npz(file, KEYS) if file.suffix == ".npz" else load_pickled(file)
    entries = content if isinstance(content, list) else [content]
    if isinstance(content, dict) and np.ndim(content.get("pred_keypoints_2d", 0)) == 3:
        several = {key: value for key, value in content.items() if key != "image_size"}
        entries = [{key: value[k] for key, value in several.items()} for k in range(len(several["pred_keypoints_2d"]))]
        entries = [{**entry, **{k: content[k] for k in ("image_size",) if k in content}} for entry in entries]
    return [_person(f"{file}, person {k}", entry, frames) for k, entry in enumerate(entries)]


def _person(where: str, entry: Any, frames: ClipFrames) -> _Seen:
    pixels = array_of(where, entry, "pred_keypoints_2d", (MHR_KEYPOINTS, 2))[list(MHR_ORDER)]
    space = array_of(where, entry, "pred_keypoints_3d", (MHR_KEYPOINTS, 3))[list(MHR_ORDER)]
    box = array_of(where, entry, "bbox", (4,)) if "bbox" in entry else np.concatenate((pixels.min(0), pixels.max(0)))
    size = array_of(where, entry, "image_size", (2,)) if "image_size" in entry else np.array(frames.source_size)
    scale = np.array(frames.size) / size
    hips = space[[KEYPOINTS.index("left_hip"), KEYPOINTS.index("right_hip")]].mean(0)
    mask = entry.get("mask")
    return _Seen(
        keypoints_px=pixels * scale, keypoints_hip=space - hips, box_xyxy=box * np.tile(scale, 2),
        mask=np.asarray(mask).squeeze() if isinstance(mask, np.ndarray) and mask.squeeze().ndim == 2 else None,
    )  # fmt: skip


def _follow(followed: list[_Followed], row: int, people: list[_Seen]) -> None:
    """Give every person of a frame to the track whose last box overlaps most, each track once."""
    recent = [(track, track.by_row[max(track.by_row)]) for track in followed if row - max(track.by_row) <= MAX_GAP]
    pairs = [
        (float(box_overlap(seen.box_xyxy, last.box_xyxy)), k, t)
        for k, seen in enumerate(people)
        for t, (_, last) in enumerate(recent)
    ]
    taken: dict[int, int] = {}
    for overlap, k, t in sorted(pairs, reverse=True):
        if overlap >= MIN_OVERLAP and k not in taken and t not in taken.values():
            taken[k] = t
            recent[t][0].by_row[row] = people[k]
    followed += [_Followed(by_row={row: seen}) for k, seen in enumerate(people) if k not in taken]


def _as_people(kept: list[_Followed], count: int) -> People:
    shape = (count, len(kept))
    people = People(
        visible=np.zeros(shape, bool), box_xyxy=np.zeros((*shape, 4), np.float32), score=np.zeros(shape, np.float32),
        keypoints_px=np.zeros((*shape, 23, 2), np.float32), keypoint_score=np.zeros((*shape, 23), np.float32),
        keypoints_hip=np.zeros((*shape, 23, 3), np.float32),
    )  # fmt: skip
    for k, track in enumerate(kept):
        for row, seen in track.by_row.items():
            people.visible[row, k], people.score[row, k] = True, SCORE
            people.box_xyxy[row, k], people.keypoint_score[row, k] = seen.box_xyxy, SCORE
            people.keypoints_px[row, k], people.keypoints_hip[row, k] = seen.keypoints_px, seen.keypoints_hip
    return people


def _identity_map(kept: list[_Followed], row: int, size: tuple[int, int]) -> Array:
    """The file's masks, or thick limbs between keypoints where it has none: [H, W] uint8."""
    cv2 = require("cv2", extra="teacher")
    out = np.zeros((size[1], size[0]), np.uint8)
    for k, track in enumerate(kept):
        seen = track.by_row.get(row)
        if seen is None:
            continue
        if seen.mask is not None:
            own = cv2.resize((seen.mask > 0).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
            out[(own > 0) & (out == 0)] = k + 1
            continue
        height = float(np.ptp(seen.keypoints_px[:, 1]))
        width = max(1, round(2 * LIMB_SHARE * height))
        drawn = np.zeros_like(out)
        for a, b in _BONES:
            ends = [tuple(np.round(seen.keypoints_px[KEYPOINTS.index(name)]).astype(int).tolist()) for name in (a, b)]
            cv2.line(drawn, ends[0], ends[1], 1, width)
        out[(drawn > 0) & (out == 0)] = k + 1
    return out
