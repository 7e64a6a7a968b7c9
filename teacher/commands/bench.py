"""`footfall bench NAME [key=value ...]`: measure speed; prints a row with hardware, versions and commit."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `footfall bench`."""
    parser.add_argument("name", choices=["teacher"], help="teacher: the joint optimisation, against Adam and length")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, see docs/configuration.md")


def run(args: argparse.Namespace) -> int:
    """Run the benchmark and print its row."""
    from distill.config import load_config
    from distill.errors import FootfallError
    from distill.files import write_json
    from teacher.benchmark.speed import BenchConfig, bench_lines, bench_teacher

    config = load_config(BenchConfig, None, args.overrides)
    if config.out and Path(config.out).suffix != ".json":
        raise FootfallError(f"out={config.out}", got="another ending", expected="a .json file", do="name it so")
    row = bench_teacher(config)
    print("\n".join(bench_lines(row)))
    if config.out:
        write_json(Path(config.out), row)
        print(f"written to {config.out}")
    return 0
