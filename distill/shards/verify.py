"""Check labels against everything they say of themselves: on this disk, or read-only behind a URL.

Every shard is read once from end to end. Its own hash, the hash of every sample (which covers all of its members), the
schema of every sample, what the index and the manifest say of it, and their counts are compared; what does not belong
there is named.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from distill.errors import FootfallError
from distill.files import read_json
from distill.shards.labels import rows_of_shard
from distill.shards.manifest import MANIFEST_NAME, check_manifest, clip_facts, make_manifest
from distill.shards.remote import open_url, shown
from distill.shards.rows import INDEX_NAME, Row, make_row, read_index
from distill.shards.schema import SCHEMA_VERSION, Sample
from distill.shards.sources import read_manifest
from distill.shards.tarred import MAX_PIECE_BYTES, end_of, from_piece, is_older
from distill.shards.tombstones import Tombstones, read_tombstones
from distill.shards.writer import find_strays

_PART: Final = 1 << 20
Open = Callable[[str], BinaryIO]
"""Path below the folder of labels -> its bytes. OSError or FootfallError: cannot be read."""


@dataclass(kw_only=True)
class VerifyConfig:
    """`footfall verify`."""

    repair: bool = False
    """Mend what can be: from what is whole, from `clips/`, by making the index again; of a local folder."""
    migrate: bool = False
    """Rewrite samples of an older schema version in this release's; of a local folder."""
    decode: bool = False
    """Also decode every picture (slow); else only their headers are read."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong."""

    where: str
    """File, or sample within a shard."""
    what: str


@dataclass(kw_only=True)
class ShardState:
    """One row of the table."""

    name: str
    samples: int = 0
    """That are whole."""
    expected: int = 0
    bytes: int = 0
    """That were read."""
    findings: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class Report:
    """What a check found."""

    spec: str
    shards: list[ShardState]
    findings: list[Finding]
    older: int = 0
    """Whole samples of an older schema version: no fault."""

    @property
    def samples(self) -> int:
        """Samples that are whole."""
        return sum(shard.samples for shard in self.shards)


def verify(spec: str, config: VerifyConfig | None = None) -> Report:
    """Check a folder of labels; changes nothing.

    Args:
        spec: a folder, or a URL of one (`https://`, `s3://BUCKET/PREFIX`, `hf://datasets/ORG/NAME[@REVISION]`).
        config: whether to decode pictures.

    Raises:
        FootfallError: no labels there, or out of reach.
    """
    settings = config or VerifyConfig()
    local = None if "://" in spec else Path(spec)
    folder = spec.rstrip("/").removesuffix("/shards")
    if local is not None and local.name == "shards" and not (local / MANIFEST_NAME).is_file():
        local = local.parent
    manifest, findings = _manifest(folder, local)
    opener: Open = (lambda name: (local / name).open("rb")) if local else (lambda name: open_url(f"{folder}/{name}"))
    rows, index_findings = _index(opener, manifest)
    findings += index_findings
    indexed = bool(rows) and not index_findings
    if local is not None and not indexed:  # rows of what can be read, to look into the samples all the same
        rows = {s["name"]: [row for row, _ in rows_of_shard(local / "shards" / s["name"])] for s in manifest["shards"]}
        indexed = True
    stones = read_tombstones(local) if local else Tombstones()
    check = _Check(manifest=manifest, stones=stones, decode=settings.decode, indexed=indexed)
    states = [check.shard(opener, shard, rows.get(shard["name"], [])) for shard in manifest["shards"]]
    findings += [Finding(where=state.name, what=what) for state in states for what in state.findings]
    findings += check.findings
    if indexed:
        findings += _counts(manifest, rows)
    findings += _gaussians(opener, manifest)
    if local is not None:
        findings += [
            Finding(
                where=path.relative_to(local).as_posix(), what="not in the manifest: left by a process that was stopped"
            )
            for path in find_strays(local, manifest)
        ]
    return Report(
        spec=shown(folder) if local is None else str(local), shards=states, findings=findings, older=check.older
    )


