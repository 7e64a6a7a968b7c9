"""Every clip of a folder through `footfall run` with the shipped checkpoint: results, overlays to look at, and a table.

    python benchmarks/run_clips.py --clips ../shared/videos --out RUNS [--checkpoint tiny] [key=value ...]

RUNS/NAME/ is the result of a clip, RUNS/NAME/overlay.jpg its people on eight frames, RUNS/NAME/above.png the paths from
above. Pictures of other people's videos stay where they are written; docs/real_clips.md says in words what they show.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from distill.body import load_body_model
from distill.config import load_config
from distill.errors import FootfallError
from distill.files import read_json
from distill.pictures.overlay import overlay, sheet
from distill.pictures.plots import plot_top_down
from distill.provenance import code_commit
from distill.results import Result, load_result
from distill.video import Decoder
from teacher.run_video import RunConfig, run_video

Array = NDArray[Any]
VIDEOS: Final = (".mp4", ".mov", ".mkv", ".webm", ".avi")
SHOWN: Final = 8
"""Frames of an overlay."""
LONG: Final = 60
"""Frames from which a person counts as followed for long."""
COLUMNS: Final = ("clip", "frames", "frames/s", "people", "longest", "speed, m/s", "stature, m", "camera, m", "static")


def clips_of(folder: Path) -> list[Path]:
    """Videos and folders of frames, by name; folders of masks are none."""
    return sorted(
        path for path in folder.iterdir()
        if path.suffix.lower() in VIDEOS or (path.is_dir() and any(path.glob("*.jpg")))
    )  # fmt: skip


def draw(video: Path, result: Result, out: Path, image_fps: float) -> None:
    """The people on `SHOWN` frames that are evenly spread, and the paths from above."""
    body = load_body_model(result.motion.body_model)
    decoder = Decoder(video, fps=image_fps if video.is_dir() else None)
    wanted = np.unique(np.linspace(0, len(result.cameras.timestamps) - 1, SHOWN).round().astype(int))
    by_time = [int(np.abs(decoder.timestamps - result.cameras.timestamps[index]).argmin()) for index in wanted]
    tiles = []
    for index, frame in zip(wanted, by_time, strict=True):
        picture = next(iter(decoder.frames(range(frame, frame + 1))))[1]
        assert picture is not None
        tiles.append(overlay(picture, result, int(index), body, label=f"frame {index}").resize(_tile(picture)))
    sheet(tiles, columns=2).save(out / "overlay.jpg", quality=85)
    plot_top_down(out / "above.png", {"student": result})


def _tile(picture: Array) -> tuple[int, int]:
    return 640, round(640 * picture.shape[0] / picture.shape[1])


def row_of(name: str, result: Result, frames_per_s: float) -> list[str]:
    """What can be said of a clip without truth, in the order of `COLUMNS`."""
    motion, times = result.motion, result.cameras.timestamps
    seen = motion.present.sum(0)
    steps = np.linalg.norm(np.diff(result.world_from_body[..., :3, 3], axis=0), axis=-1) / np.diff(times)[:, None]
    both = motion.present[1:] & motion.present[:-1]
    speeds = [f"{np.median(steps[both[:, k], k]):.1f}" for k in range(len(seen)) if both[:, k].sum() >= LONG]
    statures = [f"{motion.stature[k]:.2f}" for k in range(len(seen)) if seen[k] >= LONG]
    way = np.linalg.norm(np.diff(result.cameras.world_from_cam[:, :3, 3], axis=0), axis=-1).sum()
    return [
        name, str(len(times)), f"{frames_per_s:.1f}", f"{len(seen)} ({(seen >= LONG).sum()} long)",
        str(int(seen.max(initial=0))), ", ".join(speeds) or "-", ", ".join(statures) or "-", f"{way:.1f}",
        "yes" if way < 1e-3 else "no",
    ]  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run, draw and print; 2 when the user has something to mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, required=True, help="folder with videos and folders of frames")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results; finished ones are kept")
    parser.add_argument("--checkpoint", default="tiny")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of footfall run")
    args = parser.parse_args(arguments)
    try:
        config = load_config(RunConfig, None, args.overrides)
        rows = []
        for clip in clips_of(args.clips):
            out = args.out / clip.stem
            if not (out / "overlay.jpg").is_file():
                run_video(clip, args.checkpoint, out, config)
                draw(clip, load_result(out), out, config.image_fps)
            rows.append(row_of(clip.stem, load_result(out), read_json(out / "latency.json")["frames_per_s"]))
    except FootfallError as error:
        print(f"run_clips: {error}", file=sys.stderr)
        return 2
    print(f"\nCommit {code_commit()}, {args.checkpoint}, settings: {' '.join(args.overrides) or 'defaults'}\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
