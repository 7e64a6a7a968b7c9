"""How many visible heads are blurred: `python benchmarks/blur_recall.py COLLECTION [--frames 24]`.

COLLECTION is what `datasets/synthetic/prepare_synthetic.py` writes. A head is visible if three of its five face points
(nose, eyes, ears) are in the picture with nobody in front; it is covered if all that are visible lie within blurred
ellipses.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.files import load_arrays
from distill.people.blur import covered
from distill.people.heads import FACE_POINTS, find_heads
from distill.video import Decoder

Array = NDArray[Any]


@dataclass(kw_only=True)
class Recall:
    """Counts of one clip."""

    visible: int
    covered: int
    elsewhere: float
    """Share of the pixels that are blurred although no head is there, mean of the frames."""
    milliseconds: float
    """CPU time per frame."""


def measure(clip: Path, frames: int) -> Recall:
    """Blur the first frames of a synthetic clip and compare with its keypoints."""
    decoder = Decoder(clip / "video.mp4", fps=None)
    images = [frame for _, frame in decoder.frames(range(min(frames, len(decoder)))) if frame is not None]
    start = time.process_time()
    heads = find_heads(images)
    spent = time.process_time() - start
    arrays = load_arrays(clip / "keypoints.npz")[0]
    counts, hits = np.zeros(2, int), []
    for index, image in enumerate(images):
        for points, seen in zip(arrays["keypoints_px"][index], arrays["visible"][index], strict=True):
            face, visible = points[FACE_POINTS], seen[FACE_POINTS]
            if visible.sum() >= 3:
                inside = np.any([covered(head, face) for head in heads[index]] or [np.zeros(len(face), bool)], axis=0)
                counts += (1, bool(inside[visible].all()))
        hits.append(_wrong_area(heads[index], arrays["keypoints_px"][index][:, FACE_POINTS].mean(1), image.shape))
    return Recall(
        visible=int(counts[0]), covered=int(counts[1]), elsewhere=float(np.mean(hits)),
        milliseconds=1e3 * spent / len(images),
    )  # fmt: skip


def _wrong_area(heads: Array, centres: Array, shape: tuple[int, ...]) -> float:
    """Share of the picture under ellipses that hold no face's centre."""
    wrong = [h for h in heads if not covered(h, centres).any()]
    return float(sum(np.pi / 4 * np.prod(h[2:] - h[:2]) for h in wrong)) / (shape[0] * shape[1])


def main() -> None:
    """Print a row per clip and the sum."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection", type=Path)
    parser.add_argument("--frames", type=int, default=24)
    args = parser.parse_args()
    rows: list[Recall] = []
    for clip in sorted(path.parent for path in args.collection.glob("*/keypoints.npz")):
        rows.append(measure(clip, args.frames))
        row = rows[-1]
        print(f"{clip.name:24} {row.covered:5} of {row.visible:5}  {100 * row.elsewhere:.2f} % elsewhere", flush=True)
    visible, hidden = sum(row.visible for row in rows), sum(row.covered for row in rows)
    print(f"{hidden} of {visible} visible heads covered: {100 * hidden / max(visible, 1):.2f} %")
    print(f"{100 * np.mean([row.elsewhere for row in rows]):.2f} % of the pixels blurred where no head is")
    print(f"{np.mean([row.milliseconds for row in rows]):.0f} ms of CPU per frame")


if __name__ == "__main__":
    main()
