"""The Gaussian head on labelled clips it has not seen: PSNR and SSIM of frames that it was not given, and its time.

    python benchmarks/gaussian_head.py checkpoint=runs/tiny-gaussians/pretrained \\
        'shards=data/worlds/worlds/02??/truth/shards/*.tar' out=gaussian_head

Of the first sample of each clip two frames are the sources. Targets lie between them (`between`) and after both
(`beyond`: a view from outside the way between the sources). Beside the trained head stands a fresh one, which draws
what it was given. Whole pictures, people included, at the network's size:

    full     every pixel; what no source has seen counts too
    seen     pixels of people, and those of the scene that a source sees by the labels' depth (Splatt3R's mask)
    people   pixels of people only

Cameras, poses and the points' unit are the labels', so this measures the head alone. Times are of the CPU, one thread.
Writes `report.json` and `pictures.png` (target, fresh, trained).
"""

from __future__ import annotations

import random
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from distill.config import load_config
from distill.data import collate
from distill.errors import FootfallError
from distill.files import write_json
from distill.gaussian_crops import seen_by_sources
from distill.gaussian_losses import inner, ssim_map
from distill.gaussian_task import GaussianTask, GaussianTrainConfig
from distill.models.gaussian_head import GaussianHead
from distill.models.student import Student
from distill.provenance import code_commit
from distill.render.views import to_images
from distill.shards.reader import ShardReader, find_shards
from distill.window import make_window

SOURCES = (0, 2)
TARGETS = {"between": 1, "beyond": 3}
"""Name of a target -> which frame of a window it is."""
SHOWN = 4
"""Clips in the picture."""


@dataclass(kw_only=True)
class HeadBench:
    """What is measured."""

    checkpoint: str = ""
    """Student with a Gaussian head: folder, shipped name or Hub id."""
    shards: str = ""
    """Labelled clips that it was not trained on."""
    out: str = "gaussian_head"
    """Folder of the report."""
    clips: int = 8
    """Clips, one window of each; the shards' order is shuffled by a fixed seed."""
    gap: int = 10
    """Frames between the sources; targets are half of it after each of them."""

    def __post_init__(self) -> None:
        if not self.checkpoint or not self.shards or self.clips < 1 or self.gap < 2:
            raise ValueError("checkpoint and shards, clips of 1 or more and a gap of 2 or more are expected")


def batches(config: HeadBench, student: Student) -> Iterator[dict[str, Any]]:
    """One window of each clip that has people."""
    urls = find_shards(config.shards).urls
    random.Random(0).shuffle(urls)
    frames = [0, config.gap // 2, config.gap, config.gap + config.gap // 2]
    for url in urls[: config.clips]:
        for sample in ShardReader([url], seed=0, rank=0, world=1, shuffle=False):
            width, height = (int(side) for side in sample.meta["size"])
            size = student.network_size((width, height))
            yield collate([make_window(sample, frames, size, 4, patch=1)])
            break


def psnr(target: Tensor, picture: Tensor, mask: Tensor) -> float:
    """dB over the pixels of a mask [H, W]; pictures [3, H, W] in [0, 1]."""
    error = ((target - picture).square().mean(0) * mask).sum() / mask.sum().clamp(min=1)
    return float(-10 * torch.log10(error.clamp(min=1e-10)))


def score(batch: dict[str, Any], target: int, picture: Tensor) -> dict[str, float]:
    """Scores of one picture."""
    wanted = batch["images"][0, target].float() / 255
    people = batch["masks"][0, :, target].amax(0) > 0.5
    seen = (seen_by_sources(batch, list(SOURCES), target, 0) | people).float()
    similar = ssim_map(wanted, picture)
    scores = {
        "full_psnr": psnr(wanted, picture, torch.ones_like(seen)), "full_ssim": float(similar.mean()),
        "seen_psnr": psnr(wanted, picture, seen),
        "seen_ssim": float((similar * inner(seen)).sum() / inner(seen).sum().clamp(min=1)),
    }  # fmt: skip
    return scores | ({"people_psnr": psnr(wanted, picture, people.float())} if people.sum() > 50 else {})


def times_of(task: GaussianTask, batch: dict[str, Any]) -> dict[str, float]:
    """CPU milliseconds of the parts, for one frame of one clip."""
    frames = {view: task.student.encode(batch["images"][:, view].float() / 255) for view in SOURCES}
    pair = task.student.backbone.decode(frames[0], frames[2])
    K = batch["K"][:, 0]
    parts = {
        "scene_head": lambda: task.head.scene(frames[0], pair.tokens_a[-1], pair.points_a, pair.conf_a, K),
        "avatars_two_frames": lambda: task._avatars(batch, frames, list(SOURCES), 0, 2),
        "draw_everything": lambda: task.draw(batch, SOURCES, 1),
    }
    found = {}
    for name, part in parts.items():
        part()
        began = time.process_time()
        for _ in range(3):
            part()
        found[name] = round(1e3 * (time.process_time() - began) / 3, 1)
    return found


def main() -> int:
    """Measure and write."""
    torch.set_num_threads(1)
    try:
        config = load_config(HeadBench, None, sys.argv[1:])
        student = Student.from_pretrained(config.checkpoint)
    except FootfallError as error:
        print(f"gaussian_head: {error}", file=sys.stderr)
        return 2
    trained = student.gaussians
    if trained is None or student.config.gaussians is None:
        print(f"gaussian_head: {config.checkpoint} has no Gaussian head", file=sys.stderr)
        return 2
    module = student.backbone.module
    fresh = GaussianHead(student.config.gaussians, module.feature_dim, module.token_dim, module.patch_size)
    task = GaussianTask(student, GaussianTrainConfig()).eval()
    rows: dict[str, list[float]] = defaultdict(list)
    shown: list[Tensor] = []
    times: dict[str, float] = {}
    with torch.no_grad():
        for batch in batches(config, student):
            for name, target in TARGETS.items():
                pictures = [batch["images"][0, target].float() / 255]
                for which, head in (("fresh", fresh), ("trained", trained)):
                    task.head = student.gaussians = head
                    pictures.append(task.draw(batch, SOURCES, target)[0].color[0].permute(2, 0, 1).clamp(0, 1))
                    for key, value in score(batch, target, pictures[-1]).items():
                        rows[f"{name}/{which}/{key}"].append(value)
                shown.append(torch.cat(pictures, dim=2))
            times = times or times_of(task, batch)
            print(batch["name"][0], {k: round(v[-1], 2) for k, v in rows.items() if "psnr" in k}, flush=True)
    means = {key: round(float(np.mean(values)), 3) for key, values in rows.items()}
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    facts = {"checkpoint": config.checkpoint, "clips": len(shown) // len(TARGETS), "gap": config.gap}
    write_json(out / "report.json", {**facts, "means": means, "cpu_ms": times, "commit": code_commit()})
    sheet = torch.cat(shown[: SHOWN * len(TARGETS)], dim=1)
    image: Image.Image = to_images(sheet.permute(1, 2, 0)[None])[0]
    image.save(out / "pictures.png")
    for key, value in means.items():
        print(f"{key:36s} {value:8.3f}")
    print(times)
    return 0


if __name__ == "__main__":
    sys.exit(main())
