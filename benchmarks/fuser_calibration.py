"""The fuser against chaining and averaging on `footsteps-v1`, and how honest its covariances are.

    python benchmarks/fuser_calibration.py --out work/fuser                       predictions drawn around the truth
    python benchmarks/fuser_calibration.py --out work/fuser --checkpoint DIR --clips DIR       a student's, recorded

Writes table.md, report.json, calibration.png and uncertainty.json (the scales that the predictions call for; with
--write they become the shipped ones). With a checkpoint, predictions are recorded once, to OUT/recordings; later runs
need the network no more. No scale is judged on what it was fitted on: simulated clips are judged on other draws;
recorded ones with scales fitted on every other clip, once on the even and once on the odd ones. The scales that are
written are fitted on all.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill.files import atomic_path, load_arrays, write_json, write_text
from distill.fuser import FrameObservation, FusedFrame, Fuser, FuserConfig, UncertaintyScales
from distill.fuser.baselines import Paths, average_gaps, chain_predictions
from distill.fuser.calibration import coverage, error_series, fit_scales, frame_errors
from distill.fuser.config import SCALES_FILE
from distill.fuser.record import Joints, load_observations, save_observations
from distill.fuser.scale import in_one_scale, smooth_log_scale
from distill.fuser.simulate import simulate
from distill.fuser.so3 import Array, inverse, turn
from distill.metrics import DegenerateError, ate, w_mpjpe, wa_mpjpe
from distill.pictures.plots import plot_calibration
from distill.results import Result, load_result
from distill.synthetic import ClipSpec, make_clip
from distill.synthetic.collections import collection
from distill.synthetic.world import free_body

FIT_SEED = 1000
"""Draws from here on are for the scales alone."""
LONG: list[dict[str, Any]] = [
    {"id": "long-walk-2", "seed": 9001, "camera": "walk", "frames": 400, "speed": 1.2},
    {"id": "long-loop-2", "seed": 9002, "camera": "walk", "motion": "loop", "frames": 400},
    {"id": "long-stand-2", "seed": 9003, "camera": "walk", "motion": "stand", "frames": 400},
    {"id": "long-clap-2", "seed": 9004, "camera": "walk", "motion": "clap", "frames": 400},
    {"id": "long-shake-2", "seed": 9005, "camera": "shake", "motion": "loop", "frames": 400},
]
"""Clips of 400 frames, of which the benchmark has one."""
COLUMNS = ("w_mpjpe_mm", "wa_mpjpe_mm", "ate_mm")


@dataclass(kw_only=True)
class Case:
    """One clip with predictions."""

    name: str
    observations: list[FrameObservation]
    joints: Joints
    truth: Result


def simulated(specs: list[ClipSpec], seed: int) -> Iterator[Case]:
    """Predictions drawn around the truth; joints within the body are the true ones."""
    for number, spec in enumerate(specs):
        truth = make_clip(spec).truth
        local = _in_body(truth)
        ids = truth.motion.ids.tolist()
        joints: Joints = [{i: local[k, column] for column, i in enumerate(ids)} for k in range(spec.frames)]
        observations = simulate(truth, free_body(), 1000 * seed + number)
        yield Case(name=spec.id, observations=observations, joints=joints, truth=truth)


def _in_body(truth: Result) -> Array:
    """[T, P, 24, 3] joints in the body."""
    root = truth.motion.cam_from_body
    return turn(np.swapaxes(root[..., None, :3, :3], -1, -2), truth.motion.joints_cam - root[..., None, :3, 3])


def recorded(checkpoint: Path, clips: Path, out: Path) -> Iterator[Case]:
    """A student's predictions with true boxes and a known lens; recorded at the first run."""
    folders = sorted(meta.parent.parent for meta in clips.glob("*/truth/meta.json"))
    for folder in folders:
        path, truth = out / "recordings" / f"{folder.name}.npz", load_result(folder / "truth")
        if not path.is_file():
            save_observations(path, *_stream(checkpoint, folder, truth))
        observations, joints = load_observations(path)
        yield Case(name=folder.name, observations=observations, joints=joints, truth=truth)


def _stream(checkpoint: Path, folder: Path, truth: Result) -> tuple[list[FrameObservation], Joints]:
    """Run the network over a clip."""
    from distill.stream import Stream
    from distill.video import Decoder
    from teacher.run_video import load_network

    network, _ = load_network(str(checkpoint))
    decoder = Decoder(folder / "video.mp4", fps=None)
    boxes = load_arrays(folder / "keypoints.npz")[0]["box_xyxy"]
    stream = Stream(network, truth.cameras.size, K=torch.from_numpy(truth.cameras.K).float())
    observations, joints = [], []
    for index, image in decoder.frames(range(len(decoder))):
        assert image is not None, f"{folder}: frame {index} cannot be read"
        seen = {int(i): boxes[index, c] for c, i in enumerate(truth.motion.ids) if boxes[index, c].any()}
        frame = stream.step(image, float(truth.cameras.timestamps[index]), seen)
        assert stream.observation is not None
        observations.append(stream.observation)
        joints.append({
            p.id: turn(p.cam_from_body[:3, :3].T.numpy(), (p.joints_cam - p.cam_from_body[:3, 3]).numpy())
            for p in frame.people
        })  # fmt: skip
    return observations, joints


