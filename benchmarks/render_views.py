"""The picture of docs/render.md: a body of Gaussians behind a crate, seen from a turntable.

    python benchmarks/render_views.py docs/pictures/render.png

Rows: colour, depth (near is light), and what of the person is seen.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from distill.avatar import make_avatar
from distill.body import load_body_model
from distill.geometry.cameras import make_intrinsics
from distill.geometry.conventions import SMPL_JOINTS
from distill.geometry.rotations import matrix_from_rotvec
from distill.geometry.transforms import make_transform
from distill.pictures.overlay import sheet
from distill.render import Gaussians, render
from distill.render.views import to_images, turntable

SIZE = (224, 168)
UP = torch.tensor([0.0, 0.0, 1.0])
SKY = torch.tensor([0.62, 0.75, 0.9])


def main(path: Path) -> None:
    """Draw four views and write them."""
    person, things = walker(), Gaussians.cat([ground(), crate()])
    everything = Gaussians.cat([person, things])
    indicator = torch.cat((torch.ones(len(person)), torch.zeros(len(things))))
    cameras = turntable(torch.tensor([0.0, 0.0, 0.8]), UP, distance=3.2, height=0.9, count=4)
    K = make_intrinsics(torch.full((4,), 210.0), SIZE)
    with torch.no_grad():
        drawn = render(everything, cameras, K, SIZE, person=indicator, background=SKY)
    near = torch.where(drawn.alpha > 0.5, ((6 - drawn.depth) / 4).clamp(0, 1), 0)
    rows = (drawn.color, near[..., None].expand(-1, -1, -1, 3), drawn.person[..., None].expand(-1, -1, -1, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet([image for row in rows for image in to_images(row)], columns=4).save(path)
    print(f"{len(person)} + {len(things)} Gaussians, written to {path}")


def walker() -> Gaussians:
    """The free body in a stride, coloured by place, feet on z = 0."""
    body = load_body_model("anny")
    avatar = make_avatar(body, torch.zeros(body.shapedirs.shape[-1]), anchors=3000)
    pose = torch.zeros(len(SMPL_JOINTS) - 1, 3)
    for joint, angle in {"left_hip": -0.5, "right_hip": 0.4, "right_knee": 0.5, "left_elbow": -0.4}.items():
        pose[SMPL_JOINTS.index(joint) - 1, 0] = angle
    for joint, side in {"left_shoulder": -1.0, "right_shoulder": 1.0}.items():
        pose[SMPL_JOINTS.index(joint) - 1, 2] = side
    upright = matrix_from_rotvec(torch.tensor([torch.pi / 2, 0.0, 0.0]))  # y of the body is up
    gaussians = avatar.posed(body, matrix_from_rotvec(pose), make_transform(upright, torch.zeros(3)))
    away = (gaussians.means - gaussians.means.mean(0)) / gaussians.means.std(0).clamp(min=0.1)
    gaussians.colors = (0.5 + 0.2 * away).clamp(0, 1)
    gaussians.means = gaussians.means - gaussians.means[:, 2].min() * UP
    return gaussians


def ground() -> Gaussians:
    """A chequered floor, 4 m square."""
    line = torch.arange(-2.0, 2.0, 0.06)
    x, y = (grid.flatten() for grid in torch.meshgrid(line, line, indexing="ij"))
    dark = ((x / 0.5).floor() + (y / 0.5).floor()) % 2
    return tiles(torch.stack((x, y, torch.zeros_like(x)), -1), 0.04, (0.75 - 0.4 * dark)[:, None].expand(-1, 3))


def crate() -> Gaussians:
    """A brown box, half a metre wide, before the person."""
    line = torch.linspace(-0.25, 0.25, 14)
    a, b = (grid.flatten() for grid in torch.meshgrid(line, line, indexing="ij"))
    faces = []
    for axis in range(3):
        for side in (-0.25, 0.25):
            points = [a, b]
            points.insert(axis, torch.full_like(a, side))
            faces.append(torch.stack(points, -1))
    means = torch.cat(faces) + torch.tensor([0.75, 0.0, 0.25])
    shade = torch.tensor([0.55, 0.36, 0.2]) * (0.7 + 0.6 * means[:, 2:])
    return tiles(means, 0.03, shade)


def tiles(means: Tensor, scale: float, colors: Tensor) -> Gaussians:
    """Round opaque Gaussians."""
    count = len(means)
    return Gaussians(
        means=means, quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]]).expand(count, 4),
        scales=torch.full((count, 3), scale), opacities=torch.full((count,), 0.95), colors=colors,
    )  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))
