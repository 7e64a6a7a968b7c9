"""Readers of systems that write SMPL bodies: WHAM, TRAM (VIMO), 4D-Humans and PHALP.

Facts about the formats come from the systems' public code: WHAM `demo.py`, TRAM `scripts/estimate_*.py` and
`lib/models/hmr_vimo.py`, PHALP `phalp/trackers/PHALP.py` and `phalp/models/hmar/hmar.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from distill.errors import FootfallError
from teacher.readers.outside import (
    MOVING_JOINTS,
    Array,
    OutsideBodies,
    OutsideTrack,
    array_of,
    frame_numbers,
    make_track,
    rotations_from_vectors,
)
from teacher.readers.pickled import load_pickled

SMPL_VERTICES: Final = 6890
SMPL_POSE: Final = 72
"""Axis times angle of SMPL's 24 joints."""
SHAPES: Final = 10
PHALP_FOCAL: Final = 5000 / 256
"""PHALP's focal length in units of the longer side: 5000 px in a square of 256 px around the whole image."""


def read_wham(path: Path, size: tuple[int, int]) -> OutsideBodies:
    """WHAM's `wham_output.pkl`: {person: {pose [N, 72], trans [N, 3], betas [N, 10], frame_ids [N], ...}}.

    `pose` is axis times angle with the root in the camera, `trans` is SMPL's transl in the camera. WHAM takes
    f = sqrt(W^2 + H^2) if it is given no calibration, and does not write f down.

    Args:
        path: the file.
        size: width and height of the images of the clip (any scale).

    Raises:
        FootfallError: not such a file.
    """
    where = str(path)
    people = _mapping(where, load_pickled(path), "{person: {pose, trans, betas, frame_ids}}")
    tracks = []
    for name, person in people.items():
        at = f"{where}, person {name}"
        pose = array_of(at, person, "pose", (None, SMPL_POSE))
        count = len(pose)
        if "verts" in person and np.shape(person["verts"]) != (count, SMPL_VERTICES, 3):
            raise FootfallError(
                at, got=f"verts of shape {list(np.shape(person['verts']))}", expected=f"[{count}, {SMPL_VERTICES}, 3]",
                do="give results on the mesh of SMPL",
            )  # fmt: skip
        rotations = rotations_from_vectors(pose.reshape(count, 24, 3))
        tracks.append(
            make_track(
                at, str(name), frames=frame_numbers(at, "frame_ids", _numbers(at, person, "frame_ids"), count),
                root_rot=rotations[:, 0], body_rot=rotations[:, 1:],
                position=array_of(at, person, "trans", (count, 3)),
                betas=array_of(at, person, "betas", (count, SHAPES)), focal=float(np.hypot(*size)),
            )
        )  # fmt: skip
    return OutsideBodies(where=where, body_model="smpl", anchor="transl", size=size, tracks=tracks)


def read_tram(path: Path, size: tuple[int, int]) -> OutsideBodies:
    """TRAM's folder: `hps/hps_track_*.npy` (or `tram/`, as JOSH writes it) beside `camera.npy`.

    Each track is a dictionary {pred_rotmat [N, 24, 3, 3], pred_trans [N, 1, 3], pred_shape [N, 10], frame [N], ...}
    with the root in the camera and SMPL's transl. The focal length is that of `camera.npy` (`img_focal`, with
    `img_center` in the middle of the image); without that file VIMO's default, f = sqrt(W^2 + H^2).

    Raises:
        FootfallError: no tracks, or not such files.
    """
    files = tram_tracks(path)
    focal, source_size = float(np.hypot(*size)), (float(size[0]), float(size[1]))
    if (camera_file := _folder_of(path) / "camera.npy").is_file():
        camera = _mapping(str(camera_file), load_pickled(camera_file), "{img_focal, img_center, ...}")
        focal = float(array_of(str(camera_file), camera, "img_focal", ()))
        centre = array_of(str(camera_file), camera, "img_center", (2,))
        source_size = (2 * float(centre[0]), 2 * float(centre[1]))
    tracks = [_tram_track(file, focal) for file in files]
    return OutsideBodies(where=str(path), body_model="smpl", anchor="transl", size=source_size, tracks=tracks)


def tram_tracks(path: Path) -> list[Path]:
    """The `hps_track_*.npy` of a TRAM or JOSH folder, or the one file that was named.

    Raises:
        FootfallError: there is none.
    """
    if path.is_file():
        return [path]
    for folder in (path / "hps", path / "tram", path):
        if files := sorted(folder.glob("hps_track_*.npy"), key=lambda f: (len(f.name), f.name)):
            return files
    raise FootfallError(
        str(path), got="no hps_track_*.npy", expected="a folder of TRAM or JOSH results (hps/, tram/)",
        do="check the path",
    )  # fmt: skip


