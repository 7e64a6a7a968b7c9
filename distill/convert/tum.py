"""TUM trajectories: one line a pose, `timestamp tx ty tz qx qy qz qw`, target_from_source of world and camera or body.

Format: https://cvg.cit.tum.de/data/datasets/rgbd-dataset/file_formats. Metres, seconds of the video, our world axes
(TUM asks for none), the camera's axes OpenCV's. Only frames that were measured: an absent person has no line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distill.convert.source import Source
from distill.geometry.transforms import to_quat_trans

Array = NDArray[Any]


def write_tum(source: Source, folder: Path) -> dict[str, Any]:
    """Write `tum/camera.tum` and `tum/person_ID.tum` (pelvis and orientation of the body).

    Raises:
        FootfallError: neither a camera nor anybody was found.
    """
    if not source.tracks:
        source.need_camera("tum")
    cameras = source.result.cameras
    (folder / "tum").mkdir()
    written = {}
    if source.has_camera:
        write_trajectory(
            folder / "tum" / "camera.tum", cameras.timestamps[cameras.valid], cameras.world_from_cam[cameras.valid]
        )
        written["camera.tum"] = int(cameras.valid.sum())
    for track in source.tracks:
        path = folder / "tum" / f"{track.name}.tum"
        write_trajectory(path, track.times + source.start, track.world_from_body)
        written[path.name] = len(track.times)
    return {"poses": written}


def write_trajectory(path: Path, seconds: Array, world_from_source: Array) -> None:
    """Write poses [N, 4, 4] at times [N]."""
    transforms = torch.from_numpy(np.ascontiguousarray(world_from_source, np.float64))
    quat, trans = (part.numpy() for part in to_quat_trans(transforms))
    rows = np.column_stack((seconds, trans, quat[:, 1:], quat[:, :1]))
    np.savetxt(path, rows, fmt="%.9f", header="timestamp tx ty tz qx qy qz qw, metres, world from source")
