"""The Gaussian head on drawn worlds it has not seen: PSNR and SSIM of frames and views it was not given, and its time.

    python benchmarks/gaussian_head.py checkpoint=runs/tiny-gaussians/pretrained out=gaussian_head

Worlds are drawn from seeds of their own. Of each, two frames are the sources. Targets are the frame in the middle
between them (`frame`), and the same moment from a camera half a metre to the right (`view`), where no camera ever was.
Beside the trained head stand a fresh one, which draws what it was given, and the per-clip teacher: Gaussians that its
stage fitted to all other frames of the clip (`per_clip_gaussians`). Whole pictures, people included, at the
network's size:

    full     every pixel; what no source has seen counts too
    seen     pixels of people, and those of the scene that a source sees by the true depth (Splatt3R's mask)
    people   pixels of people only

Cameras, poses and the points' unit are true, so this measures the head alone. Times are of the CPU, one thread. Writes
`report.json` and `pictures.jpg` (target, fresh, trained, teacher; a row for the frame, a row for the view).
"""

from __future__ import annotations

import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from per_clip_gaussians import draw_moment, fit_clip
from torch import Tensor

from distill.config import load_config
from distill.errors import FootfallError
from distill.files import write_json
from distill.gaussian_crops import seen_by_sources
from distill.gaussian_losses import inner, ssim_map
from distill.gaussian_task import GaussianTask, GaussianTrainConfig
from distill.geometry.cameras import resize_intrinsics
from distill.geometry.rotations import matrix_from_rotvec
from distill.geometry.transforms import invert, make_transform
from distill.models.gaussian_head import GaussianHead
from distill.models.student import Student
from distill.provenance import code_commit
from distill.render import Gaussians, render
from distill.render.views import to_images
from distill.synthetic import ClipSpec, make_clip
from distill.synthetic.clips import make_stage
from distill.synthetic.collections import GROUNDS
from distill.synthetic.render import open_renderer
from distill.synthetic.world import SyntheticClip
from teacher.scene.world import World

SOURCES = (0, 2)
TARGETS = {"frame": 1, "view": 3}
"""Name of a target -> which frame of a window it is."""
SHOWN = 3
"""Worlds in the picture."""
FIRST_SEED = 9_300_000
"""Seeds of these worlds begin here; nothing else uses them."""
SIDE_M = 0.5
"""Metres between the camera of the middle frame and that of the view."""
LOOKS_AT_M = 5.0
"""Both look at the same place, this far away."""
SIZE = (448, 256)
"""Pixels of a drawn frame: twice the network's."""


@dataclass(kw_only=True)
class HeadBench:
    """What is measured."""

    checkpoint: str = ""
    """Student with a Gaussian head: folder, shipped name or Hub id."""
    out: str = "gaussian_head"
    """Folder of the report."""
    worlds: int = 8
    """Worlds to draw."""
    gap: int = 10
    """Frames between the sources, at 30 a second."""

    def __post_init__(self) -> None:
        if not self.checkpoint or self.worlds < 1 or self.gap < 2:
            raise ValueError("checkpoint, worlds of 1 or more and a gap of 2 or more are expected")


