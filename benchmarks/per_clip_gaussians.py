"""Gaussians fitted to one clip by the teacher's stage, to stand beside a network that has seen two of its frames."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch
from gaussian_recovery import back_projected
from torch import Tensor

from distill.body import load_body_model
from distill.geometry.transforms import invert
from distill.render import Gaussians, render
from distill.synthetic.clips import make_stage
from distill.synthetic.render import open_renderer
from distill.synthetic.world import SyntheticClip
from teacher.scene.config import GaussiansConfig
from teacher.scene.fit import fit
from teacher.scene.footage import make_footage
from teacher.scene.inputs import make_base, make_views
from teacher.scene.objective import Objective
from teacher.scene.world import BODY, CAMERA, World, make_unknowns

CONFIG = GaussiansConfig(
    enabled="always", long_side=224, scene_count=4000, person_count=1200, visits=[6, 20, 12], levels=[2, 1],
    held_out_every=0,
)  # fmt: skip
"""Of the fit: a few hundred steps, as the stage takes at this size."""


def fit_clip(clip: SyntheticClip, left_out: int, size: tuple[int, int]) -> tuple[World, float]:
    """The teacher's Gaussians of a clip, with true cameras, poses and depth held; and CPU seconds of the fit.

    Args:
        clip: drawn. left_out: a frame that is not looked at. size: (width, height) to work at.
    """
    count = len(clip.truth.cameras.timestamps)
    frames = np.array([frame for frame in range(count) if frame != left_out])
    renderer = open_renderer(make_stage(clip), clip.truth.cameras.size)
    poses, K = clip.truth.cameras.world_from_cam[frames], clip.truth.cameras.K.astype(np.float64)
    meshes = clip.people_vertices(frames)
    drawn = [renderer.draw(mesh, K, pose) for mesh, pose in zip(meshes, poses, strict=True)]
    images, ids = np.stack([picture.rgb for picture in drawn]).astype(np.uint8), np.stack([p.ids for p in drawn])
    depth = np.stack([np.where(picture.ids == 0, picture.depth, 0) for picture in drawn])
    seen = replace(clip.truth, cameras=replace(clip.truth.cameras, world_from_cam=poses))
    points, rgb = back_projected(seen, images, depth, seed=0)
    truth = replace(clip.truth, scene_points=points, scene_rgb=rgb)
    footage = make_footage(images, ids, clip.spec.people, truth.cameras.K, size, depth=depth)
    base = make_base(truth, frames, footage, load_body_model("anny"), CONFIG)
    world = World(base, make_unknowns(base, CONFIG.seed))
    objective = Objective(world, make_views(base, footage, CONFIG), CONFIG, set(), None)
    began = time.process_time()
    with torch.enable_grad():
        fit(world, objective, CONFIG, lambda *_: None, frozen=frozenset((*CAMERA, *BODY)))
    return world, time.process_time() - began


@torch.no_grad()
def draw_moment(
    world: World, body_rot: Tensor, world_from_body: Tensor, world_from_cam: Tensor, K: Tensor, size: tuple[int, int]
) -> Tensor:
    """[3, H, W] picture of the scene and of everybody in a pose: body_rot [P, 23, 3, 3], world_from_body [P, 4, 4]."""
    people = [
        world.avatar(person).posed(world.base.body, body_rot[person], world_from_body[person])
        for person in range(len(world.base.avatars))
    ]
    every = Gaussians.cat([world.scene(), *people])
    drawn = render(
        every, invert(world_from_cam)[None], K[None], size, background=world.unknowns["background"], antialiased=True
    )
    return drawn.color[0].permute(2, 0, 1).clamp(0, 1)
