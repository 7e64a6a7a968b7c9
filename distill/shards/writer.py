"""Write shards: atomic, deterministic tar files, an index of every sample, and a manifest that says what is there.

The same samples give byte-identical shards: members are in order and carry no time, owner or mode of their own. A
shard that a manifest names is never written again: what changes goes into shards with new numbers, then the manifest
is replaced, then shards that it no longer names are deleted. Wherever that is cut off, the folder is that before or
that after, with files beside it that nobody names and that the next packing removes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, Final

from distill.files import atomic_path, write_json
from distill.shards.labels import Labels, whole_pieces
from distill.shards.manifest import MANIFEST_NAME, clip_facts, make_manifest
from distill.shards.rows import INDEX_NAME, Row, make_row, write_index
from distill.shards.schema import Sample, to_members
from distill.shards.tarred import end_of, piece_of

Facts = dict[str, dict[str, Any]]
"""Clip -> what the manifest says of it."""
Packed = tuple[Sample, dict[str, bytes]]
"""A sample and its tar members."""

_WRITTEN: Final = ("manifest", "forgotten", "statistics")
"""Stems of files beside `shards/` whose unfinished parts are found here too."""


def write_shards(
    out: Path, samples: Iterable[Sample], *, max_bytes: int, provenance: dict[str, Any],
    made_of: Mapping[str, str] | None = None, replaced: Mapping[str, str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write `out/shards/NNNNNN.tar`, the index and `out/manifest.json` anew; what was there is replaced.

    Args:
        out: labelling folder.
        samples: in the order in which they shall be stored.
        max_bytes: a shard is closed when it is this large.
        provenance: JSON-able facts about how the samples were made; becomes part of the manifest.
        made_of: clip -> a hash that changes when its samples do, for those who append later.
        replaced: name -> SHA-256 of shards that were here once.

    Returns:
        The manifest.
    """
    (out / MANIFEST_NAME).unlink(missing_ok=True)  # no claim outlives the shards it was about
    (out / "shards").mkdir(parents=True, exist_ok=True)
    rows, shards, facts = _write_new(out / "shards", samples, 0, max_bytes, made_of or {})
    return _finish(out, rows, shards, facts, provenance, replaced or {})


