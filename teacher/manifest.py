"""Inputs of `footfall label`: video files, folders and manifests, validated whole before work starts.

A manifest is `.jsonl` (one JSON object a line) or `.csv` (a header line, JSON in the cells of numbers and lists):

    path              video file or folder of numbered images, relative to the manifest; or its file:// URL
    url               where it was got from; recorded, never fetched. A file:// URL serves for `path`
    id                default: the file's name; letters, digits, '.', '_' and '-'
    sha256            of the file (of a folder: `fingerprint`); checked before anything runs
    licence, source   recorded with every label made from the clip; default of source: the url
    source_id         who may withdraw (a recording, person or channel); default: the url
    consent           notes on the consent of the people filmed
    start_s, end_s    only this part of the video, seconds
    fps               overrides the container's time stamps
    intrinsics        {"fx", "fy", "cx", "cy", optional "distortion": [k1, k2, p1, p2]}, pixels of the
                      source video, top-left pixel centre at (0.5, 0.5)
    world_from_cam    4x4 for a fixed camera, or one 4x4 per frame; metres
    camera            auto, static, moving or known: which cameras are made, where the config says auto
    people            how many people there are to label: those seen longest and largest are kept

Everything that is wrong is said at once, by row.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from distill.errors import FootfallError
from distill.files import sha256_of
from distill.video import IMAGE_SUFFIXES
from teacher.manifest_columns import (
    MANIFEST_SUFFIXES,
    VIDEO_SUFFIXES,
    check_columns,
    clip_of,
    find_file,
    is_image_folder,
)
from teacher.workspace import ClipSource

MAX_MANIFEST_BYTES: Final = 256 << 20
"""A manifest is refused above this size, before it is read."""
MAX_ROW_CHARACTERS: Final = 8 << 20
"""One row at most: camera poses of about 25,000 frames."""
MAX_LISTED: Final = 20
"""Rows with errors that are listed; the others are counted."""
NUMBERS: Final = ("fps", "intrinsics", "world_from_cam", "start_s", "end_s", "people")
"""Columns that are JSON in a CSV file."""
Row = tuple[int, dict[str, Any] | Exception]
"""Line in the file, and what is in it or what is wrong with it."""


class ManifestError(FootfallError):
    """Rows of a manifest are wrong. `rows` has every one; the message lists the first `MAX_LISTED`."""

    def __init__(self, manifest: Path, rows: Sequence[str]) -> None:
        self.rows = list(rows)
        super().__init__(
            f"manifest {manifest}", got=rows[0] if len(rows) == 1 else f"{len(rows)} rows with errors",
            expected="every row valid", do="mend the manifest; nothing was started",
        )  # fmt: skip
        if len(rows) > 1:
            listed = [f"  {row}" for row in rows[:MAX_LISTED]]
            if len(rows) > MAX_LISTED:
                listed.append(f"  and {len(rows) - MAX_LISTED} more")
            self.args = ("\n".join([str(self), *listed]),)


def read_inputs(inputs: Sequence[str | Path]) -> list[ClipSource]:
    """Turn what the user named into clips to label. Nothing is decoded yet.

    Raises:
        FootfallError: an input is missing or of no known kind, a manifest row is malformed, two ids are equal,
            one video has two calibrations.
    """
    clips: list[ClipSource] = []
    for item in inputs:
        path = Path(item)
        if path.is_dir() and not is_image_folder(path):
            clips += _read_folder(path)
        elif path.suffix.lower() in MANIFEST_SUFFIXES and path.is_file():
            clips += read_manifest(path)
        else:
            clips.append(clip_of(path, where=f"input {path}", row={}))
    for _, misfit in _misfits(clips):
        raise misfit
    return clips


def _misfits(clips: Sequence[ClipSource]) -> Iterator[tuple[int, FootfallError]]:
    """What is wrong between clips: ids that are equal; one video with two lenses, rates or camera paths.

    Yields:
        (index of the later clip, what is wrong).
    """
    ids: dict[str, ClipSource] = {}
    first: dict[str, ClipSource] = {}
    for index, clip in enumerate(clips):
        if clip.id in ids:
            yield index, FootfallError(
                f"clip id {clip.id!r}", got=f"twice: {ids[clip.id].path} and {clip.path}", expected="unique ids",
                do="name one of them by the column 'id' of a manifest",
            )  # fmt: skip
        ids.setdefault(clip.id, clip)
        other = first.setdefault(clip.path, clip)
        for name in ("fps", "intrinsics", "world_from_cam"):
            if getattr(clip, name) != getattr(other, name):
                yield index, FootfallError(
                    f"clips {other.id!r} and {clip.id!r}",
                    got=f"the same video {clip.path} with two kinds of {name}",
                    expected=f"one {name} per video", do="correct one of the rows; nothing was started",
                )  # fmt: skip


def _read_folder(folder: Path) -> list[ClipSource]:
    videos = sorted(p for p in folder.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES)
    if not videos:
        raise FootfallError(
            f"folder {folder}", got="no video in it", expected=f"files ending in {', '.join(VIDEO_SUFFIXES)}",
            do="check the path, or name the files in a manifest",
        )  # fmt: skip
    return [clip_of(path, where=f"input {path}", row={}) for path in videos]


def read_manifest(manifest: Path) -> list[ClipSource]:
    """The clips of a manifest.

    Raises:
        ManifestError: rows are wrong, with one line for each.
        FootfallError: it is too large, no text, or empty.
    """
    problems: list[tuple[int, str]] = []
    clips: list[tuple[int, ClipSource]] = []
    digests: dict[str, str] = {}
    for number, row in read_rows(manifest):
        where = f"row {number}"
        try:
            if isinstance(row, Exception):
                raise FootfallError(where, got=row, expected="one valid row", do="mend that line")
            check_columns(where, row)
            clip = clip_of(find_file(where, row, manifest.parent), where=where, row=row)
            _check_digest(where, clip, digests)
            clips.append((number, clip))
        except FootfallError as error:
            problems.append((number, str(error)))
    for index, misfit in _misfits([clip for _, clip in clips]):
        problems.append((clips[index][0], f"row {clips[index][0]}: {misfit}"))
    if problems:
        raise ManifestError(manifest, [text for _, text in sorted(problems)])
    if not clips:
        raise FootfallError(f"manifest {manifest}", got="no rows", expected="at least one clip", do="add a row")
    return [clip for _, clip in clips]


def _check_digest(where: str, clip: ClipSource, digests: dict[str, str]) -> None:
    """Hash a file whose hash is given, once per file."""
    if not clip.sha256:
        return
    found = digests.get(clip.path) or fingerprint(Path(clip.path))
    digests[clip.path] = found
    if found != clip.sha256:
        raise FootfallError(
            where, got=f"a file with SHA-256 {found[:12]}...", expected=f"{clip.sha256[:12]}...",
            do=f"fetch {clip.path} again, or correct sha256",
        )  # fmt: skip


def read_rows(table: Path) -> Iterator[Row]:
    """(line, what is in it or what is wrong with it) of a .jsonl or .csv file.

    Raises:
        FootfallError: it is too large, or no text.
    """
    text = _text(table)
    yield from _rows_jsonl(text) if table.suffix.lower() == ".jsonl" else _rows_csv(text)


def _rows_jsonl(text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, _parse(line)


def _parse(text: str) -> Any:
    """JSON, without the keys that are null; or what is wrong with it."""
    if len(text) > MAX_ROW_CHARACTERS:
        return ValueError(f"{len(text)} characters in one row, more than {MAX_ROW_CHARACTERS}")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: no JSON, or an integer of thousands of digits
        return ValueError(f"no JSON ({error})")
    return {key: entry for key, entry in value.items() if entry is not None} if isinstance(value, dict) else value


def _rows_csv(text: str) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:  # a quote that never ends, a cell that is too long
            yield reader.line_num, ValueError(f"no CSV ({error})")
            return
        yield reader.line_num, _row_of_cells(cells)


def _row_of_cells(cells: dict[Any, Any]) -> Any:
    if None in cells or None in cells.values():
        return ValueError("another number of cells than the header")
    row: dict[str, Any] = {key: value for key, value in cells.items() if value}
    for column in NUMBERS:
        if column in row:
            row[column] = _parse(row[column])
            if isinstance(row[column], Exception):
                return ValueError(f"column {column}: {row[column]}")
    return row


def _text(manifest: Path) -> str:
    size = manifest.stat().st_size
    if size > MAX_MANIFEST_BYTES:
        raise FootfallError(
            f"manifest {manifest}", got=f"{size} bytes", expected=f"at most {MAX_MANIFEST_BYTES}", do="split it"
        )
    try:
        return manifest.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FootfallError(
            f"manifest {manifest}", got=error, expected="UTF-8 text", do="save it as UTF-8 .csv or .jsonl"
        ) from error


def fingerprint(path: Path) -> str:
    """SHA-256 of a video, or of the names and contents of a folder of images."""
    if path.is_file():
        return sha256_of(path)
    digest = hashlib.sha256()
    for image in sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES):
        digest.update(f"{image.name}\0{sha256_of(image)}\n".encode())
    return digest.hexdigest()
