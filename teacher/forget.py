"""`footfall forget`: a source withdraws, and everything made of it goes.

The steps, each of which can be cut off and done again by the same command:

1. The withdrawal is written down (`forgotten.json`); from here on nothing labels or packs the source again.
2. Entries of feature caches that were made from its pictures are deleted, while the pictures are still there to ask by.
3. Its samples leave the shards that hold them: the others in these shards move to new ones, the manifest is replaced,
   the old shards are deleted.
4. Its Gaussians and the workspaces of its clips are deleted; from the blurred copy (`blurred/`), where there is one,
   its samples go as in 3.
5. The statistics page is made again, as its pictures may show the source.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from distill.errors import FootfallError
from distill.feature_search import find_entries
from distill.shards.blurred import COPY_NAME
from distill.shards.labels import Labels, folder_lock, read_labels
from distill.shards.sources import find_shards, read_manifest
from distill.shards.statistics import write_statistics
from distill.shards.tombstones import Tombstone, add_tombstone, read_tombstones
from distill.shards.withdraw import Withdrawal, find_videos, plan_withdrawal, withdraw, withdrawn_samples
from teacher import locks
from teacher.workspace import ClipFolder

_GOING: Final = ".forgotten"
"""Workspaces wait here for their deletion: moved at once, so that none is half there."""


@dataclass(kw_only=True)
class ForgetConfig:
    """`footfall forget`."""

    dry_run: bool = False
    """Only say what would go."""
    caches: list[str] = field(default_factory=list)
    """Feature caches (`data.feature_cache`) to be searched, besides those of the runs."""
    runs: list[str] = field(default_factory=lambda: ["runs"])
    """Folders of training runs: those that read these labels are named, and their feature caches searched."""


@dataclass(kw_only=True)
class Plan:
    """What goes."""

    packed: Withdrawal
    workspaces: list[str]
    """Clips whose folders go."""
    caches: dict[str, list[Path]]
    """Feature cache -> its entries that go."""
    runs: list[str]
    """Training runs that read the labels: their students have seen the source."""
    manifest: dict[str, Any]
    """Of the labels, before."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing of the source is there."""
        return not (self.packed.clips or self.workspaces or any(self.caches.values()))


def plan_forget(asked: str, place: str, config: ForgetConfig) -> Plan:
    """What would go; changes nothing.

    Args:
        asked: source id, source, SHA-256 of a video, or clip.
        place: folder of labels, or a URL of one (then shards only).
        config: caches and runs.

    Raises:
        FootfallError: no labels there, or nothing known of such a source.
    """
    if not asked.strip():
        raise FootfallError("source", got="an empty word", expected="a source id, a source or a clip", do="name it")
    if "://" in place:
        manifest = read_manifest(place.rstrip("/"))
        videos = find_videos(asked, manifest["clips"])
        packed = plan_withdrawal(asked, manifest, videos, None)
        plan = Plan(packed=packed, workspaces=[], caches={}, runs=[], manifest=manifest)
        _check_known(asked, place, plan, [])
        return plan
    out = Path(place)
    labels = read_labels(out)
    if labels is None and not (out / "clips").is_dir():
        raise FootfallError(
            f"folder {out}", got="no manifest.json and no clips", expected="a folder made by footfall label",
            do="check the path",
        )  # fmt: skip
    return _plan(asked, out, labels, config)


def _plan(asked: str, out: Path, labels: Labels | None, config: ForgetConfig) -> Plan:
    manifest = labels.manifest if labels is not None else {"clips": {}, "shards": []}
    origins = {clip.id: _origin(clip) for clip in _workspaces(out)}
    stones = [stone for stone in read_tombstones(out).stones if stone.asked == asked]
    videos = find_videos(asked, manifest["clips"], origins)
    videos |= {digest for stone in stones for digest in stone.sha256}
    packed = plan_withdrawal(asked, manifest, videos, labels)
    workspaces = [
        clip for clip, row in origins.items()
        if asked in row.values() or (row["source_sha256"] and row["source_sha256"] in packed.videos)
        or clip in packed.clips
    ]  # fmt: skip
    runs = list(_runs_on(out, config.runs))
    caches = sorted({*config.caches, *(cache for _, cache in runs if cache)})
    plan = Plan(packed=packed, workspaces=workspaces, caches={}, runs=[run for run, _ in runs], manifest=manifest)
    if labels is not None:
        plan.caches = {cache: _entries(Path(cache), labels, packed) for cache in caches}
    _check_known(asked, str(out), plan, stones)
    return plan


