"""Run JOSH3R on a video: follow one person, ask the network about pairs of frames, chain, write a result folder.

Two passes, as the published inference has: people first (by our own tracker, and our own body fitted to the person
whom it sees most), then the network about pairs of their frames. Memory holds one frame's features at a time.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from distill.body import BodyModel, load_body_model
from distill.errors import FootfallError
from distill.files import write_json
from distill.geometry.conventions import CONTACT_SITES
from distill.geometry.transforms import interpolate_missing, invert, transform_points
from distill.models.josh3r import Josh3r
from distill.models.josh3r_files import load_josh3r
from distill.models.josh3r_images import prepare_boxes, prepare_image
from distill.people.blazepose import Pose
from distill.people.tracker import PeopleTracker
from distill.provenance import code_commit, hardware
from distill.recorder import Cloud, stand_up
from distill.results import Cameras, Motion, Result, save_result
from distill.trajectory import Path as PersonPath
from distill.trajectory import chain, pair_frames
from distill.video import Decoder
from teacher.initialisers.bodies import BodiesConfig, FittedPerson, fit_person
from teacher.initialisers.people import choose_people, to_arrays
from teacher.progress import Progress
from teacher.run_video import RunConfig, percentiles
from teacher.stagefiles import CameraInit, People

Array = NDArray[Any]

PREFIX: Final = "josh3r:"
"""What `--checkpoint` begins with."""
SCENE_EVERY: Final = 10
"""Pairs between those whose points join the scene, as published."""
_NOT_PREDICTED: Final = ("contacts of hands and feet", "people other than the one followed", "intrinsics")


@dataclass(kw_only=True)
class _Seen:
    """What the first pass knows."""

    size: tuple[int, int]
    """Width and height of the frames that people were looked for in."""
    frames: list[int]
    """[T] numbers of the readable frames."""
    timestamps: Array
    """[T] seconds."""
    tracks: dict[int, dict[int, Pose]]
    """Person -> row of `frames` -> pose."""


@dataclass(kw_only=True)
class _Steps:
    """The network's answers about all pairs, and the points of some."""

    rel_trans: Tensor
    rel_rot6d: Tensor
    scene: list[tuple[int, Tensor, Array]]
    """Row of the pair's first frame, points [N, 3] in its camera (metres), colours [N, 3]."""


