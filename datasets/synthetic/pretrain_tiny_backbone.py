"""Train the `tiny` backbone from scratch on synthetic pairs with exact points, and write its weights.

    python datasets/synthetic/pretrain_tiny_backbone.py --config configs/student/tiny_backbone.yaml [key=value ...]

One process, no accelerator needed. Frames are drawn once into `work` (a second run finds them there). The
weights are those of a running average, saved as float16 with a JSON record after every `save_every` steps.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from distill.config import config_to_dict, load_config
from distill.files import atomic_path, load_arrays, save_arrays, sha256_of, write_json
from distill.models.mast3r import Mast3r, initialise
from distill.models.mast3r_files import model_from_weights, read_weights
from distill.models.registry import TINY, TINY_SEED
from distill.pointmap_task import PointmapTask
from distill.synthetic import ClipSpec, make_clip
from distill.synthetic.clips import make_stage
from distill.synthetic.collections import GROUNDS
from distill.synthetic.render import open_renderer
from distill.synthetic.spec import TerrainKind

Array = NDArray[Any]


@dataclass(kw_only=True)
class PretrainConfig:
    """One training run."""

    work: str = "/tmp/footfall_tiny"
    """Folder for drawn frames and the log."""
    out: str = "/tmp/footfall_tiny/tiny_backbone.safetensors"
    """Weights to write; a .json record goes beside them."""
    clips: int = 500
    """Worlds drawn for training."""
    held_out: int = 20
    """Worlds drawn for validation, from other seeds."""
    frames: int = 6
    """Frames drawn of each world, at random times."""
    span: int = 40
    """Frames (at 30 a second) among which they are chosen: the longest gap of a pair."""
    steps: int = 2500
    """Optimiser steps."""
    batch: int = 8
    """Pairs per step."""
    dense: int = 8
    """Of how many of them the points are asked for; the others only teach motion, at half the time."""
    start: str = ""
    """Weights to go on from; empty starts from scratch."""
    workers: int = 2
    """Processes that draw worlds."""
    learning_rate: float = 1e-3
    """After warm-up; falls to a hundredth by a cosine."""
    warm_up: int = 100
    """Steps of linear warm-up."""
    average: float = 0.995
    """Decay of the running average of weights."""
    save_every: int = 250
    """Steps between validations and saved weights."""
    seed: int = 0
    """Of order and augmentation."""

    def __post_init__(self) -> None:
        if min(self.clips, self.held_out, self.steps, self.batch, self.save_every, self.workers) < 1 or self.frames < 2:
            raise ValueError("clips, held_out, steps, batch, save_every, workers must be 1 or more, frames 2 or more")
        if not 1 <= self.dense <= self.batch:
            raise ValueError(f"dense is {self.dense}, expected 1 to batch")


MOTIONS: Final = ("walk", "turn", "stand", "jog", "sit", "loop", "clap", "kick")
"""Motions of drawn worlds."""


def draw_clip(path: Path, seed: int, config: PretrainConfig) -> None:
    """Draw some frames of one random world: rgb, depth, K and cameras. Portrait for one world in four."""
    rng = np.random.default_rng(seed)
    size = [128, 224] if rng.uniform() < 0.25 else [224, 128]
    terrain = str(rng.choice([kind for kind in get_args(TerrainKind) if kind != "flat"]))
    on_terrain = bool(rng.uniform() < 0.3)
    spec = ClipSpec(
        seed=seed,
        frames=config.span,
        size=size,
        people=int(rng.integers(1, 3 if on_terrain else 5)),
        motion="walk" if on_terrain else str(rng.choice(MOTIONS)),  # type: ignore[arg-type]
        terrain=terrain if on_terrain else "flat",  # type: ignore[arg-type]
        camera=str(rng.choice(["walk", "pan", "shake"])),  # type: ignore[arg-type]
        ground=str(rng.choice(GROUNDS)),  # type: ignore[arg-type]
        objects=int(rng.integers(4, 20)),
        image_noise=float(rng.uniform(0, 0.012)),
    )
    clip = make_clip(spec)
    cameras = clip.truth.cameras
    renderer = open_renderer(make_stage(clip), cameras.size, supersample=spec.supersample)
    chosen = np.sort(rng.choice(config.span, config.frames, replace=False))
    pictures = [
        renderer.draw(people, cameras.K, cameras.world_from_cam[frame])
        for frame, people in zip(chosen, clip.people_vertices(chosen), strict=True)
    ]
    arrays = {
        "rgb": np.stack([picture.rgb for picture in pictures]),
        "depth": np.stack([picture.depth for picture in pictures]).astype(np.float16),
        "K": cameras.K,
        "world_from_cam": cameras.world_from_cam[chosen],
    }
    save_arrays(path, arrays)


def draw_missing(path: Path, seed: int, config: PretrainConfig) -> str:
    """Draw a world unless it is there; returns why it was left out, or nothing."""
    torch.set_num_threads(1)
    if not path.is_file():
        try:
            draw_clip(path, seed, config)
        except ValueError as error:  # a world that cannot be filmed
            return f"world {seed}: {error}"
    return ""


def draw_all(config: PretrainConfig) -> tuple[list[Path], list[Path]]:
    """Files of the training and the held-out worlds, drawn where missing."""
    folder = Path(config.work) / "frames"
    seeds = [range(1_000, 1_000 + config.clips), range(900_000, 900_000 + config.held_out)]
    paths = {seed: folder / f"{seed:06d}.npz" for group in seeds for seed in group}
    with ProcessPoolExecutor(config.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for said in pool.map(draw_missing, paths.values(), paths, itertools.repeat(config), chunksize=8):
            if said:
                print(said, flush=True)
    drawn = [[paths[seed] for seed in group if paths[seed].is_file()] for group in seeds]
    return drawn[0], drawn[1]


def points_in_a(depth: Array, K: Array, cam_a_from_cam: Array) -> Array:
    """Depth [h, w] of one view -> its points [h, w, 3] in camera a, metres."""
    height, width = depth.shape
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack((x, y, np.ones_like(x)), axis=-1) @ np.linalg.inv(K).T
    points = rays * depth[..., None].astype(np.float64)
    return points @ cam_a_from_cam[:3, :3].T + cam_a_from_cam[:3, 3]


def make_pair(clip: dict[str, Array], first: int, second: int) -> dict[str, Array]:
    """Images, points and validity of an ordered pair of frames."""
    a_from_world = np.linalg.inv(clip["world_from_cam"][first])
    frames = (first, second)
    depth = clip["depth"][[first, second]]
    points = [points_in_a(clip["depth"][i], clip["K"], a_from_world @ clip["world_from_cam"][i]) for i in frames]
    return {
        "images": clip["rgb"][[first, second]].astype(np.float32) / 255,
        "points": np.stack(points).astype(np.float32),
        "valid": depth > 0,
        "K": clip["K"].astype(np.float32),
        "cam_a_from_cam_b": (a_from_world @ clip["world_from_cam"][second]).astype(np.float32),
    }


def augment(pair: dict[str, Array], rng: np.random.Generator) -> dict[str, Array]:
    """Mirror, and change gain, gamma, colour and noise, alike in both views but for small differences."""
    images, points, valid, K, motion = (pair[name] for name in ("images", "points", "valid", "K", "cam_a_from_cam_b"))
    if rng.uniform() < 0.5:
        width = images.shape[2]
        images, points, valid = (np.flip(array, axis=2) for array in (images, points, valid))
        points = points * np.float32([-1, 1, 1])
        K = K.copy()
        K[0, 2] = width - K[0, 2]
        mirror = np.diag(np.float32([-1, 1, 1, 1]))
        motion = mirror @ motion @ mirror
    gamma = np.exp(rng.normal(0, 0.25))
    gain = np.exp(rng.normal(0, 0.15) + rng.normal(0, 0.1, (1, 1, 1, 3)) + rng.normal(0, 0.03, (2, 1, 1, 1)))
    noise = rng.standard_normal(images.shape, dtype=np.float32) * rng.uniform(0, 0.02)
    images = np.clip(images**gamma * gain + noise, 0, 1)
    return {"images": images, "points": points, "valid": valid, "K": K, "cam_a_from_cam_b": motion}


def collate(pairs: list[dict[str, Array]]) -> dict[str, Tensor]:
    """Pairs of one size as a batch for `PointmapTask`."""
    batch = {name: torch.from_numpy(np.stack([pair[name] for pair in pairs])) for name in pairs[0]}
    batch["images"] = batch["images"].permute(0, 1, 4, 2, 3).float().contiguous()
    return batch


def choose_pair(frames: int, rng: np.random.Generator) -> tuple[int, int]:
    """Two of a world's frames, in either order; every other pair are neighbours, as in a stream."""
    first, second = rng.choice(frames, 2, replace=False)
    if rng.uniform() < 0.5:
        second = first + 1 if first + 1 < frames else first - 1
    return int(first), int(second)


