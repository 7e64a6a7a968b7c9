"""A sample as a piece of a tar file.

A tar file is a row of 512-byte blocks, so the members of a sample (header, data, padding, one after another) are one
piece of bytes that is the same wherever it lies: it can be hashed, fetched by its offset and moved to another shard
without being decoded. Headers carry no time, owner or mode of their own.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from distill.shards.schema import MAX_FRAMES, SCHEMA_VERSION, Sample, from_members, to_members

BLOCK: Final = tarfile.BLOCKSIZE
MAX_PIECE_BYTES: Final = 1 << 30
"""No sample is larger; a larger claim is refused before memory is taken."""
MAX_MEMBERS: Final = 2 + 2 * MAX_FRAMES
_LONGEST_NAME: Final = 100
"""Bytes of a name that the header itself holds."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a sample lies in a tar file."""

    key: str
    offset: int
    """Of its first header, bytes."""
    bytes: int
    """Of the whole piece, headers and padding included."""


def to_piece(sample: Sample) -> bytes:
    """A checked sample as tar blocks.

    Raises:
        ValueError: it breaks the contract of `schema`.
    """
    return piece_of(to_members(sample))


def piece_of(members: Mapping[str, bytes]) -> bytes:
    """Tar blocks of members, in their order."""
    blocks: list[bytes] = []
    for name, data in members.items():
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), 0o644
        plain = len(name) <= _LONGEST_NAME
        header = info.tobuf(tarfile.USTAR_FORMAT) if plain else info.tobuf(tarfile.GNU_FORMAT)
        blocks += [header, data, b"\0" * (-len(data) % BLOCK)]
    return b"".join(blocks)


def raw_members(piece: bytes) -> dict[str, Any]:
    """`__key__`, and extension -> data: what webdataset yields of a piece, and `from_members` takes.

    Raises:
        ValueError: not the members of one sample.
    """
    raw: dict[str, Any] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(piece), mode="r:") as tar:
            for info in tar:
                key, _, ending = info.name.partition(".")
                if not info.isreg() or raw.setdefault("__key__", key) != key or ending in raw or len(raw) > MAX_MEMBERS:
                    raise ValueError(f"member {info.name!r} does not belong there")
                stream = tar.extractfile(info)
                assert stream is not None  # a regular file
                raw[ending] = stream.read()
                if len(raw[ending]) != info.size:
                    raise ValueError(f"member {info.name!r} is cut short")
    except (tarfile.TarError, EOFError, OverflowError) as error:
        raise ValueError(f"no tar members: {error}") from error
    if not raw:
        raise ValueError("no tar members")
    return raw


def from_piece(piece: bytes) -> Sample:
    """The sample of a piece.

    Raises:
        FootfallError: a schema version that is not known.
        ValueError: damaged.
    """
    return from_members(raw_members(piece))


def is_older(piece: bytes) -> bool:
    """Whether a whole sample was written in an older schema version."""
    return bool(json.loads(raw_members(piece)["json"])["schema_version"] != SCHEMA_VERSION)


def find_places(path: Path) -> Iterator[Place]:
    """Samples of a local tar file in order, by their headers; ends where the file is damaged."""
    size = path.stat().st_size
    key, start, end = "", 0, 0
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                after = info.offset_data + info.size + -info.size % BLOCK
                if after > size:
                    break
                stem = info.name.partition(".")[0]
                if stem != key:
                    if key:
                        yield Place(key=key, offset=start, bytes=end - start)
                    key, start = stem, info.offset
                end = after
    except (tarfile.TarError, EOFError, OverflowError):
        pass  # what was whole before the damage is given; hashes and counts tell what is missing
    if key:
        yield Place(key=key, offset=start, bytes=end - start)


def end_of(length: int) -> bytes:
    """What closes a tar file of `length` bytes of members: two empty blocks, filled up to a whole record."""
    return b"\0" * (2 * BLOCK + -(length + 2 * BLOCK) % tarfile.RECORDSIZE)
