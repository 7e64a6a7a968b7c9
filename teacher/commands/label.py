"""`footfall label INPUT... --out DIR [--config F] [key=value ...]`: video to shards."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `footfall label`."""
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="videos, folders, .csv or .jsonl manifests")
    parser.add_argument("--out", required=True, type=Path, help="folder for clips, shards and manifest.json")
    parser.add_argument("--config", type=Path, help="YAML file; defaults are complete without one")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, see docs/configuration.md")


def run(args: argparse.Namespace) -> int:
    """Label, print the table; 2 if any clip failed (the others are labelled all the same)."""
    from teacher.pipeline import label
    from teacher.status import clip_status, print_status
    from teacher.workspace import ClipFolder

    report = label(args.inputs, args.out, config=args.config, overrides=args.overrides)
    print_status([clip_status(ClipFolder(args.out / "clips" / clip)) for clip in report.clips])
    totals = report.manifest["totals"]
    packed = f"{totals['clips']} of {len(report.clips)} clips"
    print(f"{packed} packed into {args.out / 'shards'} ({totals['samples']} samples)")
    if report.failed:
        clip, reason = next(iter(report.failed.items()))
        more = f" (and {len(report.failed) - 1} more clips)" if len(report.failed) > 1 else ""
        print(f"footfall: clip {clip} failed: {reason}{more}", file=sys.stderr)
        return 2
    return 0