def training_batches(clips: list[dict[str, Array]], config: PretrainConfig) -> Iterator[dict[str, Tensor]]:
    """Endless random pairs; all of a batch are landscape, or all portrait."""
    rng = np.random.default_rng(config.seed)
    by_shape: dict[tuple[int, ...], list[dict[str, Array]]] = {}
    for clip in clips:
        by_shape.setdefault(clip["depth"].shape[1:], []).append(clip)
    shapes = list(by_shape)
    share = np.array([len(by_shape[shape]) for shape in shapes]) / len(clips)
    while True:
        group = by_shape[shapes[rng.choice(len(shapes), p=share)]]
        chosen = [group[i] for i in rng.integers(len(group), size=config.batch)]
        pairs = [make_pair(clip, *choose_pair(len(clip["rgb"]), rng)) for clip in chosen]
        yield collate([augment(pair, rng) for pair in pairs])


@torch.no_grad()
def validate(task: PointmapTask, clips: list[dict[str, Array]]) -> dict[str, float]:
    """Mean report over the first and last frame of every held-out world, both orders."""
    reports = []
    for clip in clips:
        last = len(clip["rgb"]) - 1
        reports.append(task(collate([make_pair(clip, 0, last), make_pair(clip, last, 0)]))[1])
    return {name: round(float(np.mean([float(report[name]) for report in reports])), 4) for name in reports[0]}