def run_josh3r(video: Path, checkpoint: str, out: Path, config: RunConfig) -> dict[str, Any]:
    """Write `cameras.npz`, `motion.npz`, `scene.ply`, `meta.json` and `latency.json` to `out`.

    Args:
        checkpoint: "josh3r:" and a folder or file for `load_josh3r`.

    Returns:
        Frames, people and frames per second.

    Raises:
        FootfallError: video or checkpoint cannot be read, or nobody is seen; nothing is written then.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_josh3r(checkpoint.removeprefix(PREFIX), device)
    decoder = Decoder(video, fps=config.image_fps if video.is_dir() else None)
    body, progress, started = load_body_model("anny"), Progress(2, title="run"), time.perf_counter()
    times: dict[str, list[float]] = defaultdict(list)
    seen = _track(decoder, config, progress, times)
    people = _people(seen, video)
    cameras = _still_camera(seen, config)
    began = time.perf_counter()
    fitted = fit_person(body, seen.timestamps, people, 0, cameras, BodiesConfig())
    times["body"].append(time.perf_counter() - began)
    rows = torch.nonzero(fitted.present).flatten()
    if len(rows) < 2:
        raise FootfallError(
            f"video {video}", got=f"a person in {len(rows)} frames", expected="two at least",
            do="give a video with a person in view",
        )  # fmt: skip
    numbers = [seen.frames[row] for row in rows.tolist()]
    boxes = torch.from_numpy(people.box_xyxy[rows.numpy(), 0])
    steps = _ask(model, decoder, seen.size, numbers, boxes, progress, times)
    path = chain(numbers, steps.rel_trans, steps.rel_rot6d, fitted.pose.cam_from_body[rows])
    result = _result(seen, cameras, people, fitted, path, rows, body)
    _add_scene(result, steps, path)
    result = stand_up(result)
    result.meta |= {
        "made_by": "footfall run", "checkpoint": checkpoint, "commit": code_commit(), "method": "josh3r, chained",
        "people_found": len(seen.tracks), "body": "landmarks fitted to the free body, not JOSH3R's",
        "not_predicted": list(_NOT_PREDICTED),
    }  # fmt: skip
    save_result(out, result)
    count, seconds = len(seen.frames), time.perf_counter() - started
    write_json(out / "latency.json", {
        **{part: percentiles(values) for part, values in times.items()}, "frames_per_s": count / seconds,
        "frames": count, "pairs": len(path.pairs), "hardware": hardware(), "torch": torch.__version__,
        "commit": code_commit(),
    })  # fmt: skip
    return {"frames": count, "people": 1, "frames_per_s": count / seconds}


def _track(decoder: Decoder, config: RunConfig, progress: Progress, times: dict[str, list[float]]) -> _Seen:
    """First pass: who is where."""
    tracker = PeopleTracker(config.tracker)
    frames: list[int] = []
    tracks: dict[int, dict[int, Pose]] = defaultdict(dict)
    size = (0, 0)
    for index, frame in decoder.frames(range(len(decoder))):
        if frame is None:
            continue
        scale = min(1.0, config.long_side / max(frame.shape[:2]))
        size = (2 * round(frame.shape[1] * scale / 2), 2 * round(frame.shape[0] * scale / 2))
        image = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))
        began = time.perf_counter()
        for person in tracker.step(image):
            tracks[person.id][len(frames)] = person.pose
        times["people"].append(time.perf_counter() - began)
        frames.append(index)
        progress.update("people", (index + 1) / len(decoder), f"frame {index + 1} of {len(decoder)}")
    return _Seen(size=size, frames=frames, timestamps=decoder.timestamps[frames], tracks=dict(tracks))


def _people(seen: _Seen, video: Path) -> People:
    """The one person who is followed: seen longest and largest."""
    kept = choose_people(seen.tracks, min(5, len(seen.frames)), 1)
    if not kept:
        raise FootfallError(
            f"video {video}", got=f"nobody in {len(seen.frames)} readable frames",
            expected="a person to follow: JOSH3R sees camera and scene through one", do="give a video with a person",
        )  # fmt: skip
    return to_arrays([seen.tracks[kept[0]]], len(seen.frames))


def _still_camera(seen: _Seen, config: RunConfig) -> CameraInit:
    """Intrinsics as `footfall run` guesses or is told them; that the camera moves is not known yet."""
    count = len(seen.frames)
    none = np.zeros(0, np.int32)
    return CameraInit(
        kind="static", metric=True, focal_known=config.stream.focal_px > 0,
        K=config.stream.matrix(seen.size), world_from_cam=np.tile(np.eye(4), (count, 1, 1)),
        registered=np.zeros(count, bool), points=np.zeros((0, 3), np.float32), points_rgb=np.zeros((0, 3), np.uint8),
        obs_frame=none, obs_point=none, obs_px=np.zeros((0, 2), np.float32),
    )  # fmt: skip


@torch.inference_mode()
def _ask(
    model: Josh3r, decoder: Decoder, size: tuple[int, int], numbers: list[int], boxes: Tensor, progress: Progress,
    times: dict[str, list[float]],
) -> _Steps:  # fmt: skip
    """Second pass: each frame of a pair is encoded once, kept until the next pair has used it."""
    pairs = pair_frames(numbers)
    device = next(model.parameters()).device
    long_side = model.mast3r.config.long_side
    network_boxes = prepare_boxes(boxes, size, long_side).to(device)

    def encode(row: int) -> tuple[Any, Tensor]:
        ((_, frame),) = decoder.frames(range(numbers[row], numbers[row] + 1))
        assert frame is not None  # it was read in the first pass
        image = prepare_image(frame, long_side)
        return model.encode(image[None].to(device)), image

    began = time.perf_counter()
    tokens, image = encode(0)
    times["encode"].append(time.perf_counter() - began)
    trans, turns, scene = [], [], []
    for step, (head, tail) in enumerate(pairs.tolist()):
        began = time.perf_counter()
        next_tokens, next_image = encode(tail)
        times["encode"].append(time.perf_counter() - began)
        began = time.perf_counter()
        points = step % SCENE_EVERY == 0
        answer = model.pair(
            tokens, next_tokens, network_boxes[head : head + 1], network_boxes[tail : tail + 1], points=points
        )
        trans.append(answer.rel_trans[0].cpu())
        turns.append(answer.rel_rot6d[0].cpu())
        times["pair"].append(time.perf_counter() - began)
        if answer.points_a is not None:
            scaled = (answer.points_a[0] * answer.scale_a[0]).cpu()
            scene.append((head, *_background(scaled, image, network_boxes[head].cpu())))
        tokens, image = next_tokens, next_image
        progress.update("pairs", (step + 1) / len(pairs), f"pair {step + 1} of {len(pairs)}")
    return _Steps(rel_trans=torch.stack(trans), rel_rot6d=torch.stack(turns), scene=scene)


def _background(points: Tensor, image: Tensor, box: Tensor) -> tuple[Tensor, Array]:
    """Points outside the person's box with the colours of the image that they belong to: the zoomed one."""
    height, width = image.shape[-2:]
    keep = torch.ones(height, width, dtype=torch.bool)
    left, top, right, bottom = (int(v) for v in box.clamp(min=0))
    keep[top : bottom + 1, left : right + 1] = False
    keep &= torch.isfinite(points).all(-1).reshape(height, width)
    colours = (image.permute(1, 2, 0)[keep] * 255).byte().numpy()
    return points.reshape(height, width, 3)[keep], colours


