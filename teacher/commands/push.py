"""`footfall push DIR ORG/NAME [key=value ...]`: publish a checkpoint on the Hub, as one commit, private unless told."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `footfall push`."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="a student's folder, e.g. RUN/pretrained")
    parser.add_argument("id", metavar="ORG/NAME", help="repository; made if it is not there")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, see docs/configuration.md")


def run(args: argparse.Namespace) -> int:
    """Check, publish, say where."""
    from distill.config import load_config
    from distill.hub_push import PushConfig, push

    pushed = push(args.folder, args.id, load_config(PushConfig, None, args.overrides))
    print(f"{pushed.url} ({'private' if pushed.private else 'public'}), revision {pushed.commit}")
    print(f"fetch it with: footfall pull {pushed.id}@{pushed.commit}")
    return 0
