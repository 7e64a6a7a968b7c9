"""Find what a feature cache holds of given pictures, whatever backbone and size it was made for.

Entries are named by hashes (`feature_cache.FeatureCache`), so they can only be asked for: of each picture, plain and
mirrored, at every network size that an encoder may have, and then of the ordered pairs of a sample's frames. A network
size is that of the backbone's long side with the picture's aspect kept, so few are possible for each long side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import permutations
from pathlib import Path
from typing import Final

from distill.feature_cache import SUFFIX, FeatureCache

MULTIPLES: Final = (8, 14, 16, 32)
"""Sides of networks are multiples of one of these, pixels."""
LONGEST_SIDE: Final = 1536


@lru_cache(maxsize=64)
def network_sizes(size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Every (width, height) to which an image of (width, height) may be resized (`Preprocessing.network_size`)."""
    found = set[tuple[int, int]]()
    for multiple in MULTIPLES:
        for long_side in range(multiple, LONGEST_SIDE + 1, multiple):
            scale = long_side / max(size)
            exact = [side * scale / multiple for side in size]
            for widths in (int(exact[0]), int(exact[0]) + 1):
                for heights in (int(exact[1]), int(exact[1]) + 1):
                    if min(widths, heights) > 0:
                        found.add((widths * multiple, heights * multiple))
    return tuple(sorted(found))


def find_entries(cache: Path, samples: Iterable[tuple[tuple[int, int], Sequence[bytes]]]) -> list[Path]:
    """Files of a cache that were made from these pictures, of all backbones.

    Args:
        cache: its folder (`data.feature_cache`).
        samples: (width, height) of the frames, and the picture files of one sample; pairs are looked for within it.
    """
    stored: dict[str, list[Path]] = {}
    for path in cache.glob(f"*/*/*{SUFFIX}"):
        stored.setdefault(path.name.removesuffix(SUFFIX), []).append(path)
    found = set[Path]()
    for size, pictures in samples if stored else ():
        sizes, keys = network_sizes(size), set[str]()
        for picture in pictures:
            keys |= _frame_keys(picture, sizes) & stored.keys()
        pairs = {FeatureCache.pair_key(a, b) for a, b in permutations(keys, 2)} & stored.keys()
        found.update(path for key in keys | pairs for path in stored[key])
    return sorted(found)


def _frame_keys(picture: bytes, sizes: Iterable[tuple[int, int]]) -> set[str]:
    """`FeatureCache.frame_key` for many sizes; the picture is hashed once."""
    begun = hashlib.sha256(picture)
    keys = set[str]()
    for width, height in sizes:
        for mirrored in (False, True):
            digest = begun.copy()
            digest.update(f"|{width}x{height}|{mirrored}".encode())
            keys.add(digest.hexdigest())
    return keys
