"""`footfall-onnx VIDEO --graphs DIR --out DIR [key=value ...]`, also `python -m distill.runner`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy comes: its idle threads spin, as `teacher.cli` says

from distill.errors import FootfallError
from distill.runner.pipeline import RunnerConfig, run_graphs
from distill.runner.settings import with_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 0 when the results are written, 2 when the user has something to mend."""
    parser = argparse.ArgumentParser(prog="footfall-onnx", description="Exported graphs on a video, by onnxruntime.")
    parser.add_argument("video", type=Path, metavar="VIDEO", help="video file or folder of numbered images")
    parser.add_argument("--graphs", type=Path, required=True, metavar="DIR", help="made by footfall export")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for motion, cameras, scene")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings, see docs/configuration.md")
    args = parser.parse_args(arguments)
    try:
        summary = run_graphs(args.video, args.graphs, args.out, with_settings(RunnerConfig(), args.settings))
    except FootfallError as error:
        print(f"footfall-onnx: {error}", file=sys.stderr)
        return 2
    print(
        f"{summary['frames']} frames, {summary['people']} people, {summary['frames_per_s']:.1f} frames a second; "
        f"results in {args.out}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
