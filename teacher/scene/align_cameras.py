"""Cameras aligned to the scene's picture, all frames at once.

Adam took cameras that were 2 degrees off to 1.5 in twenty visits of every frame; the rendered depth says how each pixel
moves with the camera, so a few Gauss-Newton steps do more (Kerl et al., ICRA 2013). People are masked out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from distill.geometry.cameras import pixel_grid, unproject
from distill.geometry.rotations import cross_matrix, matrix_from_rotvec, rotvec_from_matrix
from distill.geometry.transforms import invert, make_transform
from distill.render import Gaussians
from teacher.scene.align import Normal, compare, pixel_slopes, prior
from teacher.scene.chain import Chain, descend, place_rows, time_shares, turn_rows
from teacher.scene.config import PriorConfig
from teacher.scene.motion import USUAL
from teacher.scene.objective import View, draw
from teacher.scene.world import CAMERA, World

COVERED: Final = 0.7
"""Alpha from which a pixel shows the scene."""


@torch.no_grad()
def align_cameras(world: World, view: View, config: PriorConfig, steps: int) -> list[float]:
    """Move all cameras, in place; returns the cost at the start and after each step.

    Args:
        world: whose camera_rot and camera_pos are changed. view: a level of the footage.
        config: the prior on corrections. steps: at most.
    """

    def move(step: Tensor, _: float) -> Callable[[], None]:
        take_back = world.remember(CAMERA)
        step = step.to(world.base.times)
        _set_poses(world, world.world_from_cam() @ make_transform(matrix_from_rotvec(step[:, :3]), step[:, 3:]))
        return take_back

    return descend(lambda: _equations(world, view, config), move, steps)


def _equations(world: World, view: View, config: PriorConfig) -> Chain:
    """Of turn (rad) and shift (m) of each camera in its own axes."""
    base, count = world.base, len(world.base.times)
    chain = Chain(count, 6)
    poses, shift = world.world_from_cam(), world.camera_shift()
    scene, behind = world.scene(), world.unknowns["background"]
    sd = poses.new_tensor([config.camera_rot_deg * torch.pi / 180] * 3 + [config.camera_pos_m] * 3)
    for frame in range(count):
        chain.add_frame(frame, *_picture(scene, behind, view, frame, poses[frame]))
        correction = world.unknowns["camera_rot"][frame]
        axes = torch.block_diag(torch.eye(3).to(poses), matrix_from_rotvec(correction))  # shifts: of the base camera
        cost, normal, gradient = prior(torch.cat((correction, shift[frame])), torch.diag(sd**-2))
        chain.add_frame(frame, cost, axes.T @ normal @ axes, axes.T @ gradient)
    if count >= 3:
        share = time_shares(base.dt)
        turns, places = poses[:, None, :3, :3].double(), poses[:, None, :3, 3].double()
        rows = [turn_rows(turns, base.dt.double()), place_rows(places, turns, base.dt.double())]
        for (residual, slopes), name, first in zip(rows, ("camera_turn", "camera"), (0, 3), strict=True):
            usual = USUAL[name]
            numbers = torch.arange(first, first + 3)[None]
            chain.add_accelerations(residual / usual, [slope / usual for slope in slopes], numbers, share)
    return chain


def _picture(scene: Gaussians, behind: Tensor, view: View, frame: int, world_from_cam: Tensor) -> Normal:
    footage = view.footage
    drawn = draw(scene, invert(world_from_cam), footage.K, footage.size, background=behind)
    points = unproject(pixel_grid(footage.size, device=behind.device), drawn.depth[0].clamp(min=0.05), footage.K)
    # A camera that turns by w and shifts by v sees a point X move by -w x X - v.
    moved = torch.cat((cross_matrix(points), -torch.eye(3).to(points).expand(*points.shape[:-1], 3, 3)), -1)
    shown, known = view.background[frame], view.background[frame] * (drawn.alpha[0] > COVERED)
    image, target = drawn.color[0], footage.images[frame]
    cost, normal, gradient = compare(image, target, pixel_slopes(points, footage.K) @ moved, known, known)
    whole = float(shown.sum() / known.sum().clamp(min=1))  # a camera gains nothing by looking away from the scene
    return whole * cost, whole * normal, whole * gradient


def _set_poses(world: World, world_from_cam: Tensor) -> None:
    """Write poses [T, 4, 4] as corrections of the base (`World.world_from_cam` read backwards)."""
    correction = invert(world.base.world_from_cam) @ world_from_cam
    turn = correction[:, :3, :3]
    pivot = turn.new_tensor([0.0, 0.0, world.base.pivot_m])
    world.unknowns["camera_rot"].copy_(rotvec_from_matrix(turn))
    world.unknowns["camera_pos"].copy_(correction[:, :3, 3] - pivot + turn @ pivot)