def _manifest(folder: str, local: Path | None) -> tuple[dict[str, Any], list[Finding]]:
    if local is None:
        try:
            return read_manifest(folder), []
        except OSError as error:
            raise FootfallError(
                f"{shown(folder)}/{MANIFEST_NAME}", got=error, expected="a manifest that can be read", do="try again"
            ) from None
    path = local / MANIFEST_NAME
    nothing: dict[str, Any] = {"shards": [], "clips": {}, "schema_version": SCHEMA_VERSION}
    if not any(tar for tar in (local / "shards").glob("*.tar")) and not path.is_file():
        raise FootfallError(
            f"folder {local}", got="no manifest.json and no shards", expected="a folder made by footfall label",
            do="check the path",
        )  # fmt: skip
    try:
        return check_manifest(read_json(path), str(path)), []
    except FootfallError as error:
        return nothing, [Finding(where=MANIFEST_NAME, what=f"cannot be read: {error.got}")]


def _index(opener: Open, manifest: Mapping[str, Any]) -> tuple[dict[str, list[Row]], list[Finding]]:
    """Rows by shard, and what is wrong with the index as a file."""
    where, facts = f"shards/{INDEX_NAME}", manifest.get("index") or {}
    rows: dict[str, list[Row]] = {}
    if not manifest["shards"] and not facts:
        return rows, []
    if manifest["schema_version"] == 1:  # there was none yet
        return rows, []
    try:
        with opener(where) as stream:
            hashed = _Hashed(stream)
            for row in read_index(hashed.readline, where):
                rows.setdefault(row.shard, []).append(row)
    except (OSError, FootfallError) as error:
        return {}, [Finding(where=where, what=_reason(error))]
    if hashed.digest.hexdigest() != facts.get("sha256"):
        return {}, [Finding(where=where, what="not the one that the manifest names")]
    lost = sorted(set(rows) - {shard["name"] for shard in manifest["shards"]})
    return rows, [Finding(where=where, what=f"rows of {name}, which is not in the manifest") for name in lost]


