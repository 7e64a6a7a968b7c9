"""`footfall bench label`: what labelling costs, stage by stage, and an estimate for a collection.

Clips are labelled by the stages' own code, one stage after the other in this process, each timed by the wall clock and
by processor time (which other programs on the machine do not lengthen) and with its peak of memory. All is scaled to
an hour of video. The bill follows from processor time: embedded initialisers run on cores, so a machine with a GPU
labels as many clips at a time as it has cores for each GPU, and what it costs is stated per hour of that GPU.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from distill.config import config_hash, config_to_dict, load_config
from distill.errors import FootfallError
from teacher.benchmark.memory import peak_megabytes, reset_peak
from teacher.benchmark.provenance import provenance
from teacher.config import LabelConfig
from teacher.initialisers.student.config import init_overrides
from teacher.manifest import read_inputs
from teacher.progress import Progress
from teacher.stagefiles import Frames
from teacher.stages import STAGES, run_stages
from teacher.workspace import ClipFolder, ClipSource

FORMAT: Final = "footfall-bench/1"
HOUR: Final = 3600.0


@dataclass(kw_only=True)
class Bench:
    """`footfall bench label`."""

    data: str = "footsteps-v1"
    """Collection of drawn clips, by name, if no videos are given."""
    clips: list[str] = field(default_factory=lambda: ["flat-walk-1", "flat-walk-pair-1", "flat-walk-static-1"])
    """Its clips."""
    videos: list[str] = field(default_factory=list)
    """Videos, folders or manifests to take instead of drawn clips."""
    init: str = ""
    """As `footfall label --init`: student:CHECKPOINT; empty: the embedded initialisers."""
    label: list[str] = field(default_factory=list)
    """Settings of labelling, such as "cameras.use=static"."""
    video_hours: float = 1000.0
    """Length of the collection that the bill is for."""
    core_hour_price: float = 0.04
    """Price of one processor core for an hour, US dollars."""
    gpu_hour_prices: dict[str, float] = field(default_factory=lambda: {"L4": 0.8, "A100": 2.0, "H100": 3.0})
    """Name of a GPU -> price of an hour of it with its share of the machine, US dollars."""
    cores_per_gpu: int = 16
    """Processor cores that come with a GPU; as many clips are labelled at a time."""
    plot: str = ""
    """PNG file that shows where the time goes; empty: beside `out`, if that is given."""
    out: str = ""
    """JSON file to write; empty: print only."""

    def __post_init__(self) -> None:
        prices = [self.core_hour_price, *self.gpu_hour_prices.values()]
        if self.video_hours <= 0 or self.cores_per_gpu < 1 or min(prices) < 0:
            raise ValueError("bench: video_hours above 0, cores_per_gpu of at least 1 and prices of 0 or more expected")
        if not self.videos and not self.clips:
            raise ValueError("bench: clips or videos are expected")


def run_bench(config: Bench) -> dict[str, Any]:
    """Label every clip and count; returns the row, JSON-able.

    Raises:
        FootfallError: no such video, clip or setting; or a clip that cannot be labelled.
    """
    overrides = [*(init_overrides(config.init) if config.init else []), *config.label]
    settings = load_config(LabelConfig, None, overrides)
    folder = Path(tempfile.mkdtemp(prefix="footfall-bench-label-"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a worker of `footfall label` does
    try:
        sources = read_inputs(config.videos) if config.videos else read_inputs([_drawn(config, folder)])
        clips = [_measure(source, folder, settings, len(sources)) for source in sources]
    finally:
        torch.set_num_threads(threads)
        shutil.rmtree(folder, ignore_errors=True)
    stages, totals = summarise(clips)
    row = {
        "format": FORMAT, "name": "label", "provenance": provenance(), "config_hash": config_hash(config),
        "config": config_to_dict(config), "clips": clips, "stages": stages, "totals": totals,
        "cost": cost(totals["processor_seconds_per_video_hour"], config),
    }  # fmt: skip
    plot = Path(config.plot) if config.plot else Path(config.out).with_suffix(".png") if config.out else None
    if plot is not None:
        draw(plot, row)
    return row


def _drawn(config: Bench, folder: Path) -> Path:
    """Draw the clips; their manifest."""
    from distill.synthetic import write_collection
    from distill.synthetic.collections import collection

    known = {spec.id: spec for spec in collection(config.data)}
    unknown = sorted(set(config.clips) - set(known))
    if unknown:
        raise FootfallError(
            f"clips={unknown[0]}", got=f"no such clip in {config.data}", expected=f"some of {', '.join(known)}",
            do="correct the name",
        )  # fmt: skip
    return write_collection(folder / "drawn", [known[name] for name in config.clips])


def _measure(source: ClipSource, folder: Path, settings: LabelConfig, count: int) -> dict[str, Any]:
    """Label one source as a single clip: seconds, processor seconds and peak memory of every stage."""
    clip = ClipFolder(folder / "labels" / "clips" / source.id)
    clip.write_source(source)
    progress = Progress(count, title="bench")
    cpu, stages = torch.device("cpu"), {}
    for stage in STAGES:
        progress.update(source.id, 0.0, stage.name)
        reset_peak(cpu)
        wall, processor = time.perf_counter(), time.process_time()
        run_stages(clip, settings, lambda part, text: None, [stage.name])
        record = clip.record(stage.name)
        stages[stage.name] = {
            "status": record.status if record else "",
            "implementation": record.implementation if record else "",
            "seconds": round(time.perf_counter() - wall, 3),
            "processor_seconds": round(time.process_time() - processor, 3),
            "peak_memory_mb": round(peak_megabytes(cpu), 1),
        }
    frames = Frames.load(clip.require("frames"))
    length = float(frames.timestamps[-1] - frames.timestamps[0]) * len(frames.timestamps)
    return {
        "clip": source.id, "frames": len(frames.timestamps), "size": frames.size,
        "video_seconds": round(length / max(len(frames.timestamps) - 1, 1), 3), "stages": stages,
    }  # fmt: skip


def summarise(clips: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Stages, and all of them together, per hour of video; longer clips count for more."""
    video = sum(clip["video_seconds"] for clip in clips)
    stages: dict[str, Any] = {}
    for name in clips[0]["stages"]:
        rows = [clip["stages"][name] for clip in clips]
        stages[name] = {
            "seconds_per_video_hour": round(HOUR * sum(row["seconds"] for row in rows) / video, 1),
            "processor_seconds_per_video_hour": round(HOUR * sum(row["processor_seconds"] for row in rows) / video, 1),
            "peak_memory_mb": max(row["peak_memory_mb"] for row in rows),
        }
    processor = sum(row["processor_seconds_per_video_hour"] for row in stages.values())
    for row in stages.values():
        row["share"] = round(row["processor_seconds_per_video_hour"] / max(processor, 1e-9), 4)
    return stages, {
        "clips": len(clips), "video_seconds": round(video, 2), "frames": sum(clip["frames"] for clip in clips),
        "seconds_per_video_hour": round(sum(row["seconds_per_video_hour"] for row in stages.values()), 1),
        "processor_seconds_per_video_hour": round(processor, 1),
        "peak_memory_mb": max(row["peak_memory_mb"] for row in stages.values()),
    }  # fmt: skip


