"""The CUDA backend: one call of gsplat 1.5.3 gives colour, silhouette of people, depth and alpha.

What is avoided of that version, and how:

* `backgrounds` with `packed=True` fails an assertion (its issue 764): `render` puts the background behind by itself.
* `packed=True`, its default, can mix gradients of different scenes of a batch within a warp (its pull request 1059):
  `packed=False`.
* its 2D Gaussians fail without harmonics (its issue 765) and give cameras no gradient (546): 3D ones only.
* its `DefaultStrategy` never resets opacities (its issue 797): nothing here relies on its strategies.
* Ks get no gradient, and nothing says so: asking for one is an error here.
* without a CUDA toolkit it imports all the same and fails later on an attribute of None: checked first.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, Final

import torch
from torch import Tensor

from distill.errors import FootfallError, require
from distill.render.gaussians import Gaussians
from distill.render.projection import BLUR, FAR, NEAR

SETTINGS: Final[dict[str, Any]] = {
    "near_plane": NEAR, "far_plane": FAR, "eps2d": BLUR, "sh_degree": None, "packed": False,
    "render_mode": "RGB+ED",
}  # fmt: skip
"""Keyword arguments of `gsplat.rasterization` that are always the same."""


def draw_gsplat(
    gaussians: Gaussians, cam_from_world: Tensor, K: Tensor, size: tuple[int, int], features: Tensor,
    *, antialiased: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Features [C, H, W, D], expected depth [C, H, W] and alpha [C, H, W]; arguments of `draw_reference`, float32.

    Raises:
        FootfallError: see `render`.
    """
    if K.requires_grad and torch.is_grad_enabled():
        raise FootfallError(
            "render with gsplat", got="a K that requires a gradient", expected="a fixed K",
            do="gsplat cannot differentiate K: detach it, or use backend=reference",
        )  # fmt: skip
    gsplat = load_gsplat(gaussians.means.device)
    if not len(gaussians) or not len(K):  # its kernels count on at least one of each
        blank = features.new_zeros(len(K), size[1], size[0], features.shape[1])
        return blank, blank[..., 0], blank[..., 0]
    drawn, alpha, _ = gsplat.rasterization(
        gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, features, cam_from_world, K, *size,
        rasterize_mode="antialiased" if antialiased else "classic", **SETTINGS,
    )  # fmt: skip
    return drawn[..., :-1], drawn[..., -1], alpha[..., 0]


def load_gsplat(device: torch.device) -> ModuleType:
    """gsplat, ready to run; the first import on a machine builds its kernels, which takes minutes.

    Raises:
        FootfallError: the tensors are not on CUDA, gsplat is not installed, or its kernels cannot be built.
    """
    if device.type != "cuda":
        raise FootfallError(
            "render with gsplat", got=f"tensors on {device}", expected="tensors on a CUDA device",
            do="move them there, or use backend=reference",
        )  # fmt: skip
    gsplat = require("gsplat", extra="gaussians")
    from gsplat.cuda._backend import _C

    if _C is None:
        raise FootfallError(
            "gsplat", got="no CUDA toolkit to build its kernels with", expected="nvcc on PATH",
            do="install the CUDA toolkit of torch's version, or use backend=reference",
        )  # fmt: skip
    return gsplat
