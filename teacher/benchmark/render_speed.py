"""`footfall bench render`: milliseconds of rendering, forward and backward, by backend, Gaussians and resolution.

Gaussians are spread over the picture at 2 to 6 m, each about as wide as the distance between neighbours: what a
reconstructed scene looks like. The loss is a sum over all outputs; everything is differentiated, the camera too.
On CPUs processor time stands beside wall time: other programs on the machine do not lengthen it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from distill.config import config_hash, config_to_dict
from distill.errors import FootfallError
from distill.geometry.cameras import make_intrinsics, unproject
from distill.render import Gaussians, render
from distill.render.gaussians import SHAPES
from teacher.benchmark.memory import peak_megabytes, reset_peak
from teacher.benchmark.provenance import provenance
from teacher.benchmark.student_speed import parse_size

FORMAT: Final = "footfall-bench/1"
BACKENDS: Final = {"reference": "cpu", "gsplat": "cuda"}
"""Backend -> the device on which it is timed."""
SPREAD: Final = 0.5
"""Mean standard deviation of a Gaussian, as a share of the distance to its neighbours."""


@dataclass(kw_only=True)
class Bench:
    """`footfall bench render`."""

    backends: list[str] = field(default_factory=list)
    """reference (timed on the CPU), gsplat (on CUDA); empty: the reference, and gsplat where there is a GPU."""
    gaussians: list[int] = field(default_factory=lambda: [1000, 4000, 20000])
    """Gaussians in the scene."""
    sizes: list[str] = field(default_factory=lambda: ["224x128", "512x288"])
    """Pictures, WIDTHxHEIGHT."""
    cameras: int = 1
    """Pictures drawn at a time."""
    repeats: int = 5
    """Timed renderings after one that is not; the median counts."""
    out: str = ""
    """JSON file to write; empty: print only."""

    def __post_init__(self) -> None:
        if not set(self.backends) <= set(BACKENDS):
            raise ValueError(f"bench: backends is {self.backends}, expected some of {list(BACKENDS)}")
        if not self.gaussians or not self.sizes or min(*self.gaussians, self.cameras, self.repeats) < 1:
            raise ValueError("bench: sizes, and gaussians, cameras and repeats of at least 1 are expected")
        for size in self.sizes:
            parse_size(size)


def run_bench(config: Bench) -> dict[str, Any]:
    """Run the benchmark; returns its rows, JSON-able.

    Raises:
        FootfallError: gsplat is asked for where it cannot run.
    """
    has_cuda = torch.cuda.is_available()
    backends = config.backends or [name for name, device in BACKENDS.items() if device == "cpu" or has_cuda]
    if "gsplat" in backends and not has_cuda:
        raise FootfallError(
            "bench render", got="no CUDA device", expected="one for gsplat", do="leave it out of backends"
        )
    rows = []
    for backend in backends:
        for size in config.sizes:
            for count in config.gaussians:
                timed = time_rendering(backend, count, parse_size(size), config)
                rows.append(
                    {"backend": backend, "device": BACKENDS[backend], "size": size, "gaussians": count, **timed}
                )
    return {
        "format": FORMAT, "name": "render", "provenance": provenance() | {"threads": torch.get_num_threads()},
        "config_hash": config_hash(config), "config": config_to_dict(config), "rows": rows,
    }  # fmt: skip


def draw_scene(count: int, size: tuple[int, int], cameras: int) -> tuple[Gaussians, Tensor, Tensor]:
    """Gaussians that fill a picture, cameras [C, 4, 4] and K [C, 3, 3]; always the same."""
    draw = torch.Generator().manual_seed(0)
    extent = torch.tensor(size, dtype=torch.float32)
    K = make_intrinsics(torch.full((cameras,), 0.8 * float(extent.norm())), size)
    depth = 2 + 4 * torch.rand(count, generator=draw)
    spacing = (size[0] * size[1] / count) ** 0.5 * depth / K[0, 0, 0]
    gaussians = Gaussians(
        means=unproject(torch.rand(count, 2, generator=draw) * extent, depth, K[0]),
        quats=torch.randn(count, 4, generator=draw),
        scales=SPREAD * spacing[:, None] * (0.5 + torch.rand(count, 3, generator=draw)),
        opacities=0.3 + 0.7 * torch.rand(count, generator=draw),
        colors=torch.rand(count, 3, generator=draw),
    )
    cam_from_world = torch.eye(4).repeat(cameras, 1, 1)
    cam_from_world[:, 0, 3] = 0.05 * torch.arange(cameras)
    return gaussians, cam_from_world, K


def time_rendering(backend: str, count: int, size: tuple[int, int], config: Bench) -> dict[str, Any]:
    """Median milliseconds forward and backward; peak memory, on CPUs that of the whole process."""
    device = torch.device(BACKENDS[backend])
    scene, cam_from_world, K = draw_scene(count, size, config.cameras)
    gaussians = Gaussians(**{name: getattr(scene, name).to(device).requires_grad_() for name in SHAPES})
    cam_from_world, K = cam_from_world.to(device).requires_grad_(), K.to(device)
    person = (gaussians.means[:, 0] > 0).to(K)
    times: dict[str, list[float]] = {"forward_ms": [], "backward_ms": [], "processor_ms": []}
    reset_peak(device)
    for repeat in range(1 + config.repeats):  # the first fills caches and, on CUDA, builds kernels
        started, processor = _now(device), time.process_time()
        drawn = render(gaussians, cam_from_world, K, size, person=person, backend=backend)
        drawn_at = _now(device)
        loss = sum(value.square().sum() for value in vars(drawn).values())
        torch.as_tensor(loss).backward()
        if repeat:
            times["forward_ms"].append(1e3 * (drawn_at - started))
            times["backward_ms"].append(1e3 * (_now(device) - drawn_at))
            times["processor_ms"].append(1e3 * (time.process_time() - processor))
    return {
        **{name: round(statistics.median(values), 3) for name, values in times.items()},
        "peak_memory_mb": round(peak_megabytes(device), 1),
    }


def _now(device: torch.device) -> float:
    """Seconds, when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def bench_lines(row: Mapping[str, Any]) -> list[str]:
    """The rows as Markdown."""
    made = row["provenance"]
    hardware = made["hardware"]
    lines = [
        f"commit {made['commit']}; {hardware['cpu']}, {hardware['cores']} cores ({made['threads']} threads), "
        f"GPU {hardware['gpu'] or 'none'}; torch {made['versions']['torch']}",
        "",
        "| backend | device | size | Gaussians | cameras | forward ms | backward ms | processor ms | peak MB |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    return lines + [
        f"| {r['backend']} | {r['device']} | {r['size']} | {r['gaussians']} | {row['config']['cameras']} "
        f"| {r['forward_ms']:.1f} | {r['backward_ms']:.1f} | {r['processor_ms']:.1f} | {r['peak_memory_mb']:.0f} |"
        for r in row["rows"]
    ]
