"""`footfall run VIDEO [--checkpoint ID_OR_DIR] --out DIR [key=value ...]`: stream a video through a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `footfall run`."""
    parser.add_argument("video", type=Path, metavar="VIDEO", help="video file or folder of numbered images")
    parser.add_argument(
        "--checkpoint",
        default="tiny",
        help="folder, exported folder, Hub id, or josh3r:FILE; default: the one that ships",
    )
    parser.add_argument("--out", required=True, type=Path, help="folder for motion, cameras, scene and latency")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, see docs/configuration.md")


def run(args: argparse.Namespace) -> int:
    """Stream, save, say what was found."""
    from distill.config import load_config
    from teacher.run_josh3r import PREFIX, run_josh3r
    from teacher.run_video import RunConfig, run_video

    config = load_config(RunConfig, None, args.overrides)
    run_any = run_josh3r if args.checkpoint.startswith(PREFIX) else run_video
    summary = run_any(args.video, args.checkpoint, args.out, config)
    print(
        f"{summary['frames']} frames, {summary['people']} people, {summary['frames_per_s']:.1f} frames a second; "
        f"results in {args.out}"
    )
    return 0
