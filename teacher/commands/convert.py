"""`footfall convert RESULT --to FORMAT[,FORMAT] --out DIR [key=value ...]`: results as other programs read them."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `footfall convert`."""
    parser.add_argument("result", type=Path, metavar="RESULT", help="folder of a result: of run, or clips/ID/joint")
    parser.add_argument(
        "--to",
        required=True,
        metavar="FORMAT[,FORMAT]",
        help="glb, bvh, usd, amass, colmap, tum, 3dgs, csv, rrd, blender",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="new folder for the files")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, see docs/configuration.md")


def run(args: argparse.Namespace) -> int:
    """Convert, say what was written and what could not be kept."""
    from distill.config import load_config
    from distill.convert import ConvertConfig, convert

    config = load_config(ConvertConfig, None, args.overrides)
    record = convert(args.result, args.to.split(","), args.out, config)
    for name, entry in record["formats"].items():
        shown = ", ".join(entry["files"][:3]) + (f" and {len(entry['files']) - 3} more" if entry["files"][3:] else "")
        print(f"{name}: {shown}")
        print(f"  {entry['convention']}")
        print(f"  lost: {entry['lost']}")
        for person, error in entry.get("retarget_error_m", {}).items():
            print(
                f"  {person}: joints off by {1e3 * error['mean']:.1f} mm in the mean, {1e3 * error['max']:.1f} at most"
            )
        if "on_smpl" in entry:
            print(f"  {entry['on_smpl']}")
    print(f"written to {args.out}; the record is {args.out / 'convert.json'}")
    return 0
