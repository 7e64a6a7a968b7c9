"""A stream of 10,000 frames through `footfall run`: does memory stay flat, the clock true, and everybody who they are?

    python benchmarks/long_stream.py --clip work/footsteps-v1/cross-pair-1 --out work/long_stream [people=tokens ...]

A drawn clip in which two people cross goes back and forth for `--frames` frames, so that they cross again and again.
Writes report.json (a row with hardware and versions) and memory.png to OUT; settings are those of `footfall run`.
Interrupted (Ctrl-C), it reports of the frames until then.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from distill.config import load_config
from distill.errors import require
from distill.files import load_arrays, read_json, write_json
from distill.live import Picture
from distill.results import Result, load_result
from distill.video import Decoder
from teacher.run_video import RunConfig, run_video

Array = NDArray[Any]
EVERY = 50
"""Frames between two looks at memory."""
WARM = 0.1
"""Share of the frames after which memory must stay where it is."""
NEAR = 1.0
"""Somebody found is a true person if the pelvis is nearer than this many widths of the true box."""


class BackAndForth:
    """The frames of a clip, forwards and backwards, again and again; 30 a second by its time stamps."""

    live = False

    def __init__(self, video: Path, frames: int) -> None:
        decoder = Decoder(video, fps=None)
        self._images = [image for _, image in decoder.frames(range(len(decoder))) if image is not None]
        self.length: int | None = frames
        self.memory: list[tuple[int, float]] = []
        """Frame and megabytes that the process holds."""
        self._closed = False

    def place(self, frame: int) -> int:
        """Which of the clip's frames is shown."""
        span = len(self._images) - 1
        return span - abs(frame % (2 * span) - span)

    def frames(self) -> Iterator[Picture]:
        """See `distill.live.Source`."""
        for k in range(self.length or 0):
            if self._closed:
                return
            if k % EVERY == 0:
                self.memory.append((k, resident_mb()))
            yield Picture(index=k, timestamp=k / 30, image=self._images[self.place(k)])

    def close(self) -> None:
        """See `distill.live.Source`."""
        self._closed = True


def resident_mb() -> float:
    """What this process holds of the machine's memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def identities(result: Result, truth: Result, boxes: Array, place: list[int]) -> dict[str, Any]:
    """Who each true person was taken for: the commonest id, its share of the frames, and how often it changed.

    Found and true people of a frame are matched, the best for all together, by how far apart their pelvises are in the
    picture, in widths of the true box, and in log depth.
    """
    found, true = (r.motion.cam_from_body[..., :3, 3].astype(np.float64) for r in (result, truth))
    scale = truth.cameras.size[0] / result.cameras.size[0]
    pixels, wanted = scale * _project(found, result.cameras.K), _project(true, truth.cameras.K)
    taken_for = np.full((len(place), true.shape[1]), -1)
    for k, shown in enumerate(place):
        rows = np.flatnonzero(result.motion.present[k])
        columns = np.flatnonzero(truth.motion.present[shown])
        width = np.maximum(boxes[shown, columns, 2] - boxes[shown, columns, 0], 1)
        away = np.linalg.norm(pixels[k, rows][:, None] - wanted[shown, columns], axis=-1) / width
        deeper = np.abs(np.log(found[k, rows, 2][:, None] / true[shown, columns, 2]))
        pairs = linear_sum_assignment(np.minimum(away + deeper, 10.0))
        for row, column in zip(*pairs, strict=True):
            if away[row, column] < NEAR:
                taken_for[k, columns[column]] = result.motion.ids[rows[row]]
    report = {}
    for column, person in enumerate(truth.motion.ids.tolist()):
        seen = taken_for[taken_for[:, column] >= 0, column]
        most = Counter(seen.tolist()).most_common(1) or [(-1, 0)]
        report[str(person)] = {
            "taken_for": most[0][0], "share": round(most[0][1] / max(len(seen), 1), 4),
            "found": round(len(seen) / len(place), 4), "changes": int((np.diff(seen) != 0).sum()),
        }  # fmt: skip
    return report


def _project(points: Array, K: Array) -> Array:
    """[..., 3] in the camera -> [..., 2] pixels."""
    seen = points @ K.T
    return seen[..., :2] / np.maximum(seen[..., 2:], 0.1)


def main() -> None:
    """Run, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clip", required=True, type=Path, help="drawn clip: video.mp4, keypoints.npz, truth/")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--checkpoint", default="tiny")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of footfall run")
    args = parser.parse_args()
    report = measure(args.clip, args.out, args.frames, args.checkpoint, load_config(RunConfig, None, args.overrides))
    write_json(args.out / "report.json", report)
    print(json.dumps({k: v for k, v in report.items() if k != "memory_mb"}, indent=1))


def measure(clip: Path, out: Path, frames: int, checkpoint: str, config: RunConfig) -> dict[str, Any]:
    """The whole run."""
    source = BackAndForth(clip / "video.mp4", frames)
    start, cpu = time.perf_counter(), time.process_time()
    summary = run_video(source, checkpoint, out / "result", config)
    spent = {"seconds": round(time.perf_counter() - start), "cpu_seconds": round(time.process_time() - cpu)}
    result, truth = load_result(out / "result"), load_result(clip / "truth")
    memory, seen = np.array(source.memory), summary["frames"]
    steady = memory[memory[:, 0] >= WARM * seen, 1]
    boxes = load_arrays(clip / "keypoints.npz")[0]["box_xyxy"]
    latency = read_json(out / "result" / "latency.json")
    plot_memory(out / "memory.png", memory)
    return {
        "clip": clip.name, "frames": seen, "frames_wanted": frames, "people_in_clip": len(truth.motion.ids), **spent,
        "people_found": summary["people"],
        "memory_first_mb": round(float(steady[0]), 1), "memory_last_mb": round(float(steady[-1]), 1),
        "memory_most_mb": round(float(steady.max()), 1),
        "memory_growth": round(float(steady.max() / steady[0] - 1), 4),
        "clock_error_s": float(np.abs(result.cameras.timestamps - np.arange(seen) / 30).max()),
        "identities": identities(result, truth, boxes, [source.place(k) for k in range(seen)]),
        "breaks": result.meta.get("breaks", []), "stream": result.meta["stream"],
        **{key: latency[key] for key in ("hardware", "torch", "commit", "frames_per_s", "end_to_end")},
        "memory_mb": [[int(k), round(float(mb), 1)] for k, mb in memory],
    }  # fmt: skip


def plot_memory(path: Path, memory: Array) -> None:
    """Memory over frames."""
    require("matplotlib", extra="demo").use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 2.6), layout="constrained")
    axes.plot(memory[:, 0], memory[:, 1], lw=1.2)
    steady = memory[memory[:, 0] >= WARM * memory[-1, 0]]
    axes.axhspan(0.98 * steady[0, 1], 1.02 * steady[0, 1], alpha=0.15, label="2 % about that after warming up")
    axes.set(xlabel="frame", ylabel="resident memory, MB", ylim=(0, None))
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
