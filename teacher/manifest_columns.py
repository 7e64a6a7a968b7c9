"""The columns of a manifest: what each may hold. A row that passes here is a clip that can be started."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import numpy as np

from distill.errors import FootfallError
from distill.secrets import scrub
from distill.video import IMAGE_SUFFIXES
from teacher.workspace import CAMERA_HINTS, ClipSource

COLUMNS: Final = (
    "path", "url", "id", "sha256", "licence", "source", "source_id", "consent", "start_s", "end_s", "fps",
    "intrinsics", "world_from_cam", "camera", "people",
)  # fmt: skip
VIDEO_SUFFIXES: Final = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v")
MANIFEST_SUFFIXES: Final = (".jsonl", ".csv")
MAX_TEXT: Final = 4096
"""Characters of one text, at most."""
MAX_PEOPLE: Final = 64
"""People hint, at most."""
MAX_SECONDS: Final = 1e7
"""Place in a video, at most."""
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def check_columns(where: str, row: Any) -> None:
    """Raise `FootfallError` unless a row is an object with known columns and bounded texts."""
    if not isinstance(row, dict):
        raise FootfallError(where, got=type(row).__name__, expected="one JSON object", do="mend that line")
    for key, value in row.items():
        if key not in COLUMNS:
            close = difflib.get_close_matches(str(key), COLUMNS, n=1)
            hint = f"did you mean {close[0]!r}" if close else "remove it"
            raise FootfallError(
                where, got=f"column {str(key)[:64]!r}", expected=f"columns {', '.join(COLUMNS)}", do=hint
            )
        text = key not in ("start_s", "end_s", "fps", "intrinsics", "world_from_cam", "people")
        if text and (not isinstance(value, str) or len(value) > MAX_TEXT or "\0" in value):
            got = f"{key} of {len(value)} characters" if isinstance(value, str) else f"{key} {_short(value)}"
            raise FootfallError(
                where, got=got, expected=f"a text of at most {MAX_TEXT} characters", do=f"correct {key}"
            )


def find_file(where: str, row: dict[str, Any], folder: Path) -> Path:
    """The local file of a row: `path` (relative to `folder`, or a file:// URL), else a file:// `url`.

    Raises:
        FootfallError: neither is there, or the only address is one of the web: nothing is downloaded here.
    """
    address = row.get("path") or row.get("url")
    if not address:
        raise FootfallError(where, got="no path", expected="column 'path'", do="name the video file")
    parts = urlsplit(address) if "://" in address else None
    if parts is None:
        return folder / address
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    raise FootfallError(
        where, got=f"the address {_short(address)} without a file", expected="a video that is on this machine",
        do="fetch it with your own tool, under its terms, and name the file in 'path' (the address stays in 'url')",
    )  # fmt: skip


def clip_of(path: Path, *, where: str, row: dict[str, Any]) -> ClipSource:
    """One validated clip; the file exists, its contents are looked at when its turn comes.

    Raises:
        FootfallError: the file is missing or of another kind, or a column holds what it may not.
    """
    _check_file(where, path)
    identifier = str(row.get("id") or re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._")[:128] or "clip")
    if not _ID.fullmatch(identifier):
        raise FootfallError(
            where, got=f"id {_short(identifier)}", expected="letters, digits, '.', '_' and '-', at most 128",
            do="choose another id",
        )  # fmt: skip
    start, end = _window(where, row)
    return ClipSource(
        id=identifier,
        path=str(path.resolve()),
        sha256=_sha256(where, row.get("sha256")),
        licence=row.get("licence") or "unknown",
        source=scrub(row.get("source") or row.get("url") or "local"),
        source_id=scrub(row.get("source_id") or row.get("url") or ""),
        consent=row.get("consent") or "",
        start_s=start,
        end_s=end,
        fps=_number(where, "fps", row.get("fps"), 0, 1000, "frames per second in (0, 1000]"),
        intrinsics=_intrinsics(where, row.get("intrinsics")),
        world_from_cam=_poses(where, row.get("world_from_cam")),
        camera=_camera(where, row),
        people=_people(where, row.get("people")),
    )


def _check_file(where: str, path: Path) -> None:
    try:
        exists = path.exists()
    except OSError:  # a name that no file system takes
        exists = False
    if not exists:
        raise FootfallError(
            where, got=f"no such file {_short(str(path))}", expected="a video file", do="check the path"
        )
    if path.is_file() and path.suffix.lower() not in VIDEO_SUFFIXES:
        known = ", ".join(VIDEO_SUFFIXES + MANIFEST_SUFFIXES)
        raise FootfallError(
            where, got=f"a file ending in {path.suffix!r}", expected=f"one of {known} or a folder",
            do="convert the file or correct the path",
        )  # fmt: skip


def _sha256(where: str, value: str | None) -> str:
    if value and not _SHA256.fullmatch(value.lower()):
        raise FootfallError(
            where, got=f"sha256 {_short(value)}", expected="64 hexadecimal digits", do="correct it, or leave it out"
        )
    return (value or "").lower()


def _window(where: str, row: dict[str, Any]) -> tuple[float, float | None]:
    start = _number(where, "start_s", row.get("start_s"), -1e-9, MAX_SECONDS, "seconds of 0 or more") or 0.0
    end = _number(where, "end_s", row.get("end_s"), start, MAX_SECONDS, f"seconds after start_s ({start:g})")
    return max(start, 0.0), end


def _number(where: str, name: str, value: Any, low: float, high: float, expected: str) -> float | None:
    if value is None:
        return None
    if not is_number(value) or not low < value <= high:
        raise FootfallError(where, got=f"{name} {_short(value)}", expected=expected, do=f"correct {name}")
    return float(value)


def _camera(where: str, row: dict[str, Any]) -> str:
    hint = row.get("camera") or CAMERA_HINTS[0]
    if hint not in CAMERA_HINTS:
        raise FootfallError(
            where, got=f"camera {_short(hint)}", expected=f"one of {', '.join(CAMERA_HINTS)}", do="correct camera"
        )
    if hint == "known" and (row.get("intrinsics") is None or row.get("world_from_cam") is None):
        raise FootfallError(
            where, got="camera known, but not intrinsics and world_from_cam both", expected="both",
            do="give them, or say static or moving",
        )  # fmt: skip
    return str(hint)


def _people(where: str, value: Any) -> int | None:
    if value is None:
        return None
    if not is_number(value) or value != int(value) or not 1 <= value <= MAX_PEOPLE:
        raise FootfallError(
            where, got=f"people {_short(value)}", expected=f"how many there are, 1 to {MAX_PEOPLE}", do="correct people"
        )
    return int(value)


def _intrinsics(where: str, value: Any) -> dict[str, Any] | None:
    if value is None:
        return None
    keys, optional = {"fx", "fy", "cx", "cy"}, {"distortion"}
    good = (
        isinstance(value, dict)
        and keys <= set(value) <= keys | optional
        and all(is_number(value[key]) for key in keys)
        and value["fx"] > 0
        and value["fy"] > 0
        and isinstance(distortion := value.get("distortion", [0.0] * 4), list)
        and len(distortion) == 4
        and all(map(is_number, distortion))
    )
    if not good:
        raise FootfallError(
            where, got=f"intrinsics {_short(value)}",
            expected='{"fx", "fy", "cx", "cy"} in pixels, fx and fy positive, optional "distortion": [k1, k2, p1, p2]',
            do="correct the calibration",
        )  # fmt: skip
    return dict(value)


def _poses(where: str, value: Any) -> list[Any] | None:
    if value is None:
        return None
    try:
        poses = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        poses = np.zeros(0)
    rigid = poses.ndim in (2, 3) and poses.shape[-2:] == (4, 4) and len(poses) > 0 and bool(np.isfinite(poses).all())
    if rigid:
        rotation = poses[..., :3, :3]
        rigid = np.allclose(rotation @ np.swapaxes(rotation, -1, -2), np.eye(3), atol=1e-3)
        rigid = rigid and bool((np.linalg.det(rotation) > 0).all()) and np.allclose(poses[..., 3, :], [0, 0, 0, 1])
    if not rigid:
        raise FootfallError(
            where, got=f"world_from_cam of shape {poses.shape}",
            expected="a rigid 4x4, or a list of them, one per frame, metres", do="correct the calibration",
        )  # fmt: skip
    return list(poses.tolist())


def is_image_folder(path: Path) -> bool:
    """Whether a folder holds images."""
    return any(entry.suffix.lower() in IMAGE_SUFFIXES for entry in path.iterdir())


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number that fits a float."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(float(value)))
    except OverflowError:
        return False


def _short(value: Any, most: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."
