"""Inputs of `footfall label`: video files, folders and manifests, validated whole before work starts.

A manifest is `.jsonl` (one JSON object a line) or `.csv` (a header line). Columns:

    path             required: video file or folder of numbered images; relative to the manifest
    id               default: the file's name; letters, digits, '.', '_' and '-'
    licence, source  recorded with every label made from the clip
    fps              overrides the container's time stamps
    intrinsics       {"fx", "fy", "cx", "cy", optional "distortion": [k1, k2, p1, p2]}, pixels of the
                     source video, top-left pixel centre at (0.5, 0.5)
    world_from_cam   4x4 for a fixed camera, or one 4x4 per frame; metres
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from distill.errors import FootfallError
from distill.files import sha256_of
from distill.video import IMAGE_SUFFIXES
from teacher.workspace import ClipSource

VIDEO_SUFFIXES: Final = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v")
MANIFEST_SUFFIXES: Final = (".jsonl", ".csv")
COLUMNS: Final = ("path", "id", "licence", "source", "fps", "intrinsics", "world_from_cam")
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def read_inputs(inputs: Sequence[str | Path]) -> list[ClipSource]:
    """Turn what the user named into clips to label. Nothing is decoded yet.

    Raises:
        FootfallError: an input is missing or of no known kind, a manifest row is malformed, two ids are equal,
            one video has two calibrations.
    """
    clips: list[ClipSource] = []
    for item in inputs:
        path = Path(item)
        if path.is_dir() and not _is_image_folder(path):
            clips += _read_folder(path)
        elif path.suffix.lower() in MANIFEST_SUFFIXES and path.is_file():
            clips += _read_manifest(path)
        else:
            clips.append(_clip(path, where=f"input {path}", row={}))
    seen: dict[str, ClipSource] = {}
    for clip in clips:
        if clip.id in seen:
            raise FootfallError(
                f"clip id {clip.id!r}", got=f"twice: {seen[clip.id].path} and {clip.path}", expected="unique ids",
                do="name one of them by the column 'id' of a manifest",
            )  # fmt: skip
        seen[clip.id] = clip
    _check_same_calibration(clips)
    return clips


def _check_same_calibration(clips: list[ClipSource]) -> None:
    """One video has one lens, one rate and one camera path, however often it is named."""
    first: dict[str, ClipSource] = {}
    for clip in clips:
        other = first.setdefault(clip.path, clip)
        for name in ("fps", "intrinsics", "world_from_cam"):
            if getattr(clip, name) != getattr(other, name):
                raise FootfallError(
                    f"clips {other.id!r} and {clip.id!r}", got=f"the same video {clip.path} with two kinds of {name}",
                    expected=f"one {name} per video", do="correct one of the rows; nothing was started",
                )  # fmt: skip


def _is_image_folder(path: Path) -> bool:
    return any(p.suffix.lower() in IMAGE_SUFFIXES for p in path.iterdir())


def _read_folder(folder: Path) -> list[ClipSource]:
    videos = sorted(p for p in folder.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES)
    if not videos:
        raise FootfallError(
            f"folder {folder}", got="no video in it", expected=f"files ending in {', '.join(VIDEO_SUFFIXES)}",
            do="check the path, or name the files in a manifest",
        )  # fmt: skip
    return [_clip(path, where=f"input {path}", row={}) for path in videos]


def _read_manifest(manifest: Path) -> list[ClipSource]:
    rows = _rows_jsonl(manifest) if manifest.suffix.lower() == ".jsonl" else _rows_csv(manifest)
    problems: list[str] = []
    clips: list[ClipSource] = []
    for number, row in rows:
        where = f"{manifest.name} row {number}"
        try:
            if isinstance(row, Exception):
                raise FootfallError(where, got=row, expected="one JSON object", do="mend that line")
            _check_columns(where, row)
            clips.append(_clip(manifest.parent / str(row["path"]), where=where, row=row))
        except FootfallError as error:
            problems.append(str(error))
    if problems:
        more = f" (and {len(problems) - 1} more rows with errors)" if len(problems) > 1 else ""
        raise FootfallError(
            f"manifest {manifest}", got=problems[0] + more, expected="every row valid",
            do="mend the manifest; nothing was started",
        )  # fmt: skip
    if not clips:
        raise FootfallError(f"manifest {manifest}", got="no rows", expected="at least one clip", do="add a row")
    return clips


def _rows_jsonl(manifest: Path) -> list[tuple[int, Any]]:
    rows: list[tuple[int, Any]] = []
    for number, line in enumerate(_text(manifest).splitlines(), start=1):
        if line.strip():
            try:
                rows.append((number, json.loads(line)))
            except json.JSONDecodeError as error:
                rows.append((number, error))
    return rows


def _rows_csv(manifest: Path) -> list[tuple[int, Any]]:
    rows: list[tuple[int, Any]] = []
    for number, cells in enumerate(csv.DictReader(_text(manifest).splitlines()), start=2):
        if None in cells or None in cells.values():
            rows.append((number, ValueError("another number of cells than the header")))
            continue
        row: dict[str, Any] = {key: value for key, value in cells.items() if value}
        try:
            for column in ("fps", "intrinsics", "world_from_cam"):
                if column in row:
                    row[column] = json.loads(row[column])
        except json.JSONDecodeError as error:
            rows.append((number, ValueError(f"column {column}: {error}")))
            continue
        rows.append((number, row))
    return rows


def _text(manifest: Path) -> str:
    try:
        return manifest.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FootfallError(
            f"manifest {manifest}", got=error, expected="UTF-8 text", do="save it as UTF-8 .csv or .jsonl"
        ) from error


def _check_columns(where: str, row: Any) -> None:
    if not isinstance(row, dict):
        raise FootfallError(where, got=type(row).__name__, expected="one JSON object", do="mend that line")
    for key in row:
        if key not in COLUMNS:
            close = difflib.get_close_matches(str(key), COLUMNS, n=1)
            hint = f"did you mean {close[0]!r}" if close else "remove it"
            raise FootfallError(where, got=f"column {key!r}", expected=f"columns {', '.join(COLUMNS)}", do=hint)
    if not row.get("path"):
        raise FootfallError(where, got="no path", expected="column 'path'", do="name the video file")


def _clip(path: Path, *, where: str, row: dict[str, Any]) -> ClipSource:
    """One validated clip; the file exists, its contents are looked at when its turn comes."""
    if not path.exists():
        raise FootfallError(where, got=f"no such file {path}", expected="a video file", do="check the path")
    known = VIDEO_SUFFIXES + MANIFEST_SUFFIXES
    if path.is_file() and path.suffix.lower() not in VIDEO_SUFFIXES:
        raise FootfallError(
            where, got=f"a file ending in {path.suffix!r}", expected=f"one of {', '.join(known)} or a folder",
            do="convert the file or correct the path",
        )  # fmt: skip
    identifier = str(row.get("id") or re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._") or "clip")
    if not _ID.fullmatch(identifier):
        raise FootfallError(
            where, got=f"id {identifier!r}", expected="letters, digits, '.', '_' and '-', at most 128",
            do="choose another id",
        )  # fmt: skip
    return ClipSource(
        id=identifier,
        path=str(path.resolve()),
        sha256="",
        licence=str(row.get("licence", "unknown")),
        source=str(row.get("source", "local")),
        fps=_fps(where, row.get("fps")),
        intrinsics=_intrinsics(where, row.get("intrinsics")),
        world_from_cam=_poses(where, row.get("world_from_cam")),
    )


def _fps(where: str, value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 1000:
        raise FootfallError(where, got=f"fps {value!r}", expected="frames per second in (0, 1000]", do="correct it")
    return float(value)


def _intrinsics(where: str, value: Any) -> dict[str, Any] | None:
    if value is None:
        return None
    keys, optional = {"fx", "fy", "cx", "cy"}, {"distortion"}
    good = (
        isinstance(value, dict)
        and keys <= set(value) <= keys | optional
        and all(_is_number(value[key]) for key in keys)
        and value["fx"] > 0
        and value["fy"] > 0
        and isinstance(distortion := value.get("distortion", [0.0] * 4), list)
        and len(distortion) == 4
        and all(map(_is_number, distortion))
    )
    if not good:
        raise FootfallError(
            where, got=f"intrinsics {value!r}",
            expected='{"fx", "fy", "cx", "cy"} in pixels, fx and fy positive, optional "distortion": [k1, k2, p1, p2]',
            do="correct the calibration",
        )  # fmt: skip
    return dict(value)


def _poses(where: str, value: Any) -> list[Any] | None:
    if value is None:
        return None
    try:
        poses = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        poses = np.zeros(0)
    rigid = poses.ndim in (2, 3) and poses.shape[-2:] == (4, 4) and bool(np.isfinite(poses).all())
    if rigid:
        rotation = poses[..., :3, :3]
        rigid = np.allclose(rotation @ np.swapaxes(rotation, -1, -2), np.eye(3), atol=1e-3)
        rigid = rigid and bool((np.linalg.det(rotation) > 0).all()) and np.allclose(poses[..., 3, :], [0, 0, 0, 1])
    if not rigid:
        raise FootfallError(
            where, got=f"world_from_cam of shape {poses.shape}",
            expected="a rigid 4x4, or a list of them, one per frame, metres", do="correct the calibration",
        )  # fmt: skip
    return poses.tolist()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def fingerprint(path: Path) -> str:
    """SHA-256 of a video, or of the names and contents of a folder of images."""
    if path.is_file():
        return sha256_of(path)
    digest = hashlib.sha256()
    for image in sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES):
        digest.update(f"{image.name}\0{sha256_of(image)}\n".encode())
    return digest.hexdigest()
