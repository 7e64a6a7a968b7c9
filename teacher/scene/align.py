"""Direct alignment: Gauss-Newton steps of one camera on the scene's picture (Lucas and Kanade 1981; Kerl et al. 2013).

Adam took cameras that were 2 degrees off to 1.5 in twenty visits of every frame; the rendered depth says how each
pixel moves with the camera, so a few steps do more. The residuals are those of the background loss: the
scene's picture against the frame where nobody is. Afterwards the gradient through the renderer goes on with cameras
and scene together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill.geometry.cameras import pixel_grid, unproject
from distill.geometry.rotations import cross_matrix, matrix_from_rotvec, rotvec_from_matrix
from distill.geometry.transforms import invert, make_transform
from distill.render import Gaussians
from teacher.scene.config import PriorConfig
from teacher.scene.objective import View, draw
from teacher.scene.world import World

HUBER = 0.1
"""Difference of colour from which on a pixel counts linearly."""
COLOUR_SD = 0.1
"""Usual difference of colours of a Gaussian picture and a frame."""
CORRELATED = 50.0
"""Pixels that share an error: so many fewer speak than there are."""
DAMPING = 1e-3
"""Of the normal equations, relative to their diagonal."""
COVERED = 0.7
"""Alpha from which a pixel shows the scene."""


@torch.no_grad()
def align_camera(world: World, view: View, frame: int, config: PriorConfig, steps: int = 4) -> float:
    """Move one camera's unknowns; returns the mean difference of colours at the end.

    A step that makes the difference larger is taken back, and ends the alignment.

    Args:
        world: whose camera_rot and camera_pos are changed in place. view: a level of the footage.
        frame: which. config: the prior on the correction.
    """
    scene, behind = world.scene(), world.unknowns["background"]
    best, error, equations = None, float("inf"), None
    for _ in range(steps + 1):
        pose = world.world_from_cam()[frame]
        found, equations_here = _equations(scene, behind, view, frame, pose)
        if not found < error:
            break
        best, error, equations = pose, found, equations_here
        _move(world, frame, best, equations, config)
    if best is not None:
        _set_pose(world, frame, best)
    return error


def _equations(
    scene: Gaussians, behind: Tensor, view: View, frame: int, world_from_cam: Tensor
) -> tuple[float, tuple[Tensor, Tensor]]:
    """Mean robust difference, and normal equations of the turn (rad) and shift (m) of the scene in the camera."""
    footage = view.footage
    drawn = draw(scene, invert(world_from_cam), footage.K, footage.size, background=behind)
    image, depth = drawn.color[0], drawn.depth[0].clamp(min=0.05)
    weight = view.background[frame] * (drawn.alpha[0] > COVERED)
    points = unproject(pixel_grid(footage.size, device=depth.device), depth, footage.K)
    # A point X of the scene moves by w x X + v, its pixel by J of that.
    x, y, z = points.unbind(-1)
    zero = torch.zeros_like(z)
    fx, fy = footage.K[0, 0], footage.K[1, 1]
    of_pixel = torch.stack(
        (torch.stack((fx / z, zero, -fx * x / z**2), -1), torch.stack((zero, fy / z, -fy * y / z**2), -1)), -2
    )
    of_point = torch.cat((-cross_matrix(points), torch.eye(3).to(points).expand(*points.shape[:-1], 3, 3)), -1)
    # The picture's slope is taken from both images: second-order convergence for the price of the first (ESM).
    slope = 0.5 * (_slope(image) + _slope(footage.images[frame]))
    rows = slope @ (of_pixel @ of_point)  # [H, W, 3, 6]
    off = image - footage.images[frame]
    size = off.norm(dim=-1)
    weight = weight / (size / HUBER).clamp(min=1)
    normal = torch.einsum("hw,hwci,hwcj->ij", weight, rows, rows)
    right = torch.einsum("hw,hwci,hwc->i", weight, rows, off)
    error = float((weight * size).sum() / (view.background[frame] * (drawn.alpha[0] > COVERED)).sum().clamp(min=1))
    information = 1 / (CORRELATED * COLOUR_SD**2)
    return error, (information * normal, information * right)


def _slope(image: Tensor) -> Tensor:
    """[H, W, 3, 2] change of each channel per pixel along x and y, by central differences."""
    return torch.stack((torch.gradient(image, dim=1)[0], torch.gradient(image, dim=0)[0]), -1)


def _move(
    world: World, frame: int, world_from_cam: Tensor, equations: tuple[Tensor, Tensor], config: PriorConfig
) -> None:
    normal, right = equations
    radians = torch.pi / 180
    # A turn w and a shift v of the scene in the camera are a turn -w and a shift -v of the camera.
    to_correction = -torch.eye(6).to(normal)
    sd = normal.new_tensor([config.camera_rot_deg * radians] * 3 + [config.camera_pos_m] * 3)
    now = torch.cat((world.unknowns["camera_rot"][frame], world.camera_shift()[frame]))
    prior = to_correction / sd[:, None]
    normal = normal + prior.T @ prior
    right = right - prior.T @ (now / sd)
    step = torch.linalg.solve(normal + DAMPING * torch.diag(normal.diagonal()), right)
    moved = make_transform(matrix_from_rotvec(step[:3]), step[3:])
    _set_pose(world, frame, world_from_cam @ invert(moved))


def _set_pose(world: World, frame: int, world_from_cam: Tensor) -> None:
    """Write a pose as corrections of the base (`World.world_from_cam` read backwards)."""
    correction = invert(world.base.world_from_cam[frame]) @ world_from_cam
    turn = correction[:3, :3]
    pivot = turn.new_tensor([0.0, 0.0, world.base.pivot_m])
    world.unknowns["camera_rot"].data[frame] = rotvec_from_matrix(turn)
    world.unknowns["camera_pos"].data[frame] = correction[:3, 3] - pivot + turn @ pivot
