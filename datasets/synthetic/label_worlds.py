"""Many labelled synthetic clips in little time: drawn, solved by the teacher from simulated initialisers, packed.

    python datasets/synthetic/label_worlds.py out=data/worlds clips=256 [workers=2]

Each world is drawn; what the initialisers would find in it is the truth made wrong as they usually are
(`teacher.benchmark.track.usual_errors`, measured on drawn frames, docs/benchmark.md); the joint optimisation and the
quality gate are the teacher's own. About 10 s for a world of 64 frames on one core.

    OUT/worlds/0000/teacher/    shards and manifest of one world, with the teacher's labels; none if it was rejected
    OUT/worlds/0000/truth/      the same frames with true labels, the boxes and masks alike
    OUT/worlds/0000/world.json  decision, and the errors of the label: written last

A second run goes on where the first one stopped. Train on some of them with a glob:
`data.shards='OUT/worlds/00[0-3]?/teacher/shards/*.tar'`.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import torch
from PIL import Image

from distill.config import config_hash, load_config
from distill.errors import FootfallError
from distill.files import read_json, write_json
from distill.provenance import code_commit
from distill.results import Result
from distill.shards.schema import SCHEMA_VERSION, Sample
from distill.shards.writer import write_shards
from distill.synthetic import ClipSpec, SyntheticClip, make_clip
from distill.synthetic.clips import LICENCE, render_clip
from distill.synthetic.collections import GROUNDS
from distill.synthetic.render import Picture
from distill.synthetic.spec import TerrainKind
from teacher.benchmark.scores import clip_values
from teacher.benchmark.track import usual_errors
from teacher.optimise.assemble import assemble_result, metres_per_unit
from teacher.optimise.config import OptimiseConfig
from teacher.optimise.degrade import degraded_problem
from teacher.optimise.exact import exact_view
from teacher.optimise.measure import measure
from teacher.optimise.quality import QualityConfig, Verdict, judge
from teacher.optimise.solver import solve
from teacher.pack import chunk_starts, sample_arrays
from teacher.progress import Progress
from teacher.stagefiles import Array, People

FIRST_SEED: Final = 2_000_000
"""Seeds of these worlds begin here; those of footsteps-v1 are 7000 to 7029."""
CHUNK: Final = 32
"""Frames per sample."""
DEPTH_STRIDE: Final = 4
"""Every n-th pixel of the background's depth is kept."""
MOTIONS: Final = ("walk", "turn", "stand", "jog", "sit", "loop", "clap", "kick", "cross")
MOTION_SHARE: Final = (0.34, 0.2, 0.08, 0.12, 0.06, 0.06, 0.04, 0.04, 0.06)
"""How often each motion is drawn."""


@dataclass(kw_only=True)
class WorldsConfig:
    """One run."""

    out: str = "data/worlds"
    """Folder for everything."""
    first: int = 0
    """Number of the first world."""
    clips: int = 64
    """Worlds to make."""
    frames: int = 64
    """Frames of each, at 30 a second."""
    workers: int = 2
    """Processes."""

    def __post_init__(self) -> None:
        if min(self.clips, self.workers) < 1 or self.frames < 8 or self.first < 0:
            raise ValueError("clips and workers of at least 1, frames of at least 8, first of at least 0 are expected")


def world_spec(number: int, frames: int) -> ClipSpec:
    """World `number`: everything is drawn; as varied as footsteps-v1, from other seeds."""
    rng = np.random.default_rng(FIRST_SEED + number)
    on_terrain = bool(rng.uniform() < 0.25)
    motion = "walk" if on_terrain else str(rng.choice(MOTIONS, p=MOTION_SHARE))
    people = int(
        rng.choice([1, 2] if on_terrain else [1, 2, 3, 4], p=[0.7, 0.3] if on_terrain else [0.5, 0.3, 0.12, 0.08])
    )
    terrain = str(rng.choice([kind for kind in get_args(TerrainKind) if kind != "flat"]))
    return ClipSpec(
        id=f"world-{number:04d}",
        seed=FIRST_SEED + number,
        frames=frames,
        fps=30.0,
        size=[448, 252],
        supersample=1,  # the student sees the frames at half this size
        people=max(people, 2) if motion == "cross" else people,
        motion=motion,  # type: ignore[arg-type]
        terrain=terrain if on_terrain else "flat",  # type: ignore[arg-type]
        camera=str(rng.choice(["walk", "shake", "pan", "static"], p=[0.5, 0.27, 0.13, 0.1])),  # type: ignore[arg-type]
        ground=str(rng.choice(GROUNDS)),  # type: ignore[arg-type]
        objects=int(rng.integers(6, 21)),
        image_noise=float(np.round(rng.uniform(0.002, 0.014), 4)),
    )


