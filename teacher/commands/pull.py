"""`footfall pull ORG/NAME[@REVISION]`: fetch a checkpoint from the Hub into its cache, check it, say how to run it."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `footfall pull`."""
    parser.add_argument("id", metavar="ORG/NAME[@REVISION]", help="repository, and a commit, tag or branch of it")


def run(args: argparse.Namespace) -> int:
    """Fetch, check, say where it lies and how to run it."""
    from distill.hub import pull
    from distill.models.student_files import WEIGHTS, read_config

    snapshot = pull(args.id)
    config = read_config(snapshot.folder)
    size = (snapshot.folder / WEIGHTS).stat().st_size / 1e6
    backbone = config["backbone"]
    print(f"{snapshot.folder}")
    print(f"revision {snapshot.commit}, {size:.1f} MB of heads, sha256 {config['weights_sha256']}")
    print(
        f"backbone {backbone['id']} ({backbone.get('licence', 'unknown')}), loaded from its own source when it is run"
    )
    if snapshot.left:
        print(f"left there: {', '.join(snapshot.left[:8])}{' ...' if len(snapshot.left) > 8 else ''}")
    print(f"run it with: footfall run VIDEO --checkpoint {snapshot.id}@{snapshot.commit} --out RESULT")
    return 0
