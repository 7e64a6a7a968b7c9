"""BVH: one file per person, y up, centimetres, an even frame rate, channels in the order Z X Y.

The format has no statement of units; centimetres are what MotionBuilder, Maya and most motion capture use. Frame k of
every file of a result is the same instant: while a person is absent the pose in between, or the nearest one, is
written, because BVH knows no absence; the record says when they were there.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from distill.convert.axes import Y_UP_FROM_WORLD
from distill.convert.rig import CHILDREN, Rig
from distill.convert.source import Source
from distill.convert.tracks import Track
from distill.geometry.conventions import SMPL_JOINTS

Array = NDArray[Any]
CENTIMETRES: Final = 100.0
CHUNK: Final = 1024
"""Frames turned into text at once."""
_TURNS: Final = "Zrotation Xrotation Yrotation"


def write_bvh(source: Source, folder: Path) -> dict[str, Any]:
    """Write `bvh/person_ID.bvh`.

    Raises:
        FootfallError: nobody was found, or the body model's file is missing.
    """
    source.need_people("bvh")
    (folder / "bvh").mkdir()
    for track in source.tracks:
        with (folder / "bvh" / f"{track.name}.bvh").open("w", encoding="ascii") as stream:
            stream.write(hierarchy(source.rig(track)))
            _write_motion(source, track, stream)
    return {"fps": source.fps, "frames": len(source.even_times)}


def hierarchy(rig: Rig) -> str:
    """The skeleton, offsets in centimetres; joints without children end at the farthest point that they move."""
    order: list[int] = []
    lines = ["HIERARCHY"]

    def add(joint: int, depth: int) -> None:
        order.append(joint)
        pad = "  " * depth
        kind = "ROOT" if depth == 0 else "JOINT"
        channels = f"6 Xposition Yposition Zposition {_TURNS}" if depth == 0 else f"3 {_TURNS}"
        lines.extend((f"{pad}{kind} {SMPL_JOINTS[joint]}", f"{pad}{{", f"{pad}  OFFSET {_numbers(rig.offsets[joint])}"))
        lines.append(f"{pad}  CHANNELS {channels}")
        for child in CHILDREN[joint]:
            add(child, depth + 1)
        if not CHILDREN[joint]:
            lines.extend(
                (f"{pad}  End Site", f"{pad}  {{", f"{pad}    OFFSET {_numbers(rig.tip(joint))}", f"{pad}  }}")
            )
        lines.append(f"{pad}}}")

    add(0, 0)
    assert tuple(order) == ORDER
    return "\n".join(lines) + "\n"


def _depth_first(joint: int) -> tuple[int, ...]:
    return (joint, *(below for child in CHILDREN[joint] for below in _depth_first(child)))


ORDER: Final = _depth_first(0)
"""Joints as they stand in the file."""


def _numbers(metres: Array) -> str:
    return " ".join(f"{value * CENTIMETRES:.6f}" for value in metres)


def _write_motion(source: Source, track: Track, stream: io.TextIOBase | Any) -> None:
    times, y_up_from_world = source.even_times, Y_UP_FROM_WORLD[source.world]
    stream.write(f"MOTION\nFrames: {len(times)}\nFrame Time: {1 / source.fps:.10f}\n")
    previous: Array | None = None
    for begin in range(0, len(times), CHUNK):
        poses = track.at(times[begin : begin + CHUNK])
        root = y_up_from_world @ poses.world_from_body
        turns = np.concatenate((root[:, None, :3, :3], poses.body_rot), axis=1)[:, list(ORDER)]
        angles = euler_zxy(turns, previous)
        previous = angles[-1]
        rows = np.column_stack((root[:, :3, 3] * CENTIMETRES, angles.reshape(len(angles), -1)))
        np.savetxt(stream, rows, fmt="%.6f")


def euler_zxy(rotations: Array, previous: Array | None) -> Array:
    """Degrees [N, J, 3] about Z, then the turned X, then the turned Y, of rotations [N, J, 3, 3].

    Angles go on from `previous` [J, 3] without jumps of a whole turn, so that a program may interpolate them.
    """
    turns = Rotation.from_matrix(rotations.reshape(-1, 3, 3))
    angles = turns.as_euler("ZXY", degrees=True, suppress_warnings=True).reshape(*rotations.shape[:2], 3)
    if previous is not None:
        angles = np.concatenate((previous[None], angles))
    angles = np.unwrap(angles, axis=0, period=360)
    return angles if previous is None else angles[1:]