class _Hashed:
    """A stream of lines whose bytes are hashed as they pass."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.digest = stream, hashlib.sha256()

    def readline(self, limit: int) -> bytes:
        """The next line."""
        line = self.stream.readline(limit)
        self.digest.update(line)
        return line


@dataclass(kw_only=True)
class _Check:
    """What is remembered from shard to shard."""

    manifest: Mapping[str, Any]
    stones: Tombstones
    decode: bool
    indexed: bool
    """Whether rows can be relied on; else shards are only hashed."""
    findings: list[Finding] = field(default_factory=list)
    older: int = 0
    keys: set[str] = field(default_factory=set)
    parts: dict[tuple[str, float, float], str] = field(default_factory=dict)
    """(video, start, end) -> clip."""

    def shard(self, opener: Open, shard: Mapping[str, Any], rows: list[Row]) -> ShardState:
        """Read one shard from end to end."""
        state = ShardState(name=shard["name"], expected=shard["samples"])
        digest, position = hashlib.sha256(), 0
        try:
            with opener(f"shards/{shard['name']}") as stream:
                for row in rows:
                    piece = _read(stream, row.bytes)
                    digest.update(piece)
                    wrong = self.sample(row, piece, position)
                    position += len(piece)
                    state.samples += not wrong
                    state.findings += [f"{row.key}: {what}" for what in wrong[:1]]
                rest = _read(stream, len(end_of(position)) + 1) if rows else b""
                if rows and rest != end_of(position):
                    state.findings.append(
                        f"what follows the last sample, at byte {position}, is not the end of a tar file"
                    )
                digest.update(rest)
                position += len(rest)
                while part := stream.read(_PART):
                    digest.update(part)
                    position += len(part)
        except (OSError, FootfallError) as error:
            state.findings.append(_reason(error))
            state.bytes = position
            return state
        state.bytes = position
        if not self.indexed:
            state.samples = shard["samples"] if digest.hexdigest() == shard["sha256"] else 0
        if position != shard["bytes"]:
            state.findings.insert(0, f"{position} bytes, not {shard['bytes']}")
        elif digest.hexdigest() != shard["sha256"]:
            state.findings.insert(0, "another SHA-256 than in the manifest")
        if self.indexed and len(rows) != shard["samples"]:
            state.findings.append(f"{len(rows)} rows in the index, {shard['samples']} in the manifest")
        return state

    def sample(self, row: Row, piece: bytes, position: int) -> list[str]:
        """What is wrong with one sample."""
        if row.offset != position:
            return [f"the index says byte {row.offset}, it is at {position}"]
        if len(piece) < row.bytes:
            return [f"cut short: {len(piece)} of {row.bytes} bytes"]
        if hashlib.sha256(piece).hexdigest() != row.sha256:
            return ["another SHA-256 than in the index"]
        try:
            sample = from_piece(piece)
            wrong = self._agreement(row, sample, piece)
            _check_pictures(sample, self.decode)
        except (ValueError, TypeError, OSError) as error:  # FootfallError is a ValueError
            return [_reason(error)]
        self.older += is_older(piece)
        return wrong

    def _agreement(self, row: Row, sample: Sample, piece: bytes) -> list[str]:
        """Index and manifest against the sample itself, and against the samples before."""
        wrong: list[str] = []
        made = asdict(make_row(sample, shard=row.shard, offset=row.offset, piece=piece))
        if different := [name for name, value in asdict(row).items() if made[name] != value]:
            wrong.append(f"the index says another {different[0]}")
        facts = self.manifest["clips"].get(row.clip)
        if facts is None:
            wrong.append(f"clip {row.clip} is not in the manifest")
        elif other := [name for name, value in clip_facts(sample.meta).items() if facts.get(name, value) != value]:
            wrong.append(f"the manifest says another {other[0]} of clip {row.clip}")
        if row.key in self.keys:
            wrong.append("this key is there twice")
        self.keys.add(row.key)
        if row.source_sha256:
            part = (row.source_sha256, row.start_s, row.end_s)
            if (first := self.parts.setdefault(part, row.clip)) != row.clip:
                wrong.append(f"the same part of the same video as in clip {first}")
        if self.stones.covers(source=row.source, source_id=row.source_id, source_sha256=row.source_sha256):
            wrong.append(f"its source was withdrawn: run footfall forget {row.source_id} again")
        return wrong


def _check_pictures(sample: Sample, decode: bool) -> None:
    """Raise `ValueError` or `OSError` unless every frame and mask is a picture of the size in the meta."""
    wanted = tuple(sample.meta["size"])
    for number in range(len(sample.frames)):
        for picture in (sample.frame_size(number), sample.mask_size(number)):
            if picture != wanted:
                raise ValueError(f"picture {number} is {picture}, not {wanted}")
        if decode:
            sample.image(number)
            sample.mask(number)


def _counts(manifest: Mapping[str, Any], rows: Mapping[str, list[Row]]) -> Iterator[Finding]:
    """The manifest's counts against those of the index."""
    every = [row for shard in manifest["shards"] for row in rows.get(shard["name"], [])]
    facts = {row.clip: manifest["clips"].get(row.clip, {"licence": row.licence}) for row in every}
    own = {clip: {k: v for k, v in row.items() if k not in ("samples", "frames")} for clip, row in facts.items()}
    made = make_manifest(own, every, list(manifest["shards"]), {}, {}, {})
    for name in ("totals", "licences"):
        if made[name] != manifest.get(name):
            yield Finding(where=MANIFEST_NAME, what=f"{name} are {manifest.get(name)}, counted: {made[name]}")
    for clip in sorted({*made["clips"], *manifest["clips"]}):
        said, counted = manifest["clips"].get(clip, {}), made["clips"].get(clip, {})
        for name in ("samples", "frames", "seconds", "shards"):
            if said.get(name) != counted.get(name):
                yield Finding(
                    where=MANIFEST_NAME, what=f"clip {clip}: {name} {said.get(name)}, counted {counted.get(name)}"
                )
                break


def _gaussians(opener: Open, manifest: Mapping[str, Any]) -> Iterator[Finding]:
    for clip, row in (manifest.get("gaussians") or {}).items():
        for name, facts in row["files"].items():
            where = f"gaussians/{clip}/{name}"
            digest = hashlib.sha256()
            try:
                with opener(where) as stream:
                    while part := stream.read(_PART):
                        digest.update(part)
            except (OSError, FootfallError) as error:
                yield Finding(where=where, what=_reason(error))
                continue
            if digest.hexdigest() != facts["sha256"]:
                yield Finding(where=where, what="another SHA-256 than in the manifest")


def _read(stream: BinaryIO, size: int) -> bytes:
    """Exactly `size` bytes, fewer only at the end of the file."""
    if size > MAX_PIECE_BYTES:
        raise OSError(f"a sample of {size} bytes")
    parts: list[bytes] = []
    while size > 0 and (part := stream.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "missing"
    return str(error.got) if isinstance(error, FootfallError) else " ".join(str(error).split()) or type(error).__name__