def fuse(
    case: Case, scales: UncertaintyScales, config: FuserConfig
) -> tuple[list[FusedFrame], list[FusedFrame], float]:
    """Frames as known at once, and settled; CPU milliseconds per frame."""
    fuser, causal, settled, start = Fuser(config, scales=scales), [], [], time.process_time()
    for observation in case.observations:
        causal.append(fuser.step(observation))
        settled += fuser.settled()
    settled += fuser.finish()
    return causal, settled, 1e3 * (time.process_time() - start) / len(causal)


def paths_of(frames: list[FusedFrame]) -> Paths:
    """Poses of all frames."""
    ids = {person for frame in frames for person in frame.people}
    bodies = {i: np.stack([f.people[i].world_from_body if i in f.people else np.eye(4) for f in frames]) for i in ids}
    return Paths(world_from_cam=np.stack([f.world_from_cam for f in frames]), world_from_body=bodies)


def score(case: Case, paths: Paths, length: int = 100) -> list[float]:
    """`COLUMNS` of one method: means over people's frames, and the camera's mean error after rigid alignment."""
    world, errors = case.truth.joints_world, []
    for column, person in enumerate(case.truth.motion.ids.tolist()):
        seen = np.array([person in frame.people for frame in case.observations])
        joints = np.stack([rows.get(person, np.zeros((24, 3))) for rows in case.joints])
        path = paths.world_from_body.get(person)
        if path is None:
            continue
        found = turn(path[:, None, :3, :3], joints) + path[:, None, :3, 3]
        try:
            pair = [metric(world[:, column], found, mask=seen, length=length) for metric in (w_mpjpe, wa_mpjpe)]
        except DegenerateError:  # seen in too few frames
            continue
        errors.append(np.stack(pair))
    camera = ate(case.truth.cameras.world_from_cam, paths.world_from_cam, allow_degenerate=True).mean()
    people = np.concatenate(errors, axis=1).mean(1) if errors else np.full(2, np.nan)
    return [*people.tolist(), 1000 * float(camera)]


def rescaled(frames: list[FusedFrame], config: FuserConfig) -> Paths:
    """Paths in one scale for the whole clip, as `distill.recorder` writes them."""
    log_scale, sigma, times = np.array([(f.log_scale, f.log_scale_sigma, f.timestamp) for f in frames]).T
    wanted = smooth_log_scale(log_scale, sigma, times, config.scale_seconds)
    paths = paths_of(frames)
    cameras, bodies = paths.world_from_cam, {}
    for person, path in paths.world_from_body.items():
        local = inverse(cameras) @ path
        moved, local[:, :3, 3] = in_one_scale(cameras, local[:, :3, 3], log_scale, wanted)
        bodies[person] = moved @ local
    moved, _ = in_one_scale(cameras, np.zeros((len(frames), 3)), log_scale, wanted)
    return Paths(world_from_cam=moved, world_from_body=bodies)


def joined(found: list[dict[str, Array]]) -> dict[str, Array]:
    """Errors of several clips as of one."""
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def fitted(cases: list[Case], config: FuserConfig) -> tuple[UncertaintyScales, dict[str, Any]]:
    """Scales that clips call for, and what they are made of; results are stretched as settled frames want it."""
    scales, parts = fit_scales(error_series(((case.observations, case.truth) for case in cases), config), config)
    found = [
        frame_errors(fuse(case, scales, config)[1], case.truth, inverse(case.truth.cameras.world_from_cam[0]))
        for case in cases
    ]
    stretch = {name: values["stretch"] for name, values in coverage(joined(found)).items()}
    camera, root = ((stretch[f"{kind} rotation"], stretch[f"{kind} position"]) for kind in ("camera", "root"))
    return dataclasses.replace(scales, camera_result=camera, root_result=root), parts


METHODS = ("chain", "average", "fuser at once", "fuser settled")


