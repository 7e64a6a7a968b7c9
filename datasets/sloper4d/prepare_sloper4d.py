"""Turn SLOPER4D's sequences into clip folders, a manifest for `footfall label` and truth for `footfall evaluate`.

python datasets/sloper4d/prepare_sloper4d.py --raw SLOPER4D --smpl SMPL --out data/sloper4d

SLOPER4D holds seq002_football_001 and so on as unpacked, with the frames that its src/vid2imgs.py writes; SMPL the body
files SMPL_{FEMALE,MALE,NEUTRAL}.{npz,pkl}. Without --smpl there is no truth, only frames.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.errors import FootfallError
from distill.files import write_text
from distill.geometry.conventions import SMPL_JOINTS
from distill.results import Result, save_result
from teacher.readers.outside import array_of
from teacher.readers.pickled import load_pickled
from teacher.targets import check_projection, link_frames, load_gendered, manifest_row, true_person, true_result

Array = NDArray[Any]
LICENCE = "CC-BY-NC-SA-4.0 (SLOPER4D)"
WORST = 0.02
"""Largest median distance of projected joints from the data's own detections, as a share of the diagonal."""
COCO_FROM_SMPL = {
    5: "left_shoulder", 6: "right_shoulder", 7: "left_elbow", 8: "right_elbow", 9: "left_wrist", 10: "right_wrist",
    11: "left_hip", 12: "right_hip", 13: "left_knee", 14: "right_knee", 15: "left_ankle", 16: "right_ankle",
}  # fmt: skip
"""COCO's keypoint -> SMPL's joint."""


