"""Joints as a table: one row for each joint of each person in each frame in which they are present."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Final

from distill.convert.source import Source
from distill.geometry.conventions import SMPL_JOINTS

COLUMNS: Final = ("frame", "time_s", "person", "joint", "x_m", "y_m", "z_m", "confidence")


def write_csv(source: Source, folder: Path) -> dict[str, Any]:
    """Write `joints.csv`: metres in the result's world, seconds of the video, frames counted from 0.

    Raises:
        FootfallError: nobody was found.
    """
    source.need_people("csv")
    motion, joints = source.result.motion, source.result.joints_world
    rows = 0
    with (folder / "joints.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for frame, seconds in enumerate(source.result.cameras.timestamps):
            for track in source.tracks:
                if not motion.present[frame, track.index]:
                    continue
                confidence = f"{motion.confidence[frame, track.index]:.4f}"
                head = (frame, f"{seconds:.6f}", track.id)
                for name, place in zip(SMPL_JOINTS, joints[frame, track.index], strict=True):
                    writer.writerow((*head, name, *(f"{value:.6f}" for value in place), confidence))
                rows += len(SMPL_JOINTS)
    return {"rows": rows}
