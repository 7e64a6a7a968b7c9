"""`footfall view RESULT [RESULT ...] [key=value ...]`: look at results in the browser, side by side."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `footfall view`."""
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULT", help="folders of results, e.g. of run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, see docs/configuration.md")


def run(args: argparse.Namespace) -> int:
    """Serve the page until interrupted."""
    from distill.config import load_config
    from distill.viewer import ViewConfig, open_viewer

    viewer = open_viewer(args.results, load_config(ViewConfig, None, args.overrides))
    port = viewer.server.get_port()
    print(f"{viewer.url}; from another machine: ssh -L {port}:localhost:{port} THIS_MACHINE, then the same address")
    print("Ctrl-C ends it", flush=True)
    try:
        viewer.wait()
    except KeyboardInterrupt:
        viewer.stop()
    return 0
