"""`footfall bench student`: frames per second by backbone, resolution, device and way of running.

A frame costs one encoding and one batch of pairs, with the frames `gaps` before it: what a stream does. Times are
those of the networks; reading, drawing and fusing are not in them. Beside them stands the arithmetic floor: the
floating-point operations of a frame, counted by torch, over the rate that the device reaches on one large product.
On CPUs both are also taken in processor time, which other programs on the machine do not lengthen.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import torch
from torch import Tensor

from distill.config import config_hash, config_to_dict
from distill.errors import FootfallError
from teacher.benchmark.memory import peak_megabytes, reset_peak
from teacher.benchmark.provenance import provenance

if TYPE_CHECKING:
    from distill.models.backbones import Backbone, Tokens
    from distill.models.prediction import PairPrediction, Prompts
    from distill.models.student import Student

FORMAT: Final = "footfall-bench/1"
RANDOM: Final = "mast3r-random"
"""MASt3R's published size with random weights: as quick as the real ones, and free."""
MODES: Final = {"cpu": ("eager", "compile"), "cuda": ("eager", "compile", "graphs", "compile+graphs")}
REFERENCE_FLOPS: Final = 790e12
"""bfloat16 operations per second of an H200 on large products, the rate of the published floor."""


@dataclass(kw_only=True)
class Bench:
    """`footfall bench student`."""

    backbones: list[str] = field(default_factory=lambda: ["tiny"])
    """Names for `load_backbone`, or mast3r-random: MASt3R's full size with random weights."""
    sizes: list[str] = field(default_factory=lambda: ["224x128"])
    """Network sizes, WIDTHxHEIGHT."""
    devices: list[str] = field(default_factory=list)
    """cpu, cuda; empty: the CPU, and a GPU where there is one."""
    modes: list[str] = field(default_factory=list)
    """eager, compile, graphs, compile+graphs (the last two on CUDA); empty: eager on CPUs, all on CUDA."""
    dtype: str = ""
    """float32 or bfloat16; empty: float32 on CPUs, bfloat16 on CUDA."""
    gaps: list[int] = field(default_factory=lambda: [1, 3, 10])
    """Earlier frames that each new frame is paired with, in one batch."""
    people: int = 1
    """People in each frame."""
    frames: int = 100
    """Timed frames."""
    warm_ups: int = 5
    """Frames before them."""
    out: str = ""
    """JSON file to write; empty: print only."""

    def __post_init__(self) -> None:
        known = {mode for modes in MODES.values() for mode in modes}
        if not self.backbones or not self.sizes or not self.gaps or min(self.gaps) < 1:
            raise ValueError("bench: backbones, sizes and gaps of at least 1 are expected")
        if min(self.people, self.frames, self.warm_ups) < 1:
            raise ValueError("bench: people, frames and warm_ups of at least 1 are expected")
        if not set(self.devices) <= set(MODES) or not set(self.modes) <= known:
            raise ValueError(f"bench: devices of {sorted(MODES)} and modes of {sorted(known)} are expected")
        if self.dtype not in ("", "float32", "bfloat16"):
            raise ValueError(f"bench: dtype is {self.dtype!r}, expected float32 or bfloat16")
        for size in self.sizes:
            parse_size(size)


def parse_size(text: str) -> tuple[int, int]:
    """ "512x288" -> (512, 288).

    Raises:
        ValueError: another form.
    """
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise ValueError(f"bench: size {text!r}, expected WIDTHxHEIGHT such as 512x288")
    return int(width), int(height)


class Runner(Protocol):
    """What is timed: a student, compiled or not, or its graphs."""

    def encode(self, images: Tensor) -> Tokens:
        """Features of one frame."""
        ...

    def look(self, images: Tensor, boxes: Tensor) -> Tensor:
        """A closer look at people of one frame."""
        ...

    def pair(self, a: Tokens, b: Tokens, people: Prompts) -> PairPrediction:
        """All pairs of one frame."""
        ...


def run_bench(config: Bench) -> dict[str, Any]:
    """Run the benchmark; returns its rows, JSON-able.

    Raises:
        FootfallError: no such backbone, a size that its patches do not divide, a device that is not there.
    """
    has_cuda = torch.cuda.is_available()
    devices = config.devices or (["cpu", "cuda"] if has_cuda else ["cpu"])
    if "cuda" in devices and not has_cuda:
        raise FootfallError(
            "bench student", got="no CUDA device", expected="one for cuda", do="leave it out of devices"
        )
    rows = []
    for device in devices:
        dtype = getattr(torch, config.dtype or ("float32" if device == "cpu" else "bfloat16"))
        peak = peak_flops(torch.device(device), dtype)
        for name in config.backbones:
            rows += bench_backbone(name, torch.device(device), dtype, peak, config)
    return {
        "format": FORMAT, "name": "student", "provenance": provenance() | {"threads": torch.get_num_threads()},
        "config_hash": config_hash(config), "config": config_to_dict(config), "rows": rows,
    }  # fmt: skip


