"""A synthetic clip: bodies, motion, cameras and scene, exactly known, before any pixel is drawn."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from distill.body import load_body_model
from distill.config import config_hash
from distill.results import Cameras, Motion, Result
from distill.synthetic.actions import SEAT_BACK, clap, kick, sit
from distill.synthetic.axes import Array
from distill.synthetic.bvh import contacts_from_motion, read_bvh, retarget
from distill.synthetic.cameras import CameraTrack, plan_cameras
from distill.synthetic.motion import BodyMotion, Build
from distill.synthetic.paths import GroundPath, plan_paths
from distill.synthetic.scenery import Scene, build_scene
from distill.synthetic.spec import ClipSpec
from distill.synthetic.standing import stand
from distill.synthetic.terrain import Terrain, make_terrain
from distill.synthetic.walking import jog, walk, walk_over

WORLD_VERSION: Final = 2
"""Raised when the same spec comes to look or move otherwise, so that older clips count as stale."""
CHUNK: Final = 32
"""Frames whose meshes are skinned at once: a batch costs a fifth of single frames."""


@functools.cache
def free_body() -> Any:
    """The free body model, loaded once."""
    return load_body_model("anny")


def fingerprint(spec: ClipSpec) -> str:
    """Names a clip's contents: the spec and the version of the world."""
    return f"{config_hash(spec)}/{WORLD_VERSION}"


