"""A folder of labels on this disk: its manifest, its index, and which samples of it are still whole."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.errors import FootfallError
from distill.files import read_json, sha256_of
from distill.shards.manifest import MANIFEST_NAME, check_manifest, clip_facts
from distill.shards.rows import INDEX_NAME, Row, make_row, read_index
from distill.shards.tarred import MAX_PIECE_BYTES, find_places, from_piece

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Labels:
    """What a folder holds, as its manifest and index say."""

    out: Path
    manifest: dict[str, Any]
    rows: dict[str, list[Row]]
    """Shard -> its samples in order."""
    indexed: bool
    """Whether the index was there and is the one that the manifest names; else rows were made from the shards."""

    def path(self, shard: str) -> Path:
        """File of a shard."""
        return self.out / "shards" / shard

    @property
    def all_rows(self) -> list[Row]:
        """All samples, in the manifest's order of shards."""
        return [row for shard in self.manifest["shards"] for row in self.rows.get(shard["name"], [])]


def read_labels(out: Path) -> Labels | None:
    """Labels of a folder, or None if it has no manifest.

    An index that is missing, of an older schema or not the manifest's is made again from the shards, in memory.

    Raises:
        FootfallError: a manifest that cannot be read.
    """
    path = out / MANIFEST_NAME
    if not path.is_file():
        return None
    manifest = check_manifest(read_json(path), str(path))
    rows = _indexed_rows(out, manifest)
    if rows is not None:
        return Labels(out=out, manifest=manifest, rows=rows, indexed=True)
    made = {shard["name"]: rows_of_shard(out / "shards" / shard["name"]) for shard in manifest["shards"]}
    rows = {name: [row for row, _ in found] for name, found in made.items()}
    return Labels(out=out, manifest=_with_facts(manifest, made), rows=rows, indexed=False)


def _indexed_rows(out: Path, manifest: dict[str, Any]) -> dict[str, list[Row]] | None:
    path, facts = out / "shards" / INDEX_NAME, manifest.get("index") or {}
    if not path.is_file() or sha256_of(path) != facts.get("sha256"):
        return None
    rows: dict[str, list[Row]] = {shard["name"]: [] for shard in manifest["shards"]}
    with path.open("rb") as stream:
        for row in read_index(stream.readline, str(path)):
            rows.setdefault(row.shard, []).append(row)
    return rows


def _with_facts(manifest: dict[str, Any], made: dict[str, list[tuple[Row, dict[str, Any]]]]) -> dict[str, Any]:
    """A manifest of an older schema, with the facts that its samples now have."""
    facts = {meta["clip"]: clip_facts(meta) for found in made.values() for _, meta in found}
    return {**manifest, "clips": {clip: {**row, **facts.get(clip, {})} for clip, row in manifest["clips"].items()}}


def rows_of_shard(path: Path) -> list[tuple[Row, dict[str, Any]]]:
    """(row, meta) of every whole sample of a tar file, by reading it all; empty if there is no such file."""
    found: list[tuple[Row, dict[str, Any]]] = []
    if not path.is_file():
        return found
    with path.open("rb") as stream:
        for place in find_places(path):
            if place.bytes > MAX_PIECE_BYTES:
                continue
            stream.seek(place.offset)
            piece = stream.read(place.bytes)
            try:
                sample = from_piece(piece)
                found.append((make_row(sample, shard=path.name, offset=place.offset, piece=piece), sample.meta))
            except FootfallError:
                raise
            except (ValueError, TypeError) as error:
                log.warning("%s: %s is left out: %s", path, place.key, error)
    return found


def whole_pieces(path: Path, rows: list[Row]) -> Iterator[tuple[Row, bytes | None]]:
    """Each row with its bytes, None where they are not what the row says (missing file, cut short, damaged)."""
    if not path.is_file():
        yield from ((row, None) for row in rows)
        return
    with path.open("rb") as stream:
        for row in rows:
            stream.seek(row.offset)
            piece = stream.read(row.bytes) if row.bytes <= MAX_PIECE_BYTES else b""
            yield row, piece if hashlib.sha256(piece).hexdigest() == row.sha256 else None


@contextlib.contextmanager
def folder_lock(out: Path) -> Iterator[None]:
    """Hold a folder of labels alone: packing, forgetting and repairing wait for each other.

    An advisory `flock` on `OUT/.lock`: the kernel drops it when its owner dies, so none is ever stale.
    """
    import fcntl  # not on Windows, where labels are read but not made

    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
