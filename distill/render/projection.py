"""3D Gaussians -> 2D Gaussians of an image: the affine approximation of Zwicker et al. (EWA splatting, 2001).

Constants and clamps are those of gsplat 1.5.3, so that both backends of `render` draw the same picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from distill.geometry.rotations import matrix_from_quat
from distill.render.gaussians import Gaussians

NEAR: Final = 0.01
"""Centres nearer than this are not drawn, m."""
FAR: Final = 1e10
"""Nor those farther away, m."""
BLUR: Final = 0.3
"""Added to both variances of a 2D Gaussian, square pixels: nothing falls between the pixels."""
MARGIN: Final = 0.3
"""The Jacobian is taken no farther outside the picture than this share of half its width (or height)."""
FAINTEST: Final = 1e-8
"""Least share of the blurred area that counts as covered, squared opacity factor: the root has a slope there."""
MIN_ALPHA: Final = 1 / 255
"""What covers a pixel less is not drawn."""


@dataclass
class Splats:
    """V 2D Gaussians: of all cameras, those that reach into the picture. In no order."""

    camera: Tensor
    """[V] number of the camera."""
    gaussian: Tensor
    """[V] number of the 3D Gaussian."""
    means: Tensor
    """[V, 2] pixels."""
    conics: Tensor
    """[V, 3] upper triangle (xx, xy, yy) of the inverse covariance, 1/square pixels."""
    depths: Tensor
    """[V] z of the centre in the camera, m."""
    opacities: Tensor
    """[V]"""
    reach: Tensor
    """[V, 2] half the width and height of the box outside which alpha is below `MIN_ALPHA`, pixels; no gradient."""


def project_gaussians(
    gaussians: Gaussians, cam_from_world: Tensor, K: Tensor, size: tuple[int, int], *, antialiased: bool = False
) -> Splats:
    """2D Gaussians of every camera; differentiable in everything, K included.

    Args:
        gaussians: N of them in the world.
        cam_from_world: [C, 4, 4] rigid.
        K: [C, 3, 3] pixels, without skew.
        size: (width, height) pixels.
        antialiased: opacities times sqrt(|S| / |S + blur|) of the covariance S in the picture, so that as much light
            is stopped as without the blur.
    """
    centres = gaussians.means @ cam_from_world[:, :3, :3].transpose(1, 2) + cam_from_world[:, None, :3, 3]
    seen = (centres[..., 2] > NEAR) & (centres[..., 2] < FAR) & (gaussians.opacities >= MIN_ALPHA)
    camera, gaussian = seen.nonzero(as_tuple=True)
    centres, K = centres[camera, gaussian], K[camera]
    rotation = cam_from_world[camera, :3, :3] @ matrix_from_quat(gaussians.quats)[gaussian]
    spread = rotation * gaussians.scales[gaussian, None]  # a square root of the covariance in the camera
    covariance, determinant, area = _project_spread(spread, centres, K, size)
    focal, middle = K[:, (0, 1), (0, 1)], K[:, :2, 2]
    means = centres[:, :2] / centres[:, 2:] * focal + middle
    xx, xy, yy = covariance.unbind(-1)
    conics = torch.stack((yy, -xy, xx), -1) / determinant[:, None]
    opacities = gaussians.opacities[gaussian]
    if antialiased:
        opacities = opacities * (area / determinant).clamp(min=FAINTEST).sqrt()
    with torch.no_grad():
        # alpha falls to MIN_ALPHA where the exponent is ln(opacity / MIN_ALPHA): an ellipse; this is its box.
        reach = (2 * (opacities / MIN_ALPHA).log()[:, None] * covariance[:, (0, 2)]).clamp(min=0).sqrt()
        extent = means.new_tensor(size)
        shown = opacities >= MIN_ALPHA
        inside = (shown & ((means + reach > 0) & (means - reach < extent)).all(-1)).nonzero()[:, 0]
    return Splats(
        camera=camera[inside], gaussian=gaussian[inside], means=means[inside], conics=conics[inside],
        depths=centres[inside, 2], opacities=opacities[inside], reach=reach[inside],
    )  # fmt: skip


def _project_spread(spread: Tensor, centres: Tensor, K: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Covariances [V, 3] (xx, xy, yy) in square pixels, their determinants [V], and those without the blur [V].

    Args:
        spread: [V, 3, 3] A with covariance A A^T in the camera, m.
        centres: [V, 3] in the camera, m.
        K: [V, 3, 3] pixels.
        size: (width, height) pixels.
    """
    focal, middle = K[:, (0, 1), (0, 1)], K[:, :2, 2]
    extent = spread.new_tensor(size)
    slack = MARGIN * 0.5 * extent
    slope = centres[:, :2] / centres[:, 2:]
    slope = torch.maximum(torch.minimum(slope, (extent - middle + slack) / focal), -(middle + slack) / focal)
    # Rows of J A for J = [[fx/z, 0, -fx x/z^2], [0, fy/z, -fy y/z^2]] with x/z and y/z clamped.
    rows = (spread[:, :2] - slope[..., None] * spread[:, 2:]) * (focal / centres[:, 2:])[..., None]
    first, second = rows.unbind(1)
    xx, xy, yy = (first * first).sum(-1), (first * second).sum(-1), (second * second).sum(-1)
    # xx yy - xy^2 = |first x second|^2 (Lagrange): without the difference, which is all rounding for a long needle.
    area = torch.linalg.cross(first, second).square().sum(-1)
    determinant = area + BLUR * (xx + yy) + BLUR**2
    return torch.stack((xx + BLUR, xy, yy + BLUR), -1), determinant, area