def bench_backbone(
    name: str, device: torch.device, dtype: torch.dtype, peak: float, config: Bench
) -> list[dict[str, Any]]:
    """Rows of one backbone on one device, and of every size and mode."""
    from distill.cuda_graphs import prepare_student
    from distill.models.student import Student, StudentConfig

    student = prepare_student(Student(StudentConfig(), make_backbone(name)), device, dtype)
    modes = [mode for mode in MODES[device.type] if mode in config.modes] if config.modes else MODES[device.type]
    if device.type == "cpu" and not config.modes:
        modes = ("eager",)
    parts = {"backbone": student.backbone.module, "heads": student}
    parameters = {part: round(sum(p.numel() for p in module.parameters()) / 1e6, 3) for part, module in parts.items()}
    rows = []
    for text in config.sizes:
        for mode in modes:
            timed = time_frames(make_runner(student, mode), device, parse_size(text), config)
            rows.append({
                "backbone": name, "size": text, "device": device.type, "mode": mode,
                "dtype": str(dtype).removeprefix("torch."), "gaps": config.gaps, "people": config.people,
                "parameters_millions": parameters, **timed,
            })  # fmt: skip
    measure = "latency_ms" if device.type == "cuda" else "processor_ms"
    student.to("meta")  # operations are counted without computing
    for row in rows:
        operations = count_operations(student, parse_size(row["size"]), config)
        total = sum(operations.values())
        row |= {
            "gflop_per_frame": {part: round(count / 1e9, 2) for part, count in operations.items()},
            "peak_tflops": round(peak / 1e12, 4),
            "floor_ms": float(f"{1e3 * total / peak:.4g}"),
            "floor_h200_ms": float(f"{1e3 * total / REFERENCE_FLOPS:.4g}"),
            "times_floor": round(row[measure]["p50"] / (1e3 * total / peak), 2),
        }
    return rows


def make_backbone(name: str) -> Backbone:
    """`load_backbone`, or MASt3R's architecture with random weights."""
    from distill.models.backbones import load_backbone
    from distill.models.mast3r import Mast3r, Mast3rConfig

    if name != RANDOM:
        return load_backbone(name)
    return Mast3r(Mast3rConfig()).requires_grad_(False).eval()  # PyTorch's own random initialisation


def make_runner(student: Student, mode: str) -> Runner:
    """The student run in one of the `MODES`."""
    if mode.endswith("graphs"):
        from distill.cuda_graphs import GraphedStudent

        return GraphedStudent(student, compiled=mode.startswith("compile"))
    return _Plain(student, compiled=mode == "compile")


class _Plain:
    """A student without gradients and graphs; its answers come to the CPU, as those of graphs do."""

    def __init__(self, student: Student, *, compiled: bool) -> None:
        wrap: Callable[[Any], Any] = torch.compile if compiled else lambda function: function
        self._encode, self._look, self._pair = wrap(student.encode), wrap(student.look), wrap(student.pair)
        self.device = next(student.parameters()).device

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tokens:
        """See `Student.encode`."""
        return self._encode(images.to(self.device))

    @torch.inference_mode()
    def look(self, images: Tensor, boxes: Tensor) -> Tensor:
        """See `Student.look`."""
        return self._look(images, boxes.to(self.device))

    @torch.inference_mode()
    def pair(self, a: Tokens, b: Tokens, people: Prompts) -> PairPrediction:
        """See `Student.pair`."""
        from distill.cuda_graphs import pack, shapes_of, unpack

        found = self._pair(a, b, people.to(self.device))
        return unpack(pack(found).cpu(), shapes_of(found))


def example(size: tuple[int, int], config: Bench, device: torch.device) -> tuple[Tensor, Prompts]:
    """A frame [1, 3, H, W] of noise and the prompts of all its pairs."""
    from distill.models.prediction import Prompts

    pairs, (width, height) = len(config.gaps), size
    K = torch.tensor([[0.8 * width, 0, width / 2], [0, 0.8 * width, height / 2], [0, 0, 1]], device=device)
    box = torch.tensor([0.4 * width, 0.2 * height, 0.6 * width, 0.9 * height], device=device)
    people = Prompts(
        boxes=box.expand(pairs, config.people, 2, 4).clone(),
        valid=torch.ones(pairs, config.people, 2, dtype=torch.bool, device=device),
        K=K.expand(pairs, 2, 3, 3).clone(),
    )
    return torch.rand(1, 3, height, width, device=device), people


