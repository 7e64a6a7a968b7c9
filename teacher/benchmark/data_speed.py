"""`footfall bench data`: how fast windows are read, against how fast the student's training uses them up."""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from distill.batches import load_batches
from distill.config import config_hash, config_to_dict
from distill.data import DataConfig, Windows, to_device
from distill.errors import FootfallError
from distill.models.student import Student, StudentConfig
from distill.shards.reader import ShardReader, find_shards
from distill.shards.schema import FIELDS, SCHEMA_VERSION, Sample
from distill.shards.writer import write_shards
from distill.task import LossConfig, StudentTask
from teacher.benchmark.provenance import provenance

FORMAT: Final = "footfall-bench/1"
GOAL: Final = 5.0
"""Windows should be read at least this many times as fast as they are used."""
FRAMES: Final = 32
"""Of each drawn sample."""


@dataclass(kw_only=True)
class Bench:
    """`footfall bench data`."""

    workers: list[int] = field(default_factory=lambda: [0, 1, 2])
    """Reading processes to try; 0 reads in the training process."""
    batches: int = 12
    """Batches that are timed for each."""
    steps: int = 4
    """Training steps that are timed, after one that is not; the median counts."""
    samples: int = 8
    """Samples that are drawn if no shards are given, of 32 frames."""
    width: int = 512
    """Of drawn frames, pixels; the height is 9/16 of it."""
    device: str = ""
    """Of the training step: cpu, cuda, ...; empty: cuda if there is one."""
    out: str = ""
    """JSON file to write; empty: print only."""
    data: DataConfig = field(default_factory=lambda: DataConfig(mix=16))
    """Shards, windows and augmentation."""
    student: StudentConfig = field(default_factory=StudentConfig)
    """The student that is trained."""

    def __post_init__(self) -> None:
        if not self.workers or min(self.workers) < 0 or min(self.batches, self.steps, self.samples) < 1:
            raise ValueError("bench: workers >= 0 and batches, steps, samples >= 1 are expected")
        if self.width < 64 or self.data.feature_cache:
            raise ValueError("bench: width >= 64 and no data.feature_cache are expected")


def run_bench(config: Bench) -> dict[str, Any]:
    """Run the benchmark; returns its row, JSON-able.

    Raises:
        FootfallError: no shards, or fewer windows in them than one batch.
    """
    device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    student = Student(config.student).to(device)
    with tempfile.TemporaryDirectory() as folder:
        spec = config.data.shards
        if not spec:
            write_shards(Path(folder), _draw(config), max_bytes=1, provenance={})
            spec = folder
        urls = find_shards(spec).urls
        batch = next(_batches(config, urls, student, 0))
        used = time_training(student, batch, config.steps, device)
        read = {str(workers): time_reading(config, urls, student, workers) for workers in config.workers}
    return {
        "format": FORMAT, "name": "data", "provenance": provenance(), "config_hash": config_hash(config),
        "config": config_to_dict(config), "device": str(device), "threads": torch.get_num_threads(),
        "windows_used_per_s": used, "windows_read_per_s": read,
        "ratio": {workers: rate / used for workers, rate in read.items()}, "goal": GOAL,
    }  # fmt: skip


def bench_lines(row: dict[str, Any]) -> list[str]:
    """The row as people read it."""
    frames, made = row["config"]["data"]["window_frames"], row["provenance"]
    lines = [
        f"{row['device']}, {row['threads']} threads of {made['hardware']}",
        f"windows of {frames} frames, backbone {row['config']['student']['backbone']}, commit {made['commit']}",
        f"used by training: {row['windows_used_per_s']:.1f} windows/s",
    ]
    for workers, rate in row["windows_read_per_s"].items():
        ratio = row["ratio"][workers]
        verdict = "enough" if ratio >= row["goal"] else f"goal {row['goal']:g}"
        lines.append(f"read by {workers} workers: {rate:.1f} windows/s, {ratio:.1f} times ({verdict})")
    return lines


def time_training(student: Student, batch: dict[str, Any], steps: int, device: torch.device) -> float:
    """Windows per second of forward, backward and optimiser on a batch that is in memory already."""
    task = StudentTask(student, LossConfig()).to(device).train()
    optimiser = torch.optim.AdamW(student.parameters(), lr=1e-5)
    seconds = []
    for _ in range(1 + steps):
        started = time.perf_counter()
        losses, _ = task(to_device(batch, device))
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
        optimiser.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return len(batch["name"]) / statistics.median(seconds[1:])