def make_batch(number: int, gap: int) -> tuple[dict[str, Any], SyntheticClip]:
    """One window of a world (first source, middle frame, second source, middle frame from the side), and the world."""
    rng = np.random.default_rng(FIRST_SEED + number)
    spec = ClipSpec(
        id=f"head-{number}", seed=FIRST_SEED + number, frames=max(gap + 1, 8), fps=30.0, size=list(SIZE), supersample=1,
        people=int(rng.integers(1, 4)), camera="walk", objects=int(rng.integers(6, 21)),
        ground=str(rng.choice(GROUNDS)),  # type: ignore[arg-type]
    )  # fmt: skip
    clip = make_clip(spec)
    cameras, motion = clip.truth.cameras, clip.truth.motion
    frames = np.array([0, gap // 2, gap, gap // 2])
    world_from_cam = torch.from_numpy(cameras.world_from_cam[frames]).float()
    world_from_cam[3] = world_from_cam[3] @ aside()
    renderer = open_renderer(make_stage(clip), SIZE)
    meshes = list(clip.people_vertices(frames))
    K = cameras.K.astype(np.float64)
    drawn = [renderer.draw(mesh, K, pose.double().numpy()) for mesh, pose in zip(meshes, world_from_cam, strict=True)]
    ids = torch.from_numpy(np.stack([picture.ids for picture in drawn]))
    masks = torch.stack([(ids == person + 1).float() for person in range(spec.people)])
    depth = torch.from_numpy(np.stack([picture.depth for picture in drawn]).astype(np.float32)) * (ids == 0)
    colors = torch.from_numpy(np.stack([picture.rgb for picture in drawn])).permute(0, 3, 1, 2).float()
    world_from_body = torch.from_numpy(clip.truth.world_from_body[frames]).float().transpose(0, 1)
    small = resize_intrinsics(torch.from_numpy(cameras.K).float(), SIZE, (SIZE[0] / 2, SIZE[1] / 2))
    halved = F.avg_pool2d(masks, 2)
    batch = {
        "images": F.avg_pool2d(colors, 2).round().byte()[None],
        "masks": halved[None],
        "depth": depth[None, :, 1::2, 1::2],
        "K": small.expand(1, 4, 3, 3),
        "world_from_cam": world_from_cam[None],
        "cam_from_body": (invert(world_from_cam) @ world_from_body)[None],
        "body_rot": torch.from_numpy(motion.body_rot[frames]).float().transpose(0, 1)[None],
        "betas": torch.from_numpy(motion.betas).float()[None],
        "valid": (halved.flatten(2).sum(-1) > 20)[None],
        "weight": torch.ones(1, spec.people),
    }
    return batch, clip


def aside() -> Tensor:
    """[4, 4] from the camera of the view to that of the middle frame."""
    turn = matrix_from_rotvec(torch.tensor([0.0, -math.atan2(SIDE_M, LOOKS_AT_M), 0.0]))
    return make_transform(turn, torch.tensor([SIDE_M, 0.0, 0.0]))


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


def by_teacher(teacher: World, batch: dict[str, Any], target: int) -> Tensor:
    """A target by the Gaussians that the teacher fitted to the clip."""
    pose, size = batch["world_from_cam"][0, target], (batch["images"].shape[-1], batch["images"].shape[-2])
    world_from_body = pose @ batch["cam_from_body"][0, :, target]
    return draw_moment(teacher, batch["body_rot"][0, :, target], world_from_body, pose, batch["K"][0, target], size)


def times_of(task: GaussianTask, batch: dict[str, Any]) -> dict[str, float]:
    """CPU milliseconds of the parts, for one world: the backbone's pair before, the head's, and the renderer's."""
    images, size = batch["images"].float() / 255, (batch["images"].shape[-1], batch["images"].shape[-2])
    frames = {view: task.student.encode(images[:, view]) for view in SOURCES}
    last = task.student.backbone.decode(frames[0], frames[2]).tokens_a[-1]
    points, conf = task.student.points(frames[0], frames[2])
    K = batch["K"][:, 0]
    scenes = {view: task._scene(batch, frames, view, SOURCES[1 - n]) for n, view in enumerate(SOURCES)}
    scene, people, _ = task._gaussians(batch, frames, scenes, 0, 1)
    every = Gaussians.cat([scene, *people.values()])
    camera = invert(batch["world_from_cam"][0, 1])[None]
    parts: dict[str, Callable[[], object]] = {
        "backbone_pair_with_points": lambda: task.student.backbone.decode(frames[0], frames[2]),
        "scene_head_per_keyframe": lambda: task.head.scene(frames[0], last, points, conf, K),
        "avatars_of_two_frames": lambda: task._avatars(batch, frames, list(SOURCES), 0, 2),
        "render": lambda: render(every, camera, batch["K"][0, 1][None], size, antialiased=True),
    }
    found = {"gaussians_drawn": float(len(every)), "people": float(len(people))}
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
        for number in range(config.worlds):
            batch, clip = make_batch(number, config.gap)
            teacher, seconds = fit_clip(clip, config.gap // 2, (SIZE[0] // 2, SIZE[1] // 2))
            rows["teacher_cpu_seconds"].append(seconds)
            for name, target in TARGETS.items():
                pictures = [batch["images"][0, target].float() / 255]
                for which, head in (("fresh", fresh), ("trained", trained), ("teacher", None)):
                    if head is None:
                        pictures.append(by_teacher(teacher, batch, target))
                    else:
                        task.head = student.gaussians = head
                        pictures.append(task.draw(batch, SOURCES, target)[0].color[0].permute(2, 0, 1).clamp(0, 1))
                    for key, value in score(batch, target, pictures[-1]).items():
                        rows[f"{name}/{which}/{key}"].append(value)
                shown.append(torch.cat(pictures, dim=2))
            times = times or times_of(task, batch)
            print(number, {k: round(v[-1], 2) for k, v in rows.items() if "psnr" in k}, flush=True)
    means = {key: round(float(np.mean(values)), 3) for key, values in rows.items()}
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    facts = {"checkpoint": config.checkpoint, "worlds": config.worlds, "gap": config.gap}
    write_json(out / "report.json", {**facts, "means": means, "cpu_ms": times, "commit": code_commit()})
    sheet = torch.cat(shown[: SHOWN * len(TARGETS)], dim=1)
    to_images(sheet.permute(1, 2, 0)[None])[0].save(out / "pictures.jpg", quality=90)
    for key, value in means.items():
        print(f"{key:36s} {value:8.3f}")
    print(times)
    return 0


if __name__ == "__main__":
    sys.exit(main())
