"""Which videos there are: files of a folder, named by a list of ids or taken as they come."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeGuard

from distill.errors import FootfallError
from teacher.manifest import fingerprint, read_rows
from teacher.manifest_columns import VIDEO_SUFFIXES, is_image_folder

LIST_COLUMNS: Final = ("id", "url", "sha256", "licence", "source", "source_id", "consent")
"""Columns of a list of videos; they pass into the manifest."""
MAX_LIST_BYTES: Final = 64 << 20


@dataclass(kw_only=True)
class Video:
    """One downloaded video."""

    id: str
    path: Path
    row: dict[str, str]
    """What its list says of it: `LIST_COLUMNS` without the id."""
    sha256: str = ""


@dataclass(kw_only=True)
class Sources:
    """What was found."""

    videos: list[Video]
    """Each file once."""
    missing: list[str]
    """Ids of the list without a file."""
    wrong: list[str]
    """Ids whose file is not the one with the listed hash."""
    copies: dict[str, str]
    """Id -> id of the video with the same bytes."""


def find_sources(folder: Path, ids: Path | None) -> Sources:
    """Find and hash the videos of a folder.

    Raises:
        FootfallError: no such folder or list, a row that is malformed, or nothing to work on.
    """
    if not folder.is_dir():
        raise FootfallError(f"videos={folder}", got="no such folder", expected="downloaded videos", do="check the path")
    files = sorted(p for p in folder.iterdir() if _is_video(p))
    if ids is None:
        listed: list[tuple[dict[str, str], Path | None]] = [({"id": path.stem}, path) for path in files]
    else:
        listed = [(row, _file_of(row["id"], files)) for row in read_list(ids)]
    found = Sources(videos=[], missing=[], wrong=[], copies={})
    first: dict[str, str] = {}
    for row, path in listed:
        if path is None:
            found.missing.append(row["id"])
            continue
        taken = {video.id for video in found.videos} | set(found.copies)
        video = Video(id=_id_of(row["id"], taken), path=path, row={k: v for k, v in row.items() if k != "id"})
        video.sha256 = fingerprint(path)
        if video.row.pop("sha256", video.sha256).lower() != video.sha256:
            found.wrong.append(video.id)
        elif video.sha256 in first:
            found.copies[video.id] = first[video.sha256]
        else:
            first[video.sha256] = video.id
            found.videos.append(video)
    if not found.videos:
        raise FootfallError(
            f"videos={folder}",
            got=f"no usable video ({len(found.missing)} missing, {len(found.wrong)} with another hash)",
            expected=f"files ending in {', '.join(VIDEO_SUFFIXES)}", do="download them with your own tool first",
        )  # fmt: skip
    return found


def read_list(path: Path) -> list[dict[str, str]]:
    """Rows of a list of videos, each with an id.

    Raises:
        FootfallError: missing, too large, or a row is malformed.
    """
    if not path.is_file() or path.stat().st_size > MAX_LIST_BYTES:
        raise FootfallError(f"ids={path}", got="no such file, or a huge one", expected="a list", do="check the path")
    if path.suffix.lower() not in (".csv", ".jsonl"):
        lines = path.read_text(encoding="utf-8").split("\n")
        return [{"id": line.strip()} for line in lines if line.strip() and not line.startswith("#")]
    rows = []
    for number, row in read_rows(path):
        if not _is_list_row(row):
            raise FootfallError(
                f"ids={path}, row {number}", got=str(row)[:80], expected=f"texts in {', '.join(LIST_COLUMNS)}, an id",
                do="mend that row",
            )  # fmt: skip
        rows.append(row)
    return rows


def _is_list_row(row: Any) -> TypeGuard[dict[str, str]]:
    if not isinstance(row, dict) or not row.get("id") or not set(row) <= set(LIST_COLUMNS):
        return False
    return all(isinstance(value, str) for value in row.values())


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES if path.is_file() else path.is_dir() and is_image_folder(path)


def _file_of(identifier: str, files: Sequence[Path]) -> Path | None:
    """The file of an id: ID.mp4, or a title with the id in brackets as common downloaders write it."""
    named = [path for path in files if path.stem == identifier or f"[{identifier}]" in path.name]
    return named[0] if named else None


def _id_of(name: str, taken: Set[str]) -> str:
    """A name with only what an id of a manifest may hold, unlike those that are taken."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:96] or "video"
    return next(
        candidate for n in itertools.count(1) if (candidate := plain if n == 1 else f"{plain}-{n}") not in taken
    )
