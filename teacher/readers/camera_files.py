"""Readers of cameras: trajectories (TUM, matrices), DROID-SLAM, TRAM, PromptHMR, Human3R and JOSH.

Facts about the formats come from the systems' public code: DROID-SLAM `save_reconstruction` (poses are
cam_from_world of keyframes, intrinsics are those of feature maps, 1/8 of the network's image), MASt3R-SLAM
`evaluate.py` (TUM lines of world_from_cam), TRAM and PromptHMR `camera` dictionaries (world_from_cam, metres).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from distill.errors import FootfallError
from distill.geometry.cameras import intrinsics_from_integer_centres
from teacher.readers.bodies_smplx import human3r_files
from teacher.readers.cameras import OutsideCameras
from teacher.readers.clip_frames import ClipFrames
from teacher.readers.outside import array_of
from teacher.readers.pickled import load_npz, load_pickled

Array = NDArray[Any]
DROID_STRIDE: Final = 8
"""DROID-SLAM keeps intrinsics in pixels of its feature maps."""
POSE_KEYS: Final = ("world_from_cam", "cam2world", "c2w", "poses", "trajectory")
"""Names under which an .npz may hold its one array of poses."""


def read_tum(path: Path, frames: ClipFrames) -> OutsideCameras:
    """A TUM trajectory: lines `seconds tx ty tz qx qy qz qw`, world_from_cam; the scale is unknown.

    Every frame of the clip takes the pose whose time is nearest, if that is nearer than half a frame.

    Raises:
        FootfallError: not such a file, or times that are not those of the video.
    """
    rows = _tum_rows(path)
    gap = float(np.median(np.diff(frames.timestamps)))
    nearest = np.abs(frames.timestamps[:, None] - rows[:, 0]).argmin(1)
    near = np.abs(frames.timestamps - rows[nearest, 0]) <= 0.5 * gap
    if not near.any():
        raise FootfallError(
            str(path), got=f"times from {rows[:, 0].min():.3f} to {rows[:, 0].max():.3f} s",
            expected=f"times of this clip, {frames.timestamps[0]:.3f} to {frames.timestamps[-1]:.3f} s",
            do="shift them to the video's clock, or name the format tum-frames if they count frames",
        )  # fmt: skip
    return OutsideCameras(
        where=str(path), rows=np.flatnonzero(near), world_from_cam=_from_quaternions(str(path), rows[nearest[near], 1:])
    )


def read_tum_frames(path: Path, frames: ClipFrames) -> OutsideCameras:
    """A TUM trajectory whose first column counts the frames of the video, from 0.

    Raises:
        FootfallError: not such a file.
    """
    rows = _tum_rows(path)
    if (rows[:, 0] != np.round(rows[:, 0])).any():
        raise FootfallError(
            str(path), got="a first column with fractions", expected="whole frame numbers",
            do="name the format tum if the column holds seconds",
        )  # fmt: skip
    return _by_number(str(path), rows[:, 0], _from_quaternions(str(path), rows[:, 1:]), frames)


def _tum_rows(path: Path) -> Array:
    """[N, 8] float64."""
    rows = _text_rows(path)
    if rows.ndim != 2 or rows.shape[1] != 8 or not len(rows) or not np.isfinite(rows).all():
        raise FootfallError(
            str(path), got=f"numbers of shape {list(rows.shape)}, or some not finite",
            expected="lines of 8 numbers: time tx ty tz qx qy qz qw", do="export the trajectory in TUM format",
        )  # fmt: skip
    return rows


def _text_rows(path: Path) -> Array:
    try:
        lines = [line.replace(",", " ").split() for line in path.read_text(encoding="utf-8").splitlines()]
        return np.array([[float(x) for x in line] for line in lines if line and not line[0].startswith("#")])
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise FootfallError(
            str(path), got=error, expected="a text file with the same count of numbers on every line",
            do="check the path and the format",
        ) from error  # fmt: skip


def _from_quaternions(where: str, rows: Array) -> Array:
    """[N, 7] tx ty tz qx qy qz qw to [N, 4, 4]."""
    length = np.linalg.norm(rows[:, 3:], axis=1)
    if (np.abs(length - 1) > 0.01).any():
        raise FootfallError(
            where, got=f"a quaternion of length {length[np.abs(length - 1).argmax()]:.3g}",
            expected="unit quaternions in the order x y z w", do="check the order of the columns",
        )  # fmt: skip
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3, :3] = Rotation.from_quat(rows[:, 3:]).as_matrix()
    poses[:, :3, 3] = rows[:, :3]
    return poses


def _by_number(
    where: str, numbers: Array, poses: Array, frames: ClipFrames, *, metric: bool = False, K: Array | None = None,
    size: tuple[float, float] | None = None,
) -> OutsideCameras:  # fmt: skip
    """Poses that name their frame of the video."""
    _, rows, chosen = np.intersect1d(frames.numbers, np.round(numbers).astype(np.int64), return_indices=True)
    return OutsideCameras(where=where, rows=rows, world_from_cam=poses[chosen], metric=metric, K=K, size=size)


def _every_frame(
    where: str, poses: Array, frames: ClipFrames, *, metric: bool = False, K: Array | None = None,
    size: tuple[float, float] | None = None,
) -> OutsideCameras:  # fmt: skip
    """Poses with one entry per frame of the video."""
    chosen = frames.rows_of(where, len(poses))
    return OutsideCameras(
        where=where, rows=np.arange(len(chosen)), world_from_cam=poses[chosen], metric=metric, K=K, size=size
    )


def read_poses(path: Path, frames: ClipFrames) -> OutsideCameras:
    """One world_from_cam per frame of the video, from `.npy`, `.npz` or text; the scale is unknown.

    Rows are 4x4, 3x4 (or 12 numbers, as KITTI writes them), or tx ty tz qx qy qz qw, as DROID-SLAM's `terminate`
    returns them.

    Raises:
        FootfallError: not such a file, or not one pose per frame.
    """
    where = str(path)
    if path.suffix == ".npz":
        content = load_npz(path, POSE_KEYS)
        if len(content) != 1:
            raise FootfallError(
                where, got=f"{len(content)} arrays of poses", expected=f"one, named one of {', '.join(POSE_KEYS)}",
                do="save one array of world_from_cam",
            )  # fmt: skip
        rows = next(iter(content.values()))
    else:
        rows = load_pickled(path) if path.suffix == ".npy" else _text_rows(path)
    rows = np.asarray(rows, np.float64)
    if rows.ndim == 2 and rows.shape[1] == 7:
        return _every_frame(where, _from_quaternions(where, rows), frames)
    flat = rows.reshape(len(rows), -1) if rows.ndim in (2, 3) else np.zeros((0, 0))
    if flat.shape[1] not in (12, 16):
        raise FootfallError(
            where, got=f"an array of shape {list(rows.shape)}",
            expected="[T, 4, 4], [T, 3, 4], [T, 12] or [T, 7] (tx ty tz qx qy qz qw)", do="save it in such a form",
        )  # fmt: skip
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, : flat.shape[1] // 4] = flat.reshape(len(rows), -1, 4)
    return _every_frame(where, poses, frames)


def read_droid(path: Path, frames: ClipFrames) -> OutsideCameras:
    """DROID-SLAM's reconstruction: `tstamps.npy` (frame numbers), `poses.npy` and `intrinsics.npy` of its keyframes.

    Raises:
        FootfallError: not such a folder.
    """
    content = {name: load_pickled(path / f"{name}.npy") for name in ("tstamps", "poses", "intrinsics")}
    numbers = array_of(str(path), content, "tstamps", (None,))
    rows = array_of(str(path), content, "poses", (len(numbers), 7))
    fx, fy, cx, cy = array_of(str(path), content, "intrinsics", (len(numbers), 4))[0] * DROID_STRIDE
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    poses = np.linalg.inv(_from_quaternions(str(path), rows))  # its poses are cam_from_world
    return _by_number(str(path), numbers, poses, frames, K=K, size=(2 * cx, 2 * cy))


def read_camera_dict(path: Path, frames: ClipFrames) -> OutsideCameras:
    """TRAM's `camera.npy` or PromptHMR's `results.pkl`: {pred_cam_R, pred_cam_T, img_focal, img_center}, metres.

    Raises:
        FootfallError: not such a file.
    """
    file = path / "camera.npy" if path.is_dir() else path
    where = str(file)
    content = load_pickled(file)
    camera = content["camera"] if isinstance(content, dict) and isinstance(content.get("camera"), dict) else content
    rotation = array_of(where, camera, "pred_cam_R", (None, 3, 3))
    poses = np.tile(np.eye(4), (len(rotation), 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = rotation, array_of(where, camera, "pred_cam_T", (len(rotation), 3))
    focal, centre = array_of(where, camera, "img_focal", ()), array_of(where, camera, "img_center", (2,))
    K = np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]])
    return _every_frame(where, poses, frames, metric=True, K=K, size=(2 * centre[0], 2 * centre[1]))


def read_human3r_cameras(path: Path, frames: ClipFrames) -> OutsideCameras:
    """Human3R's `smpl/%06d.npz`: cam2world [4, 4] and intrinsics [3, 3] of every frame, metres.

    Its focal length changes from frame to frame; the median is taken.

    Raises:
        FootfallError: no such files.
    """
    numbers, poses, intrinsics = [], [], []
    for number, file in human3r_files(path):
        content = load_npz(file, ("cam2world", "intrinsics"))
        numbers.append(number)
        poses.append(array_of(str(file), content, "cam2world", (4, 4)))
        intrinsics.append(array_of(str(file), content, "intrinsics", (3, 3)))
    K = np.median(intrinsics, axis=0)
    size = (2 * float(K[0, 2]), 2 * float(K[1, 2]))
    return _by_number(str(path), np.array(numbers), np.stack(poses), frames, metric=True, K=K, size=size)


def read_josh_cameras(path: Path, frames: ClipFrames) -> OutsideCameras:
    """JOSH's `scene.pkl`: pred_cam [F, 4, 4] (world_from_cam) of every frame, intrinsics [3, 3], rgb_hw3, metres.

    A chunk's folder is named after its frames (`josh_0-100`); `josh/` holds the whole video.

    Raises:
        FootfallError: not such a file.
    """
    file = path / "scene.pkl" if path.is_dir() else path
    where = str(file)
    content = load_pickled(file)
    poses = array_of(where, content, "pred_cam", (None, 4, 4))
    pictures = content.get("rgb_hw3") if isinstance(content, Mapping) else None
    picture: tuple[int, ...] = np.shape(pictures[0]) if pictures is not None and len(pictures) else ()
    if len(picture) != 3:
        raise FootfallError(
            where, got="no pictures rgb_hw3, whose size the intrinsics belong to", expected="JOSH's scene.pkl",
            do="give the file as JOSH wrote it",
        )  # fmt: skip
    K = torch.from_numpy(array_of(where, content, "intrinsics", (3, 3)))
    K_ours = intrinsics_from_integer_centres(K).numpy()  # MASt3R counts from the middle of the first pixel
    size = (float(picture[1]), float(picture[0]))
    first = file.parent.name.removeprefix("josh").strip("_").split("-")[0]
    if not first:
        return _every_frame(where, poses, frames, metric=True, K=K_ours, size=size)
    numbers = int(first) + np.arange(len(poses)) if first.isdigit() else np.arange(len(poses))
    return _by_number(where, numbers, poses, frames, metric=True, K=K_ours, size=size)