def save(config: PretrainConfig, model: Mast3r, record: dict[str, Any]) -> None:
    """Write float16 weights, then the record with their hash."""
    path = Path(config.out)
    weights = {name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})
    write_json(path.with_suffix(".json"), {"sha256": sha256_of(path), **record})


def train(config: PretrainConfig, command: str) -> None:
    """The whole run."""
    train_files, held_out_files = draw_all(config)
    clips, held_out = ([load_arrays(path)[0] for path in files] for files in (train_files, held_out_files))
    task = PointmapTask(start_model(config), config.dense)
    average = AveragedModel(task, multi_avg_fn=get_ema_multi_avg_fn(config.average))
    optimiser = torch.optim.AdamW(task.parameters(), lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.05)
    log = Path(config.work) / "log.jsonl"
    untrained = validate(task, held_out)
    print(f"{len(clips)} worlds, {len(held_out)} held out; untrained: {untrained}", flush=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    start, recent = time.time(), []
    for step, batch in zip(range(1, config.steps + 1), training_batches(clips, config)):  # noqa: B905 (endless)
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * learning_rate_factor(step, config)
        losses = task(batch)[0]
        optimiser.zero_grad()
        loss = torch.stack(list(losses.values())).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimiser.step()
        average.update_parameters(task)
        recent.append(float(loss.detach()))
        if step % config.save_every == 0 or step == config.steps:
            record = {
                "command": command,
                "commit": commit,
                "config": config_to_dict(config),
                "steps": step,
                "minutes": round((time.time() - start) / 60, 1),
                "training_loss": round(float(np.mean(recent)), 4),
                "held_out": validate(average.module, held_out),
                "held_out_untrained": untrained,
                "licence": "Apache-2.0",
                "data": "worlds of distill.synthetic (bodies CC0, everything else drawn by this program)",
            }
            save(config, average.module.backbone, record)
            with log.open("a") as stream:
                stream.write(
                    json.dumps({name: record[name] for name in ("steps", "minutes", "training_loss", "held_out")})
                    + "\n"
                )
            print(
                f"step {step}: {record['minutes']} min, loss {record['training_loss']}, {record['held_out']}",
                flush=True,
            )
            recent.clear()


def start_model(config: PretrainConfig) -> Mast3r:
    """A fresh network, or the one whose weights `start` names."""
    if config.start:
        return model_from_weights(TINY, read_weights(Path(config.start)), config.start)
    model = Mast3r(TINY)
    initialise(model, TINY_SEED)
    start_ahead(model)
    return model


def start_ahead(model: Mast3r, distance_m: float = 6.0) -> None:
    """Begin with all points straight ahead at one distance rather than at the camera: steps are few."""
    for head in (model.downstream_head1, model.downstream_head2):
        last = head.dpt.head[-1]
        torch.nn.init.normal_(last.weight, std=0.02)
        last.bias.data.copy_(torch.tensor([0.0, 0.0, math.log1p(distance_m), -1.0]))


def learning_rate_factor(step: int, config: PretrainConfig) -> float:
    """Linear warm-up, then a cosine to 1/100."""
    if step < config.warm_up:
        return step / config.warm_up
    done = (step - config.warm_up) / max(config.steps - config.warm_up, 1)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))


def main() -> None:
    """Parse, train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_intermixed_args()
    words = ["python", "datasets/synthetic/pretrain_tiny_backbone.py"]
    words += [f"--config {args.config}"] if args.config else []
    train(load_config(PretrainConfig, args.config, args.overrides), " ".join([*words, *args.overrides]))


if __name__ == "__main__":
    main()
