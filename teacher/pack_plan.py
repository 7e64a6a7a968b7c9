"""Which clips of a labelling folder go into shards: none withdrawn, none twice, none that is there already."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from distill.files import read_json
from distill.shards.labels import Labels, whole_pieces
from distill.shards.schema import SCHEMA_VERSION
from distill.shards.tombstones import read_tombstones
from teacher.workspace import ClipFolder

_SAME_TIME_S: Final = 1e-3
"""Ends of two clips of one video that are nearer than this are the same."""
_MADE_BY: Final = ("frames", "people", "cameras", "depth", "bodies", "contacts", "joint", "quality", "gaussians")
"""Stages whose work is in a label."""


@dataclass(kw_only=True)
class Plan:
    """What a packing does."""

    kept: set[str]
    """Clips whose samples stay as they are."""
    new: list[ClipFolder]
    """Clips whose samples are made now, in order."""
    made_of: dict[str, str]
    """Of the new clips: hash of all that their samples are made of."""
    duplicates: dict[str, str]
    """Clip that is left out -> clip that shows the same part of the same video."""


def make_plan(out: Path, labels: Labels | None, chunk_frames: int) -> Plan:
    """Decide what a packing does.

    Args:
        out: labelling folder.
        labels: what is packed, or None to pack everything anew.
        chunk_frames: frames per sample.
    """
    stones = read_tombstones(out)
    clips = [ClipFolder(root) for root in sorted((out / "clips").glob("*")) if (root / "clip.json").is_file()]
    withdrawn, accepted = set[str](), list[ClipFolder]()
    for clip in clips:
        source = clip.source
        if stones.covers(source=source.source, source_id=source.source_id, source_sha256=source.sha256):
            withdrawn.add(clip.id)
        elif decision_of(clip) in ("accept", "weight"):
            accepted.append(clip)
    packed = labels.manifest["clips"] if labels is not None else {}
    duplicates = find_duplicates(accepted, packed)
    made_of = {clip.id: made_of_hash(clip, chunk_frames) for clip in accepted if clip.id not in duplicates}
    present = {clip.id for clip in clips}
    hurt = hurt_clips(labels) if labels is not None else set()
    kept: set[str] = set()
    for name, facts in packed.items():
        gone = stones.covers(
            source=facts["source"], source_id=facts.get("source_id", ""), source_sha256=facts["source_sha256"]
        )
        unchanged = name not in hurt and made_of.get(name) == facts.get("made_of")
        if not gone and name not in withdrawn and (unchanged or name not in present):
            kept.add(name)  # a clip whose workspace was tidied away keeps its labels
    new = [clip for clip in accepted if clip.id in made_of and clip.id not in kept]
    return Plan(kept=kept, new=new, made_of=made_of, duplicates=duplicates)


def decision_of(clip: ClipFolder) -> str:
    """What quality decided; "" of a clip that is not solved, or whose label is stale: an early stage was made again
    and a later one was not, or not yet."""
    done = all(clip.is_done(stage) for stage in ("frames", "people", "joint", "quality"))
    done = done and clip.is_current("quality") and (not clip.is_done("gaussians") or clip.is_current("gaussians"))
    return str(read_json(clip.stage_dir("quality") / "quality.json")["decision"]) if done else ""


def made_of_hash(clip: ClipFolder, chunk_frames: int) -> str:
    """Changes when the samples of a clip would."""
    source, records = clip.source, {stage: clip.record(stage) for stage in _MADE_BY}
    facts = {
        "schema": SCHEMA_VERSION,
        "chunk_frames": chunk_frames,
        "source": [source.source, source.source_id, source.sha256, source.licence, source.consent],
        "stages": {name: [r.fingerprint(), r.commit] for name, r in records.items() if r is not None},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def find_duplicates(clips: Iterable[ClipFolder], packed: Iterable[str]) -> dict[str, str]:
    """Clips that show what another one of the same video file shows: their id -> the other's.

    Of the same part labelled under two ids the packed one stays, else the first by id; a part within a longer one goes.
    """
    known, by_video = set(packed), defaultdict[str, list[ClipFolder]](list)
    for clip in clips:
        by_video[clip.source.sha256].append(clip)
    found: dict[str, str] = {}
    for video, group in by_video.items():
        if not video or len(group) < 2:
            continue
        kept: list[tuple[str, float, float]] = []
        order = sorted(map(_range_of, group), key=lambda part: (part[2] not in known, part[0] - part[1], part[2]))
        for start_s, end_s, name in order:
            within = (o for o, a, b in kept if a - _SAME_TIME_S <= start_s and end_s <= b + _SAME_TIME_S)
            if (other := next(within, None)) is not None:
                found[name] = other
            else:
                kept.append((name, start_s, end_s))
    return dict(sorted(found.items()))


def _range_of(clip: ClipFolder) -> tuple[float, float, str]:
    """Start and end in the video, seconds, and id."""
    source = clip.source
    return source.start_s, float("inf") if source.end_s is None else source.end_s, clip.id


def hurt_clips(labels: Labels) -> set[str]:
    """Clips with a sample that is no longer whole, in shards that are missing or of another size than was written."""
    found: set[str] = set()
    for shard in labels.manifest["shards"]:
        path, rows = labels.path(shard["name"]), labels.rows.get(shard["name"], [])
        if not path.is_file() or path.stat().st_size != shard["bytes"]:
            found |= {row.clip for row, piece in whole_pieces(path, rows) if piece is None}
    here = {row.clip: 0 for row in labels.all_rows}
    for row in labels.all_rows:
        here[row.clip] += 1
    return found | {clip for clip, facts in labels.manifest["clips"].items() if here.get(clip) != facts["samples"]}
