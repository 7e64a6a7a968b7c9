"""Counts in a binary COLMAP model, held against the bytes that are there.

pycolmap believes a count and reads on past the end of the file, as often as the count says. So the files are walked
first. Their layouts are those of COLMAP (`scene/reconstruction_io_binary.cc`): little endian, without padding, and a
count of 8 bytes comes first in each file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

CAMERA_BYTES: Final = 4 + 4 + 8 + 8 + 2 * 8
"""The smallest record of a camera: id, model, width, height and two parameters."""
POSE_BYTES: Final = 7 * 8
"""Quaternion and translation."""
_COUNT: Final = struct.Struct("<Q")
_SHORT: Final = struct.Struct("<I")


def check_counts(folder: Path) -> None:
    """Walk the model's binary files; those that are not there are left to pycolmap.

    Args:
        folder: of `cameras.bin`, `images.bin`, `points3D.bin`, and since COLMAP 3.12 `rigs.bin` and `frames.bin`.

    Raises:
        ValueError: a count that its file does not hold.
    """
    for name, skip in SKIPS.items():
        path = folder / f"{name}.bin"
        if not path.is_file():
            continue
        data = path.read_bytes()
        try:
            (count,) = _COUNT.unpack_from(data)
            at = _COUNT.size
            for _ in range(count):
                at = skip(data, at)
                if at > len(data):
                    raise ValueError(f"{path.name} claims {count} records and has {len(data)} bytes")
        except struct.error as error:
            raise ValueError(f"{path.name} ends within a record") from error


def _skip_camera(data: bytes, at: int) -> int:
    return at + CAMERA_BYTES


def _skip_image(data: bytes, at: int) -> int:
    """Id, pose, camera, name up to a zero, keypoints of two numbers and a point's id."""
    end = data.find(b"\0", at + 4 + POSE_BYTES + 4)
    if end < 0:
        raise ValueError("an image's name has no end")
    (points,) = _COUNT.unpack_from(data, end + 1)
    return end + 1 + _COUNT.size + int(points) * 24


def _skip_point(data: bytes, at: int) -> int:
    """Id, position, colour, error, and a track of pairs of an image and a keypoint."""
    (track,) = _COUNT.unpack_from(data, at + 8 + 24 + 3 + 8)
    return at + 8 + 24 + 3 + 8 + _COUNT.size + int(track) * 8


def _skip_rig(data: bytes, at: int) -> int:
    """Id and sensors: the first without a pose, the others with one or none."""
    (sensors,) = _SHORT.unpack_from(data, at + 4)
    at += 8
    for number in range(sensors):
        at += 8
        if number:
            has_pose = data[at] if at < len(data) else 0
            at += 1 + (POSE_BYTES if has_pose else 0)
        if at > len(data):
            raise ValueError(f"a rig claims {sensors} sensors")
    return at


def _skip_frame(data: bytes, at: int) -> int:
    """Id, rig, pose, and its images as sensors' kinds and ids with the images' ids."""
    (images,) = _SHORT.unpack_from(data, at + 8 + POSE_BYTES)
    return at + 8 + POSE_BYTES + 4 + int(images) * 16


SKIPS: Final[dict[str, Callable[[bytes, int], int]]] = {
    "cameras": _skip_camera,
    "images": _skip_image,
    "points3D": _skip_point,
    "rigs": _skip_rig,
    "frames": _skip_frame,
}
"""File -> where the record after the one at a byte begins."""