def _result(
    seen: _Seen, cameras: CameraInit, people: People, fitted: FittedPerson, path: PersonPath, rows: Tensor,
    body: BodyModel,
) -> Result:  # fmt: skip
    """The path in the world of the first camera; frames without the person are filled from their neighbours."""
    count = len(seen.frames)
    pose = fitted.pose
    world_from_cam = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    world_from_cam[rows] = invert(path.world_from_cam[:1]) @ path.world_from_cam
    world_from_cam = interpolate_missing(world_from_cam, fitted.present)
    betas = pose.betas.expand(count, -1)
    joints = body.double()(betas, pose.body_rot, pose.cam_from_body).joints
    return Result(
        cameras=Cameras(
            K=cameras.K.astype(np.float32), size=seen.size, timestamps=seen.timestamps,
            world_from_cam=world_from_cam.numpy(), valid=fitted.present.numpy(),
        ),
        motion=Motion(
            ids=np.zeros(1, np.int64), present=fitted.present.numpy()[:, None], body_model=body.name,
            betas=pose.betas[None].float().numpy(), body_rot=pose.body_rot[:, None].float().numpy(),
            cam_from_body=pose.cam_from_body[:, None].float().numpy(), joints_cam=joints[:, None].float().numpy(),
            contact_prob=np.zeros((count, 1, len(CONTACT_SITES)), np.float32),
            stature=np.array([float(body.stature(pose.betas))], np.float32),
            confidence=fitted.confidence[:, None].float().numpy(),
        ),
        meta={"world": "first_camera"},
    )  # fmt: skip


def _add_scene(result: Result, steps: _Steps, path: PersonPath) -> None:
    """Place the points with the cameras of their frames, in the world of the first camera."""
    cloud = Cloud()
    first_from_cam = invert(path.world_from_cam[:1]) @ path.world_from_cam
    for row, points, colours in steps.scene:
        cloud.add(transform_points(first_from_cam[row], points.double()).numpy(), colours)
    result.scene_points, result.scene_rgb = cloud.arrays()