def measure(cases: Iterable[Case], scales: UncertaintyScales, config: FuserConfig) -> dict[str, Any]:
    """Clip -> method -> scores, and the errors of the fuser with what it said of them."""
    rows: dict[str, Any] = {}
    errors: dict[str, list[Any]] = {"fuser at once": [], "fuser settled": []}
    for case in cases:
        causal, settled, spent = fuse(case, scales, config)
        methods = [chain_predictions(case.observations), average_gaps(case.observations), paths_of(causal),
                   rescaled(settled, config)]  # fmt: skip
        row = {name: score(case, paths) for name, paths in zip(METHODS, methods, strict=True)}
        long = {name: score(case, paths, length=400)[0] for name, paths in zip(METHODS, methods, strict=True)}
        rows.setdefault(case.name, []).append({
            "scores": row, "w400": long, "frames": len(causal), "people": len(case.truth.motion.ids), "ms": spent,
            "standing": float(np.mean([frame.static_prob for frame in settled])),
        })  # fmt: skip
        to_first = inverse(case.truth.cameras.world_from_cam[0])
        for name, frames in (("fuser at once", causal), ("fuser settled", settled)):
            errors[name].append(frame_errors(frames, case.truth, to_first))
        print(
            case.name, {name: [round(x) for x in values] for name, values in row.items()}, f"{spent:.1f} ms", flush=True
        )
    return {"rows": rows, "errors": {name: joined(parts) for name, parts in errors.items()}}


def mean_of(draws: list[dict[str, Any]], method: str) -> list[float]:
    """Scores of one clip and method over its draws."""
    return np.mean([draw["scores"][method] for draw in draws], axis=0).tolist()


def table(rows: dict[str, Any]) -> str:
    """Markdown: a row per clip, W / WA / ATE in mm per method."""
    lines = ["| clip | frames | people | camera stands | " + " | ".join(METHODS) + " | W: chain / settled |",
             "|---|---:|---:|---:|" + "---:|" * (len(METHODS) + 1)]  # fmt: skip
    for name, draws in rows.items():
        cells = [mean_of(draws, method) for method in METHODS]
        text = [" / ".join(f"{value:.0f}" for value in cell) for cell in cells]
        standing = np.mean([draw["standing"] for draw in draws])
        lines.append(
            f"| `{name}` | {draws[0]['frames']} | {draws[0]['people']} | {standing:.2f} | " + " | ".join(text)
            + f" | {cells[0][0] / cells[3][0]:.2f} |"
        )  # fmt: skip
    means = [np.mean([mean_of(draws, method) for draws in rows.values()], axis=0) for method in METHODS]
    text = [" / ".join(f"{value:.0f}" for value in cell) for cell in means]
    lines.append("| **mean** | | | | " + " | ".join(text) + f" | {means[0][0] / means[3][0]:.2f} |")
    long = {name: draws for name, draws in rows.items() if draws[0]["frames"] >= 400}
    if long:
        lines += ["", "W-MPJPE of clips of 400 frames aligned once, on their first two frames, mm:", ""]
        lines += ["| clip | " + " | ".join(METHODS) + " | chain / settled |", "|---|" + "---:|" * (len(METHODS) + 1)]
        for name, draws in long.items():
            values = [float(np.mean([draw["w400"][method] for draw in draws])) for method in METHODS]
            lines.append(
                f"| `{name}` | " + " | ".join(f"{v:.0f}" for v in values) + f" | {values[0] / values[3]:.2f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Fit, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for all results")
    parser.add_argument("--checkpoint", type=Path, help="a student; without one, predictions are simulated")
    parser.add_argument("--clips", type=Path, help="clips with truth, made by datasets/synthetic")
    parser.add_argument("--seeds", type=int, default=3, help="draws of simulated predictions per clip")
    parser.add_argument("--write", action="store_true", help="ship the fitted scales")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    config = FuserConfig()
    folds: list[tuple[list[Case], Iterable[Case]]]
    if options.checkpoint is None:
        specs = collection("footsteps-v1")
        specs += [dataclasses.replace(ClipSpec(fps=30.0), **words) for words in LONG]
        fit = list(simulated(specs[::3], FIT_SEED))
        folds = [(fit, (case for seed in range(options.seeds) for case in simulated(specs, seed)))]
    else:
        fit = list(recorded(options.checkpoint, options.clips, options.out))
        folds = [(fit[::2], fit[1::2]), (fit[1::2], fit[::2])]
    parts_of_all = [measure(cases, fitted(part, config)[0], config) for part, cases in folds]
    command = shlex.join(["python", *sys.argv])
    scales, parts = fitted(fit, config)
    write_json(options.out / "uncertainty.json", {"command": command, "parts": parts, "scales": asdict(scales)})
    if options.write:
        with atomic_path(SCALES_FILE) as path:
            path.write_bytes((options.out / "uncertainty.json").read_bytes())
    rows = {name: draws for found in parts_of_all for name, draws in found["rows"].items()}
    rows = {name: rows[name] for name in sorted(rows)}
    errors = {
        method: joined([found["errors"][method] for found in parts_of_all]) for method in parts_of_all[0]["errors"]
    }
    honest = {method: coverage(found) for method, found in errors.items()}
    write_json(options.out / "report.json", {"command": command, "config": asdict(config), "scales": asdict(scales),
                                             "rows": rows, "coverage": honest})  # fmt: skip
    write_text(options.out / "table.md", table(rows))
    plot_calibration(options.out / "calibration.png", errors)
    print(table(rows))
    print(honest)


if __name__ == "__main__":
    main()
