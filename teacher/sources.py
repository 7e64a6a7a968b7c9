"""From a source to its clips: the file is hashed, its shots are found, and each becomes a clip folder.

`clips/ID/shots.json`, written last, says which clips a source was cut into and from what. A file whose size and time of
change are those noted there is taken for the file that was hashed, so that going on with a large collection does not
read every video again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from distill.errors import FootfallError
from distill.files import read_json, write_json
from distill.shards.tombstones import read_tombstones
from teacher.manifest import fingerprint
from teacher.workspace import ClipFolder, ClipSource

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Shots:
    """`shots.json`."""

    made_from: str
    """Hash of what decides the cuts: file, window, frame rate, settings."""
    stamp: str
    """Size and time of change of the file, or of every image of a folder."""
    sha256: str
    shots: list[list[Any]]
    """[clip id, start_s, end_s or None] of every shot, in order."""


def read_shots(clip: ClipFolder) -> Shots | None:
    """The cuts of the source that begins with this clip; None if they are not known (yet)."""
    path = clip.root / "shots.json"
    try:
        return Shots(**read_json(path)) if path.is_file() else None
    except (FootfallError, TypeError):  # of a power cut: it is made again
        return None


def prepare(source: ClipSource, clips: Path, settings: Any) -> list[str]:
    """Cut a source at its shots and write `clip.json` of each part.

    Args:
        source: `id` names the first clip; the others are ID-shot001 and so on.
        clips: the folder of all clips.
        settings: `teacher.config.LabelConfig`.

    Returns:
        Ids of the clips; none of a source that was withdrawn.

    Raises:
        OSError: the file cannot be read.
    """
    first, path = ClipFolder(clips / source.id), Path(source.path)
    known, stamp = read_shots(first), _stamp(path)
    if not source.sha256:
        unchanged = known is not None and known.stamp == stamp
        source = replace(source, sha256=known.sha256 if known and unchanged else fingerprint(path))
    if read_tombstones(clips.parent).covers(
        source=source.source, source_id=source.source_id, source_sha256=source.sha256
    ):  # fmt: skip
        log.warning("%s was withdrawn (footfall forget): it is not labelled again", source.id)
        return []
    made_from = _made_from(source, settings.video)
    shots = known.shots if known is not None and known.made_from == made_from else _cut(source, settings.video)
    for identifier, start_s, end_s in reversed(shots):  # the first last: a source is known by its first clip
        clip, part = ClipFolder(clips / identifier), replace(source, id=identifier, start_s=start_s, end_s=end_s)
        if not (clip.root / "clip.json").is_file() or clip.source != part:
            clip.write_source(part)
    ids = [str(identifier) for identifier, _, _ in shots]
    for identifier, _, _ in known.shots if known is not None else ():
        if identifier not in ids:  # the cuts have moved: a label of the old ones would be there twice
            shutil.rmtree(clips / identifier, ignore_errors=True)
    now = Shots(made_from=made_from, stamp=stamp, sha256=source.sha256, shots=shots)
    if now != known:
        write_json(first.root / "shots.json", asdict(now))
    return ids


def _cut(source: ClipSource, video: Any) -> list[list[Any]]:
    from teacher.video import split_shots

    window = (source.start_s, source.end_s)
    try:
        parts = split_shots(Path(source.path), video, source.fps, window=window)
    except FootfallError:  # the frames stage will meet the same fault and record it
        parts = [window]
    names = [source.id, *(f"{source.id}-shot{number:03d}" for number in range(1, len(parts)))]
    return [[name, *part] for name, part in zip(names, parts, strict=True)]


def _made_from(source: ClipSource, video: Any) -> str:
    cutting = ("min_frames", "max_frames", "image_fps", "cut_correlation", "cut_histogram")
    facts = [source.path, source.sha256, source.start_s, source.end_s, source.fps, [getattr(video, k) for k in cutting]]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _stamp(path: Path) -> str:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def sources_of(out: Path) -> Iterator[ClipSource]:
    """The sources of a labelling folder, from its clips: what `footfall label --out DIR` without inputs goes over."""
    for path in sorted((out / "clips").glob("*/clip.json")):
        clip = ClipFolder(path.parent)
        whole = re.fullmatch(r"(.+)-shot\d{3}", clip.id)
        if whole and (path.parent.parent / whole[1] / "shots.json").is_file():
            continue  # a later shot of another clip's source
        source, shots = clip.source, read_shots(clip)
        yield replace(source, sha256="", end_s=shots.shots[-1][2] if shots else source.end_s)