def _check_known(asked: str, place: str, plan: Plan, stones: Sequence[Tombstone]) -> None:
    if plan.is_empty and not stones:
        known = sorted({row.get("source_id") or row["source"] for row in plan.manifest["clips"].values()})
        raise FootfallError(
            f"source {asked!r} in {place}", got="no clip of that source", expected="a source id, a source, the SHA-256 "
            f"of a video or a clip; source ids begin with {', '.join(known[:5]) or 'none'}", do="check the name",
        )  # fmt: skip


def forget(asked: str, out: Path, config: ForgetConfig) -> Plan:
    """Do it; returns what went. Done again after it was cut off, it goes on.

    Raises:
        FootfallError: as `plan_forget`; a labelling run works on the folder.
    """
    with locks.hold(out) as mine:
        if not mine:
            raise FootfallError(
                f"folder {out}", got=f"{locks.read_owner(out) or 'another process'} is working on it",
                expected="a folder that nobody works on", do="stop the labelling run, then forget, then go on",
            )  # fmt: skip
        with folder_lock(out):
            return _forget(asked, out, config)


def _forget(asked: str, out: Path, config: ForgetConfig) -> Plan:
    labels = read_labels(out)
    plan = _plan(asked, out, labels, config)
    add_tombstone(out, plan.packed.stone(set(plan.workspaces)))
    if labels is not None:
        for entries in plan.caches.values():
            for entry in entries:
                entry.unlink(missing_ok=True)
        # Also where nothing of the source is left: it deletes what a killed writer has left beside the labels.
        plan.manifest = withdraw(labels, plan.packed)
        _remove_gaussians(out, plan.manifest)
    copy = read_labels(out / COPY_NAME)
    if copy is not None:
        manifest = withdraw(copy, plan_withdrawal(asked, copy.manifest, plan.packed.videos, copy))
        _remove_gaussians(copy.out, manifest)
        write_statistics(copy.out, manifest)
    _remove_workspaces(out, plan.workspaces)
    if labels is not None:
        write_statistics(out, plan.manifest)
    return plan


def _workspaces(out: Path) -> Iterator[ClipFolder]:
    for path in sorted((out / "clips").glob("*/clip.json")):
        yield ClipFolder(path.parent)


def _origin(clip: ClipFolder) -> dict[str, str]:
    source = clip.source
    return {"source": source.source, "source_id": source.source_id, "source_sha256": source.sha256}


def _entries(cache: Path, labels: Labels, packed: Withdrawal) -> list[Path]:
    samples = withdrawn_samples(labels, packed)
    return find_entries(cache, (((int(s.meta["size"][0]), int(s.meta["size"][1])), s.frames) for s in samples))


def _runs_on(out: Path, folders: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(run, its feature cache or "") of every training run that read these labels."""
    shards = (out / "shards").resolve()
    for folder in map(Path, folders):
        for path in sorted({*folder.glob("log/config.yaml"), *folder.glob("*/log/config.yaml")}):
            try:
                data = yaml.safe_load(path.read_text(encoding="utf-8"))["data"]
                read = [spec for spec in (data["shards"], data["held_out_shards"]) if spec and "://" not in spec]
                urls = [url for spec in read for url in find_shards(spec).urls]
            except (OSError, yaml.YAMLError, KeyError, TypeError, FootfallError):
                continue  # no run of ours, or its shards are gone
            if any(Path(url).resolve().parent == shards for url in urls):
                yield str(path.parent.parent), data.get("feature_cache") or ""


def _remove_gaussians(out: Path, manifest: dict[str, Any]) -> None:
    for folder in (out / "gaussians").glob("*"):
        if folder.name not in (manifest.get("gaussians") or {}):
            shutil.rmtree(folder)


def _remove_workspaces(out: Path, clips: Sequence[str]) -> None:
    going = out / _GOING
    if going.exists():  # of a run that was killed
        shutil.rmtree(going)
    for clip in clips:
        going.mkdir(exist_ok=True)
        (out / "clips" / clip).rename(going / clip)
    if clips:
        shutil.rmtree(going)