def make_world(number: int, config: WorldsConfig) -> str:
    """Draw, solve and pack one world; returns what became of it."""
    torch.set_num_threads(1)
    folder = Path(config.out) / "worlds" / f"{number:04d}"
    try:
        return str(read_json(folder / "world.json")["decision"])
    except FootfallError:
        pass  # not made yet
    spec = world_spec(number, config.frames)
    try:
        clip = make_clip(spec)
        solved, verdict, frame_weight, depth_scale = solve_world(clip)
    except (ValueError, FootfallError) as error:
        write_json(folder / "world.json", {"decision": "failed", "why": str(error)})
        return "failed"
    pictures = list(render_clip(clip))
    people = people_of(pictures, spec.people)
    truth, labels = clip.truth, {"truth": (clip.truth, np.ones_like(frame_weight), 1.0)}
    if verdict.decision != "reject":
        labels["teacher"] = (solved, frame_weight, depth_scale)
    for name, (result, weight, scale) in labels.items():
        samples = samples_of(clip, pictures, people, result, weight, scale, verdict, name)
        provenance = {"teacher_commit": code_commit(), "pack_config": config_hash(config)}
        write_shards(folder / name, samples, max_bytes=1 << 30, provenance=provenance)
    values = clip_values(truth, solved)
    record = {"decision": verdict.decision, "weight": verdict.weight, "reasons": verdict.reasons, "values": values}
    write_json(folder / "world.json", record)
    return verdict.decision


def solve_world(clip: SyntheticClip) -> tuple[Result, Verdict, Array, float]:
    """The teacher's result, its verdict, frame weights [T, P], and metres per true metre of its depth."""
    config = OptimiseConfig()
    problem = degraded_problem(exact_view(clip), usual_errors(clip.spec))
    solution = solve(problem, config, lambda fraction, text: None)
    measures = measure(solution.after, solution.evidence, config)
    result = assemble_result(problem, solution, measures, config)
    verdict, frame_weight = judge(result, measures, QualityConfig())
    # Its depth maps are true ones in a wrong unit; solved cameras turn them into metres, nearly.
    unit = usual_errors(clip.spec).unit
    return result, verdict, frame_weight, float(np.median(metres_per_unit(solution)) * unit)


def people_of(pictures: list[Picture], count: int) -> People:
    """Boxes around what is seen of everybody, as a segmenter gives them."""
    frames = len(pictures)
    boxes, visible = np.zeros((frames, count, 4), np.float32), np.zeros((frames, count), bool)
    for frame, picture in enumerate(pictures):
        for person in range(count):
            rows, columns = np.nonzero(picture.ids == person + 1)
            if len(rows) >= 40:  # pixels; fewer are nobody that could be found
                visible[frame, person] = True
                boxes[frame, person] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    nothing = np.zeros((frames, count, 23), np.float32)
    return People(
        visible=visible, box_xyxy=boxes, score=visible.astype(np.float32),
        keypoints_px=np.repeat(nothing[..., None], 2, -1), keypoint_score=nothing,
        keypoints_hip=np.repeat(nothing[..., None], 3, -1),
    )  # fmt: skip


def samples_of(
    clip: SyntheticClip, pictures: list[Picture], people: People, result: Result, weight: Array, scale: float,
    verdict: Verdict, labels: str,
) -> Iterator[Sample]:  # fmt: skip
    """The chunks of one world under one set of labels."""
    frames = [encoded(picture.rgb, "JPEG") for picture in pictures]
    masks = [encoded(picture.ids, "PNG") for picture in pictures]
    depth = np.stack([np.where(p.ids == 0, p.depth, 0)[::DEPTH_STRIDE, ::DEPTH_STRIDE] for p in pictures])
    meta: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION, "clip": clip.spec.id, "size": list(result.cameras.size),
        "body_model": result.motion.body_model, "world": result.meta["world"],
        "source": f"footfall synthetic, labels by {labels}", "licence": LICENCE,
        "source_sha256": hashlib.sha256(b"".join(frames)).hexdigest(), "teacher_commit": code_commit(),
        "config_hash": {"joint": config_hash(OptimiseConfig()), "spec": config_hash(clip.spec)}, "weights": {},
        "quality": {"decision": verdict.decision, "weight": verdict.weight, "reasons": verdict.reasons},
        "source_id": clip.spec.id, "consent": "drawn: nobody was filmed", "blurred": False,
    }  # fmt: skip
    if labels == "truth":
        meta["quality"] = {"decision": "accept", "weight": 1.0, "reasons": []}
    metric = np.clip(depth * scale, 0, 6e4).astype(np.float16)
    for start in chunk_starts(len(frames), min(CHUNK, len(frames))):
        part = slice(start, start + CHUNK)
        yield Sample(
            key=f"{clip.spec.id}-{start:06d}", meta={**meta, "first_frame": start},
            arrays=sample_arrays(result, people, weight, metric, part), frames=frames[part], masks=masks[part],
        )  # fmt: skip


def encoded(image: Array, kind: str) -> bytes:
    """A picture as a file's bytes."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **({"quality": 92} if kind == "JPEG" else {}))
    return stream.getvalue()


def main() -> None:
    """Make all worlds that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_intermixed_args()
    config = load_config(WorldsConfig, args.config, args.overrides)
    numbers = range(config.first, config.first + config.clips)
    progress = Progress(1, title="worlds")
    decisions: list[str] = []
    with ProcessPoolExecutor(config.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(make_world, number, config) for number in numbers]):
            decisions.append(done.result())
            progress.update("worlds", len(decisions) / config.clips, f"{len(decisions)} of {config.clips}")
    print({decision: decisions.count(decision) for decision in sorted(set(decisions))})


if __name__ == "__main__":
    main()
