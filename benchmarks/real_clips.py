"""Label the real clips again with the code as it now is, and print the table of docs/log.md.

python benchmarks/real_clips.py --shared ../shared --out LABELS [--again joint] [key=value ...]

A stage's record holds while its settings and inputs do; the code is not part of it. `--again` therefore names the
first stage that must run again wherever another commit wrote it; the stages before it, which take most of the
time, are kept. The table is printed after each round: all clips but the long one, then all.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Final

from distill.errors import FootfallError
from distill.provenance import code_commit
from teacher.pipeline import label
from teacher.status import STAGE_NAMES
from teacher.workspace import ClipFolder

CLIPS: Final = (
    "01_josh_demo2_venice_walk.mp4", "02_davis_parkour_frames", "04_videomimic_two_people_benches.mp4",
    "05_phalp_jog_tracking.mp4", "11_gvhmr_tennis_static.mp4", "18_davis_lucia_lowres_crop.mp4",
)  # fmt: skip
LONG: Final = "15_intel_one_by_one_static_ccby.mp4"
"""1,394 frames: last."""


def forget(labels: Path, first: str) -> list[str]:
    """Remove the records of stage `first` that another commit wrote; later stages then run again by themselves.

    Returns:
        The clips.
    """
    forgotten = []
    for folder in sorted((labels / "clips").glob("*")):
        clip = ClipFolder(folder)
        record = clip.record(first)
        if record is not None and record.commit != code_commit():
            (clip.stage_dir(first) / "record.json").unlink()
            forgotten.append(clip.id)
    return forgotten


def main(arguments: list[str] | None = None) -> int:
    """Label and print; 2 when the user has something to mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with videos/ and gt/")
    parser.add_argument("--out", type=Path, required=True, help="labelling folder; an existing one is continued")
    parser.add_argument("--again", choices=STAGE_NAMES, default="joint", help="first stage to run again")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of footfall label")
    args = parser.parse_args(arguments)
    root = Path(__file__).resolve().parent
    sys.path[:0] = [str(root), str(root.parent / "datasets" / "pose2sim")]
    recipe, table = importlib.import_module("prepare_pose2sim"), importlib.import_module("clip_table")
    try:
        shared, views = args.shared.resolve(), args.out / "pose2sim"  # a clip's path is part of its identity
        if recipe.main(["--raw", str(shared / "gt" / "pose2sim_SinglePerson"), "--out", str(views)]):
            return 2
        print("to run again:", ", ".join(forget(args.out, args.again)) or "nothing")
        short = [shared / "videos" / name for name in CLIPS]
        for inputs in ([*short, views / "manifest.jsonl"], [shared / "videos" / LONG]):
            label(inputs, args.out, overrides=args.overrides, since_config_change=True)
            print(f"\nCommit {code_commit()}, settings: {' '.join(args.overrides) or 'defaults'}\n")
            table.print_table(args.out)
    except FootfallError as error:
        print(f"real_clips: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
