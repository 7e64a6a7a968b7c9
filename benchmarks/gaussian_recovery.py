"""What the photometric stage mends: cameras and poses made wrong on a drawn clip, noise, and labelled clips.

    python benchmarks/gaussian_recovery.py experiment=recovery     [frames=30] [gaussians.visits='[2,6,3]'] ...
    python benchmarks/gaussian_recovery.py experiment=noise        sigma from 0 to 0.02 (JOintGS's test)
    python benchmarks/gaussian_recovery.py experiment=track clips=FOLDER truth=FOLDER

Recovery and noise: a clip is drawn; every camera is turned and shifted and every joint turned, each in a direction of
its own and independently in each frame; Gaussians are fitted to the frames with these cameras and poses held
(`held`) and refined (`refined`). Bodies keep their place in the camera, as trackers give it. Track: clips that
`footfall label` solved get the stage, and are scored against the truth before and after. Results go to
benchmarks/results/gaussian_EXPERIMENT.json (and .png of the noise test), one row after the other; rows that are there
are kept. docs/gaussians.md has the tables.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from distill.body import load_body_model
from distill.config import config_to_dict, load_config
from distill.errors import FootfallError
from distill.files import read_json, write_json
from distill.geometry.rotations import matrix_from_rotvec, rotation_angle
from distill.metrics.clip_scores import score_clip
from distill.metrics.world import SEGMENT, w_mpjpe
from distill.provenance import code_commit
from distill.results import Result, load_result
from distill.synthetic import ClipSpec, make_clip
from distill.synthetic.clips import render_clip
from teacher.benchmark.scores import clip_values
from teacher.scene.config import GaussiansConfig
from teacher.scene.fit import fit
from teacher.scene.footage import Footage, make_footage
from teacher.scene.inputs import held_out_frames, make_base, make_views
from teacher.scene.objective import Objective
from teacher.scene.pictures import save_pictures
from teacher.scene.stage import held_out_person_psnr, held_out_psnr
from teacher.scene.world import BODY, CAMERA, Base, World, make_unknowns

RESULTS = Path(__file__).resolve().parent / "results"
POINTS = 8000
"""Points of the scene, as the geometric stage would leave them."""
SHAPE_KNOWN = 0.04
"""`gaussians.prior.alike` of a body whose shape is the true one, as in drawn clips."""
LEAST_STRETCH = 20
"""Frames of which W-MPJPE is taken at least."""


@dataclass(kw_only=True)
class RecoveryConfig:
    """One run."""

    experiment: Literal["recovery", "noise", "track"] = "recovery"
    """What is run."""
    frames: int = 30
    """Frames of the drawn clip, at 30 a second."""
    size: list[int] = field(default_factory=lambda: [288, 384])
    """Of the drawn clip, pixels; the person is 180 pixels tall."""
    seed: int = 11
    """Of the clip and of the errors."""
    camera_deg: float = 2.0
    """Turn of every camera."""
    camera_m: float = 0.05
    """Shift of every camera."""
    pose_deg: float = 8.0
    """Turn of every joint."""
    sigmas: list[float] = field(default_factory=lambda: [0.0, 0.005, 0.01, 0.02])
    """Standard deviations of the noise test: radians of cameras, roots and joints, metres of cameras."""
    clips: str = ""
    """Folder with labelled clips (a labelling folder's `clips`), for experiment=track."""
    truth: str = ""
    """Folder with the drawn clips of the same names; empty (real clips): the stage's own numbers alone."""
    pictures: str = ""
    """Folder for pictures; empty: none."""
    rows: str = ""
    """File for the rows; empty: benchmarks/results/gaussian_EXPERIMENT.json."""
    gaussians: GaussiansConfig = field(
        default_factory=lambda: GaussiansConfig(
            enabled="always", long_side=384, frames=30, scene_count=3000, person_count=2500, visits=[2, 6, 3],
            levels=[4, 2], align_steps=8,
        )
    )  # fmt: skip
    """Of the stage, on drawn clips."""
    track: GaussiansConfig = field(default_factory=lambda: GaussiansConfig(enabled="always"))
    """Of the stage, on labelled clips: as it ships."""


@dataclass
class Drawn:
    """A drawn clip with its footage and points."""

    truth: Result
    footage: Footage


def draw_clip(config: RecoveryConfig) -> Drawn:
    """A walking person before a camera that walks along; masks and background depth are those of the renderer."""
    spec = ClipSpec(id="recovery", seed=config.seed, frames=config.frames, size=config.size, exposure=0.0)
    clip = make_clip(spec)
    pictures = list(render_clip(clip))
    truth = clip.truth
    depth = np.stack([np.where(picture.ids == 0, picture.depth, 0) for picture in pictures])
    images, ids = np.stack([p.rgb for p in pictures]), np.stack([p.ids for p in pictures])
    truth.scene_points, truth.scene_rgb = back_projected(truth, images, depth, config.seed)
    scale = config.gaussians.long_side / max(config.size)
    size = (round(scale * spec.width), round(scale * spec.height))
    return Drawn(truth, make_footage(images, ids, 1, truth.cameras.K, size, depth=depth))


def back_projected(truth: Result, images: np.ndarray, depth: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points [N, 3] of the background in every second frame, true but for 1 cm, and their colours."""
    rng = np.random.default_rng(seed)
    chosen = range(0, len(images), 2)
    points, colours = [], []
    for frame in chosen:
        rows, columns = np.nonzero(depth[frame] > 0)
        kept = rng.choice(len(rows), min(len(rows), POINTS // len(chosen)), replace=False)
        rows, columns = rows[kept], columns[kept]
        rays = np.stack((columns + 0.5, rows + 0.5, np.ones(len(rows))), -1) @ np.linalg.inv(truth.cameras.K).T
        pose = truth.cameras.world_from_cam[frame]
        points.append((rays * depth[frame, rows, columns, None]) @ pose[:3, :3].T + pose[:3, 3])
        colours.append(images[frame, rows, columns])
    noise = rng.normal(0, 0.01, (sum(map(len, points)), 3))
    return (np.concatenate(points) + noise).astype(np.float32), np.concatenate(colours)


def disturbed(truth: Result, config: RecoveryConfig) -> Result:
    """Every camera and joint off by exactly the given angle and distance, in directions drawn for each frame."""
    generator = torch.Generator().manual_seed(config.seed)
    frames, people = truth.motion.present.shape

    def directions(*shape: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(*shape, 3, generator=generator, dtype=torch.float64), dim=-1)

    return moved(
        truth, math.radians(config.camera_deg) * directions(frames), config.camera_m * directions(frames),
        math.radians(config.pose_deg) * directions(frames, people, 23), torch.zeros(frames, people, 3),
    )  # fmt: skip


def noisy(truth: Result, sigma: float, seed: int) -> Result:
    """JOintGS's test: independent normal noise on camera turn and shift, root and joints."""
    generator = torch.Generator().manual_seed(seed)
    frames, people = truth.motion.present.shape
    shapes = ((frames, 3), (frames, 3), (frames, people, 23, 3), (frames, people, 3))
    return moved(truth, *(sigma * torch.randn(*s, generator=generator, dtype=torch.float64) for s in shapes))


def moved(
    truth: Result, camera_rot: torch.Tensor, camera_pos: torch.Tensor, pose: torch.Tensor, root: torch.Tensor
) -> Result:
    """The result with turned and shifted cameras and turned joints; bodies keep their place in the camera."""
    camera, motion = truth.cameras.world_from_cam.copy(), truth.motion
    camera[:, :3, :3] = camera[:, :3, :3] @ matrix_from_rotvec(camera_rot).numpy()
    camera[:, :3, 3] += camera_pos.numpy()
    cam_from_body = motion.cam_from_body.copy()
    cam_from_body[..., :3, :3] = cam_from_body[..., :3, :3] @ matrix_from_rotvec(root.double()).numpy()
    body_rot = motion.body_rot @ matrix_from_rotvec(pose).numpy()
    return replace(
        truth, cameras=replace(truth.cameras, world_from_cam=camera),
        motion=replace(motion, body_rot=body_rot, cam_from_body=cam_from_body),
    )  # fmt: skip


@torch.no_grad()
def errors(world: World, true: Base) -> dict[str, float]:
    """Against the truth, nothing aligned: means over frames (and joints)."""
    camera = world.world_from_cam()
    body_rot, cam_from_body = world.bodies()
    found = true.parts(true.betas, body_rot, cam_from_body).joints
    wanted = true.parts(true.betas, true.body_rot, true.cam_from_body).joints
    off = (found - found[..., :1, :]) - (wanted - wanted[..., :1, :])
    pixels = [project_view(world, true, points) for points in (found, wanted)]
    return {
        "camera_deg": math.degrees(rotation_angle(camera[:, :3, :3], true.world_from_cam[:, :3, :3]).mean()),
        "camera_cm": 100 * float((camera - true.world_from_cam)[:, :3, 3].norm(dim=-1).mean()),
        "joint_deg": math.degrees(rotation_angle(body_rot, true.body_rot).mean()),
        "mpjpe_mm": 1000 * float(off.norm(dim=-1).mean()),
        "joint_px": float((pixels[0] - pixels[1]).norm(dim=-1).mean()),
        "root_mm": 1000 * float((found - wanted)[..., 0, :].norm(dim=-1).mean()),
    }


def project_view(world: World, base: Base, points: torch.Tensor) -> torch.Tensor:
    """Joints [T, P, 24, 3] in the camera -> pixels at 500 pixels focal length."""
    return 500 * points[..., :2] / points[..., 2:]


def fitted(
    drawn: Drawn, start: Result, config: GaussiansConfig, *, refine: bool, folder: Path | None
) -> dict[str, Any]:
    """Fit from a start; the row of numbers."""
    frames = np.arange(len(start.cameras.timestamps))
    body = load_body_model("anny")
    base = make_base(start, frames, drawn.footage, body, config)
    true = make_base(drawn.truth, frames, drawn.footage, body, config)
    world = World(base, make_unknowns(base, config.seed))
    held_out = held_out_frames(len(frames), config.held_out_every)
    objective = Objective(world, make_views(base, drawn.footage, config), config, held_out, None)
    begun, before = time.process_time(), errors(world, true)
    fit(world, objective, config, show, frozen=frozenset() if refine else frozenset((*CAMERA, *BODY)))
    seconds = time.process_time() - begun
    if folder is not None:
        save_pictures(folder, world, drawn.footage)
    return {
        "before": before,
        "after": errors(world, true),
        "held_out_psnr_db": held_out_psnr(world, drawn.footage, held_out),
        "held_out_person_psnr_db": held_out_person_psnr(world, drawn.footage, held_out),
        "cpu_seconds": seconds,
    }


def beside(path: Path, refined: Path, held: Path) -> None:
    """One picture: a frame, what was rendered with cameras and poses held, and what was rendered with refined ones."""
    from PIL import Image

    frames = [Image.open(folder / "beside.jpg") for folder in (refined, held)]
    width, height = frames[0].width // 3, frames[0].width * 4 // 9  # three columns of three by four
    whole = Image.new("RGB", (3 * width, height), "white")
    whole.paste(frames[0].crop((0, 0, width, height)), (0, 0))
    for column, frame in ((1, frames[1]), (2, frames[0])):
        whole.paste(frame.crop((width, 0, 2 * width, height)), (column * width, 0))
    whole.save(path, quality=85)


def show(part: float, text: str) -> None:
    """Progress on one line."""
    print(f"\r{part:5.1%} {text}".ljust(60), end="", flush=True)


def drawn_runs(config: RecoveryConfig, truth: Result) -> list[tuple[str, Result, GaussiansConfig, bool]]:
    """Row, start, settings, and whether cameras and poses are refined, of each fit of the recovery or noise test."""
    settings = config.gaussians
    if config.experiment == "noise":
        starts = {f"sigma={sigma}": noisy(truth, sigma, config.seed) for sigma in config.sigmas}
        ways = {"refined": True, "held": False}
        return [(f"{name} {way}", starts[name], settings, ways[way]) for name in starts for way in ways]
    start = disturbed(truth, config)
    errors_known = replace(
        settings.prior, camera_rot_deg=config.camera_deg, camera_pos_m=config.camera_m, pose_deg=config.pose_deg,
        arm_deg=config.pose_deg,
    )  # fmt: skip
    usual = replace(settings, prior=errors_known)
    shape_known = replace(settings, prior=replace(errors_known, alike=SHAPE_KNOWN))
    return [
        ("disturbed refined", start, usual, True), ("disturbed refined-shape-known", start, shape_known, True),
        ("disturbed held", start, usual, False),
    ]  # fmt: skip


def run_drawn(config: RecoveryConfig, rows: dict[str, Any], path: Path) -> None:
    """The recovery or the noise test, row by row."""
    drawn = draw_clip(config)
    for row, start, settings, refine in drawn_runs(config, drawn.truth):
        if row not in rows:
            folder = Path(config.pictures) / row.replace(" ", "-") if config.pictures else None
            rows[row] = fitted(drawn, start, settings, refine=refine, folder=folder)
            write_rows(path, config, rows)
            if folder is not None and not refine:
                name = row.split()[0]
                beside(folder.parent / f"{name}.jpg", folder.parent / f"{name}-refined", folder)
        print(row, {k: round(v, 2) for k, v in rows[row]["after"].items()}, round(rows[row]["held_out_psnr_db"], 2))


def run_track(config: RecoveryConfig, rows: dict[str, Any], path: Path) -> None:
    """The stage on labelled clips, in place; scored against the truth where there is one."""
    from teacher.initialisers.registry import StageMissingError
    from teacher.scene import stage
    from teacher.workspace import ClipFolder, StageRecord

    for root in sorted(Path(config.clips).iterdir()):
        if root.name in rows or not (root / "joint" / "meta.json").is_file():
            continue
        clip = ClipFolder(root)
        clip.begin("gaussians")
        begun = time.process_time()
        try:
            outcome = stage.run(clip, config.track, show)
        except StageMissingError as missing:
            rows[root.name] = {"stage": {"decision": "left out", "reasons": [str(missing)]}}
            write_rows(path, config, rows)
            print(root.name, "left out:", missing)
            continue
        seconds = time.process_time() - begun
        clip.finish(StageRecord(stage="gaussians", status="done", implementation="", config_hash="", inputs={}))
        rows[root.name] = {"stage": outcome.summary, "cpu_seconds": seconds}
        if config.truth:
            truth = load_result(Path(config.truth) / root.name / "truth")
            rows[root.name]["before"] = track_values(truth, load_result(clip.require("joint")))
            rows[root.name]["after"] = track_values(truth, load_result(clip.stage_dir("gaussians") / "refined"))
        write_rows(path, config, rows)
        print(root.name, outcome.summary["decision"], outcome.summary["reasons"])


def track_values(truth: Result, found: Result) -> dict[str, float | None]:
    """Scores of `footfall evaluate`, and how far joints are seen from where they should be (px, mean)."""

    def seen(result: Result) -> np.ndarray:
        local = result.motion.joints_cam @ result.cameras.K.T
        return local[..., :2] / local[..., 2:].clip(0.05)

    wanted, got = seen(truth), seen(found)
    both = truth.motion.present[:, :, None] & found.motion.present[:, None]
    off = np.linalg.norm(wanted[:, :, None] - got[:, None], axis=-1).mean(-1)  # [T, people, found people]
    mean = np.where(both, off, 0).sum(0) / both.sum(0).clip(1) + 1e6 * (both.sum(0) == 0)
    values = clip_values(truth, found) | {"joint_px": float(mean.min(1).mean())}
    return values | {"w_mpjpe_other_starts_mm": from_other_starts(truth, found)}


def from_other_starts(truth: Result, found: Result) -> float | None:
    """Mean W-MPJPE (mm) of stretches that begin at every fourth frame of a person: two frames alone say little."""
    values = []
    for match, _ in score_clip(truth, found).people:
        if match.predicted is None:
            continue
        true = truth.joints_world[match.frames, match.true]
        solved = found.joints_world[match.frames, match.predicted]
        for start in range(0, len(true) - LEAST_STRETCH, 4):
            part = slice(start, start + SEGMENT)
            values.append(float(w_mpjpe(true[part], solved[part]).mean()))
    return float(np.mean(values)) if values else None


def write_rows(path: Path, config: RecoveryConfig, rows: dict[str, Any]) -> None:
    """The JSON, and the plot of the noise test."""
    about = {
        name: getattr(config, name) for name in ("experiment", "frames", "seed", "camera_deg", "camera_m", "pose_deg")
    }
    settings = config.track if config.experiment == "track" else config.gaussians
    write_json(path, {**about, "gaussians": config_to_dict(settings), "commit": code_commit(), "rows": rows})
    if config.experiment == "noise":
        plot_noise(path.with_suffix(".png"), rows)


def plot_noise(path: Path, rows: Mapping[str, Any]) -> None:
    """PSNR on held-out frames against sigma, held and refined: whole frames, and people alone."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(8, 3.2))
    columns = {"held_out_psnr_db": "whole frames", "held_out_person_psnr_db": "people"}
    for axes, (column, title) in zip(panels, columns.items(), strict=True):
        for way in ("refined", "held"):
            chosen = {float(n.split()[0].removeprefix("sigma=")): r for n, r in rows.items() if n.endswith(way)}
            sigmas = sorted(chosen)
            axes.plot(sigmas, [chosen[s][column] for s in sigmas], "o-", label=way)
            axes.set_xticks(sigmas)
        axes.set_xlabel("sigma (rad, m)")
        axes.set_ylabel("PSNR, held-out frames (dB)")
        axes.set_title(title)
        axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    config = load_config(RecoveryConfig, None, parser.parse_args().overrides)
    torch.set_num_threads(1)
    path = Path(config.rows) if config.rows else RESULTS / f"gaussian_{config.experiment}.json"
    try:
        rows = dict(read_json(path)["rows"])
    except FootfallError:
        rows = {}
    (run_track if config.experiment == "track" else run_drawn)(config, rows, path)


if __name__ == "__main__":
    main()
