"""Members of a shard that is read from its beginning, as webdataset groups them into samples.

webdataset's own iterator reads what a header claims, and unpacks compressed archives. Here a member is read only if its
sample stays below `MAX_PIECE_BYTES`, and a shard is a plain tar file: nothing in it can unfold.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from typing import IO, Any

from distill.shards.tarred import MAX_PIECE_BYTES


def tar_members(
    stream: IO[bytes], url: str, skip: Callable[[Exception], bool], *, most: int = MAX_PIECE_BYTES
) -> Iterator[dict[str, Any]]:
    """Regular members in order, then an empty dictionary: the end of the shard, where no sample goes on.

    Args:
        stream: of the shard, from its beginning. url: what may be shown of its address. skip: told of the fault at
            which reading ends. most: bytes of one sample.

    Yields:
        {"fname": name, "data": bytes, "__url__": url}.
    """
    key, held = "", 0
    try:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for info in tar:
                if not info.isreg():
                    continue
                stem = info.name.partition(".")[0]
                key, held = stem, info.size + (held if stem == key else 0)
                if held > most:
                    raise ValueError(f"{held} bytes in sample {stem!r}, more than {most}")
                content = tar.extractfile(info)
                assert content is not None  # a regular member
                yield {"fname": info.name, "data": content.read(), "__url__": url}
                tar.members = []  # type: ignore[attr-defined]  # else they pile up
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        skip(ValueError(f"{url}: {error}"))
    yield {}
