"""`footfall demo [--video FILE] [--out DIR] [key=value ...]`: the whole loop, ending in a page with pictures."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `footfall demo`."""
    parser.add_argument("--video", type=Path, help="use this file instead of made-up clips")
    parser.add_argument("--out", type=Path, default=Path("footfall-demo"), help="folder (default: footfall-demo)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of the training, e.g. steps=200")


def run(args: argparse.Namespace) -> int:
    """Run the demo and say where the page is."""
    from teacher.demo import run_demo

    page = run_demo(args.out, args.video, args.overrides)
    print(f"open {page.resolve()}")
    return 0