def _folder_of(path: Path) -> Path:
    """The sequence's folder, given that folder, its `hps` or `tram`, or one track."""
    folder = path if path.is_dir() else path.parent
    return folder.parent if folder.name in ("hps", "tram") else folder


def _tram_track(file: Path, focal: float) -> OutsideTrack:
    at = str(file)
    track = _mapping(at, load_pickled(file), "{pred_rotmat, pred_trans, pred_shape, frame}")
    rotations = array_of(at, track, "pred_rotmat", (None, 24, 3, 3))
    count = len(rotations)
    frames = frame_numbers(at, "frame", _numbers(at, track, "frame"), count)
    return make_track(
        at, file.stem.removeprefix("hps_track_"), frames=frames,
        root_rot=rotations[:, 0], body_rot=rotations[:, 1:],
        position=array_of(at, track, "pred_trans", (count, 1, 3))[:, 0],
        betas=array_of(at, track, "pred_shape", (count, SHAPES)), focal=focal,
    )  # fmt: skip


def read_phalp(path: Path, size: tuple[int, int]) -> OutsideBodies:
    """PHALP's or 4D-Humans' `results/*.pkl`: {frame name: {time, tid, smpl, camera, tracked_time, size, conf, ...}}.

    `smpl` holds matrices (global_orient [1, 3, 3], body_pose [23, 3, 3], betas [10]), `camera` is SMPL's transl for a
    focal length of 5000 px in a square image of 256 px that holds the whole frame. Ghosts (`tracked_time` > 0:
    predicted, not seen) are left out.

    Raises:
        FootfallError: not such a file.
    """
    where = str(path)
    frames = _mapping(where, load_pickled(path), "{frame: {time, tid, smpl, camera}}")
    rows: dict[str, list[tuple[int, dict[str, Any], Array, float]]] = {}
    for number, (name, frame) in enumerate(frames.items()):
        at = f"{where}, frame {name}"
        for tid, smpl, camera, score in _phalp_people(at, frame):
            rows.setdefault(str(tid), []).append((int(frame.get("time", number)), smpl, camera, score))
    tracks = []
    for name, track in rows.items():
        at, count = f"{where}, person {name}", len(track)
        stacked = {key: [np.asarray(smpl.get(key, np.nan)) for _, smpl, _, _ in track] for key in
                   ("global_orient", "body_pose", "betas")}  # fmt: skip
        tracks.append(
            make_track(
                at, name, frames=frame_numbers(at, "time", np.array([row[0] for row in track]), count),
                root_rot=array_of(at, stacked, "global_orient", (count, 1, 3, 3))[:, 0],
                body_rot=array_of(at, stacked, "body_pose", (count, MOVING_JOINTS, 3, 3)),
                position=array_of(at, {"camera": [row[2] for row in track]}, "camera", (count, 3)),
                betas=array_of(at, stacked, "betas", (count, SHAPES)),
                focal=PHALP_FOCAL * max(size), score=np.array([row[3] for row in track]),
            )
        )  # fmt: skip
    return OutsideBodies(where=where, body_model="smpl", anchor="transl", size=size, tracks=tracks)


def _phalp_people(where: str, frame: Any) -> Iterator[tuple[Any, dict[str, Any], Array, float]]:
    """(track, smpl, camera, score) of everyone seen in a frame."""
    for key in ("tid", "smpl", "camera"):
        if not isinstance(frame, dict) or key not in frame:
            raise FootfallError(
                where, got=f"no {key!r}", expected="time, tid, smpl and camera of every frame",
                do="give the .pkl that PHALP writes into results/",
            )  # fmt: skip
    ages = frame.get("tracked_time", [0] * len(frame["tid"]))
    scores = frame.get("conf", [1.0] * len(frame["tid"]))
    if len({len(column) for column in (frame["tid"], frame["smpl"], frame["camera"], ages, scores)}) > 1:
        raise FootfallError(
            where,
            got="lists of different lengths",
            expected="one smpl and one camera per tid",
            do="write the file again",
        )
    for tid, smpl, camera, age, score in zip(frame["tid"], frame["smpl"], frame["camera"], ages, scores, strict=True):
        if age == 0:
            yield tid, smpl, np.asarray(camera, np.float64), float(np.asarray(score).reshape(-1)[0])


def _mapping(where: str, content: Any, expected: str) -> dict[Any, Any]:
    if not isinstance(content, dict) or not content:
        raise FootfallError(
            where, got=f"a {type(content).__name__}" if not isinstance(content, dict) else "nobody in it",
            expected=expected, do="check that the file is of the named format",
        )  # fmt: skip
    return content


def _numbers(where: str, source: dict[Any, Any], key: str) -> Array:
    return array_of(where, source, key, (None,))
