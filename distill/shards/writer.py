"""Write shards: atomic, deterministic tar files and a manifest that says what is in them.

The same samples give byte-identical shards: members are in order and carry no time, owner or mode of their own.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from distill.files import atomic_path, sha256_of, write_json
from distill.shards.schema import SCHEMA_VERSION, Sample, to_members

MANIFEST_FORMAT: Final = "footfall-shards/1"


def write_shards(out: Path, samples: Iterable[Sample], *, max_bytes: int, provenance: dict[str, Any]) -> dict[str, Any]:
    """Write `out/shards/NNNNNN.tar` and `out/manifest.json`; shards of an earlier packing are replaced.

    Args:
        out: labelling folder.
        samples: in the order in which they shall be stored.
        max_bytes: a shard is closed when it is this large.
        provenance: JSON-able facts about how the samples were made; becomes part of the manifest.

    Returns:
        The manifest.
    """
    folder = out / "shards"
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, Any]] = []
    clips: dict[str, dict[str, Any]] = {}
    for number, batch in enumerate(_by_size(samples, max_bytes)):
        path = folder / f"{number:06d}.tar"
        with atomic_path(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
            for sample, members in batch:
                for name, data in members.items():
                    info = tarfile.TarInfo(name)
                    info.size, info.mode = len(data), 0o644
                    tar.addfile(info, io.BytesIO(data))
                _count(clips, sample, path.name)
        shards.append(
            {"name": path.name, "samples": len(batch), "bytes": path.stat().st_size, "sha256": sha256_of(path)}
        )
    for stale in folder.glob("*.tar"):
        if stale.name not in {shard["name"] for shard in shards}:
            stale.unlink()
    manifest = {
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
    }
    write_json(out / "manifest.json", manifest)
    return manifest


def _by_size(samples: Iterable[Sample], max_bytes: int) -> Iterable[list[tuple[Sample, dict[str, bytes]]]]:
    batch: list[tuple[Sample, dict[str, bytes]]] = []
    size = 0
    for sample in samples:
        members = to_members(sample)
        batch.append((sample, members))
        size += sum(map(len, members.values()))
        if size >= max_bytes:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _count(clips: dict[str, dict[str, Any]], sample: Sample, shard: str) -> None:
    """Add a sample to its clip's row: the licence chain from shard to source."""
    meta, stamps = sample.meta, sample.arrays["timestamps"]
    row = clips.setdefault(
        meta["clip"],
        {
            "source": meta["source"],
            "licence": meta["licence"],
            "source_sha256": meta["source_sha256"],
            "teacher_commit": meta["teacher_commit"],
            "config_hash": meta["config_hash"],
            "weights": meta["weights"],
            "quality": meta["quality"],
            "shards": [],
            "samples": 0,
            "start_s": float(stamps[0]),
        },
    )
    row["samples"] += 1
    row["frames"] = meta["first_frame"] + len(stamps)  # chunks may overlap: the last one's end counts
    row["seconds"] = round(float(stamps[-1]) - row["start_s"], 3)
    if shard not in row["shards"]:
        row["shards"].append(shard)
