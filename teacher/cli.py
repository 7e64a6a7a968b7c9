"""The command line: `footfall VERB ...`.

Each verb is a module of `teacher.commands`, imported only when it is used, so that `--help` needs no torch.
It lives in `teacher` because some verbs need the teacher and `distill` never imports it.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from distill.errors import FootfallError

VERBS: Final = {
    "demo": "the whole loop on made-up clips (or --video FILE), ending in a page with pictures",
    "label": "solve videos for cameras, bodies and scene, and pack the labels into shards",
    "status": "show a labelling folder: clips by stage, seconds, decision and why",
    "verify": "check labels, here or behind a URL: every hash, schema and count; repair=true mends them",
    "forget": "a source withdraws: take out all that was made of it",
    "evaluate": "score labels, results or a checkpoint against truth",
    "export": "write a checkpoint's graphs with a parity and a latency record",
    "run": "stream a video, a camera or a URL through a checkpoint: motion, cameras, scene",
    "serve": "stream for other programs, over HTTP and WebSocket",
    "doctor": "show what is installed, what is missing and what it would enable",
    "view": "look at results in the browser",
    "convert": "write results as glb, bvh, usd, amass, colmap, tum, 3dgs, csv, rrd or a Blender script",
    "push": "publish a checkpoint or labels on the Hub, or labels in an S3 bucket",
    "pull": "fetch a checkpoint from the Hub",
    "bench": "measure speed: a row of numbers with hardware, versions and commit",
}
"""The whole command surface; tests hold it."""

_SETTING: Final = re.compile(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)*=")


def build_parser(verb: str | None) -> argparse.ArgumentParser:
    """The parser; only `verb`'s own module is imported."""
    parser = argparse.ArgumentParser(
        prog="footfall", description="From video of people: cameras, motion and scene, in metres, in one world."
    )
    commands = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, purpose in VERBS.items():
        command = commands.add_parser(name, help=purpose, description=purpose)
        if name == verb:
            importlib.import_module(f"teacher.commands.{name}").add_arguments(command)
    return parser


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take settings (`optimise.steps=200`) out of the words, wherever they stand: (other words, settings)."""
    overrides = [word for word in arguments if _SETTING.match(word) and not Path(word).exists()]
    return [word for word in arguments if word not in overrides], overrides


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 2 the user can mend it, 130 interrupted."""
    # numpy's matrices are small here, and its idle threads spin: on two cores they took a third of a stream's speed.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    arguments = list(sys.argv[1:] if argv is None else argv)
    verb = next((word for word in arguments if word in VERBS), None)
    try:
        parser = build_parser(verb)
        words, overrides = split_overrides(arguments)
        args = parser.parse_args(words)
        if overrides and not hasattr(args, "overrides"):
            parser.error(f"{args.verb} takes no settings, got {overrides[0]}")
        args.overrides = overrides
        code = importlib.import_module(f"teacher.commands.{args.verb}").run(args)
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # argparse: 0 after --help, 2 after a wrong word
        return int(stop.code or 0)
    except FootfallError as error:
        print(f"footfall: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("footfall: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `footfall status DIR | head`: nobody reads on, which is no mistake
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at exit
        return 0


if __name__ == "__main__":
    sys.exit(main())
