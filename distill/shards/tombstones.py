"""Sources that were withdrawn: `OUT/forgotten.json`, so that nothing brings them back.

    {"format": "footfall-forgotten/1", "sources": [{"asked": SOURCE, "sha256": [of its videos], "clips": [ids]}]}

It holds what is needed to recognise them, and nothing of what they showed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from distill.errors import FootfallError
from distill.files import read_json, write_json

TOMBSTONES_NAME: Final = "forgotten.json"
TOMBSTONES_FORMAT: Final = "footfall-forgotten/1"


@dataclass(kw_only=True)
class Tombstone:
    """One withdrawal."""

    asked: str
    """The word that named the source: a source id, a source, or a video's SHA-256."""
    sha256: list[str] = field(default_factory=list)
    """Videos that went with it, under whatever name they come back."""
    clips: list[str] = field(default_factory=list)
    """Clips that went with it."""


class Tombstones:
    """All withdrawals of a folder, to ask about many clips."""

    def __init__(self, stones: Iterable[Tombstone] = ()) -> None:
        self.stones = list(stones)
        self._words = {stone.asked for stone in self.stones}
        self._videos = {digest for stone in self.stones for digest in stone.sha256}

    def covers(self, *, source: str, source_id: str, source_sha256: str) -> bool:
        """Whether a clip with this origin was withdrawn."""
        return source_sha256 in self._videos or bool({source, source_id, source_sha256} & self._words)


def read_tombstones(out: Path) -> Tombstones:
    """Withdrawals of a folder of labels; none where there is no file.

    Raises:
        FootfallError: a file that cannot be read: nothing may be labelled on a guess.
    """
    path = out / TOMBSTONES_NAME
    if not path.is_file():
        return Tombstones()
    content = read_json(path)
    try:
        if content["format"] != TOMBSTONES_FORMAT:
            raise ValueError(content["format"])
        return Tombstones([_stone(row) for row in content["sources"]])
    except (KeyError, TypeError, ValueError) as error:
        raise FootfallError(
            str(path), got=f"{type(error).__name__}: {error}", expected=TOMBSTONES_FORMAT,
            do="restore it: it says which sources must not come back",
        ) from None  # fmt: skip


def _stone(row: Any) -> Tombstone:
    stone = Tombstone(**row)
    if not stone.asked or not all(isinstance(text, str) for text in [stone.asked, *stone.sha256, *stone.clips]):
        raise ValueError(f"row {row!r}")
    return stone


def add_tombstone(out: Path, stone: Tombstone) -> None:
    """Write a withdrawal down; one of the same word grows."""
    stones = read_tombstones(out).stones
    for known in stones:
        if known.asked == stone.asked:
            known.sha256 = sorted({*known.sha256, *stone.sha256})
            known.clips = sorted({*known.clips, *stone.clips})
            break
    else:
        stones.append(stone)
    write_json(out / TOMBSTONES_NAME, {"format": TOMBSTONES_FORMAT, "sources": [asdict(stone) for stone in stones]})
