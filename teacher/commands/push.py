"""`footfall push DIR TARGET [key=value ...]`: publish a checkpoint or labels, private unless told.

A student goes to ORG/NAME on the Hub; labels go to hf://datasets/ORG/NAME or to s3://BUCKET/PREFIX.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `footfall push`."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="a student's folder, e.g. RUN/pretrained, or labels")
    parser.add_argument(
        "id", metavar="TARGET", help="ORG/NAME for a student; hf://datasets/ORG/NAME or s3://BUCKET/PREFIX for labels"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, see docs/configuration.md")


def run(args: argparse.Namespace) -> int:
    """Check, publish, say where."""
    if "://" in args.id or (args.folder / "manifest.json").is_file():
        return _labels(args)
    from distill.config import load_config
    from distill.hub_push import PushConfig, push

    pushed = push(args.folder, args.id, load_config(PushConfig, None, args.overrides))
    print(f"{pushed.url} ({'private' if pushed.private else 'public'}), revision {pushed.commit}")
    print(f"fetch it with: footfall pull {pushed.id}@{pushed.commit}")
    return 0


def _labels(args: argparse.Namespace) -> int:
    from distill.config import load_config
    from distill.shards.publish import PublishConfig, publish

    done = publish(args.folder, args.id, load_config(PublishConfig, None, args.overrides))
    print(f"{done.where}: {done.sent} files sent, {done.kept} were there, {done.deleted} deleted")
    print(f"train on them with: data.shards={done.url}")
    return 0
