"""The same pictures again: exact copies by SHA-256 (`sources`), re-encoded or excerpted ones by perceptual hashes.

A hash is the sign pattern of a picture's lowest cosine frequencies (Zauner, "Implementation and benchmarking of
perceptual image hash functions", 2010; the package ImageHash), which scaling and compression hardly change. Shots are
compared as bags of hashes, so that excerpts are found as well. Only shots that share a quarter of some hash are
compared at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill.errors import require
from teacher.collect.config import DuplicatesConfig

Array = NDArray[Any]
PLAIN: Final = 6.0
"""Standard deviation of grey levels below which a picture is plain, and its hash means nothing."""
_BITS: Final = np.array([bin(value).count("1") for value in range(1 << 16)], np.uint8)


def picture_hash(image: Image.Image) -> str:
    """16 hexadecimal digits, or nothing for a plain picture."""
    if float(np.asarray(image.convert("L").resize((64, 64))).std()) < PLAIN:
        return ""
    return str(require("imagehash", extra="collect").phash(image))


def find_repeats(bags: Sequence[Sequence[str]], config: DuplicatesConfig) -> list[int | None]:
    """For every shot the first earlier one that it repeats, or None.

    Args:
        bags: hashes of each shot, the shots to be kept before others first.
        config: how alike is alike.
    """
    arrays = [_quarters(bag) for bag in bags]
    where: dict[tuple[int, int], set[int]] = defaultdict(set)
    repeats: list[int | None] = []
    for index, quarters in enumerate(arrays):
        keys = {(place, int(value)) for row in quarters for place, value in enumerate(row)}
        candidates = sorted(set().union(*(where.get(key, set()) for key in keys))) if keys else []
        repeats.append(next((k for k in candidates if _share_in(quarters, arrays[k], config) >= config.share), None))
        if repeats[-1] is None:
            for key in keys:
                where[key].add(index)
    return repeats


def _quarters(hashes: Sequence[str]) -> Array:
    """[N, 4] uint16 of the hashes that are there."""
    values = [[int(text[k : k + 4], 16) for k in range(0, 16, 4)] for text in hashes if text]
    return np.array(values, np.uint16).reshape(-1, 4)


def _share_in(shot: Array, other: Array, config: DuplicatesConfig) -> float:
    """Share of a shot's pictures that another one has too."""
    differing = _BITS[shot[:, None] ^ other[None]].sum(-1)
    return float((differing.min(1) <= config.bits).mean())
