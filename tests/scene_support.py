"""A small world for tests of the photometric stage: one person before a textured wall, drawn by our own renderer."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from distill.body import BodyModel
from distill.geometry.rotations import matrix_from_quat, matrix_from_rotvec
from distill.geometry.transforms import make_transform
from distill.results import Cameras, Motion, Result
from teacher.scene.config import GaussiansConfig
from teacher.scene.footage import Footage
from teacher.scene.inputs import make_base, make_views
from teacher.scene.objective import Objective, draw
from teacher.scene.world import World, make_unknowns

FRAMES = 5
SIZE = (64, 48)
CONFIG = GaussiansConfig(
    enabled="always", long_side=64, frames=FRAMES, scene_count=300, person_count=120, visits=[1, 2, 1], levels=[2, 1],
    held_out_every=3, save_every=4,
)  # fmt: skip


def still_result(body: BodyModel) -> Result:
    """A person who stands 3 m away, before a camera that moves 1 cm a frame; wall and floor as points."""
    rng = np.random.default_rng(0)
    world_from_cam = np.tile(np.eye(4), (FRAMES, 1, 1))
    world_from_cam[:, :3, :3] = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]  # z up, looking along y
    world_from_cam[:, 0, 3] = 0.01 * np.arange(FRAMES)
    world_from_cam[:, 2, 3] = 1.0
    cam_from_body = np.tile(np.diag([1.0, -1, -1, 1]), (FRAMES, 1, 1, 1))
    cam_from_body[..., 2, 3] = 3.0
    body_rot = np.tile(np.eye(3), (FRAMES, 1, 23, 1, 1))
    betas = np.zeros((1, body.num_betas), np.float32)
    tensor = lambda values: torch.from_numpy(np.asarray(values, np.float32))  # noqa: E731
    joints = body(tensor(betas).expand(FRAMES, 1, -1), tensor(body_rot), tensor(cam_from_body)).joints.numpy()
    contact = np.zeros((FRAMES, 1, 6))
    contact[..., :4] = 1
    wall = np.column_stack((rng.uniform(-3, 3, 1200), np.full(1200, 5.0), rng.uniform(-0.5, 3, 1200)))
    return Result(
        cameras=Cameras(
            K=np.array([[60.0, 0, SIZE[0] / 2], [0, 60.0, SIZE[1] / 2], [0, 0, 1]]), size=SIZE,
            timestamps=np.arange(FRAMES) / 30, world_from_cam=world_from_cam, valid=np.ones(FRAMES, bool),
        ),
        motion=Motion(
            ids=np.arange(1), present=np.ones((FRAMES, 1), bool), body_model="anny", betas=betas, body_rot=body_rot,
            cam_from_body=cam_from_body, joints_cam=joints, contact_prob=contact, stature=np.ones(1) * 1.7,
            confidence=np.ones((FRAMES, 1)),
        ),
        scene_points=wall.astype(np.float32), scene_rgb=rng.integers(0, 255, (1200, 3)).astype(np.uint8),
        meta={"world": "z_up_ground"},
    )  # fmt: skip


def roughened(result: Result, metres: float) -> Result:
    """The result with a wall whose points stand out by that much (standard deviation).

    Which disc of a flat wall lies before which is decided by the least turn of the camera, and so is the picture; no
    derivative knows of that. Discs that stand out keep their order.
    """
    points = result.scene_points.copy()
    points[:, 1] += np.random.default_rng(1).normal(0, metres, len(points))
    return replace(result, scene_points=points)


def drawn_world(
    body: BodyModel, result: Result | None = None, *, thicker_m: float = 0.0
) -> tuple[Result, Footage, World]:
    """The result (None: the still one), footage that our renderer drew of it, and the world that it was drawn from.

    `thicker_m`: how far people's Gaussians lie from the skin.
    """
    result = result or still_result(body)
    shape = (FRAMES, SIZE[1], SIZE[0])
    blank = Footage(
        images=torch.full((*shape, 3), 0.5), masks=torch.zeros(FRAMES, 1, *shape[1:]), depth=torch.zeros(shape),
        person_depth=torch.zeros(shape), K=torch.from_numpy(result.cameras.K).float(),
    )  # fmt: skip
    world = World(base := make_base(result, np.arange(FRAMES), blank, body, CONFIG), make_unknowns(base, 0))
    painted = torch.rand(world.unknowns["person0/colors"].shape, generator=torch.Generator().manual_seed(1))
    world.unknowns["person0/colors"].data.copy_(painted)
    normals = matrix_from_quat(base.avatars[0].quats)[..., 2]
    world.unknowns["person0/offsets"].data.add_(thicker_m * normals)
    images, masks, depths = [], [], []
    with torch.no_grad():
        body_rot, cam_from_body = world.bodies()
        for frame in range(FRAMES):
            people = world.people(frame, body_rot[frame], cam_from_body[frame], in_time=False)
            eye, ones = torch.eye(4), torch.ones(len(people))
            person = draw(people, eye, blank.K, SIZE, person=ones)
            scene = draw(world.scene(), world.cam_from_world()[frame], blank.K, SIZE, background=torch.full((3,), 0.5))
            alpha = person.alpha[0][..., None]
            images.append(person.color[0] + (1 - alpha) * scene.color[0])
            masks.append(person.alpha)
            depths.append(scene.depth[0] * (person.alpha[0] < 0.05))
    footage = replace(blank, images=torch.stack(images), masks=torch.stack(masks), depth=torch.stack(depths))
    return result, footage, world


def fresh(
    body: BodyModel,
    drawn: tuple[Result, Footage, World],
    result: Result | None = None,
    config: GaussiansConfig = CONFIG,
) -> tuple[World, Objective]:
    """A world to fit to drawn footage, started from the result that it was drawn from or from another one."""
    base = make_base(result or drawn[0], np.arange(FRAMES), drawn[1], body, config)
    world = World(base, make_unknowns(base, 0))
    return world, Objective(world, make_views(base, drawn[1], config), config, {2}, None)


def moved_camera(result: Result, turn_deg: float, shift_m: float) -> Result:
    """Every camera turned and shifted by that much, each in directions of its own."""
    generator = np.random.default_rng(3)
    axis = generator.normal(size=(FRAMES, 2, 3))
    axis /= np.linalg.norm(axis, axis=-1, keepdims=True)
    turn = matrix_from_rotvec(torch.from_numpy(math.radians(turn_deg) * axis[:, 0]))
    change = make_transform(turn, torch.from_numpy(shift_m * axis[:, 1])).numpy()
    return replace(result, cameras=replace(result.cameras, world_from_cam=result.cameras.world_from_cam @ change))
