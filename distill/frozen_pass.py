"""What the frozen backbone says about a batch: computed, or taken from the cache, in one form for the losses."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from distill.feature_cache import FeatureCache
from distill.models.backbones import FrozenBackbone, Pair, Tokens


@dataclass(kw_only=True)
class FrozenPass:
    """The backbone's part of a batch of B windows of V frames."""

    frames: list[Tokens]
    """V entries of B images each."""
    pairs: dict[tuple[int, int], Pair]
    """Ordered pairs (i, j), i < j, of B each: the last decoder layer alone, and thinned points of view a."""


def point_stride(patch: int) -> int:
    """Every n-th point across and down is kept: a quarter of a patch or less, so that each joint still meets a
    point of the surface it belongs to."""
    return 4 if patch % 4 == 0 else 2


def as_floats(images: Tensor) -> Tensor:
    """Images as networks take them, in [0, 1]; windows carry bytes as far as the device."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def run_backbone(
    backbone: FrozenBackbone, batch: dict[str, Any], *, points: bool, cache: FeatureCache | None = None
) -> FrozenPass:
    """Encode each frame once and decode each ordered pair; rows that came from the cache are not computed.

    Args:
        backbone: frozen.
        batch: `images` [B, V, 3, H, W], and of the rows that `cached` (B times bool; absent: none) marks also
            `features`, `pair_tokens` and `pair_points` (`FeatureCache.read_window`), in their order.
        points: whether pairs shall have points.
        cache: where computed rows are stored under the batch's `frame_keys`; None stores nothing.
    """
    images = batch["images"]
    if any(batch.get("cached", ())):
        images = images[~torch.tensor(batch["cached"])]
    count, (height, width) = images.shape[1], images.shape[-2:]
    patch = backbone.module.patch_size
    grid, size = (height // patch, width // patch), (width, height)
    order = list(combinations(range(count), 2))
    frames: list[Tokens] = []
    pairs: dict[tuple[int, int], Pair] = {}
    if len(images):
        tokens = backbone.encode(as_floats(images).flatten(0, 1))
        frames = [tokens[i::count] for i in range(count)]
        for i, j in order:
            pairs[i, j] = _thin(backbone.decode(frames[i], frames[j], points=points), point_stride(patch))
        if cache is not None:
            _store(cache, batch, frames, pairs)
    if not any(batch.get("cached", ())):
        return FrozenPass(frames=frames, pairs=pairs)
    stored = _Merge(batch["cached"], images.device)
    features = [stored(batch["features"][:, i], frames[i].features if frames else None) for i in range(count)]
    merged: dict[tuple[int, int], Pair] = {}
    for number, key in enumerate(order):
        fresh = pairs.get(key)
        last = batch["pair_tokens"][:, number]
        merged[key] = Pair(
            tokens_a=[stored(last[:, 0], fresh.tokens_a[-1] if fresh else None)],
            tokens_b=[stored(last[:, 1], fresh.tokens_b[-1] if fresh else None)],
            points_a=stored(batch["pair_points"][:, number], fresh.points_a if fresh else None) if points else None,
        )
    return FrozenPass(frames=[Tokens(features=f, grid=grid, size=size) for f in features], pairs=merged)


class _Merge:
    """Puts stored (float16) and computed rows back into the order of the batch."""

    def __init__(self, cached: list[bool], device: torch.device) -> None:
        self.count = len(cached)
        self.old = torch.tensor([row for row, old in enumerate(cached) if old], device=device)
        self.new = torch.tensor([row for row, old in enumerate(cached) if not old], device=device, dtype=torch.long)

    def __call__(self, stored: Tensor, computed: Tensor | None) -> Tensor:
        dtype = torch.float32 if computed is None else computed.dtype
        merged = stored.new_empty((self.count, *stored.shape[1:]), dtype=dtype)
        merged[self.old] = stored.to(dtype)
        if computed is not None:
            merged[self.new] = computed
        return merged


def _thin(pair: Pair, stride: int) -> Pair:
    """The last layer and every `stride`-th point, from the middle of its cell."""
    points = pair.points_a
    if points is not None:
        points = points[:, stride // 2 :: stride, stride // 2 :: stride].clone()  # lets go of the dense ones
    return Pair(tokens_a=pair.tokens_a[-1:], tokens_b=pair.tokens_b[-1:], points_a=points)


def _store(
    cache: FeatureCache, batch: dict[str, Any], frames: list[Tokens], pairs: dict[tuple[int, int], Pair]
) -> None:
    """Write the computed rows' frames and pairs."""
    keys = [row for row, old in zip(batch["frame_keys"], batch["cached"], strict=True) if not old]
    for row, names in enumerate(keys):
        for name, tokens in zip(names, frames, strict=True):
            cache.write(name, {"features": tokens.features[row]})
        for (i, j), pair in pairs.items():
            entry = {"tokens_a": pair.tokens_a[-1][row], "tokens_b": pair.tokens_b[-1][row]}
            if pair.points_a is not None:
                entry["points_a"] = pair.points_a[row]
            cache.write(cache.pair_key(names[i], names[j]), entry)
