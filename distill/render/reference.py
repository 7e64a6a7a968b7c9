"""The reference renderer: PyTorch alone, any device, float32 or float64."""

from __future__ import annotations

import torch
from torch import Tensor

from distill.geometry.cameras import pixel_grid
from distill.render.gaussians import Gaussians
from distill.render.projection import MIN_ALPHA, project_gaussians


def draw_reference(
    gaussians: Gaussians, cam_from_world: Tensor, K: Tensor, size: tuple[int, int], features: Tensor
) -> Tensor:
    """Features [N, D] of Gaussians -> [C, H, W, D + 2]: the D, depth and alpha, all weighted by visibility."""
    splats = project_gaussians(gaussians, cam_from_world, K, size)
    pixels = pixel_grid(size, device=K.device).to(K).flatten(0, 1)
    pictures = []
    for camera in range(len(K)):
        mine = (splats.camera == camera).nonzero()[:, 0]
        mine = mine[splats.depths[mine].argsort(stable=True)]
        dx, dy = (pixels[:, None] - splats.means[mine]).unbind(-1)
        xx, xy, yy = splats.conics[mine].unbind(-1)
        alpha = splats.opacities[mine] * torch.exp(-0.5 * (xx * dx * dx + yy * dy * dy) - xy * dx * dy)
        alpha = torch.where(alpha < MIN_ALPHA, 0, alpha.clamp(max=0.999))
        after = (1 - alpha).cumprod(-1)
        before = torch.cat((torch.ones_like(after[:, :1]), after[:, :-1]), -1)[:, : len(mine)]
        weight = torch.where(after > 1e-4, before * alpha, 0)
        depths = splats.depths[mine, None]
        values = torch.cat((features[splats.gaussian[mine]], depths, torch.ones_like(depths)), -1)
        pictures.append((weight @ values).unflatten(0, (size[1], size[0])))
    return torch.stack(pictures)
