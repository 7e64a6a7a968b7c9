"""`footfall status DIR`: clips by stage, seconds, tries, accepted, rejected or set aside and why."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `footfall status`."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="a folder made by footfall label")


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    from teacher.status import print_status, read_status

    print_status(read_status(args.folder), args.folder)
    return 0
