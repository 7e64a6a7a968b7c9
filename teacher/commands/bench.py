"""`footfall bench NAME [key=value ...]`: measure speed; prints a row with hardware, versions and commit."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Final

BENCHES: Final = {
    "teacher": ("teacher.benchmark.speed", "the joint optimisation, against Adam and length"),
    "label": ("teacher.benchmark.label_speed", "labelling by stage: seconds, memory, and the bill for a collection"),
    "data": ("teacher.benchmark.data_speed", "windows read per second, against what training uses"),
    "student": ("teacher.benchmark.student_speed", "frames per second by backbone, resolution and device"),
    "stream": ("teacher.benchmark.stream_speed", "a video from its file to a written result, by way of running"),
    "render": ("teacher.benchmark.render_speed", "milliseconds of rendering by backend, Gaussians and resolution"),
}
"""Name -> module with a config `Bench`, `run_bench(config)` -> row and `bench_lines(row)`; and what it measures."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `footfall bench`."""
    meanings = "; ".join(f"{name}: {meaning}" for name, (_, meaning) in BENCHES.items())
    parser.add_argument("name", choices=list(BENCHES), help=meanings)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, see docs/configuration.md")


def run(args: argparse.Namespace) -> int:
    """Run the benchmark and print its row."""
    from distill.config import load_config
    from distill.errors import FootfallError
    from distill.files import write_json

    bench = importlib.import_module(BENCHES[args.name][0])
    config = load_config(bench.Bench, None, args.overrides)
    if config.out and Path(config.out).suffix != ".json":
        raise FootfallError(f"out={config.out}", got="another ending", expected="a .json file", do="name it so")
    row = bench.run_bench(config)
    print("\n".join(bench.bench_lines(row)))
    if config.out:
        write_json(Path(config.out), row)
        print(f"written to {config.out}")
    return 0
