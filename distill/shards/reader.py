"""Read shards: each sample once per epoch over all processes and workers, in an order that can be repeated.

The order is a pure function of (seed, epoch), so a run that resumes at (epoch, batch) sees exactly what it
would have seen. Shards are divided between processes and their workers; when there are fewer shards than
those, every one reads all shards and takes every n-th sample instead (slower, but nothing is lost or seen
twice). Do not pass the loader to `accelerator.prepare`, which would divide it a second time.
"""

from __future__ import annotations

import glob
import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch.utils.data
import webdataset as wds

from distill.errors import FootfallError
from distill.files import read_json
from distill.shards.schema import SCHEMA_VERSION, Sample, from_members
from distill.shards.writer import MANIFEST_FORMAT

log = logging.getLogger(__name__)
Item = TypeVar("Item")


@dataclass(kw_only=True)
class ShardSet:
    """Shards to read, and how many samples are in them if a manifest says so."""

    urls: list[str]
    samples: int | None
    """Total over all shards, or None if there is no manifest."""


def find_shards(spec: str) -> ShardSet:
    """Resolve a folder (of shards, or of labels), a file, a glob, or a URL with braces: `https://.../{000000..000009}.tar`,
    `s3://BUCKET/...`, `hf://datasets/ORG/NAME/...`.

    Raises:
        FootfallError: nothing is found, or the manifest beside the shards is of another schema.
    """
    if spec.startswith("hf://"):
        return ShardSet(urls=[_from_hub(url) for url in wds.shardlists.expand_urls(spec)], samples=None)
    if spec.startswith("s3://"):
        return ShardSet(urls=[f"pipe:aws s3 cp {url} -" for url in wds.shardlists.expand_urls(spec)], samples=None)
    if "://" in spec:
        return ShardSet(urls=list(wds.shardlists.expand_urls(spec)), samples=None)
    path = Path(spec)
    if (path / "shards").is_dir():  # a labelling folder
        path = path / "shards"
    folder = path if path.is_dir() else None
    urls = sorted(str(p) for p in path.glob("*.tar")) if folder else sorted(glob.glob(spec))  # noqa: PTH207
    if not urls:
        raise FootfallError(
            f"data.shards={spec}", got="no .tar file", expected="shards made by footfall label",
            do="label some clips first, or correct the path",
        )  # fmt: skip
    manifest = (folder.parent if folder else Path(urls[0]).parent.parent) / "manifest.json"
    return ShardSet(urls=urls, samples=_count(manifest, urls) if manifest.is_file() else None)


def _count(manifest: Path, urls: list[str]) -> int:
    content = read_json(manifest)
    if content.get("format") != MANIFEST_FORMAT or content.get("schema_version") != SCHEMA_VERSION:
        raise FootfallError(
            f"manifest {manifest}", got=f"{content.get('format')} schema {content.get('schema_version')}",
            expected=f"{MANIFEST_FORMAT} schema {SCHEMA_VERSION}", do="pack the clips again with this release",
        )  # fmt: skip
    samples = {shard["name"]: shard["samples"] for shard in content["shards"]}
    return sum(samples.get(Path(url).name, 0) for url in urls)


def _from_hub(url: str) -> str:
    """hf://datasets/ORG/NAME/PATH -> path of the file in the local cache."""
    from huggingface_hub import hf_hub_download

    kind, organisation, name, path = url.removeprefix("hf://").split("/", 3)
    return hf_hub_download(f"{organisation}/{name}", path, repo_type=kind.removesuffix("s"))


class ShardReader(torch.utils.data.IterableDataset[Sample]):
    """Samples of this process, for one epoch at a time (`set_epoch`)."""

    def __init__(self, urls: list[str], *, seed: int, rank: int, world: int, shuffle: bool = True) -> None:
        """`rank` of `world` processes; `shuffle` also mixes samples within a window of a few dozen."""
        super().__init__()
        self.urls, self.seed, self.rank, self.world, self.shuffle = urls, seed, rank, world, shuffle
        self.epoch = 0
        self.skipped = 0
        """Damaged pieces left out so far, in this process."""

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
        samples = self._samples(urls[part::parts] if by_shard else urls)
        if not by_shard:
            samples = (sample for index, sample in enumerate(samples) if index % parts == part)
        return mixed(samples, random_order) if self.shuffle else samples

    def _samples(self, urls: list[str]) -> Iterator[Sample]:
        """Decode samples one by one; a damaged one is counted, reported and left out."""
        streams = wds.tariterators.url_opener(({"url": url} for url in urls), handler=self.skip)
        files = wds.tariterators.tar_file_expander(streams, handler=self.skip)
        for raw in wds.tariterators.group_by_keys(files, handler=self.skip):
            try:
                yield from_members(raw)
            except ValueError as error:
                self.skip(error)

    def skip(self, error: Exception) -> bool:
        """Go on after a fault, but never silently; also webdataset's handler. Another schema stops everything."""
        if isinstance(error, FootfallError):
            raise error
        self.skipped += 1
        if self.skipped <= 3 or self.skipped % 100 == 0:
            log.warning("skipped %d damaged pieces so far; the last: %s", self.skipped, error)
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
    raise FootfallError(f"shard {url}", got="no readable sample", expected="a shard", do="pack the clips again")
