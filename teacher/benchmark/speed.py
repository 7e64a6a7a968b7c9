"""`footfall bench teacher`: how long the solve takes, against Adam and against the number of frames."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from distill.config import config_hash, config_to_dict
from distill.errors import FootfallError
from teacher.benchmark.provenance import provenance
from teacher.benchmark.scores import clip_values, results_of
from teacher.benchmark.tables import chosen
from teacher.benchmark.track import clips_of, usual_errors
from teacher.optimise.config import OptimiseConfig
from teacher.optimise.degrade import degraded_problem
from teacher.optimise.exact import exact_view
from teacher.optimise.solver import Solution, solve
from teacher.progress import Progress, format_seconds

if TYPE_CHECKING:
    from distill.synthetic import ClipSpec
    from teacher.optimise.problem import Problem

FORMAT: Final = "footfall-bench/1"
FRAMES_OF_RATE: Final = 100
"""Frames of the clip that frames per second are stated for."""


@dataclass(kw_only=True)
class BenchConfig:
    """`footfall bench teacher`."""

    data: str = "footsteps-v1"
    """Collection, by name or folder, whose clips are solved by both solvers."""
    clips: list[str] = field(default_factory=list)
    """Ids of its clips, with * and ?; empty: all."""
    frames: list[int] = field(default_factory=lambda: [100, 250, 500, 1000, 2000])
    """Lengths of the clips of one person that the growth of time is fitted to."""
    repeats: int = 3
    """Solves of the shortest of them; the median counts."""
    out: str = ""
    """JSON file to write; empty: print only."""
    optimise: OptimiseConfig = field(default_factory=OptimiseConfig)
    """The solve; its `solver` is set by the benchmark."""

    def __post_init__(self) -> None:
        if len(self.frames) < 2 or min(self.frames) < 8 or self.repeats < 1:
            raise ValueError("bench: two lengths or more, each of at least 8 frames, and one repeat are expected")


def bench_teacher(config: BenchConfig) -> dict[str, Any]:
    """Run the benchmark; returns its row, JSON-able.

    Raises:
        FootfallError: no such collection or clip; a solve diverged.
    """
    specs = chosen(clips_of(config.data), config.clips, lambda spec: spec.id, "clips")
    progress = Progress(len(specs) + len(config.frames), title="bench")
    pairs = []
    for spec in specs:
        progress.update(spec.id, 0.0, "both solvers")
        pairs.append(compare_solvers(spec, config.optimise))
        progress.update(spec.id, 1.0, "done")
    lengths = []
    for frames in config.frames:
        progress.update(f"{frames} frames", 0.0, "second order")
        repeats = config.repeats if frames == min(config.frames) else 1
        lengths.append(time_length(frames, config.optimise, repeats))
        progress.update(f"{frames} frames", 1.0, format_seconds(lengths[-1]["seconds"]))
    return {
        "format": FORMAT, "name": "teacher", "provenance": provenance(), "config_hash": config_hash(config),
        "config": config_to_dict(config), "solvers": pairs, "summary": summary(pairs, lengths), "lengths": lengths,
    }  # fmt: skip


def compare_solvers(spec: ClipSpec, config: OptimiseConfig) -> dict[str, Any]:
    """Both solvers on the same degraded clip: seconds and errors."""
    from distill.synthetic import make_clip

    view = exact_view(make_clip(spec))
    problem = degraded_problem(view, usual_errors(spec))
    row: dict[str, Any] = {"clip": spec.id, "frames": spec.frames, "people": spec.people}
    for solver in ("second_order", "adam"):
        chosen_solver = replace(config, solver=solver)
        solution, seconds, cpu_seconds = timed(problem, chosen_solver)
        results, _ = results_of(problem, solution, chosen_solver)
        values = clip_values(view.clip.truth, results["after"])
        row[solver] = {
            "seconds": round(seconds, 3), "cpu_seconds": round(cpu_seconds, 3),
            **{name: values[name] for name in ("w_mpjpe_mm", "wa_mpjpe_mm", "ate_m")},
        }  # fmt: skip
    return row


def time_length(frames: int, config: OptimiseConfig, repeats: int = 1) -> dict[str, Any]:
    """Seconds of the second-order solve of one walking person, filmed by a walking camera.

    Dense depth is left out of the errors' draws; the solve sees all of it.
    """
    from distill.synthetic import ClipSpec, make_clip

    spec = ClipSpec(id=f"length-{frames}", seed=7, frames=frames, fps=30.0, motion="turn", camera="walk")
    view = exact_view(make_clip(spec))
    errors = replace(usual_errors(spec), depth_sd=0.0, depth_patch_sd=0.0, depth_holes=0.0)
    problem = degraded_problem(view, errors)
    runs = [timed(problem, replace(config, solver="second_order"))[1:] for _ in range(repeats)]
    seconds, cpu_seconds = (statistics.median(values) for values in zip(*runs, strict=True))
    return {"frames": frames, "seconds": round(seconds, 3), "cpu_seconds": round(cpu_seconds, 3)}


def timed(problem: Problem, config: OptimiseConfig) -> tuple[Solution, float, float]:
    """A solution, its seconds and its seconds of processor time."""
    wall, cpu = time.perf_counter(), time.process_time()
    solution = solve(problem, config, lambda fraction, text: None)
    return solution, time.perf_counter() - wall, time.process_time() - cpu


def summary(pairs: Sequence[Mapping[str, Any]], lengths: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The numbers that the issue asks for."""
    quicker = [pair["adam"]["seconds"] / pair["second_order"]["seconds"] for pair in pairs]
    error = [pair["second_order"]["w_mpjpe_mm"] / pair["adam"]["w_mpjpe_mm"] for pair in pairs]
    found: dict[str, Any] = {
        "times_quicker_than_adam": round(statistics.median(quicker), 2),
        "w_mpjpe_over_adams": round(statistics.median(error), 3),
        "clips_no_worse_than_adam": sum(value <= 1.0 for value in error),
        "clips": len(pairs),
    }
    at_rate = [row for row in lengths if row["frames"] == FRAMES_OF_RATE]
    if at_rate:
        found["frames_per_second_per_person"] = round(FRAMES_OF_RATE / at_rate[0]["seconds"], 2)
    return found | linear_fit([row["frames"] for row in lengths], [row["seconds"] for row in lengths])


