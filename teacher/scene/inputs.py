"""From the geometric result to the base of the photometric stage: chosen frames, tensors, Gaussians to start from."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from torch import Tensor

from distill.avatar import Avatar, make_avatar
from distill.body import BodyModel
from distill.geometry.transforms import make_transform
from distill.results import Result
from teacher.optimise.bodies import BodyParts
from teacher.scene.config import GaussiansConfig, PriorConfig
from teacher.scene.footage import Footage
from teacher.scene.motion import site_heights
from teacher.scene.objective import View, make_view
from teacher.scene.seeds import coloured, scene_gaussians
from teacher.scene.world import Base

Array = NDArray[Any]
SLIM: Final = 0.6
"""Of the scales of `make_avatar`, which close the skin seen from the front."""
LEAST_PX: Final = 0.1
"""A camera is not known better than this, pixels, however well its points reproject."""
COLOURED_FRAMES: Final = 12
"""Frames that give an avatar its first colours."""


def chosen_frames(count: int, most: int) -> Array:
    """Indices of at most `most` frames (0: all), even over `count`."""
    if most == 0 or most >= count:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, most).round().astype(int))


def held_out_frames(count: int, every: int) -> set[int]:
    """Every n-th of the refined frames, from the third on (NeuMan's rule)."""
    return set(range(2, count, every)) if every else set()


def make_base(
    result: Result, frames: Array, footage: Footage, body: BodyModel, config: GaussiansConfig,
    *, keypoints_px: Array | None = None, keypoint_score: Array | None = None,
) -> Base:  # fmt: skip
    """The base for some frames of a solved clip.

    Args:
        result: of the geometric stage. frames: [T] indices into it. footage: of these frames.
        body: of the result's bodies. config: sizes.
        keypoints_px, keypoint_score: [T, P, 23, 2] pixels of the footage and [T, P, 23]; None: no keypoints.
    """
    cameras, motion = result.cameras, result.motion
    tensor = lambda array: torch.from_numpy(np.array(array, np.float32))  # noqa: E731 - a name for a conversion
    world_from_cam, present = tensor(cameras.world_from_cam[frames]), torch.from_numpy(motion.present[frames].copy())
    cam_from_body, body_rot = tensor(motion.cam_from_body[frames]), tensor(motion.body_rot[frames])
    betas, prob = tensor(motion.betas), tensor(motion.contact_prob[frames])
    parts = BodyParts(body)
    height = torch.full_like(prob, torch.nan)
    z_up = result.meta["world"] == "z_up_ground"
    if z_up:
        height = site_heights(parts(betas, body_rot, cam_from_body), world_from_cam, prob)
    shape = (len(frames), present.shape[1], len(body.keypoint_names))
    times = torch.from_numpy(np.asarray(cameras.timestamps, np.float64))
    colour_from = torch.from_numpy(chosen_frames(len(frames), COLOURED_FRAMES))
    part = Footage(**{n: v if n == "K" else v[colour_from] for n, v in vars(footage).items()})
    anchors = min(config.person_count, body.num_vertices)
    avatars = [
        coloured(
            slim(make_avatar(body, betas[person], anchors=anchors)), body, part, person, body_rot[colour_from, person],
            cam_from_body[colour_from, person], present[colour_from, person],
        )
        for person in range(present.shape[1])
    ]  # fmt: skip
    scene = scene_gaussians(
        result.scene_points, result.scene_rgb, cameras.world_from_cam[frames, :3, 3], config.scene_count
    )
    return Base(
        body=body, parts=parts, times=(times[frames] - times[0]).float(),
        moment=((times[frames] - times[0]) / (times[-1] - times[0]).clamp(min=1e-6)).float(),
        world_from_cam=world_from_cam, cam_from_body=cam_from_body, body_rot=body_rot, betas=betas, present=present,
        contact_prob=prob, z_up=z_up, site_height=height, K=footage.K,
        keypoints_px=torch.zeros(*shape, 2) if keypoints_px is None else tensor(keypoints_px),
        keypoint_weight=torch.zeros(shape) if keypoint_score is None else tensor(keypoint_score),
        avatars=avatars, scene=scene, pivot_m=_middle_depth(scene.means, world_from_cam),
    )  # fmt: skip


def slim(avatar: Avatar) -> Avatar:
    """The avatar with smaller Gaussians: discs that just tile a limb stand out beyond its outline."""
    return replace(avatar, scales=SLIM * avatar.scales)


def _middle_depth(points: Tensor, world_from_cam: Tensor) -> float:
    """Median depth of the points that lie before the cameras, metres."""
    rotation, centre = world_from_cam[:, :3, :3], world_from_cam[:, :3, 3]
    depth = torch.einsum("tik,tk->ti", points[None] - centre[:, None], rotation[:, :, 2])
    ahead = depth[depth > 0.2]
    return float(ahead.median()) if len(ahead) else 5.0


def known_cameras(prior: PriorConfig, background_px: float | None, focal_px: float, pivot_m: float) -> PriorConfig:
    """The prior, tighter for cameras whose scene reprojects well: pictures of Gaussians tell less than its points do.

    Args:
        background_px: median reprojection error of the scene, pixels; None: nothing is known, the prior stays.
        focal_px: of the same pixels. pivot_m: depth of the scene's middle.
    """
    if background_px is None:
        return prior
    angle = (background_px + LEAST_PX) / focal_px
    return replace(
        prior, camera_rot_deg=min(prior.camera_rot_deg, math.degrees(angle)),
        camera_pos_m=min(prior.camera_pos_m, angle * pivot_m),
    )  # fmt: skip


def on_device(base: Base, device: torch.device) -> Base:
    """The base on another device, with a body of its own there."""
    body = copy.deepcopy(base.body).to(device)
    moved: dict[str, Any] = {name: value.to(device) for name, value in vars(base).items() if isinstance(value, Tensor)}
    return replace(
        base, **moved, body=body, parts=BodyParts(body), scene=base.scene.to(device),
        avatars=[avatar.to(str(device)) for avatar in base.avatars],
    )  # fmt: skip


def make_views(base: Base, footage: Footage, config: GaussiansConfig) -> dict[int, View]:
    """The footage at every level that is drawn, and at full size."""
    pelvis = torch.where(base.present, base.cam_from_body[..., 2, 3], torch.inf).amin(1)
    return {
        level: make_view(footage.smaller(level), pelvis)
        for level in {1, *config.levels, *(max(1, level // 2) for level in config.levels)}
    }


def refined_result(
    result: Result, frames: Array, base: Base, camera: Tensor, body_rot: Tensor, cam_from_body: Tensor, body: BodyModel
) -> Result:
    """The geometric result with refined cameras and bodies; corrections of frames between are interpolated.

    Args:
        result: of the geometric stage. frames: [T] that were refined. base: of these.
        camera: [T, 4, 4] world_from_cam. body_rot: [T, P, 23, 3, 3]. cam_from_body: [T, P, 4, 4].
    """
    whole, motion = result.cameras, result.motion
    count = len(whole.timestamps)
    moved = replace(whole, world_from_cam=_spread(whole.world_from_cam, base.world_from_cam, camera, frames, count))
    pose = _spread_turns(motion.body_rot, base.body_rot, body_rot, frames, count)
    root = _spread(motion.cam_from_body, base.cam_from_body, cam_from_body, frames, count)
    tensor = lambda array: torch.from_numpy(np.asarray(array, np.float32))  # noqa: E731 - a name for a conversion
    betas = tensor(motion.betas).expand(count, -1, -1)
    joints = body(betas, tensor(pose), tensor(root)).joints.numpy()
    return replace(
        result, cameras=moved,
        motion=replace(motion, body_rot=pose, cam_from_body=root, joints_cam=joints.astype(np.float32)),
    )  # fmt: skip


def _spread_turns(given: Array, old: Tensor, new: Tensor, frames: Array, count: int) -> Array:
    """`given` [C, ..., 3, 3] turned by the corrections old^T new of some frames, in between by interpolated ones."""
    from distill.geometry.rotations import matrix_from_rotvec, rotvec_from_matrix

    step = rotvec_from_matrix((old.transpose(-1, -2) @ new).double()).numpy()
    every = matrix_from_rotvec(torch.from_numpy(_interpolated(step, frames, count))).numpy()
    return np.asarray(given @ every)


def _spread(given: Array, old: Tensor, new: Tensor, frames: Array, count: int) -> Array:
    """The same of rigid transforms [C, ..., 4, 4]; translations are corrected in the target's axes."""
    turned = _spread_turns(given[..., :3, :3], old[..., :3, :3], new[..., :3, :3], frames, count)
    shift = _interpolated((new - old)[..., :3, 3].double().numpy(), frames, count)
    return make_transform(torch.from_numpy(turned), torch.from_numpy(given[..., :3, 3] + shift)).numpy()


def _interpolated(values: Array, frames: Array, count: int) -> Array:
    """[T, ...] at `frames` -> [count, ...]: a natural cubic spline, constant beyond. A broken line would have a kick
    at each of the frames, which is jitter."""
    flat, every = values.reshape(len(values), -1), np.clip(np.arange(count), frames[0], frames[-1])
    if len(frames) == 1:
        return np.broadcast_to(values, (count, *values.shape[1:])).copy()
    return CubicSpline(frames, flat, bc_type="natural")(every).reshape(count, *values.shape[1:])
