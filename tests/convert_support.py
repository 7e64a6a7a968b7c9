"""A made-up result to convert, and what the body model itself says of it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from distill.body import BodyModel, load_body_model
from distill.convert.axes import Y_UP_FROM_WORLD
from distill.results import Cameras, Motion, Result, save_result

Array = NDArray[Any]
FRAMES = 14
PEOPLE = 3
EVEN_TIMES = 4.0 + np.arange(FRAMES) / 25.0
UNEVEN_TIMES = 4.0 + np.cumsum(np.linspace(0.02, 0.11, FRAMES))
CLOSE = 1e-4
"""Metres: the whole error that a conversion may add."""


def smooth_turns(rng: np.random.Generator, count: int, size: float) -> Array:
    """[FRAMES, count, 3, 3] rotations that go evenly from one drawn rotation vector to another."""
    begin, end = rng.normal(0, size, (2, count, 3))
    share = np.linspace(0, 1, FRAMES)[:, None, None]
    return Rotation.from_rotvec((begin + share * (end - begin)).reshape(-1, 3)).as_matrix().reshape(FRAMES, count, 3, 3)


def make_result(body: BodyModel, *, world: str = "z_up_ground", times: Array = EVEN_TIMES) -> Result:
    """Three people, the second leaves and comes back, the third is there for one frame; a moving, tilted camera.

    Pixels are not square, the principal point is off the middle, the cameras of frames 0 and 7 were not measured.
    """
    rng = np.random.default_rng(5)
    shape = (FRAMES, PEOPLE)
    world_from_cam = np.tile(np.eye(4), (FRAMES, 1, 1))
    if world == "z_up_ground":  # level, looking along the world's y
        world_from_cam[:, :3, :3] = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]
    world_from_cam[:, :3, :3] = world_from_cam[:, :3, :3] @ smooth_turns(rng, 1, 0.2)[:, 0]
    world_from_cam[:, :3, 3] = np.linspace([0, 0, 1.6], [0.5, 0.3, 1.7], FRAMES)
    cam_from_body = np.tile(np.eye(4), (*shape, 1, 1))
    upright = np.diag([1.0, -1, -1])  # y up and facing the camera
    cam_from_body[..., :3, :3] = upright @ smooth_turns(rng, PEOPLE, 0.4)
    walked = np.linspace(-1, 1, FRAMES)[:, None] * rng.normal(0, 0.7, PEOPLE)
    cam_from_body[..., 0, 3] = 1.3 * (np.arange(PEOPLE) - 1) + walked
    cam_from_body[..., 2, 3] = 5 + rng.normal(0, 0.5, PEOPLE)
    body_rot = smooth_turns(rng, PEOPLE * 23, 0.5).reshape(*shape, 23, 3, 3)
    betas = rng.normal(0, 1, (PEOPLE, body.num_betas)).astype(np.float32)
    present = np.ones(shape, bool)
    present[4:7, 1] = False
    present[:, 2] = np.arange(FRAMES) == 5
    arguments = (torch.from_numpy(part).float() for part in (body_rot, cam_from_body))
    joints = body(torch.from_numpy(betas).expand(FRAMES, -1, -1), *arguments).joints.numpy()
    valid = np.ones(FRAMES, bool)
    valid[[0, 7]] = False
    points = rng.normal(0, 1, (300, 3)) + (world_from_cam[3] @ [0, 0, 6, 1])[:3]
    return Result(
        cameras=Cameras(
            K=np.array([[500.0, 0, 300], [0, 480, 190], [0, 0, 1]]), size=(640, 360), timestamps=times,
            world_from_cam=world_from_cam, valid=valid, sigma_m=np.linspace(0.01, 0.2, FRAMES),
        ),
        motion=Motion(
            ids=np.array([1, 4, 9]), present=present, body_model=body.name, betas=betas, body_rot=body_rot,
            cam_from_body=cam_from_body, joints_cam=joints, contact_prob=rng.uniform(size=(*shape, 6)),
            stature=np.full(PEOPLE, 1.7), confidence=rng.uniform(size=shape),
            sigma_m=np.linspace(0.02, 0.3, FRAMES * PEOPLE).reshape(shape),
        ),
        scene_points=points.astype(np.float32), scene_rgb=rng.integers(0, 256, (300, 3)).astype(np.uint8),
        meta={"world": world, "source": "made up"},
    )  # fmt: skip


def write_result(folder: Path, result: Result) -> Path:
    """Save it; returns the folder."""
    save_result(folder, result)
    return folder


@functools.cache
def exact_body() -> BodyModel:
    """The free body in float64."""
    return load_body_model("anny").double()


def body_points(result: Result, frame: int, person: int, target_from_world: Array) -> tuple[Array, Array]:
    """Joints [24, 3] and vertices [V, 3] of a person, straight from the body model, metres, float64."""
    body = exact_body()
    points = body(
        torch.from_numpy(result.motion.betas[person]).double(),
        torch.from_numpy(result.motion.body_rot[frame, person]).double(),
        torch.from_numpy(target_from_world @ result.world_from_body[frame, person].astype(np.float64)),
        body.all_vertices,
    )
    assert points.vertices is not None
    return points.joints.numpy(), points.vertices.numpy()


def y_up(result: Result) -> Array:
    """[4, 4] from the result's world to axes with y up."""
    return Y_UP_FROM_WORLD[result.meta["world"]]
