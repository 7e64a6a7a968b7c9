"""Read shards: each sample once per epoch over all processes and workers, in an order that can be repeated.

The order is a pure function of (seed, epoch), so a run that resumes at (epoch, batch) sees exactly what it
would have seen. Shards are divided between processes and their workers; when there are fewer shards than
those, every one reads all shards and takes every n-th sample instead (slower, but nothing is lost or seen
twice). Do not pass the loader to `accelerator.prepare`, which would divide it a second time.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeVar

import torch
import torch.utils.data
import webdataset as wds

from distill.errors import FootfallError
from distill.shards.members import tar_members
from distill.shards.remote import open_url, shown
from distill.shards.schema import Sample, from_members
from distill.shards.sources import ShardSet, find_shards

__all__ = ["ShardReader", "ShardSet", "find_shards", "mixed", "read_meta"]

log = logging.getLogger(__name__)
Item = TypeVar("Item")


MAX_WORKERS: Final = 256
"""Reading processes per training process whose damage is counted apart."""


class ShardReader(torch.utils.data.IterableDataset[Sample]):
    """Samples of this process, for one epoch at a time (`set_epoch`)."""

    def __init__(
        self, urls: list[str], *, seed: int, rank: int, world: int, shuffle: bool = True,
        wanted: Mapping[str, frozenset[str]] | None = None,
    ) -> None:  # fmt: skip
        """`rank` of `world` processes; `shuffle` also mixes samples within a window of a few dozen; `wanted`: shard ->
        the clips to read of it (`ShardSet.wanted`), None for all."""
        super().__init__()
        self.wanted = None if wanted is None else {shown(url): clips for url, clips in wanted.items()}
        self.urls, self.seed, self.rank, self.world, self.shuffle = urls, seed, rank, world, shuffle
        self.epoch = 0
        # One place per reading process, in memory that all of them share: nobody adds to another's number.
        self._skips = torch.zeros(1 + MAX_WORKERS, dtype=torch.int64).share_memory_()

    @property
    def skipped(self) -> int:
        """Damaged pieces left out so far, by this process and by the workers that read for it."""
        return int(self._skips.sum())

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Sample]:
        worker = torch.utils.data.get_worker_info()
        part = self.rank * (worker.num_workers if worker else 1) + (worker.id if worker else 0)
        parts = self.world * (worker.num_workers if worker else 1)
        urls = list(self.urls)
        random_order = random.Random(f"{self.seed}/{self.epoch}")  # a string seed is stable between runs
        if self.shuffle:
            random_order.shuffle(urls)
        by_shard = len(urls) >= parts
        samples = self._samples(urls[part::parts], 0, 1) if by_shard else self._samples(urls, part, parts)
        return mixed(samples, random_order) if self.shuffle else samples

    def _samples(self, urls: list[str], part: int, parts: int) -> Iterator[Sample]:
        """Decode every `parts`-th sample, from `part` on; a damaged one is counted, reported and left out."""
        grouped = wds.tariterators.group_by_keys(self._members(urls), handler=self.skip)
        for index, raw in enumerate(filter(self._is_wanted, grouped)):
            if index % parts == part:
                try:
                    yield from_members(raw)
                except ValueError as error:
                    self.skip(error)

    def _is_wanted(self, raw: dict[str, Any]) -> bool:
        """Whether a sample is of a clip that is to be read; a damaged one is, so that it is counted."""
        if self.wanted is None:
            return True
        try:
            return json.loads(raw["json"])["clip"] in self.wanted.get(raw["__url__"], ())
        except (KeyError, ValueError, TypeError, RecursionError):
            return True

    def _members(self, urls: list[str]) -> Iterator[dict[str, Any]]:
        """Members of tar files, one after the other."""
        for url in urls:
            try:
                stream = open_url(url)
            except OSError as error:
                self.skip(OSError(f"{shown(url)}: {error}"))
                continue
            with stream:
                yield from tar_members(stream, shown(url), self.skip)

    def skip(self, error: Exception) -> bool:
        """Go on after a fault, but never silently; also webdataset's handler. Another schema stops everything."""
        if isinstance(error, FootfallError):
            raise error
        worker = torch.utils.data.get_worker_info()
        own = self._skips[0 if worker is None else 1 + worker.id % MAX_WORKERS]
        own += 1
        if own <= 3 or own % 100 == 0:
            log.warning("skipped %d damaged pieces so far; the last: %s", own, error)
        return True


def mixed(items: Iterator[Item], order: random.Random, window: int = 32) -> Iterator[Item]:
    """Shuffle within a sliding window; what waits there is still compressed, so it is cheap."""
    held: list[Item] = []
    for item in items:
        held.append(item)
        if len(held) >= window:
            yield held.pop(order.randrange(len(held)))
    order.shuffle(held)
    yield from held


def read_meta(url: str) -> dict[str, Any]:
    """Meta of the first sample of a shard.

    Raises:
        FootfallError: the shard holds no readable sample.
    """
    for sample in ShardReader([url], seed=0, rank=0, world=1, shuffle=False):
        return sample.meta
    raise FootfallError(f"shard {shown(url)}", got="no readable sample", expected="a shard", do="pack the clips again")