def cost(processor_seconds_per_video_hour: float, config: Bench) -> dict[str, Any]:
    """The bill for `video_hours`: on cores alone, and on machines that are paid by their GPU."""
    core_hours = processor_seconds_per_video_hour * config.video_hours / HOUR
    gpu_hours = core_hours / config.cores_per_gpu
    return {
        "video_hours": config.video_hours, "currency": "USD", "core_hours": round(core_hours, 1),
        "cores": {"price_per_hour": config.core_hour_price, "cost": round(core_hours * config.core_hour_price, 2)},
        "gpu_hours": round(gpu_hours, 1), "cores_per_gpu": config.cores_per_gpu,
        "gpus": {
            name: {"price_per_hour": price, "cost": round(gpu_hours * price, 2)}
            for name, price in config.gpu_hour_prices.items()
        },
    }  # fmt: skip


def bench_lines(row: Mapping[str, Any]) -> list[str]:
    """The row as Markdown."""
    lines = ["| stage | s | processor s | share | peak MB |", "|---|---:|---:|---:|---:|"]
    lines += [
        f"| {name} | {stage['seconds_per_video_hour']:.0f} | {stage['processor_seconds_per_video_hour']:.0f} | "
        f"{100 * stage['share']:.1f} % | {stage['peak_memory_mb']:.0f} |"
        for name, stage in row["stages"].items()
    ]
    totals, bill = row["totals"], row["cost"]
    machines = ", ".join(
        f"{name} {entry['cost']:,.0f} (at {entry['price_per_hour']:g} an hour)" for name, entry in bill["gpus"].items()
    )
    return [
        "seconds for an hour of video, by stage:", "", *lines, "",
        f"{totals['seconds_per_video_hour']:.0f} s, {totals['processor_seconds_per_video_hour']:.0f} s of one core for "
        f"an hour of video; peak {totals['peak_memory_mb']:.0f} MB; from {totals['video_seconds']:.1f} s of video",
        f"{bill['video_hours']:g} hours of video: {bill['core_hours']:,.0f} core-hours, {bill['currency']} "
        f"{bill['cores']['cost']:,.0f} at {bill['cores']['price_per_hour']:g} a core-hour; with "
        f"{bill['cores_per_gpu']} cores to a GPU {bill['gpu_hours']:,.0f} GPU-hours, {bill['currency']}: {machines}",
    ]  # fmt: skip


def draw(path: Path, row: Mapping[str, Any]) -> None:
    """Where the time goes: one bar per stage, minutes of processor time for an hour of video."""
    from distill.pictures.plots import save_bars

    stages = {name: stage for name, stage in row["stages"].items() if stage["processor_seconds_per_video_hour"] > 0}
    save_bars(
        path, {name: stage["processor_seconds_per_video_hour"] / 60 for name, stage in stages.items()},
        label="minutes of one core for an hour of video", notes=[f"{100 * s['share']:.0f} %" for s in stages.values()],
    )  # fmt: skip