def time_frames(runner: Runner, device: torch.device, size: tuple[int, int], config: Bench) -> dict[str, Any]:
    """Latencies in milliseconds, frames per second and peak memory of a row."""
    image, people = example(size, config, torch.device("cpu"))
    reset_peak(device)
    first = runner.encode(image)
    past = deque([first] * max(config.gaps), maxlen=max(config.gaps))
    times: dict[str, list[float]] = {"encode_ms": [], "pairs_ms": [], "latency_ms": [], "processor_ms": []}
    for frame in range(config.warm_ups + config.frames):
        start = _mark(device)
        now = runner.encode(image)
        assert now.images is not None
        look = runner.look(now.images, people.boxes[:1, :, 1])
        people = replace(people, looks=look[:, :, None].expand(len(config.gaps), -1, 2, -1))
        now = replace(now, images=None)
        encoded = _mark(device)
        a = replace(now, features=torch.cat([past[-gap].features for gap in config.gaps]))
        b = replace(now, features=now.features.expand(len(config.gaps), -1, -1))
        runner.pair(a, b, people)
        end = _mark(device)
        past.append(now)
        if frame >= config.warm_ups:
            times["encode_ms"].append(_milliseconds(start, encoded))
            times["pairs_ms"].append(_milliseconds(encoded, end))
            times["latency_ms"].append(_milliseconds(start, end))
            times["processor_ms"].append(1e3 * (end.processor - start.processor))
    return {
        "frames": config.frames, "frames_per_second": round(1e3 * config.frames / sum(times["latency_ms"]), 2),
        **{name: _percentiles(values) for name, values in times.items()},
        "peak_memory_mb": round(peak_megabytes(device), 1),
    }  # fmt: skip


@dataclass
class _Mark:
    """A point in time."""

    wall: float
    processor: float
    event: Any = None
    """On a GPU, an event of its own clock."""


def _mark(device: torch.device) -> _Mark:
    event = None
    if device.type == "cuda":
        event = torch.cuda.Event(enable_timing=True)
        event.record()
    return _Mark(time.perf_counter(), time.process_time(), event)


def _milliseconds(start: _Mark, end: _Mark) -> float:
    if end.event is None:
        return 1e3 * (end.wall - start.wall)
    end.event.synchronize()
    return float(start.event.elapsed_time(end.event))


def _percentiles(values: list[float]) -> dict[str, float]:
    return {f"p{share}": round(float(np.percentile(values, share)), 3) for share in (50, 95, 99)}


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second on one large square product, the best of several; of one thread on CPUs."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        start = _mark(device)
        a @ b
        end = _mark(device)
        best = min(best, _milliseconds(start, end) / 1e3 if device.type == "cuda" else end.processor - start.processor)
    return 2 * side**3 / best


def count_operations(student: Student, size: tuple[int, int], config: Bench) -> dict[str, int]:
    """Floating-point operations of a frame (2 for a multiplication with addition): its encoding with the look at
    people, and its pairs.

    Args:
        student: on the meta device.
    """
    from torch.utils.flop_counter import FlopCounterMode

    image, people = example(size, config, torch.device("meta"))
    counts = {}
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            tokens = student.encode(image)
        counts["encode"] = counter.get_total_flops()
        with FlopCounterMode(display=False) as counter:
            look = student.look(image, people.boxes[:1, :, 1])
        counts["encode"] += counter.get_total_flops()
        people = replace(people, looks=look[:, :, None].expand(len(config.gaps), -1, 2, -1))
        several = replace(tokens, features=tokens.features.expand(len(config.gaps), -1, -1))
        with FlopCounterMode(display=False) as counter:
            student.pair(several, several, people)
        counts["pairs"] = counter.get_total_flops()
    return counts


def bench_lines(row: Mapping[str, Any]) -> list[str]:
    """The rows as Markdown."""
    made = row["provenance"]
    hardware = made["hardware"]
    lines = [
        f"commit {made['commit']}; {hardware['cpu']}, {hardware['cores']} cores ({made['threads']} threads), "
        f"GPU {hardware['gpu'] or 'none'}; torch {made['versions']['torch']}",
        "",
        "| backbone | size | device | mode | dtype | M parameters | frames/s | p50 / p95 / p99 ms | encode + pairs ms "
        "| processor ms | peak MB | GFLOP | floor ms | times floor |",
        "|---|---|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for r in row["rows"]:
        latency = " / ".join(f"{r['latency_ms'][name]:.1f}" for name in ("p50", "p95", "p99"))
        lines.append(
            f"| {r['backbone']} | {r['size']} | {r['device']} | {r['mode']} | {r['dtype']} "
            f"| {sum(r['parameters_millions'].values()):.1f} | {r['frames_per_second']:.1f} | {latency} "
            f"| {r['encode_ms']['p50']:.1f} + {r['pairs_ms']['p50']:.1f} | {r['processor_ms']['p50']:.1f} "
            f"| {r['peak_memory_mb']:.0f} | {sum(r['gflop_per_frame'].values()):.1f} | {r['floor_ms']:.3g} "
            f"| {r['times_floor']:.1f} |"
        )
    return lines
