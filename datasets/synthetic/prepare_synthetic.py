"""Write a named set of synthetic clips, or one clip of your own wishes.

python datasets/synthetic/prepare_synthetic.py --out data/synthetic --set demo
python datasets/synthetic/prepare_synthetic.py --out data/mine --set debug people=2 camera=pan seed=7

`key=value` changes that field (docs/synthetic.md) in every clip of the set. Run it again after a stop: clips
that are complete are left as they are.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from distill.config import config_to_dict, load_config
from distill.errors import FootfallError
from distill.synthetic import ClipSpec, collection, write_collection


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the clips and manifest.jsonl")
    parser.add_argument("--set", default="demo", dest="name", help="footsteps-v1, demo, debug, tiny:N or train:N")
    parser.add_argument("--set-seed", type=int, default=0, help="another set of the same kind")
    parser.add_argument("--backend", choices=("auto", "gl", "rays"), default="auto", help="renderer")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="fields to change in every clip")
    return parser.parse_args(arguments)


def specs_of(name: str, seed: int, overrides: list[str]) -> list[ClipSpec]:
    """The set's specs with the overrides applied, strictly."""
    return [load_config(ClipSpec, overrides=[*_as_overrides(spec), *overrides]) for spec in collection(name, seed)]


def _as_overrides(spec: ClipSpec) -> list[str]:
    # An empty text has to be quoted: `bvh=` alone would mean null.
    return [f"{key}={value!r}" for key, value in config_to_dict(spec).items()]


def main(arguments: list[str] | None = None) -> int:
    """Write the set; 0 when it is complete, 2 when the user has something to mend."""
    args = parse(arguments)
    columns = (
        TextColumn("{task.description:32}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    try:
        specs = specs_of(args.name, args.set_seed, args.overrides)
        with Progress(*columns) as progress:
            task = progress.add_task("starting", total=1.0)
            manifest = write_collection(
                args.out, specs, backend=args.backend,
                report=lambda done, text: progress.update(task, completed=done, description=text),
            )  # fmt: skip
    except FootfallError as error:
        print(f"prepare_synthetic: {error}", file=sys.stderr)
        return 2
    print(f"{len(specs)} clips, {sum(spec.frames for spec in specs)} frames: {manifest}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
