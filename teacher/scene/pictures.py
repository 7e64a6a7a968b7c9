"""Pictures of a fit: what was drawn beside the frame, and people turned about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from distill.files import atomic_path
from distill.geometry.transforms import invert
from distill.pictures.overlay import sheet
from distill.render import Gaussians, render
from distill.render.views import to_images, turntable
from teacher.scene.footage import Footage
from teacher.scene.objective import draw
from teacher.scene.world import World, normalised

SHOWN = 4
"""Frames of the overlay."""
TURNS = 6
"""Views of the turntable."""
DISTANCE_M = 3.0
"""Of the turntable's cameras."""


@torch.no_grad()
def draw_frame(world: World, footage: Footage, frame: int, *, people: bool = True) -> torch.Tensor:
    """[H, W, 3] what the fit says a frame looks like, at the footage's size."""
    world_from_cam = world.world_from_cam()[frame]
    body_rot, cam_from_body = world.bodies()
    gaussians = world.scene()
    if people and bool(world.base.present[frame].any()):
        shown = world.people(frame, body_rot[frame], world_from_cam @ cam_from_body[frame], in_time=True)
        gaussians = Gaussians.cat([gaussians, shown])
    behind = world.unknowns["background"]
    return draw(gaussians, invert(world_from_cam), footage.K, footage.size, background=behind).color[0].clamp(0, 1)


def save_pictures(folder: Path, world: World, footage: Footage) -> None:
    """Write `beside.jpg` (frame, drawn, people away; row by row) and `turntable.jpg` (each person, turned)."""
    tiles: list[Image.Image] = []
    for frame in np.linspace(0, len(footage.images) - 1, SHOWN).round().astype(int).tolist():
        drawn = [draw_frame(world, footage, frame), draw_frame(world, footage, frame, people=False)]
        tiles += to_images(torch.stack([footage.images[frame], *drawn]))
    _save(folder / "beside.jpg", sheet(tiles, columns=3))
    turned: list[Image.Image] = []
    for person in range(len(world.base.avatars)):
        turned += turn_person(world, person)
    _save(folder / "turntable.jpg", sheet(turned, columns=TURNS))


@torch.no_grad()
def turn_person(world: World, person: int, size: tuple[int, int] = (160, 240)) -> list[Image.Image]:
    """Pictures of a person in the rest pose from all around."""
    gaussians = normalised(world.avatar(person)).canonical(world.base.body)
    middle = 0.5 * (gaussians.means.amax(0) + gaussians.means.amin(0))
    up = middle.new_tensor([0.0, 1.0, 0.0])
    views = turntable(middle, up, distance=DISTANCE_M, height=0.3, count=TURNS)
    focal = 0.9 * size[1] * DISTANCE_M / float(gaussians.means[:, 1].amax() - gaussians.means[:, 1].amin())
    K = middle.new_tensor([[focal, 0, size[0] / 2], [0, focal, size[1] / 2], [0, 0, 1]])
    white = torch.ones(3).to(middle)
    drawn = render(gaussians, views, K.expand(TURNS, 3, 3), size, background=white, antialiased=True)
    return to_images(drawn.color)


def _save(path: Path, image: Image.Image) -> None:
    with atomic_path(path) as temporary:
        image.save(temporary, quality=90)
