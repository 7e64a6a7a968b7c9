"""`footfall verify DIR [key=value ...]`: check labels, and mend them if asked to."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from distill.shards.schema import Sample
    from distill.shards.verify import Report

SHOWN: Final = 20
"""Findings printed one by one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `footfall verify`."""
    parser.add_argument("folder", metavar="DIR", help="labels: a folder, or a URL (https://, s3://, hf://datasets/)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, see docs/configuration.md")


def run(args: argparse.Namespace) -> int:
    """Mend if asked to, check, print; 0 all is well, 1 something is not, 2 (by error) there are no labels."""
    from distill.config import load_config
    from distill.errors import FootfallError
    from distill.shards.verify import VerifyConfig, verify

    config = load_config(VerifyConfig, None, args.overrides)
    if (config.repair or config.migrate) and "://" in args.folder:
        raise FootfallError(
            f"verify {args.folder}", got="a URL", expected="a folder of this machine, to change it",
            do="mend the folder that was pushed, then push it again",
        )  # fmt: skip
    if config.repair:
        for line in mend(Path(args.folder)):
            print(f"  {line}")
    if config.migrate:
        from distill.shards.repair import migrate

        print(f"{migrate(Path(args.folder))} samples rewritten in this schema version")
    report = verify(args.folder, config)
    _print(report)
    return 1 if report.findings else 0


def mend(out: Path) -> list[str]:
    """Repair a folder of labels; clips that lost samples are packed again if their workspaces are there."""
    from distill.config import load_config
    from distill.errors import FootfallError
    from distill.shards.repair import repair
    from teacher import locks
    from teacher.config import LabelConfig
    from teacher.pack import clip_samples, pack
    from teacher.pack_plan import decision_of
    from teacher.workspace import ClipFolder

    path = out / "config.yaml"
    settings: Any = load_config(LabelConfig, path if path.is_file() else None).pack

    def is_solved(clip: str) -> bool:
        folder = ClipFolder(out / "clips" / clip)
        return (folder.root / "clip.json").is_file() and decision_of(folder) in ("accept", "weight")

    def make(clip: str) -> Iterable[Sample]:
        return clip_samples(ClipFolder(out / "clips" / clip), settings) if is_solved(clip) else ()

    with locks.hold(out) as mine:
        if not mine:
            raise FootfallError(
                f"folder {out}", got=f"{locks.read_owner(out) or 'another process'} is working on it",
                expected="a folder that nobody works on", do="stop the labelling run first",
            )  # fmt: skip
        result = repair(out, make)
        again = sorted(filter(is_solved, result.lost))
        if again:
            pack(out, settings)
            result.done.append(f"packed again from clips/: {', '.join(again)}")
    lost = sorted(result.lost - set(again))
    if lost:
        result.done.append(f"lost, and no workspace to make them from (copy the shards again): {', '.join(lost)}")
    return result.done or ["nothing to mend"]


def _print(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{report.spec}: {len(report.shards)} shards")
    for column in ("shard", "samples", "MB", "state"):
        table.add_column(column, justify="right" if column in ("samples", "MB") else "left", overflow="fold")
    for shard in report.shards:
        state = shard.findings[0] if shard.findings else "whole"
        table.add_row(shard.name, f"{shard.samples} of {shard.expected}", f"{shard.bytes / 1e6:.1f}", state)
    console = Console()
    console.print(table)
    for finding in report.findings[:SHOWN]:
        console.print(f"{finding.where}: {finding.what}", highlight=False, markup=False)
    if len(report.findings) > SHOWN:
        console.print(f"... and {len(report.findings) - SHOWN} more")
    if report.older:
        console.print(f"{report.older} samples of an older schema version: they are read; migrate=true rewrites them")
    wanted = sum(shard.expected for shard in report.shards)
    verdict = (
        "all is well" if not report.findings else f"{len(report.findings)} findings; repair=true mends what can be"
    )
    console.print(f"{report.samples} of {wanted} samples whole: {verdict}")
