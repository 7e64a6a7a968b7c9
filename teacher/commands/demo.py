"""`footfall demo [--video FILE] [--out DIR]`: the whole loop, ending in a page with pictures."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `footfall demo`."""
    parser.add_argument("--video", type=Path, help="use this file instead of made-up clips")
    parser.add_argument("--out", type=Path, default=Path("footfall-demo"), help="folder (default: footfall-demo)")


def run(args: argparse.Namespace) -> int:
    """Run the demo and say where the page is."""
    from teacher.demo import run_demo

    page = run_demo(args.out, args.video)
    print(f"open {page.resolve()}")
    return 0
