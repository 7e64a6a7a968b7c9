"""Mend labels on this disk, and rewrite those of an older schema."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.errors import FootfallError
from distill.files import atomic_path, sha256_of
from distill.shards.labels import Labels, folder_lock, read_labels, rows_of_shard, whole_pieces
from distill.shards.manifest import MANIFEST_FORMAT, MANIFEST_NAME, clip_facts
from distill.shards.rows import INDEX_NAME, Row
from distill.shards.schema import SCHEMA_VERSION, Sample
from distill.shards.tarred import end_of, from_piece, is_older, to_piece
from distill.shards.tombstones import Tombstones, read_tombstones
from distill.shards.writer import append_shards, find_strays, replaced_shards

Make = Callable[[str], Iterable[Sample]]
"""Clip -> its samples, made again from its workspace; nothing if it has none."""


@dataclass(kw_only=True)
class Repair:
    """What was done."""

    done: list[str] = field(default_factory=list)
    """Sentences, in order."""
    lost: set[str] = field(default_factory=set)
    """Clips with samples that could not be restored: pack them again, or copy the shard again and verify."""
    damaged: set[str] = field(default_factory=set)
    """Shards of which only what is whole was kept."""


def repair(out: Path, make: Make) -> Repair:
    """Bring a folder of labels into agreement with itself, losing nothing that is whole.

    Shards that are missing or damaged are restored byte for byte where each sample of theirs is whole or `make` gives
    the same bytes again; else what is whole of them moves to a new shard. A manifest or an index that is missing or
    damaged is made again from the shards. Files of stopped processes go; shards that no manifest names are taken in if
    they hold what is nowhere else.
    """
    with folder_lock(out):
        result = Repair()
        labels = _labels(out, result)
        stones = read_tombstones(out)
        for shard in list(labels.manifest["shards"]):
            _restore(labels, shard, make, result)
        _adopt(labels, stones, make, result)
        _refresh_facts(labels)
        left = [path.relative_to(out).as_posix() for path in find_strays(out, labels.manifest)]
        keys, parts = set[str](), dict[tuple[str, float, float], str]()

        def keep(row: Row) -> bool:
            """The first of each key and of each part of a video, none withdrawn."""
            if stones.covers(source=row.source, source_id=row.source_id, source_sha256=row.source_sha256):
                return False
            fresh = row.key not in keys
            keys.add(row.key)
            part = (row.source_sha256, row.start_s, row.end_s)
            return fresh and (not row.source_sha256 or parts.setdefault(part, row.clip) == row.clip)

        here = Counter(row.clip for row in labels.all_rows)
        result.lost |= {clip for clip, row in labels.manifest["clips"].items() if here[clip] < row["samples"]}
        for clip in result.lost:  # whoever packs next makes them again
            labels.manifest["clips"][clip].pop("made_of", None)
        index = out / "shards" / INDEX_NAME
        before = [sha256_of(path) if path.is_file() else "" for path in (index, out / MANIFEST_NAME)]
        append_shards(labels, keep=keep, damaged=result.damaged)
        for path, digest in zip((index, out / MANIFEST_NAME), before, strict=True):
            if digest != sha256_of(path):
                result.done.append(f"{path.name}: written again")
        result.done += [f"{name}: removed, the manifest does not name it" for name in left]
    return result


def _labels(out: Path, result: Repair) -> Labels:
    """The folder's labels; from its shards alone if there is no manifest that can be read."""
    try:
        labels = read_labels(out)
    except FootfallError:
        labels = None
    if labels is not None:
        return labels
    (out / MANIFEST_NAME).unlink(missing_ok=True)
    result.done.append("manifest.json: made again from the shards; what it said of the packing is lost")
    rows: dict[str, list[Row]] = {}
    shards: list[dict[str, Any]] = []
    facts: dict[str, dict[str, Any]] = {}
    for path in sorted(p for p in (out / "shards").glob("*.tar") if not p.name.startswith(".")):
        rows[path.name] = _take_in(path, shards, facts, result)
    manifest = {
        "format": MANIFEST_FORMAT, "schema_version": SCHEMA_VERSION, "clips": facts, "shards": shards,
        "gaussians": {}, "duplicates": {},
    }  # fmt: skip
    return Labels(out=out, manifest=manifest, rows=rows, indexed=False)


def _take_in(path: Path, shards: list[dict[str, Any]], facts: dict[str, dict[str, Any]], result: Repair) -> list[Row]:
    """Rows of a shard that no manifest names; it is written anew unless it ends as a shard must."""
    found = rows_of_shard(path)
    for _, meta in found:
        facts.setdefault(meta["clip"], {**clip_facts(meta), "samples": 0, "shards": []})
    here = [row for row, _ in found]
    length = sum(row.bytes for row in here)
    if path.stat().st_size != length + len(end_of(length)):
        result.damaged.add(path.name)
    shards.append({"name": path.name, "samples": len(here), "bytes": path.stat().st_size, "sha256": sha256_of(path)})
    return here


