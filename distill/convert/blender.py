"""A script for Blender that opens the GLB beside it with the clip's rate, units, axes, camera and points."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any, Final

from distill.convert.glb import FILE, write_glb
from distill.convert.source import Source

POINT_RADIUS: Final = 0.01
"""Metres at which points of the scene are drawn."""


def write_blender(source: Source, folder: Path) -> dict[str, Any]:
    """Write `blender.py`, and `result.glb` if it is not there yet.

    Raises:
        FootfallError: as of `write_glb`.
    """
    if not (folder / FILE).exists():
        write_glb(source, folder)
    cameras = source.result.cameras
    clip = {
        "fps": source.fps,
        "last_frame": round(float(source.times[-1]) * source.fps),
        "last_key": last_key(source) * source.fps,
        "size": list(cameras.size),
        "K": cameras.K.astype(float).tolist(),
        "point_radius": POINT_RADIUS,
    }
    template = resources.files("distill.convert").joinpath("blender_script.txt").read_text(encoding="utf-8")
    (folder / "blender.py").write_text(template.replace("@CLIP@", json.dumps(clip)), encoding="utf-8")
    return {"opens": FILE, "fps": source.fps}


def last_key(source: Source) -> float:
    """Seconds of the last key in the GLB; 0 if nothing moves."""
    if source.has_camera:
        return float(source.times[-1])
    ends = [max(track.times[-1], track.switches(source.times)[0][-1]) for track in source.tracks]
    return float(max(ends, default=0.0))
