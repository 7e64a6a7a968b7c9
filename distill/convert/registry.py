"""All formats by name, and the one function that writes them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from distill.convert.amass import write_amass
from distill.convert.blender import write_blender
from distill.convert.bvh import write_bvh
from distill.convert.colmap import write_colmap
from distill.convert.config import ConvertConfig
from distill.convert.glb import write_glb
from distill.convert.joints_csv import write_csv
from distill.convert.rig import corrective_error
from distill.convert.rrd import write_rrd
from distill.convert.source import Source
from distill.convert.splats import write_3dgs
from distill.convert.tum import write_tum
from distill.convert.usd import write_usd
from distill.errors import FootfallError
from distill.files import write_json

RECORD: Final = "convert.json"
RECORD_FORMAT: Final = "footfall-convert/1"
PROBES: Final = 16
"""Frames per person over which the loss of pose correctives is measured."""


@dataclass(kw_only=True, frozen=True)
class Format:
    """A target format."""

    write: Callable[[Source, Path], dict[str, Any]]
    """Writes into a folder; returns facts for the record."""
    convention: str
    """Axes, unit and rate of what is written."""
    lost: str
    """What of a result it does not hold."""
    skinned: bool = False
    """Whether it holds a skinned mesh, which loses pose correctives."""


FORMATS: Final[dict[str, Format]] = {
    "glb": Format(
        write=write_glb, skinned=True,
        convention="y up, metres, seconds from the first frame, camera looks along -z",
        lost="contacts, confidence, principal point (kept in extras), pose correctives of licensed bodies",
    ),
    "bvh": Format(
        write=write_bvh,
        convention="y up, centimetres, even rate, rotations Z X Y",
        lost="absence (see people here), mesh, camera, scene, contacts, confidence",
    ),
    "usd": Format(
        write=write_usd, skinned=True,
        convention="z up where gravity is known, else y up; metersPerUnit 1; time codes; camera looks along -z",
        lost="contacts, confidence, pose correctives of licensed bodies",
    ),
    "amass": Format(
        write=write_amass,
        convention="z up, metres, even rate, axis-angle",
        lost="camera, scene, contacts, confidence; turns of the hands in `poses` (kept in smpl_poses)",
    ),
    "colmap": Format(
        write=write_colmap,
        convention="cam_from_world, OpenCV axes, metres, pixels with the first centre at (0.5, 0.5)",
        lost="people, timestamps, frames without a measured camera, which frames saw a point",
    ),
    "tum": Format(
        write=write_tum,
        convention="world from camera or body, axes of the result's world, metres, seconds of the video",
        lost="joints, shape, intrinsics, scene, contacts, frames that were not measured",
    ),
    "3dgs": Format(
        write=write_3dgs,
        convention="axes of the result's world, metres, as in the colmap export",
        lost="people, camera, points without Gaussians",
    ),
    "csv": Format(
        write=write_csv,
        convention="axes of the result's world, metres, seconds of the video",
        lost="rotations, shape, camera, scene, contacts",
    ),
    "rrd": Format(
        write=write_rrd,
        convention="axes of the result's world below a turn to z up, metres, seconds of the video and frame numbers",
        lost="rotations of joints, shape; pictures (footfall view RESULT --rerun has them)",
    ),
    "blender": Format(
        write=write_blender, skinned=True,
        convention="opens the GLB: Blender's z up, metres, the clip's rate",
        lost="as of glb; the principal point is kept",
    ),
}  # fmt: skip
"""Name on the command line -> format, in the order in which they are written."""


def convert(result: Path, formats: Sequence[str], out: Path, config: ConvertConfig | None = None) -> dict[str, Any]:
    """Write a result in other formats into a new folder; all of them, or nothing.

    Args:
        result: folder of a result (`distill.results`).
        formats: keys of `FORMATS`.
        out: folder that does not exist yet, or is empty.
        config: settings.

    Returns:
        What `convert.json` says: for each format its convention, what is lost, files and facts.

    Raises:
        FootfallError: an unknown format, a folder with files in it, a result that lacks what a format needs.
    """
    chosen = check_formats(formats)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise FootfallError(
            f"--out {out}", got="something is there already", expected="a new or an empty folder", do="name another"
        )
    source = Source(result, config or ConvertConfig())
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        temporary.chmod(0o755)
        record = _write(source, chosen, temporary)
        if out.exists():
            out.rmdir()
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return record


def check_formats(names: Sequence[str]) -> list[str]:
    """The formats asked for, once each, in the order of `FORMATS`.

    Raises:
        FootfallError: an unknown name, or none.
    """
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        raise FootfallError(
            "--to",
            got=", ".join(unknown) or "nothing",
            expected=f"some of {', '.join(FORMATS)}",
            do="correct the names",
        )
    return [name for name in FORMATS if name in names]


def _write(source: Source, names: Sequence[str], folder: Path) -> dict[str, Any]:
    """Write formats and the record into a folder."""
    written: dict[str, Any] = {}
    for name in names:
        entry, before = FORMATS[name], _files(folder)
        facts = entry.write(source, folder)
        if entry.skinned:
            facts["left_out_by_rig_m"] = _corrective_error(source)
        files = sorted(_files(folder) - before)
        written[name] = {"files": files, "convention": entry.convention, "lost": entry.lost, **facts}
    record = {
        "format": RECORD_FORMAT,
        "source": str(source.folder.resolve()),
        "world": source.world,
        "body_model": source.result.motion.body_model,
        "frames": len(source.times),
        "start_s": source.start,
        "seconds": float(source.times[-1]),
        "own_fps": source.own_fps,
        "even_clock": source.is_even,
        "people_here_s": {
            track.name: [[begin, None if end == float("inf") else end] for begin, end in track.spans]
            for track in source.tracks
        },
        "formats": written,
    }
    write_json(folder / RECORD, record)
    return record


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def _corrective_error(source: Source) -> float:
    """Metres by which skinned meshes are off at most for want of pose correctives."""
    errors = [
        corrective_error(source.body, track.body_rot[:: max(1, len(track.body_rot) // PROBES)])
        for track in source.tracks
    ]
    return max(errors, default=0.0)
