"""`footfall label [INPUT...] --out DIR [--config F] [key=value ...]`: video to shards."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `footfall label`."""
    parser.add_argument(
        "inputs", nargs="*", metavar="INPUT", help="videos, folders, .csv or .jsonl manifests; none: those DIR knows"
    )
    parser.add_argument("--out", required=True, type=Path, help="folder for clips, shards and manifest.json")
    parser.add_argument("--config", type=Path, help="YAML file; defaults are complete without one")
    parser.add_argument("--init", metavar="student:CHECKPOINT", help="start from a student's result (docs/loop.md)")
    parser.add_argument("--blur-faces", action="store_true", help="blur heads in all that is written")
    parser.add_argument("--ray", metavar="auto|ADDRESS", help="spread the work over this Ray cluster")
    parser.add_argument("--only", metavar="STAGE", help="run this stage after those it needs, and pack nothing")
    parser.add_argument("--retry", choices=["failed"], help="try clips again that failed or were set aside")
    parser.add_argument(
        "--since", choices=["config-change"], help="make again what another config makes stale; say first what"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, see docs/configuration.md")


def run(args: argparse.Namespace) -> int:
    """Label, print the table; 2 if any clip failed (the others are labelled all the same)."""
    from teacher.initialisers.student.config import init_overrides
    from teacher.pipeline import label
    from teacher.status import clip_status, print_status
    from teacher.workspace import ClipFolder

    overrides = [*(init_overrides(args.init) if args.init else []), *args.overrides]
    overrides += ["video.blur_faces=true"] if args.blur_faces else []
    report = label(
        args.inputs, args.out, config=args.config, overrides=overrides, ray=args.ray, only=args.only,
        retry_failed=args.retry == "failed", since_config_change=args.since == "config-change",
    )  # fmt: skip
    print_status([clip_status(ClipFolder(args.out / "clips" / clip)) for clip in report.clips])
    if args.only is None:
        totals = report.manifest["totals"]
        packed = f"{totals['clips']} of {len(report.clips)} clips"
        print(f"{packed} packed into {args.out / 'shards'} ({totals['samples']} samples)")
    else:
        print(f"ran {args.only} alone: nothing packed; the same command without --only goes on")
    if report.failed:
        clip, reason = next(iter(report.failed.items()))
        more = f" (and {len(report.failed) - 1} more clips)" if len(report.failed) > 1 else ""
        again = "; --retry failed tries it again" if clip in report.kept else ""
        print(f"footfall: clip {clip} failed: {reason}{more}{again}", file=sys.stderr)
        return 2
    return 0
