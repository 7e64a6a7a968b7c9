"""`footfall run VIDEO|CAMERA|URL [--offline] [--checkpoint ID_OR_DIR] --out DIR [key=value ...]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `footfall run`."""
    parser.add_argument(
        "video",
        metavar="VIDEO|CAMERA|URL",
        help="file, folder of numbered images, camera (0) or URL (rtsp://, http://)",
    )
    parser.add_argument(
        "--checkpoint",
        default="tiny",
        help="folder, exported folder, Hub id, or josh3r:FILE; default: the one that ships",
    )
    parser.add_argument("--out", required=True, type=Path, help="folder for motion, cameras, scene and latency")
    parser.add_argument(
        "--offline", action="store_true", help="improve every frame by all later ones once the video has ended"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, see docs/configuration.md")


def run(args: argparse.Namespace) -> int:
    """Stream, save, say what was found."""
    from distill.config import load_config
    from distill.errors import FootfallError
    from distill.live import is_file
    from teacher.run_josh3r import PREFIX, run_josh3r
    from teacher.run_video import RunConfig, run_video

    config = load_config(RunConfig, None, [*args.overrides, *(["offline=true"] if args.offline else [])])
    if args.checkpoint.startswith(PREFIX):
        if not is_file(args.video) or config.offline:
            raise FootfallError(
                f"run {args.video}", got=args.checkpoint, expected="a student: JOSH3R runs on files, and not --offline",
                do="take another checkpoint",
            )  # fmt: skip
        summary = run_josh3r(Path(args.video), args.checkpoint, args.out, config)
    else:
        summary = run_video(args.video, args.checkpoint, args.out, config)
    dropped = f", {summary['dropped']} dropped" if summary.get("dropped") else ""
    print(
        f"{summary['frames']} frames{dropped}, {summary['people']} people, {summary['frames_per_s']:.1f} frames a "
        f"second; results in {args.out}"
    )
    if summary.get("ended") != "interrupted" or not is_file(args.video):  # a camera is always stopped like that
        return 0
    print("footfall: interrupted; the results hold what came until then", file=sys.stderr)
    return 130
