"""Which shards must go if a source withdraws, and taking it out of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from distill.shards.labels import Labels, whole_pieces
from distill.shards.rows import Row
from distill.shards.schema import Sample
from distill.shards.tarred import from_piece
from distill.shards.tombstones import Tombstone, Tombstones
from distill.shards.writer import append_shards, provenance_of


@dataclass(kw_only=True)
class Withdrawal:
    """What is packed of a source."""

    asked: str
    videos: set[str] = field(default_factory=set)
    """SHA-256 of its videos."""
    clips: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Its packed clips: rows of the manifest."""
    shards: dict[str, int] = field(default_factory=dict)
    """Shard that must go -> samples of other sources in it, which move to a new one; -1 where no index tells."""

    def stone(self, clips: set[str]) -> Tombstone:
        """What is written down, with the clips of workspaces."""
        return Tombstone(asked=self.asked, sha256=sorted(self.videos - {""}), clips=sorted({*self.clips, *clips}))

    def covers(self, row: Row) -> bool:
        """Whether a sample goes."""
        return row.clip in self.clips


def find_videos(asked: str, *tables: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """SHA-256 of the videos of a source.

    Args:
        asked: a source id, a source, a video's SHA-256, or, if it is none of these, a clip.
        tables: clip -> row of a manifest, or `clip.json` with the names of a manifest's row.
    """
    rows = [row for table in tables for row in table.values()]
    named = [row for row in rows if asked in (row["source"], row.get("source_id"), row["source_sha256"])]
    named = named or [table[asked] for table in tables if asked in table]
    return {row["source_sha256"] for row in named}


def plan_withdrawal(asked: str, manifest: Mapping[str, Any], videos: set[str], labels: Labels | None) -> Withdrawal:
    """What goes from labels if a source withdraws: every clip of its name and of its videos, whoever else named them.

    Args:
        asked: the source.
        manifest: of the labels.
        videos: of the source (`find_videos`, and those of earlier runs).
        labels: the same labels on this disk; None for labels from afar.
    """
    stones = Tombstones([Tombstone(asked=asked, sha256=sorted(videos - {""}))])
    plan = Withdrawal(asked=asked, videos=set(videos))
    for clip, row in manifest["clips"].items():
        origin = {name: row.get(name, "") for name in ("source", "source_id", "source_sha256")}
        if stones.covers(**origin) or (clip == asked and row["source_sha256"] in videos):
            plan.clips[clip] = row
            plan.videos.add(row["source_sha256"])
    names = {name for row in plan.clips.values() for name in row["shards"]}
    for shard in manifest["shards"]:
        if shard["name"] in names:
            rows = labels.rows.get(shard["name"], []) if labels is not None else None
            plan.shards[shard["name"]] = -1 if rows is None else sum(not plan.covers(row) for row in rows)
    return plan


def withdrawn_samples(labels: Labels, plan: Withdrawal) -> Iterator[Sample]:
    """The samples that go, as long as they are there."""
    for name in plan.shards:
        rows = [row for row in labels.rows.get(name, []) if plan.covers(row)]
        for _, piece in whole_pieces(labels.path(name), rows):
            if piece is not None:
                yield from_piece(piece)


def withdraw(labels: Labels, plan: Withdrawal) -> dict[str, Any]:
    """Take a source out of its shards; the other shards are not touched. Returns the new manifest."""
    said = provenance_of(labels.manifest)
    for name in ("gaussians", "duplicates"):
        said[name] = {clip: row for clip, row in (said.get(name) or {}).items() if clip not in plan.clips}
    return append_shards(labels, keep=lambda row: not plan.covers(row), provenance=said)
