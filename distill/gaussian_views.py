"""What a stream's Gaussians look like: the scene with its people beside the real frames, from the side, and avatars."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from distill.avatar import Avatar, save_avatar
from distill.body import BodyModel
from distill.files import atomic_path
from distill.gaussian_stream import GaussianStream, Shown, posed_in_world
from distill.geometry.cameras import make_intrinsics
from distill.geometry.rotations import matrix_from_rotvec
from distill.geometry.transforms import invert, make_transform
from distill.render import Gaussians, render
from distill.render.ply import write_gaussians
from distill.render.views import to_images, turntable

SIDE_M: Final = 0.8
"""How far the novel view is to the right of the camera, metres."""
TURNS: Final = 6
"""Sides from which an avatar is shown."""
AVATAR_SIZE: Final = (160, 240)
"""Pixels of one side."""


def draw_frame(
    scene: Gaussians, people: list[Gaussians], world_from_cam: Tensor, K: Tensor, size: tuple[int, int],
    backdrop: Tensor,
) -> Tensor:  # fmt: skip
    """One picture [3, H, W] of scene and people in the world.

    Args:
        world_from_cam: [4, 4]. K: [3, 3] pixels. size: (width, height). backdrop: [3] behind everything.
    """
    every = Gaussians.cat([scene, *people])
    drawn = render(every, invert(world_from_cam)[None], K[None], size, background=backdrop)
    return drawn.color[0].permute(2, 0, 1).clamp(0, 1)


def from_the_side(world_from_cam: Tensor, depth_m: float) -> Tensor:
    """A camera `SIDE_M` to the right that looks at the same place, `depth_m` in front of the old one."""
    angle = -float(np.arctan2(SIDE_M, depth_m))
    move = make_transform(matrix_from_rotvec(torch.tensor([0.0, angle, 0.0])), torch.tensor([SIDE_M, 0.0, 0.0]))
    return world_from_cam @ move


def show_frame(gaussians: GaussianStream, shown: Shown, scene: Gaussians, avatars: dict[int, Avatar]) -> Tensor:
    """Real frame, the same drawn, and drawn from the side: [3, H, 3 W]."""
    stream, frame = gaussians.stream, shown.frame
    size = stream.network_size
    people = [
        posed_in_world(avatars[person.id], gaussians.body, person, frame.world_from_cam)
        for person in frame.people
        if person.id in avatars
    ]
    K, backdrop = gaussians.K, gaussians.backdrop
    middle = invert(frame.world_from_cam)[2, :3] @ scene.means.T + invert(frame.world_from_cam)[2, 3]
    in_front = middle[middle > 0]
    depth = float(in_front.median()) if len(in_front) else 5.0
    drawn = draw_frame(scene, people, frame.world_from_cam, K, size, backdrop)
    aside = draw_frame(scene, people, from_the_side(frame.world_from_cam, depth), K, size, backdrop)
    return torch.cat((shown.image.float() / 255, drawn, aside), dim=2)


def show_avatar(avatar: Avatar, body: BodyModel, body_rot: Tensor | None = None) -> Tensor:
    """A person from `TURNS` sides, [3, H, TURNS W]; body_rot [23, 3, 3], None: the rest pose."""
    pose = torch.eye(3).expand(23, 3, 3) if body_rot is None else body_rot
    width, height = AVATAR_SIZE
    stature = float(body.stature(avatar.betas))
    distance = 2.5 * stature
    K = make_intrinsics(torch.tensor(0.8 * height * distance / stature), AVATAR_SIZE)
    cameras = turntable(torch.zeros(3), torch.tensor([0.0, 1.0, 0.0]), distance=distance, height=0.0, count=TURNS)
    posed = avatar.posed(body, pose, torch.eye(4))
    drawn = render(posed, cameras, K.expand(TURNS, 3, 3), (width, height), background=torch.ones(3))
    return torch.cat(list(drawn.color.permute(0, 3, 1, 2)), dim=2)


def write_picture(path: Path, picture: Tensor) -> None:
    """A picture [3, H, W] in [0, 1] as PNG, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        to_images(picture.permute(1, 2, 0)[None])[0].save(stream, "PNG")


@torch.no_grad()
def write_gaussian_results(out: Path, gaussians: GaussianStream, world_from_first: Tensor) -> dict[str, Any]:
    """Write `gaussians.ply`, `avatars/` and `views/` into a result folder.

    Args:
        out: the folder.
        gaussians: after the last frame has settled.
        world_from_first: [4, 4] from the stream's world to that of the other files.

    Returns:
        What was written, for `meta.json`: Gaussians of the scene, cell in metres, frames and Gaussians per person; and
        seconds spent drawing.
    """
    scene, avatars = gaussians.map.gaussians(), gaussians.avatars()
    write_gaussians(out / "gaussians.ply", scene.moved(world_from_first))
    people = {}
    for person, avatar in avatars.items():
        frames = gaussians.frames_of(person)
        path = out / "avatars" / f"person-{person}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_avatar(path, avatar, {"person": person, "frames": frames})
        write_gaussians(path.with_suffix(".ply"), avatar.canonical(gaussians.body))
        write_picture(out / "views" / f"person-{person}.png", show_avatar(avatar, gaussians.body))
        people[str(person)] = {"frames": frames, "gaussians": len(avatar)}
    began = time.perf_counter()
    for shown in gaussians.shown:
        picture = show_frame(gaussians, shown, scene, avatars)
        write_picture(out / "views" / f"frame-{shown.frame.index:05d}.png", picture)
    seconds = time.perf_counter() - began
    cell = gaussians.map.config.cell_m * 2**gaussians.map.level
    about = {"scene": len(scene), "cell_m": cell, "keyframes": gaussians.keyframes, "people": people}
    return about | {"render_ms": round(1e3 * seconds / max(2 * len(gaussians.shown), 1), 1)}
