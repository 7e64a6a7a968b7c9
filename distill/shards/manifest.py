"""`manifest.json`: what is in a folder of labels. It is written last: what it does not name is not there yet."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from distill.errors import FootfallError
from distill.shards.rows import Row
from distill.shards.schema import SCHEMA_VERSION

MANIFEST_NAME: Final = "manifest.json"
MANIFEST_FORMAT: Final = "footfall-shards/1"
SHARD_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,80}\.tar")
"""What a manifest may name: nothing that leads out of the folder."""

CLIP_FACTS: Final = (
    "source", "source_id", "licence", "consent", "blurred", "source_sha256", "teacher_commit", "config_hash", "weights",
    "quality",
)  # fmt: skip
"""Of a sample's meta, kept once per clip."""


def clip_facts(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest says of a clip, from the meta of one of its samples; tables in it are sorted as there."""
    return {name: json.loads(json.dumps(meta[name], sort_keys=True)) for name in CLIP_FACTS}


def make_manifest(
    facts: Mapping[str, Mapping[str, Any]], rows: Iterable[Row], shards: list[dict[str, Any]], index: dict[str, Any],
    provenance: Mapping[str, Any], replaced: Mapping[str, str],
) -> dict[str, Any]:  # fmt: skip
    """The manifest's content.

    Args:
        facts: clip -> `clip_facts`, and whatever else is known of it (`made_of`).
        rows: all samples, in order.
        shards: name, samples, bytes, sha256 of each.
        index: facts of the index (`rows.write_index`).
        provenance: of the packing.
        replaced: name -> SHA-256 of shards that were here once: what an upload may delete elsewhere.
    """
    clips: dict[str, dict[str, Any]] = {}
    for row in rows:
        clip = clips.setdefault(
            row.clip, {**facts[row.clip], "people": row.people, "shards": [], "samples": 0, "start_s": row.start_s}
        )
        clip["samples"] += 1
        clip["people"] = max(clip["people"], row.people)
        clip["frames"] = row.first_frame + row.frames  # chunks may overlap: the last one's end counts
        clip["seconds"] = round(row.end_s - clip["start_s"], 3)
        if row.shard not in clip["shards"]:
            clip["shards"].append(row.shard)
    here = {(shard["name"], shard["sha256"]) for shard in shards}
    return {
        "format": MANIFEST_FORMAT,
        "schema_version": SCHEMA_VERSION,
        **provenance,
        "totals": {
            "clips": len(clips),
            "shards": len(shards),
            "samples": sum(shard["samples"] for shard in shards),
            "frames": sum(clip["frames"] for clip in clips.values()),
            "seconds": round(sum(clip["seconds"] for clip in clips.values()), 3),
            "bytes": sum(shard["bytes"] for shard in shards),
        },
        "licences": sorted({clip["licence"] for clip in clips.values()}),
        "clips": clips,
        "shards": shards,
        "index": index,
        "replaced": {name: digest for name, digest in replaced.items() if (name, digest) not in here},
    }


def check_manifest(content: Any, where: str) -> dict[str, Any]:
    """A manifest that this release reads: its format, version, and the rows that are relied on.

    Raises:
        FootfallError: another format, an unknown schema, or rows that are none.
    """
    found = content if isinstance(content, dict) else {}
    version = found.get("schema_version")
    if found.get("format") != MANIFEST_FORMAT or not isinstance(version, int) or not 1 <= version <= SCHEMA_VERSION:
        raise FootfallError(
            f"manifest {where}", got=f"{found.get('format')} schema {version}",
            expected=f"{MANIFEST_FORMAT} schema 1 to {SCHEMA_VERSION}", do="read it with the release that made it",
        )  # fmt: skip
    try:
        for shard in found["shards"]:
            if not SHARD_NAME.fullmatch(shard["name"]) or min(shard["samples"], shard["bytes"]) < 0:
                raise ValueError(f"shard {shard['name']!r}")
            if not isinstance(shard["sha256"], str):
                raise TypeError(f"shard {shard['name']}: SHA-256 {shard['sha256']!r}")
        for clip, facts in found["clips"].items():
            if not isinstance(facts["samples"], int) or not all(isinstance(name, str) for name in facts["shards"]):
                raise TypeError(f"clip {clip!r}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FootfallError(
            f"manifest {where}", got=f"{type(error).__name__}: {error}", expected="rows of clips and shards",
            do="run footfall verify DIR repair=true, or copy it again",
        ) from None  # fmt: skip
    return found