@dataclass(kw_only=True)
class SyntheticClip:
    """Everything about a clip but its pixels."""

    spec: ClipSpec
    """What it was made from."""
    truth: Result
    """Cameras and motion; without scene points (`sample_points`)."""
    scene: Scene
    """The static scene."""

    @property
    def pose(self) -> tuple[Tensor, Tensor, Tensor]:
        """Arguments of the body model: betas [T, P, B], body_rot [T, P, 23, 3, 3], world_from_body [T, P, 4, 4]."""
        motion = self.truth.motion
        betas = torch.from_numpy(motion.betas).float().expand(self.spec.frames, -1, -1)
        return betas, torch.from_numpy(motion.body_rot).float(), torch.from_numpy(self.truth.world_from_body).float()

    def people_vertices(self, frames: Array | None = None) -> Iterator[Array]:
        """Meshes [P, V, 3] in the world, metres, frame by frame; all frames if none are named."""
        body = free_body()
        wanted = np.arange(self.spec.frames) if frames is None else np.asarray(frames)
        for begin in range(0, len(wanted), CHUNK):
            chosen = torch.from_numpy(wanted[begin : begin + CHUNK])
            pose = (values[chosen] for values in self.pose)
            yield from body(*pose, vertex_ids=body.all_vertices).vertices.numpy()

    def keypoints_cam(self) -> Array:
        """[T, P, 23, 3] `conventions.KEYPOINTS` in the camera, metres."""
        betas, body_rot, _ = self.pose
        return free_body().keypoints(betas, body_rot, torch.from_numpy(self.truth.motion.cam_from_body).float()).numpy()

    def sample_points(self, count: int = 4000, views: int = 12) -> tuple[Array, Array]:
        """Points [N, 3] on surfaces of the static scene that some frame sees, and that frame's index [N].

        People are not in the way here. Pixels are drawn evenly from `views` frames; sky pixels are left out.
        """
        rng = self.spec.rng("points")
        frames = np.unique(np.linspace(0, self.spec.frames - 1, views).astype(int))
        K, width, height = self.truth.cameras.K, self.spec.width, self.spec.height
        points, seen_from = [], []
        for frame in frames:
            world_from_cam = self.truth.cameras.world_from_cam[frame]
            pixels = rng.uniform(0, [width, height], (count // len(frames) + 1, 2))
            rays = np.column_stack((pixels, np.ones(len(pixels)))) @ np.linalg.inv(K).T @ world_from_cam[:3, :3].T
            origins = np.broadcast_to(world_from_cam[:3, 3], rays.shape)
            distance = self.scene.caster.cast(origins, rays).distance
            met = np.isfinite(distance)
            points.append(origins[met] + distance[met, None] * rays[met])
            seen_from.append(np.full(met.sum(), frame))
        return np.concatenate(points).astype(np.float32)[:count], np.concatenate(seen_from)[:count]


def make_clip(spec: ClipSpec) -> SyntheticClip:
    """Make the world of `spec`: deterministic, and without drawing any image.

    Raises:
        FootfallError: the camera cannot keep the people in view, or the motion capture does not fit.
    """
    body = free_body()
    mean, deviation = (np.asarray(values, np.float64) for values in body.shape_prior())
    draw = spec.rng("shape").standard_normal((spec.people, len(mean)))
    betas = (mean + deviation * np.clip(draw, -2, 2)).astype(np.float32)
    builds = [Build.of(body, shape) for shape in betas]
    terrain = make_terrain(spec)
    motions = _move(spec, builds, betas, terrain)
    body_rot = np.stack([motion.body_rot for motion in motions], axis=1)
    world_from_body = np.stack([motion.world_from_body for motion in motions], axis=1)
    shapes = torch.from_numpy(betas).expand(spec.frames, -1, -1)
    joints = body(shapes, _tensor(body_rot), _tensor(world_from_body)).joints.double().numpy()
    cameras = plan_cameras(spec, joints, terrain)
    scene = build_scene(spec, joints[:, :, 0, :2], cameras.world_from_cam, terrain, _benches(spec, world_from_body))
    contact = np.stack([motion.contact for motion in motions], axis=1)
    motion = _motion(cameras, joints, world_from_body, body_rot, betas, contact)
    truth = Result(
        cameras=Cameras(
            K=cameras.K,
            size=(spec.width, spec.height),
            timestamps=spec.times,
            world_from_cam=cameras.world_from_cam,
            valid=np.ones(spec.frames, bool),
        ),
        motion=motion,
        meta={"world": "z_up_ground", "source": "synthetic", "clip": spec.id, "made_from": fingerprint(spec)},
    )
    return SyntheticClip(spec=spec, truth=truth, scene=scene)


def _tensor(array: Array) -> Tensor:
    return torch.from_numpy(array).float()


_ON_PATHS: Final = {
    "walk": walk, "turn": walk, "cross": walk, "loop": walk, "jog": jog, "stand": stand, "sit": sit, "clap": clap,
    "kick": kick,
}  # fmt: skip


def _move(spec: ClipSpec, builds: list[Build], betas: Array, terrain: Terrain) -> list[BodyMotion]:
    """The motion of every person."""
    if not terrain.flat:
        speed = spec.speed or spec.rng("paths").uniform(1.0, 1.3)
        sides = [0.0] if spec.people == 1 else [-0.6, 0.6]
        return [
            walk_over(build, terrain, side, spec.times, speed=speed, fps=spec.fps, rng=spec.rng(f"person{person}"))
            for person, (build, side) in enumerate(zip(builds, sides, strict=True))
        ]
    motions = []
    for person, (build, path) in enumerate(zip(builds, plan_paths(spec), strict=True)):
        if spec.motion == "bvh":
            motions.append(_captured(spec, build, path, betas[person]))
        else:
            generate = _ON_PATHS[spec.motion]
            motions.append(generate(build, path, spec.times, fps=spec.fps, rng=spec.rng(f"person{person}")))
    return motions


def _benches(spec: ClipSpec, world_from_body: Array) -> Array:
    """[N, 3] x, y and heading of the benches that people sit down on."""
    if spec.motion != "sit":
        return np.zeros((0, 3))
    first = world_from_body[0]
    heading = np.arctan2(first[:, 1, 2], first[:, 0, 2])
    behind = np.stack((np.cos(heading), np.sin(heading)), axis=-1)
    return np.column_stack((first[:, :2, 3] - SEAT_BACK * behind, heading))


def _captured(spec: ClipSpec, build: Build, path: GroundPath, betas: Array) -> BodyMotion:
    """Motion capture on one body, set on the ground."""
    clip = read_bvh(Path(spec.bvh))
    room = (len(clip.root) - 1) / clip.fps - spec.times[-1]
    motion = retarget(
        clip, build, spec.times, begin=spec.rng("bvh").uniform(0, max(room, 0)),
        heading=float(path.heading[0]), origin=path.xy[0],
    )  # fmt: skip
    body = free_body()
    shape = torch.from_numpy(betas).expand(spec.frames, -1)
    sites = body.sites(shape, _tensor(motion.body_rot), _tensor(motion.world_from_body)).double().numpy()
    # A robust ground: the level that the lower foot reaches in one frame out of ten.
    ground = np.quantile(sites[:, :4, 2].min(axis=1), 0.1)
    motion.world_from_body[:, 2, 3] -= ground
    motion.contact[:] = contacts_from_motion(sites - [0, 0, ground], spec.fps)
    motion.contact[:, 4:] = False
    return motion


def _motion(
    cameras: CameraTrack, joints: Array, world_from_body: Array, body_rot: Array, betas: Array, contact: Array
) -> Motion:
    """The people as a result holds them: everybody present, certain, and in the camera."""
    cam_from_world = np.linalg.inv(cameras.world_from_cam)[:, None]
    turned = joints @ np.swapaxes(cam_from_world[..., :3, :3], -1, -2)
    frames, people = joints.shape[:2]
    return Motion(
        ids=np.arange(people),
        present=np.ones((frames, people), bool),
        body_model=free_body().name,
        betas=betas,
        body_rot=body_rot,
        cam_from_body=cam_from_world @ world_from_body,
        joints_cam=turned + cam_from_world[..., None, :3, 3],
        contact_prob=contact.astype(np.float32),
        stature=free_body().stature(torch.from_numpy(betas)).double().numpy(),
        confidence=np.ones((frames, people)),
    )