def time_reading(config: Bench, urls: list[str], student: Student, workers: int) -> float:
    """Windows per second from tar file to batch in memory, after the first batch of each worker."""
    batches = _batches(config, urls, student, workers)
    for _ in range(max(1, workers)):  # processes have started, and wait for nothing but pictures
        next(batches)
    started, windows = time.perf_counter(), 0
    for _ in range(config.batches):
        windows += len(next(batches)["name"])
    return windows / (time.perf_counter() - started)


def _batches(config: Bench, urls: list[str], student: Student, workers: int) -> Iterator[dict[str, Any]]:
    """Endless batches, as in training."""
    reader = ShardReader(urls, seed=0, rank=0, world=1)
    patch = student.backbone.module.patch_size
    windows = Windows(reader, config.data, student.network_size, seed=0, training=True, patch=patch)
    epoch = 0
    while True:
        reader.set_epoch(epoch)
        count = 0
        for batch in load_batches(windows, batch_size=config.data.batch_size, workers=workers):
            count += 1
            yield batch
        if not count:
            raise FootfallError(
                f"data.shards={config.data.shards}", got=f"less than one batch for {workers} workers",
                expected=f"{config.data.batch_size} windows for each",
                do="give more samples, fewer workers or a smaller data.batch_size",
            )  # fmt: skip
        epoch += 1


def _draw(config: Bench) -> Iterator[Sample]:
    """Samples with pictures as hard to decode as photographs, and labels of two people who stand in view."""
    size = (config.width, config.width * 9 // 16)
    for number in range(config.samples):
        rng = np.random.default_rng(number)
        yield Sample(
            key=f"drawn{number:04d}-000000",
            meta={
                "schema_version": SCHEMA_VERSION, "clip": f"drawn{number:04d}", "first_frame": 0, "size": list(size),
                "body_model": "anny", "world": "first_camera", "source": "drawn", "licence": "CC0-1.0",
                "source_sha256": "", "teacher_commit": "", "config_hash": {}, "weights": {},
                "quality": {"decision": "accept", "weight": 1.0, "reasons": []},
                "source_id": f"drawn{number:04d}", "consent": "drawn: nobody was filmed", "blurred": False,
            },
            arrays=_arrays(size),
            frames=[_picture(size, rng) for _ in range(FRAMES)],
            masks=[_mask(size) for _ in range(FRAMES)],
        )  # fmt: skip


def _arrays(size: tuple[int, int]) -> dict[str, Any]:
    sizes = {"T": FRAMES, "P": 2, "B": 10, "h": size[1] // 4, "w": size[0] // 4}
    arrays = {
        name: np.zeros([sizes[n] if isinstance(n, str) else n for n in rule.shape], rule.dtype)
        for name, rule in FIELDS.items()
    }
    for name in ("world_from_cam_quat", "body_quat", "cam_from_body_quat"):
        arrays[name][..., 0] = 1
    for name in ("camera_valid", "present", "frame_weight", "depth"):
        arrays[name][...] = 1
    arrays["timestamps"] = np.arange(FRAMES) / 30
    focal = 0.8 * (size[0] ** 2 + size[1] ** 2) ** 0.5
    arrays["K"][...] = [[focal, 0, size[0] / 2], [0, focal, size[1] / 2], [0, 0, 1]]
    arrays["cam_from_body_trans"][..., 2] = arrays["joints_cam"][..., 2] = 4
    for person in range(2):
        left = (0.2 + 0.4 * person) * size[0]
        arrays["box_xyxy"][:, person] = [left, 0.2 * size[1], left + 0.2 * size[0], 0.9 * size[1]]
    return arrays


def _picture(size: tuple[int, int], rng: np.random.Generator) -> bytes:
    coarse = Image.fromarray(rng.integers(0, 255, (size[1] // 16, size[0] // 16, 3), np.uint8))
    picture = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.int16) + rng.integers(
        -6, 7, (*size[::-1], 3)
    )
    stream = io.BytesIO()
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def _mask(size: tuple[int, int]) -> bytes:
    identities = np.zeros(size[::-1], np.uint8)
    for person, box in enumerate(_arrays(size)["box_xyxy"][0].astype(int)):
        identities[box[1] : box[3], box[0] : box[2]] = person + 1
    stream = io.BytesIO()
    Image.fromarray(identities).save(stream, "PNG")
    return stream.getvalue()
