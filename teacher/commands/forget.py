"""`footfall forget SOURCE [DIR] [key=value ...]`: a source withdraws; take out all that was made of it, for good."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from teacher.forget import Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `footfall forget`."""
    parser.add_argument("source", metavar="SOURCE", help="source id, source, SHA-256 of a video, or a clip")
    parser.add_argument("folder", nargs="?", default=".", metavar="DIR", help="labels, here unless named; or a URL")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, see docs/configuration.md")


def run(args: argparse.Namespace) -> int:
    """Say what goes; then, unless it is a dry run, let it go."""
    from distill.config import load_config
    from distill.errors import FootfallError
    from teacher.forget import ForgetConfig, forget, plan_forget

    config = load_config(ForgetConfig, None, args.overrides)
    if "://" in args.folder and not config.dry_run:
        raise FootfallError(
            f"forget {args.source} in {args.folder}", got="labels behind a URL", expected="a folder, or dry_run=true",
            do="forget it in the folder that was pushed, then push that again",
        )  # fmt: skip
    plan = plan_forget(args.source, args.folder, config)
    _print(args.source, plan)
    if config.dry_run:
        print("nothing was changed (dry_run=true)")
        return 0
    done = forget(args.source, Path(args.folder), config)
    totals = done.manifest.get("totals", {"clips": 0, "shards": 0})
    print(
        f"forgotten; {totals['clips']} clips in {totals['shards']} shards are left. Copies elsewhere are not reached:"
    )
    print(f"push again (footfall push {args.folder} TARGET), and mind what a bucket or a repository keeps of its past.")
    return 0


def _print(asked: str, plan: Plan) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"shards that must go if {asked} withdraws")
    for column in ("shard", "samples of others that stay"):
        table.add_column(column, justify="left" if column == "shard" else "right")
    for name, others in sorted(plan.packed.shards.items()):
        table.add_row(name, "unknown" if others < 0 else str(others))
    console = Console()
    if plan.packed.shards:
        console.print(table)
    console.print(f"clips in shards: {', '.join(sorted(plan.packed.clips)) or 'none'}", highlight=False)
    console.print(f"clip folders: {', '.join(plan.workspaces) or 'none'}", highlight=False)
    gaussians = sorted(set(plan.manifest.get("gaussians") or {}) & set(plan.packed.clips))
    console.print(f"Gaussians: {', '.join(gaussians) or 'none'}", highlight=False)
    for cache, entries in plan.caches.items():
        console.print(f"feature cache {cache}: {len(entries)} entries", highlight=False)
    for name in plan.runs:
        console.print(f"training run {name} read these labels: its student has seen them", highlight=False)