def linear_fit(frames: Sequence[int], seconds: Sequence[float]) -> dict[str, float]:
    """seconds = a + b frames by least squares, with R^2 and the exponent of a power law (1: linear).

    Raises:
        FootfallError: fewer than two lengths.
    """
    if len(set(frames)) < 2:
        raise FootfallError(
            "bench teacher", got=f"lengths {list(frames)}", expected="two different ones", do="set frames=[100,200]"
        )
    x, y = np.asarray(frames, float), np.asarray(seconds, float)
    slope, offset = np.polyfit(x, y, 1)
    left = y - (offset + slope * x)
    spread = float(((y - y.mean()) ** 2).sum())
    exponent = float(np.polyfit(np.log(x), np.log(y), 1)[0])
    return {
        "seconds_per_frame": float(f"{slope:.4g}"), "seconds_at_0": float(f"{offset:.4g}"),
        "r_squared": round(1 - float((left**2).sum()) / max(spread, 1e-12), 5), "exponent": round(exponent, 3),
    }  # fmt: skip


def bench_lines(row: Mapping[str, Any]) -> list[str]:
    """The row as Markdown."""
    made, found = row["provenance"], row["summary"]
    hardware = made["hardware"]
    lines = [
        f"commit {made['commit']}; {hardware['cpu']}, {hardware['cores']} cores, GPU {hardware['gpu'] or 'none'}; "
        + ", ".join(f"{name} {version}" for name, version in made["versions"].items()),
        "",
        "| clip | frames x people | second order s | Adam s | times | second order W-MPJPE mm | Adam W-MPJPE mm |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for pair in row["solvers"]:
        second, adam = pair["second_order"], pair["adam"]
        lines.append(
            f"| {pair['clip']} | {pair['frames']} x {pair['people']} | {second['seconds']:.2f} | {adam['seconds']:.2f} "
            f"| {adam['seconds'] / second['seconds']:.1f} | {second['w_mpjpe_mm']:.0f} | {adam['w_mpjpe_mm']:.0f} |"
        )
    lines += ["", "| frames | seconds | processor seconds | frames/s |", "|---:|---:|---:|---:|"]
    lines += [
        f"| {r['frames']} | {r['seconds']:.2f} | {r['cpu_seconds']:.2f} | {r['frames'] / r['seconds']:.1f} |"
        for r in row["lengths"]
    ]
    return [*lines, "", *(f"* {name}: {value}" for name, value in found.items())]


Bench, run_bench = BenchConfig, bench_teacher  # the names that `footfall bench` asks for
