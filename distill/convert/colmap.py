"""A COLMAP model: cameras.bin, images.bin and points3D.bin, as COLMAP, 3DGS trainers and pycolmap read them.

Format: https://colmap.github.io/format.html. Poses are cam_from_world with OpenCV axes, metres, pixels with the centre
of the first one at (0.5, 0.5): all as ours. Only frames whose camera was measured are written; points have no tracks,
because a result keeps none.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import torch

from distill.convert.source import Source
from distill.geometry.transforms import invert, to_quat_trans

PINHOLE: Final = 1
"""COLMAP's number of the model with fx, fy, cx, cy."""
CHUNK: Final = 1 << 16
"""Points packed at once."""
_POINT: Final = np.dtype(
    [("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("track_length", "<u8")]
)  # packed, without padding, as in the file


def image_name(frame: int) -> str:
    """Name of a frame's image; `ffmpeg -i VIDEO -start_number 0 images/%06d.jpg` makes such files."""
    return f"{frame:06d}.jpg"


def write_colmap(source: Source, folder: Path) -> dict[str, Any]:
    """Write `colmap/*.bin`.

    Raises:
        FootfallError: no camera was measured.
    """
    source.need_camera("colmap")
    target = folder / "colmap"
    target.mkdir()
    with (target / "cameras.bin").open("wb") as stream:
        K, (width, height) = source.result.cameras.K, source.result.cameras.size
        stream.write(struct.pack("<QIiQQ", 1, 1, PINHOLE, width, height))
        stream.write(struct.pack("<4d", K[0, 0], K[1, 1], K[0, 2], K[1, 2]))
    with (target / "images.bin").open("wb") as stream:
        images = _write_images(source, stream)
    with (target / "points3D.bin").open("wb") as stream:
        _write_points(source, stream)
    return {"images": images, "points": len(source.result.scene_points), "image_names": "frame number, 000000.jpg"}


def _write_images(source: Source, stream: IO[bytes]) -> int:
    cameras = source.result.cameras
    frames = np.flatnonzero(cameras.valid)
    world_from_cam = torch.from_numpy(cameras.world_from_cam[frames].astype(np.float64))
    quat, trans = (part.numpy() for part in to_quat_trans(invert(world_from_cam)))
    stream.write(struct.pack("<Q", len(frames)))
    for frame, turn, place in zip(frames, quat, trans, strict=True):
        stream.write(struct.pack("<I7dI", frame + 1, *turn, *place, 1))  # ids begin at 1
        stream.write(image_name(int(frame)).encode() + b"\0" + struct.pack("<Q", 0))  # no points seen in it are kept
    return len(frames)


def _write_points(source: Source, stream: IO[bytes]) -> None:
    points, rgb = source.result.scene_points, source.result.scene_rgb
    stream.write(struct.pack("<Q", len(points)))
    for begin in range(0, len(points), CHUNK):
        part = slice(begin, begin + CHUNK)
        rows = np.zeros(len(points[part]), _POINT)
        rows["id"] = np.arange(begin, begin + len(rows)) + 1
        rows["xyz"], rows["rgb"], rows["error"] = points[part], rgb[part], -1.0  # -1: not known
        stream.write(rows.tobytes())
