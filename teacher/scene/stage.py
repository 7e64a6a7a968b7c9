"""The stage `gaussians`: fit Gaussians to the geometric result, with and without moving it, and take the better one.

gaussians/
    verdict.json        decision, reasons, numbers before and after, what was used
    scene.npz           Gaussians of the static scene, packed (`distill.render.packed`), world, metres
    personK.npz         avatar of person K (`distill.avatar`)
    dynamics.npz        the field in time of every person (`residuals`); not needed to pose an avatar
    refined/            refined cameras and bodies (`distill.results`); labels take them if the decision is "refined"
    beside.jpg, turntable.jpg   pictures
    trace.json          terms of the objective over the steps

Beside the folder, `gaussians-NAME.state` holds the state of a fit that was cut short.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from distill.avatar import save_avatar
from distill.body import BodyModel, load_body_model
from distill.config import config_hash
from distill.errors import FootfallError
from distill.files import load_arrays, read_json, save_arrays, write_json
from distill.metrics.images import psnr
from distill.render.packed import save_packed
from distill.results import Result, load_result, save_result
from teacher.initialisers.registry import Outcome, Report, StageMissingError
from teacher.scene.backdrop import with_backdrop
from teacher.scene.config import GaussiansConfig
from teacher.scene.fit import fit
from teacher.scene.footage import Footage, make_footage
from teacher.scene.gate import decide
from teacher.scene.inputs import (
    chosen_frames,
    held_out_frames,
    known_cameras,
    make_base,
    make_views,
    on_device,
    refined_result,
)  # fmt: skip
from teacher.scene.measures import background_px, measure_result
from teacher.scene.objective import Objective
from teacher.scene.perceptual import open_perceptual
from teacher.scene.pictures import draw_frame, save_pictures
from teacher.scene.world import BODY, CAMERA, World, make_unknowns, normalised
from teacher.stagefiles import Array, CameraInit, DepthInit, Frames, People, read_image
from teacher.workspace import ClipFolder

SIZES: Final = {
    "cuda": {"long_side": 960, "scene_count": 200_000, "person_count": 13_000},
    "cpu": {"long_side": 360, "scene_count": 3_000, "person_count": 1_500},
}
"""What 0 stands for in the config."""
LEAST_POINTS: Final = 16
"""With fewer points in the scene a backdrop takes its place, and cameras stay."""
VISITS: Final = {"cuda": [6, 40, 24], "cpu": [1, 2, 1]}
"""What no visits stand for."""


@dataclass(kw_only=True)
class Fitted:
    """One of the two fits."""

    world: World
    result: Result
    numbers: dict[str, float | None]
    trace: list[dict[str, float]]


def run(clip: ClipFolder, config: GaussiansConfig, report: Report) -> Outcome:
    """Fit, judge and write the stage's files.

    Raises:
        StageMissingError: switched off, or nothing to work with; the reason says which.
        FootfallError: a file is damaged, or the loss is not finite.
    """
    device = _device(config)
    verdict = read_json(clip.require("quality") / "quality.json")
    if verdict["decision"] == "reject":
        raise StageMissingError("the quality stage rejected the clip")
    result = load_result(clip.require("joint"))
    body = _body(result, config)
    config = with_sizes(config, device, result.cameras.size)
    frames = chosen_frames(len(result.cameras.timestamps), config.frames)
    people = People.load(clip.require("people"))
    footage = load_footage(clip, result, people, frames, config)
    known = len(result.scene_points) >= LEAST_POINTS
    shown = result if known else with_backdrop(result, frames, footage)
    perceptual, lpips = open_perceptual(config.lpips_folder, config.weights.lpips, device)
    key = state_key(config, result, frames)
    context = _Context(clip, result, shown, people, frames, footage, body, config, device, perceptual, key)
    before = context.fitted("geometry", frozenset((*CAMERA, *BODY)), lambda part, text: report(0.5 * part, text))
    held = frozenset() if known else frozenset(CAMERA)  # what was made from the cameras cannot mend them
    after = context.fitted("refined", held, lambda part, text: report(0.5 + 0.48 * part, text))
    decision = decide(before.numbers, after.numbers, config.gate)
    taken = after if decision.decision == "refined" else before
    folder = clip.stage_dir("gaussians")
    scene = "points" if known else "backdrop"
    save_fit(folder, taken, footage.to(device), scene)
    save_result(folder / "refined", after.result)
    summary: dict[str, Any] = {
        **asdict(decision), "before": before.numbers, "after": after.numbers, "lpips": lpips, "device": device.type,
        "frames": len(frames), "held_out": frames[sorted(held_out_frames(len(frames), config.held_out_every))].tolist(),
        "size": list(footage.size), "scene": scene, "scene_gaussians": len(taken.world.scene()),
        "person_gaussians": [len(avatar) for avatar in taken.world.base.avatars],
        "person_depth": bool((footage.person_depth > 0).any()),
    }  # fmt: skip
    write_json(folder / "verdict.json", summary)
    write_json(folder / "trace.json", {"geometry": before.trace, "refined": after.trace})
    for state in clip.root.glob("gaussians-*.state"):
        state.unlink()
    return Outcome(summary=summary)


@dataclass
class _Context:
    """What both fits share."""

    clip: ClipFolder
    result: Result
    shown: Result
    """The result, with points of a backdrop if it has no scene."""
    people: People
    frames: Array
    footage: Footage
    body: BodyModel
    config: GaussiansConfig
    device: torch.device
    perceptual: Any
    key: str

    def fitted(self, name: str, frozen: frozenset[str], report: Report) -> Fitted:
        """Fit with some unknowns frozen; the state is kept under `name`."""
        scale = self.footage.size[0] / self.result.cameras.size[0]
        base = make_base(
            self.shown, self.frames, self.footage, self.body, self.config,
            keypoints_px=scale * self.people.keypoints_px[self.frames],
            keypoint_score=self.people.keypoint_score[self.frames],
        )  # fmt: skip
        cameras = CameraInit.load(self.clip.require("cameras"))
        known = known_cameras(
            self.config.prior, background_px(self.result, cameras), float(self.result.cameras.K[0, 0]), base.pivot_m
        )
        config = replace(self.config, prior=known)
        there, footage = on_device(base, self.device), self.footage.to(self.device)
        world = World(there, make_unknowns(there, config.seed))
        held_out = held_out_frames(len(self.frames), config.held_out_every)
        views = make_views(there, footage, config)
        objective = Objective(world, views, config, held_out, self.perceptual)
        state = self.clip.root / f"gaussians-{name}.state"
        trace = fit(
            world, objective, config, report, state=state, key=f"{self.key}-{name}", frozen=frozen, keep_state=True
        )
        body_rot, cam_from_body = (value.detach().cpu() for value in world.bodies())
        camera = world.world_from_cam().detach().cpu()
        result = refined_result(self.result, self.frames, base, camera, body_rot, cam_from_body, self.body)
        numbers = measure_result(result, self.people, cameras, self.body)
        numbers["held_out_psnr_db"] = held_out_psnr(world, footage, held_out)
        numbers["held_out_person_psnr_db"] = held_out_person_psnr(world, footage, held_out)
        return Fitted(world=world, result=result, numbers=numbers, trace=trace)


def _device(config: GaussiansConfig) -> torch.device:
    cuda = torch.cuda.is_available()
    if config.enabled == "never" or (config.enabled == "auto" and not cuda):
        off = config.enabled == "never"
        reason = (
            "not asked for (gaussians.enabled=always)"
            if off
            else "no CUDA device (gaussians.enabled=always runs it on the CPU)"
        )
        raise StageMissingError(reason)
    if config.device == "cuda" and not cuda:
        raise FootfallError(
            "gaussians.device", got="cuda, without a CUDA device", expected="cpu or auto", do="change the setting"
        )
    return torch.device("cuda" if cuda and config.device != "cpu" else "cpu")


def _body(result: Result, config: GaussiansConfig) -> BodyModel:
    name = result.motion.body_model
    if name == "anny":
        return load_body_model(name)
    if not config.body_file:
        raise StageMissingError(f"bodies of the model {name}, and no gaussians.body_file with its licensed file")
    return load_body_model(f"{name}:{config.body_file}")


def with_sizes(config: GaussiansConfig, device: torch.device, size: tuple[int, int]) -> GaussiansConfig:
    """The config with every 0 replaced by what it stands for; never larger than the frames."""
    usual = SIZES[device.type]
    return replace(
        config,
        long_side=min(config.long_side or usual["long_side"], max(size)),
        scene_count=config.scene_count or usual["scene_count"],
        person_count=config.person_count or usual["person_count"],
        visits=config.visits or VISITS[device.type],
    )


def load_footage(clip: ClipFolder, result: Result, people: People, frames: Array, config: GaussiansConfig) -> Footage:
    """Frames, masks and metric depth of a clip at the working size."""
    size = result.cameras.size
    factor = config.long_side / max(size)
    working = (round(size[0] * factor), round(size[1] * factor))
    images = np.stack([read_image(Frames.image_path(clip.require("frames"), int(k))) for k in frames])
    ids = np.stack([read_image(People.mask_path(clip.require("people"), int(k))) for k in frames])
    depth = person_depth = None
    if clip.is_done("depth"):
        scale = np.asarray(load_arrays(clip.stage_dir("joint") / "scale.npz")[0]["metres_per_unit"])[frames, None, None]
        stored = DepthInit.load(clip.require("depth"))
        depth = scale * stored.depth[frames].astype(np.float32)
        if stored.person_depth is not None:
            person_depth = scale * stored.person_depth[frames].astype(np.float32)
    return make_footage(
        images, ids, people.visible.shape[1], result.cameras.K, working, depth=depth, person_depth=person_depth
    )


def state_key(config: GaussiansConfig, result: Result, frames: Array) -> str:
    """Changes with everything that a fit depends on."""
    digest = hashlib.sha256(config_hash(config).encode())
    for array in (
        result.cameras.world_from_cam, result.cameras.K, result.motion.body_rot, result.motion.cam_from_body,
        result.motion.betas, result.scene_points, frames,
    ):  # fmt: skip
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def held_out_psnr(world: World, footage: Footage, held_out: set[int]) -> float | None:
    """Mean PSNR (dB) of whole frames that the Gaussians were not fitted to; None without such frames."""
    values = [
        float(psnr(footage.images[frame].cpu().numpy(), draw_frame(world, footage, frame).cpu().numpy())[0])
        for frame in sorted(held_out)
    ]
    return float(np.mean(values)) if values else None


def held_out_person_psnr(world: World, footage: Footage, held_out: set[int]) -> float | None:
    """The same over the pixels of people alone, by their share of each pixel; None if nobody is in these frames."""
    values = []
    for frame in sorted(held_out):
        share = footage.people[frame]
        off = (draw_frame(world, footage, frame) - footage.images[frame]).square().mean(-1)
        if float(share.sum()) > 0:
            values.append(-10 * math.log10(max(float((off * share).sum() / share.sum()), 1e-10)))
    return float(np.mean(values)) if values else None


def save_fit(folder: Path, fitted: Fitted, footage: Footage, scene: str) -> None:
    """Write Gaussians, avatars, fields and pictures; `scene`: what the scene's are made of, points or backdrop."""
    world = fitted.world
    about = {"frame": "world", "unit": "m", "scene": scene, "psnr_db": fitted.numbers["held_out_psnr_db"]}
    save_packed(folder / "scene.npz", world.scene().detach().to("cpu"), about)
    for person in range(len(world.base.avatars)):
        save_avatar(folder / f"person{person}.npz", normalised(world.avatar(person)), {"person": person})
    fields = {
        name.replace("/", "_"): value.detach().cpu().numpy()
        for name, value in world.unknowns.items() if name.startswith("field")
    }  # fmt: skip
    save_arrays(folder / "dynamics.npz", fields, {"moment": "0 at the first frame, 1 at the last"})
    save_pictures(folder, world, footage)
