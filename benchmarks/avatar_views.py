"""The picture and the sizes of docs/gaussian_files.md: one person as Gaussians, few and many, in another's motion.

    python benchmarks/avatar_views.py docs/pictures/avatar.png

Upper row: 500, 2,000 and 13,718 anchors in the rest pose. Lower row: the last one kicks as somebody else did.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from distill.avatar import Avatar, make_avatar, save_avatar
from distill.avatar_motion import animate
from distill.body import BodyModel, load_body_model
from distill.geometry.cameras import make_intrinsics
from distill.pictures.overlay import sheet
from distill.render import Gaussians, render
from distill.render.packed import error_bounds, pack_gaussians, save_packed
from distill.render.ply import write_gaussians
from distill.render.views import look_at, to_images
from distill.synthetic import ClipSpec, make_clip
from distill.synthetic.clothes import dress

SIZE = (224, 224)
DISTANCE = 4.0
"""Metres from camera to person."""
PAPER = torch.ones(3)


def main(path: Path) -> None:
    """Draw both rows and print the sizes of files."""
    body = load_body_model("anny")
    betas = torch.zeros(body.num_betas)
    betas[0] = 1.0
    avatars = [dressed(body, betas, count) for count in (500, 2000, None)]
    rest = [view(avatar.canonical(body), torch.tensor([0.0, 1.0, 0.0])) for avatar in avatars]
    truth = make_clip(ClipSpec(motion="kick", frames=60, seed=3)).truth
    posed = dict(animate(avatars[-1], body, truth))
    moving = [view(posed[frame], torch.tensor([0.0, 0.0, 1.0])) for frame in (10, 30, 45)]
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet(to_images(torch.stack([*rest, *moving])), columns=3).save(path)
    report_sizes(avatars[-1], posed[30])


def dressed(body: BodyModel, betas: Tensor, anchors: int | None) -> Avatar:
    """An avatar in the synthetic clips' clothes, each Gaussian in the colour of its anchor."""
    colours = torch.from_numpy(dress(body, betas.numpy(), ClipSpec(seed=5).rng("clothes"))).float()
    avatar = make_avatar(body, betas, anchors=anchors)
    return replace(avatar, colors=colours[avatar.anchors])


def view(gaussians: Gaussians, up: Tensor) -> Tensor:
    """[H, W, 3] from the front and a little aside of where the body's z axis (or the world's -y) points."""
    centre = (gaussians.means.amin(0) + gaussians.means.amax(0)) / 2
    front = torch.tensor([0.35, 0.15, 1.0]) if up[1] > 0 else torch.tensor([0.9, -0.8, 0.15])
    camera = look_at(centre + DISTANCE * torch.nn.functional.normalize(front, dim=0), centre, up)
    K = make_intrinsics(torch.tensor(420.0), SIZE)
    with torch.no_grad():
        return render(gaussians, camera[None], K[None], SIZE, background=PAPER).color[0]


def report_sizes(avatar: Avatar, gaussians: Gaussians) -> None:
    """Print what the files take, and what packing loses."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_gaussians(folder / "g.ply", gaussians)
        save_packed(folder / "g.npz", gaussians)
        save_avatar(folder / "avatar.npz", avatar)
        sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    print(f"{len(gaussians)} Gaussians: " + ", ".join(f"{name} {size / 1000:.0f} kB" for name, size in sizes.items()))
    print("lost by packing, at most: " + str(error_bounds(pack_gaussians(gaussians))))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
