"""What smaller weights cost: exported graphs on clips with truth, error beside speed and size.

    for p in float32 float16 int8; do footfall export tiny --format onnx precision=$p --out graphs/$p; done
    python benchmarks/export_precisions.py graphs/float32 graphs/float16 graphs/int8 --clips footsteps/flat-walk-1 ...

A clip is a folder with `video.mp4` and `truth/` (`datasets/synthetic/prepare_synthetic.py`).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Final

import numpy as np

from distill.files import read_json
from distill.metrics.clip_scores import score_clip
from distill.results import load_result
from distill.runner.pipeline import RunnerConfig, run_graphs

METRICS: Final = ("mpjpe_mm", "pa_mpjpe_mm", "w_mpjpe_mm", "wa_mpjpe_mm")
"""See docs/metrics.md."""
ACCEPTED_MM: Final = 2.0
"""By how much the mean W-MPJPE over the clips may grow for a precision to count as accurate."""


def errors_of(graphs: Path, clip: Path, out: Path) -> dict[str, float]:
    """Mean error per metric, and processor milliseconds a frame, of graphs on one clip."""
    run_graphs(clip / "video.mp4", graphs, out, RunnerConfig())
    scores = score_clip(load_result(clip / "truth"), load_result(out))
    found: dict[str, float] = {}
    for name in METRICS:
        values = [person.samples[name] for _, person in scores.people if name in person.samples]
        found[name] = float(np.concatenate(values).mean()) if values else float("nan")
    return found | {"processor ms a frame": read_json(out / "latency.json")["processor_ms_per_frame"]}


def print_table(folders: list[Path], clips: list[Path]) -> None:
    """One row per folder of graphs: means over the clips."""
    names = (*METRICS, "processor ms a frame")
    print("| graphs | MB | " + " | ".join(names) + " | accepted |")
    print("|---|" + "---:|" * (len(names) + 1) + "---|")
    first: float | None = None
    for folder in folders:
        with tempfile.TemporaryDirectory() as out:
            rows = [errors_of(folder, clip, Path(out)) for clip in clips]
        means = {name: float(np.mean([row[name] for row in rows])) for name in names}
        first = means["w_mpjpe_mm"] if first is None else first
        megabytes = sum(path.stat().st_size for path in folder.glob("*.onnx")) / 1e6
        accepted = "yes" if means["w_mpjpe_mm"] - first <= ACCEPTED_MM else f"no: more than {ACCEPTED_MM} mm worse"
        cells = " | ".join(f"{means[name]:.1f}" for name in names)
        print(f"| {folder.name} | {megabytes:.1f} | {cells} | {accepted} |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graphs", nargs="+", type=Path, help="folders made by footfall export, float32 first")
    parser.add_argument("--clips", nargs="+", type=Path, required=True, help="folders of clips with truth")
    args = parser.parse_args()
    print_table(args.graphs, args.clips)


if __name__ == "__main__":
    main()