def append_shards(
    labels: Labels, *, keep: Callable[[Row], bool], samples: Iterable[Sample] = (), max_bytes: int = 1 << 26,
    provenance: Mapping[str, Any] | None = None, made_of: Mapping[str, str] | None = None,
    damaged: Collection[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """Add samples in new shards, and take out those that are not to be kept.

    Shards of which all is kept stay as they are. Of the others, what is kept moves, byte for byte, into one new shard
    each. Samples that are damaged on disk are not kept.

    Args:
        labels: what is there; its manifest stays valid until the new one replaces it.
        keep: whether a sample stays.
        samples, max_bytes, made_of: as in `write_shards`.
        provenance: replaces what the manifest said; None leaves it.
        damaged: shards of which only what is whole is kept, even if all of it is to be.

    Returns:
        The new manifest.
    """
    folder, old = labels.out / "shards", labels.manifest
    number = 1 + max((_number(name) for name in [*labels.rows, *old.get("replaced", {})]), default=-1)
    rows: list[Row] = []
    shards: list[dict[str, Any]] = []
    for shard in old["shards"]:
        path, here = labels.path(shard["name"]), labels.rows.get(shard["name"], [])
        kept = [row for row in here if keep(row)]
        whole = shard["name"] not in damaged and _size(path) == shard["bytes"]
        if whole and len(kept) == len(here) == shard["samples"]:
            rows += here
            shards.append(shard)
        elif moved := _move(path, kept, folder / f"{number:06d}.tar"):
            rows += moved[0]
            shards.append(moved[1])
            number += 1
    facts: Facts = {clip: dict(row) for clip, row in old["clips"].items()}
    added, new_shards, new_facts = _write_new(folder, samples, number, max_bytes, made_of or {})
    known = {shard["name"] for shard in [*shards, *new_shards]}
    replaced = {name: digest for name, digest in replaced_shards(labels).items() if name not in known}
    said = provenance_of(old) if provenance is None else provenance
    return _finish(labels.out, rows + added, [*shards, *new_shards], {**facts, **new_facts}, said, replaced)


def _finish(
    out: Path, rows: list[Row], shards: list[dict[str, Any]], facts: Facts, provenance: Mapping[str, Any],
    replaced: Mapping[str, str],
) -> dict[str, Any]:  # fmt: skip
    """Write the index, then the manifest, then delete what neither names."""
    index = write_index(out / "shards" / INDEX_NAME, rows)
    manifest = make_manifest(facts, rows, shards, index, provenance, replaced)
    write_json(out / MANIFEST_NAME, manifest)
    for path in find_strays(out, manifest):
        path.unlink()
    return manifest


def replaced_shards(labels: Labels | None) -> dict[str, str]:
    """Name -> SHA-256 of the shards that are or were in a folder, for the manifest of the next ones."""
    if labels is None:
        return {}
    return {
        **labels.manifest.get("replaced", {}), **{shard["name"]: shard["sha256"] for shard in labels.manifest["shards"]}
    }  # fmt: skip


def find_strays(out: Path, manifest: Mapping[str, Any]) -> list[Path]:
    """Files that are no part of the labels: parts of killed writers, and shards that were replaced."""
    named = {shard["name"] for shard in manifest["shards"]} | {INDEX_NAME}
    files = (path for path in (out / "shards").glob("*") if path.is_file() and path.name not in named)
    parts = (path for name in _WRITTEN for path in out.glob(f".{name}-*") if path.is_file())
    return sorted([path for path in files if path.suffix == ".tar" or path.name.startswith(".")] + list(parts))


def provenance_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest says beyond its rows."""
    own = ("format", "schema_version", "totals", "licences", "clips", "shards", "index", "replaced")
    return {name: value for name, value in manifest.items() if name not in own}


def _write_new(
    folder: Path, samples: Iterable[Sample], number: int, max_bytes: int, made_of: Mapping[str, str]
) -> tuple[list[Row], list[dict[str, Any]], Facts]:
    """Shards from `number` on: (rows, shards, facts of their clips)."""
    rows: list[Row] = []
    shards: list[dict[str, Any]] = []
    facts: Facts = {}
    left = ((sample, to_members(sample)) for sample in samples)
    for first in left:
        path = folder / f"{number + len(shards):06d}.tar"
        made, shard = _write_one(path, _until_full(chain([first], left), max_bytes), facts)
        rows += made
        shards.append(shard)
    for clip in facts:
        if clip in made_of:
            facts[clip]["made_of"] = made_of[clip]
    return rows, shards, facts


def _until_full(samples: Iterable[Packed], max_bytes: int) -> Iterator[Packed]:
    size = 0
    for sample, members in samples:
        yield sample, members
        size += sum(map(len, members.values()))
        if size >= max_bytes:
            return


def _write_one(path: Path, samples: Iterable[Packed], facts: Facts) -> tuple[list[Row], dict[str, Any]]:
    rows: list[Row] = []

    def pieces() -> Iterator[bytes]:
        offset = 0
        for sample, members in samples:
            piece = piece_of(members)
            rows.append(make_row(sample, shard=path.name, offset=offset, piece=piece))
            facts.setdefault(sample.meta["clip"], clip_facts(sample.meta))
            offset += len(piece)
            yield piece

    return rows, _write_tar(path, pieces(), rows)


def _move(source: Path, rows: list[Row], path: Path) -> tuple[list[Row], dict[str, Any]] | None:
    """Copy what is whole of some samples into a new shard; None if nothing is."""
    moved: list[Row] = []

    def pieces(first: tuple[Row, bytes], others: Iterator[tuple[Row, bytes]]) -> Iterator[bytes]:
        offset = 0
        for row, piece in chain([first], others):
            moved.append(replace(row, shard=path.name, offset=offset))
            offset += len(piece)
            yield piece

    whole = ((row, piece) for row, piece in whole_pieces(source, rows) if piece is not None)
    first = next(whole, None)
    return None if first is None else (moved, _write_tar(path, pieces(first, whole), moved))


def _write_tar(path: Path, pieces: Iterable[bytes], rows: list[Row]) -> dict[str, Any]:
    """Write pieces and the end of a tar file, atomically; the shard's row of the manifest. `rows` grows meanwhile."""
    digest, length = hashlib.sha256(), 0
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        for piece in pieces:
            stream.write(piece)
            digest.update(piece)
            length += len(piece)
        stream.write(end_of(length))
        digest.update(end_of(length))
    size = length + len(end_of(length))
    return {"name": path.name, "samples": len(rows), "bytes": size, "sha256": digest.hexdigest()}


def _number(name: str) -> int:
    """Number of a shard; -1 of one that was named by somebody else."""
    found = re.fullmatch(r"(\d+)\.tar", name)
    return int(found[1]) if found else -1


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
