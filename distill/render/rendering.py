"""What rendering gives, and the one function that renders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from distill.render.gaussians import Gaussians
from distill.render.reference import draw_reference

Backend = Literal["auto", "gsplat", "reference"]
BACKENDS: Final = ("auto", "gsplat", "reference")


@dataclass(kw_only=True)
class Rendering:
    """Pictures of C cameras."""

    color: Tensor
    """[C, H, W, 3] RGB, background included."""
    alpha: Tensor
    """[C, H, W] share of light that the Gaussians stop, 0 to 1."""
    depth: Tensor
    """[C, H, W] expected z in the camera over what was hit, m; 0 where alpha is 0."""
    person: Tensor
    """[C, H, W] share of light that people stop: their silhouette, lowered where something stands in front."""


def render(
    gaussians: Gaussians,
    cam_from_world: Tensor,
    K: Tensor,
    size: tuple[int, int],
    *,
    person: Tensor | None = None,
    background: Tensor | None = None,
    backend: Backend = "auto",
) -> Rendering:
    """Pictures of Gaussians, differentiable in all of them and in the cameras.

    Args:
        gaussians: N of them in the world.
        cam_from_world: [C, 4, 4] rigid.
        K: [C, 3, 3] pixels, without skew.
        size: (width, height) of the pictures, pixels.
        person: [N] 1 for Gaussians of people, 0 for those of the scene; None: no people.
        background: [3] or [C, 3] RGB behind everything; None: black.
        backend: gsplat (CUDA), reference (PyTorch, anywhere) or auto: gsplat for tensors on CUDA.

    Raises:
        FootfallError: another shape than stated; gsplat is not installed, or tensors are not on CUDA.
    """
    if person is None:
        person = torch.zeros_like(gaussians.opacities)
    values = draw_reference(gaussians, cam_from_world, K, size, torch.cat((gaussians.colors, person[:, None]), -1))
    features, depth, alpha = values[..., :4], values[..., 4], values[..., 5]
    color = features[..., :3]
    if background is not None:
        color = color + (1 - alpha)[..., None] * background.expand(len(K), 3)[:, None, None]
    return Rendering(color=color, alpha=alpha, depth=depth / alpha.clamp(min=1e-10), person=features[..., 3])
