"""Training and validation by source: what shares a video or a source id is on one side, and the side is a hash.

Clips are joined into families (same video file, same source id; shots of a video share its file). A family is held
out if the SHA-256 of its name, as a number in [0, 1), is less than the share that was asked for: the side does not
depend on the order, the number or the place of the clips, and a larger share holds out those of a smaller one too. A
family is named by the least of its videos' and sources' names; only a clip that joins two families can move one of
them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

from distill.data_config import DataConfig
from distill.errors import FootfallError
from distill.shards.sources import ShardSet, find_shards, folder_of

Clip = tuple[str, str]
"""Folder of shards and name of a clip in it."""
_SCALE: Final = 1 << 64


def families(clips: Mapping[Clip, Mapping[str, Any]]) -> dict[Clip, str]:
    """Name of each clip's family.

    Args:
        clips: rows of manifests (`source_id`, `source_sha256`).
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    tokens = {clip: _tokens(clip, facts) for clip, facts in clips.items()}
    for names in tokens.values():
        first = root(names[0])
        for other in map(root, names[1:]):
            first, other = min(first, other), max(first, other)
            parent[other] = first  # the least name stays the root
    return {clip: root(names[0]) for clip, names in tokens.items()}


def _tokens(clip: Clip, facts: Mapping[str, Any]) -> list[str]:
    """What a clip may share with its siblings."""
    tokens = [f"{name}:{facts[name]}" for name in ("source_id", "source_sha256") if facts.get(name)]
    return tokens or [f"clip:{clip[0]}/{clip[1]}"]


def is_held_out(family: str, share: float) -> bool:
    """Whether a family is on the side of validation."""
    number = int.from_bytes(hashlib.sha256(family.encode()).digest()[:8], "big")
    return number < share * _SCALE


def split_shards(found: ShardSet, share: float, side: Literal["train", "val"]) -> ShardSet:
    """The part of some shards that is on one side.

    Args:
        found: shards whose folders have manifests.
        share: of the sources that are held out, 0 to 1.
        side: "val" is what is held out, "train" the rest.

    Raises:
        FootfallError: shards without a manifest, or nothing on that side.
    """
    bare = sorted({folder_of(url) for url in found.urls} - set(found.manifests))
    if bare:
        raise FootfallError(
            "data.val_share", got=f"no manifest beside {bare[0]}", expected="manifest.json, which names the sources",
            do="copy it there, run footfall verify DIR repair=true, or name data.held_out_shards",
        )  # fmt: skip
    rows = {
        (folder, clip): row for folder, content in found.manifests.items() for clip, row in content["clips"].items()
    }
    chosen = {clip for clip, family in families(rows).items() if is_held_out(family, share) == (side == "val")}
    wanted: dict[str, frozenset[str]] = {}
    for folder, clips in _by_folder(chosen).items():
        for url in (url for url in found.urls if folder_of(url) == folder):
            name = url.partition("?")[0].rpartition("/")[2]
            here = frozenset(clip for clip in clips if name in rows[folder, clip]["shards"])
            if here:
                wanted[url] = here
    urls = [url for url in found.urls if url in wanted]
    if not urls:
        raise FootfallError(
            f"data.val_share={share}", got=f"no source on the side {side!r} of {len(set(families(rows).values()))}",
            expected="sources on both sides", do="choose another share, or name data.held_out_shards",
        )  # fmt: skip
    return ShardSet(urls=urls, samples=_count(found, rows, chosen), manifests=found.manifests, wanted=wanted)


def _by_folder(clips: Iterable[Clip]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for folder, clip in sorted(clips):
        grouped.setdefault(folder, []).append(clip)
    return grouped


def _count(found: ShardSet, rows: Mapping[Clip, Mapping[str, Any]], chosen: set[Clip]) -> int | None:
    """Samples of the chosen clips; None if only some shards of a folder were asked for."""
    names = {url.partition("?")[0] for url in found.urls}
    for folder, content in found.manifests.items():
        if any(f"{folder}/{shard['name']}" not in names for shard in content["shards"]):
            return None
    return sum(rows[clip]["samples"] for clip in chosen)


def find_sides(config: DataConfig) -> tuple[ShardSet, ShardSet | None]:
    """Shards to train on and shards to evaluate on, None without any (`data.shards`, `held_out_shards`, `val_share`).

    Raises:
        FootfallError: nothing is found, or nothing on one side.
    """
    shards = find_shards(config.shards)
    held_out = find_shards(config.held_out_shards) if config.held_out_shards else None
    if config.val_share > 0:
        held_out = held_out or split_shards(shards, config.val_share, "val")
        shards = split_shards(shards, config.val_share, "train")
    return shards, held_out