def _restore(labels: Labels, shard: Mapping[str, Any], make: Make, result: Repair) -> None:
    """Write a damaged shard again if that gives the bytes that its manifest names; else note what is lost."""
    path, rows = labels.path(shard["name"]), labels.rows.get(shard["name"], [])
    if path.is_file() and path.stat().st_size == shard["bytes"] and sha256_of(path) == shard["sha256"]:
        return
    pieces = dict(zip([row.key for row in rows], [piece for _, piece in whole_pieces(path, rows)], strict=True))
    broken = {row.clip for row in rows if pieces[row.key] is None}
    made = {sample.key: sample for clip in sorted(broken) for sample in make(clip)}
    for row in rows:
        if pieces[row.key] is None and row.key in made:
            piece = to_piece(made[row.key])
            pieces[row.key] = piece if len(piece) == row.bytes else None
    found = [piece for piece in pieces.values() if piece is not None]
    data = [*found, end_of(sum(map(len, found)))]
    if len(found) == len(rows) and _sha256(data) == shard["sha256"]:
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            stream.writelines(data)
        result.done.append(f"shards/{path.name}: restored, byte for byte ({len(broken)} clips made again)")
        return
    result.damaged.add(path.name)
    result.lost |= broken
    whole = sum(piece is not None for _, piece in whole_pieces(path, rows))
    result.done.append(f"shards/{path.name}: {whole} of {shard['samples']} samples saved in a new shard")


def _refresh_facts(labels: Labels) -> None:
    """What the manifest says of its clips, as their samples say it."""
    seen = set[str]()
    for shard in labels.manifest["shards"]:
        first = {row.clip: row for row in reversed(labels.rows.get(shard["name"], [])) if row.clip not in seen}
        for row, piece in whole_pieces(labels.path(shard["name"]), list(first.values())):
            if piece is not None:
                seen.add(row.clip)
                labels.manifest["clips"].setdefault(row.clip, {}).update(clip_facts(from_piece(piece).meta))


def _sha256(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _adopt(labels: Labels, stones: Tombstones, make: Make, result: Repair) -> None:
    """Take in shards that no manifest names if they hold samples that are nowhere else."""
    known = {row.key for row in labels.all_rows}
    replaced = set(replaced_shards(labels).values())
    facts = labels.manifest["clips"]
    for path in find_strays(labels.out, labels.manifest):
        if path.suffix != ".tar" or path.name.startswith(".") or sha256_of(path) in replaced:
            continue
        found = rows_of_shard(path)
        new = [row for row, _ in found if row.key not in known and row.clip not in facts]
        new = [
            row for row in new
            if not stones.covers(source=row.source, source_id=row.source_id, source_sha256=row.source_sha256)
        ]  # fmt: skip
        if not new or all(next(iter(make(row.clip)), None) is not None for row in new):
            continue
        labels.rows[path.name] = _take_in(path, labels.manifest["shards"], facts, result)
        result.done.append(f"shards/{path.name}: taken in ({len(new)} samples that were nowhere else)")


def migrate(out: Path) -> int:
    """Rewrite the samples of an older schema version in this release's, into new shards; returns how many.

    Arrays and pictures stay as they are, bit for bit; the meta becomes that of `schema.upgrade_meta`. The old shards go
    when the new manifest is written.

    Raises:
        FootfallError: no labels there.
    """
    with folder_lock(out):
        labels = read_labels(out)
        if labels is None:
            raise FootfallError(
                f"folder {out}", got="no manifest.json", expected="a folder of labels", do="verify it with repair=true"
            )
        older = {row.key for row, piece in _pieces(labels) if is_older(piece)}
        if not older and labels.manifest["schema_version"] == SCHEMA_VERSION:
            return 0
        samples = (from_piece(piece) for row, piece in _pieces(labels) if row.key in older)
        largest = max((shard["bytes"] for shard in labels.manifest["shards"]), default=1)
        append_shards(labels, keep=lambda row: row.key not in older, samples=samples, max_bytes=largest)
        return len(older)


def _pieces(labels: Labels) -> Iterator[tuple[Row, bytes]]:
    """Every whole sample of a folder."""
    for shard in labels.manifest["shards"]:
        for row, piece in whole_pieces(labels.path(shard["name"]), labels.rows.get(shard["name"], [])):
            if piece is not None:
                yield row, piece
