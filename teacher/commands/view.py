"""`footfall view RESULT [RESULT ...] [--rerun [FILE]] [key=value ...]`: look at results side by side in the browser."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distill.viewer import ViewConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `footfall view`."""
    parser.add_argument("results", type=Path, nargs="*", metavar="RESULT", help="folders of results, e.g. of run")
    parser.add_argument(
        "--rerun", type=Path, nargs="?", const=Path(), metavar="FILE.rrd",
        help="write a recording for Rerun's viewer instead of serving a page; default: RESULT.rrd",
    )  # fmt: skip
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, see docs/configuration.md")


def run(args: argparse.Namespace) -> int:
    """Serve the page until interrupted, or write the recording."""
    from distill.config import load_config
    from distill.viewer import ViewConfig, open_viewer

    config = load_config(ViewConfig, None, args.overrides)
    if args.rerun is not None:
        return _record(args.results, args.rerun, config)
    viewer = open_viewer(args.results, config)
    port = viewer.server.get_port()
    print(f"{viewer.url}; from another machine: ssh -L {port}:localhost:{port} THIS_MACHINE, then the same address")
    print("Ctrl-C ends it", flush=True)
    try:
        viewer.wait()
    except KeyboardInterrupt:
        viewer.stop()
    return 0


def _record(results: list[Path], file: Path, config: ViewConfig) -> int:
    """Write a recording and say how to open it."""
    from distill.viewer.recording import record

    if file.is_dir() and file != Path():  # `view --rerun RESULT`: the word was a result
        results, file = [file, *results], Path()
    path = record(results, None if file == Path() else file, config)
    print(f"written to {path}; look at it with: rerun {path}  (pip install 'footfall[rerun]' brings the command)")
    return 0