def find_sequences(raw: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Folder and labels of every sequence.

    Raises:
        FootfallError: there is none, or a file is not what the data's loader reads.
    """
    found = []
    for file in sorted(raw.glob("seq*/*_labels.pkl")):
        data = load_pickled(file)
        if not isinstance(data, Mapping) or not {"framerate", "second_person", "RGB_info", "RGB_frames"} <= set(data):
            raise FootfallError(
                str(file), got="other content", expected="framerate, second_person, RGB_info, RGB_frames",
                do="get the labels of the released data set",
            )  # fmt: skip
        found.append((file.parent, dict(data)))
    if not found:
        raise FootfallError(f"--raw {raw}", got="no sequence", expected="seq*/seq*_labels.pkl", do="check the folder")
    return found


def find_images(folder: Path, names: list[str]) -> tuple[Array, list[Path]]:
    """Which labelled frames have an image: indices [T] and files, in order.

    Raises:
        FootfallError: there is no image at all.
    """
    places = [*sorted((folder / "rgb_data").glob("*_imgs")), folder / "rgb_data", folder / "images"]
    place = next((p for p in places if any((p / name).is_file() for name in names[:50] if name)), None)
    if place is None:
        raise FootfallError(
            str(folder), got="no images", expected=f"rgb_data/{folder.name}_imgs/SECONDS.jpg",
            do="write them with src/vid2imgs.py of climbingdaily/SLOPER4D",
        )  # fmt: skip
    kept = [k for k, name in enumerate(names) if name and (place / name).is_file()]
    return np.array(kept), [place / names[k] for k in kept]


def read_lens(where: str, info: Any) -> tuple[Array, list[float]]:
    """K [3, 3] (pixel centres at (0.5, 0.5)) and distortion k1, k2, p1, p2.

    Raises:
        FootfallError: missing, or of another shape.
    """
    fx, fy, cx, cy = array_of(where, info, "intrinsics", (4,))
    distortion = array_of(where, info, "dist", (5,))
    return np.array([[fx, 0, cx + 0.5], [0, fy, cy + 0.5], [0, 0, 1]]), [float(value) for value in distortion[:4]]


def truth_of(data: Mapping[str, Any], kept: Array, smpl: Path, size: tuple[int, int], where: str) -> Result:
    """The sequence as a result, in the world of its first camera.

    Raises:
        FootfallError: an array is missing, or the joints do not project onto the data's own keypoints.
    """
    person, frames = data["second_person"], data["RGB_frames"]
    total = len(frames["file_basename"])
    pose = _first(array_of(where, person, "opt_pose", (None, 72)), total)[kept]
    transl = _first(array_of(where, person, "opt_trans", (None, 3)), total)[kept]
    betas = np.asarray(person["beta"], np.float64).reshape(-1)[:10]
    cam_from_world = array_of(where, frames, "cam_pose", (total, 4, 4))[kept].astype(np.float64)
    seen = np.array([len(frames["bbox"][k]) > 0 for k in kept])
    body = load_gendered(smpl, "smpl", str(person["gender"]))
    K, _ = read_lens(where, data["RGB_info"])
    truth = true_result(
        [true_person(body, betas=betas, root=pose[:, :3], pose=pose[:, 3:], transl=transl, present=seen)],
        body_model="smpl", K=K, size=size, timestamps=np.arange(len(kept)) / float(data["framerate"]),
        cam_from_world=cam_from_world, meta={"clip": where, "source": "SLOPER4D"},
    )  # fmt: skip
    pixels, clear = _keypoints([frames["skel_2d"][k] for k in kept])
    take = [SMPL_JOINTS.index(name) for name in COCO_FROM_SMPL.values()]
    check_projection(
        truth.motion.joints_cam[:, 0, take], K, pixels, clear, most=WORST * float(np.hypot(*size)), where=where,
        do="check that --smpl holds the files of this gender; if it does, SLOPER4D's conventions have changed",
    )  # fmt: skip
    return truth


def _first(array: Array, count: int) -> Array:
    """The first frames: the body may go on after the video."""
    if len(array) < count:
        raise FootfallError(
            "second_person", got=f"{len(array)} poses", expected=f"{count}, one per image", do="unpack the data again"
        )
    return array[:count].astype(np.float64)


def _keypoints(rows: list[Any]) -> tuple[Array, Array]:
    """Pixels [T, 12, 2] of the limbs and which are clear [T, 12] bool; frames without any count as unclear."""
    table = np.zeros((len(rows), 17, 3))
    for index, row in enumerate(rows):
        if np.size(row) == 51:
            table[index] = np.asarray(row, np.float64).reshape(17, 3)
    limbs = table[:, list(COCO_FROM_SMPL)]
    return limbs[..., :2], limbs[..., 2] > 0.5


def prepare(args: argparse.Namespace) -> int:
    """Write all clips and the manifest; returns how many."""
    rows = []
    for folder, data in find_sequences(args.raw):
        name = folder.name
        kept, images = find_images(folder, list(data["RGB_frames"]["file_basename"]))
        if args.frames is not None:
            kept, images = kept[: args.frames], images[: args.frames]
        size = link_frames(args.out / name / "frames", images)
        if args.smpl is not None:
            save_result(args.out / name / "truth", truth_of(data, kept, args.smpl, size, name))
        K, distortion = read_lens(name, data["RGB_info"])
        row = manifest_row(name, K, licence=LICENCE, source="SLOPER4D", fps=float(data["framerate"]))
        row["intrinsics"]["distortion"] = distortion
        rows.append(row)
        print(f"{name}: {len(images)} of {len(data['RGB_frames']['file_basename'])} frames have an image")
    write_text(args.out / "manifest.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return len(rows)


def main(arguments: list[str] | None = None) -> int:
    """Write the clips; 0 when all are written, 2 when the user has something to mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True, help="folder with seq002_football_001 and so on")
    parser.add_argument("--out", type=Path, required=True, help="folder for clips and manifest.jsonl")
    parser.add_argument("--smpl", type=Path, help="folder with SMPL_{FEMALE,MALE,NEUTRAL}.{npz,pkl}, for the truth")
    parser.add_argument("--frames", type=int, help="only the first so many of each")
    args = parser.parse_args(arguments)
    try:
        print(f"{prepare(args)} clips: {args.out / 'manifest.jsonl'}")
    except FootfallError as error:
        print(f"prepare_sloper4d: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
