"""The terms of the photometric stage: residuals and differences, unreduced. Masks, weights and sums: `objective`.

P people of N Gaussians, T frames. Sources: JOintGS (arXiv 2602.04317), HumanSplatHMR (arXiv 2605.02784), LHM
(arXiv 2503.10625) for the two hinges, Wang et al. 2004 for SSIM.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.geometry.rotations import matrix_from_quat, rotvec_from_matrix

FREE_OFFSET_M: Final = 0.056
"""Clothes and hair reach this far from the skin for little; LHM's ACAP hinge."""
LONGEST: Final = 5.0
"""Longest axis of a Gaussian over its second; LHM's ASAP hinge, without the flat third."""
HUBER_M: Final = 0.05
"""Distance from which on a centre without a point counts linearly."""
_C1, _C2 = 0.01**2, 0.03**2


def absolute(image: Tensor, target: Tensor) -> Tensor:
    """[..., H, W] mean over channels of |image - target| of [..., H, W, 3]."""
    return (image - target).abs().mean(-1)


def dissimilarity(image: Tensor, target: Tensor) -> Tensor:
    """[H, W] 1 - SSIM of [H, W, 3] images in [0, 1]: 11 x 11 Gaussian window of sigma 1.5, zeros beyond the border."""
    x, y = image.permute(2, 0, 1)[:, None], target.permute(2, 0, 1)[:, None]
    mean_x, mean_y = _windowed(x), _windowed(y)
    var_x, var_y = _windowed(x * x) - mean_x**2, _windowed(y * y) - mean_y**2
    both = _windowed(x * y) - mean_x * mean_y
    likeness = ((2 * mean_x * mean_y + _C1) * (2 * both + _C2)) / (
        (mean_x**2 + mean_y**2 + _C1) * (var_x + var_y + _C2)
    )
    return 1 - likeness.mean((0, 1))


def _windowed(image: Tensor) -> Tensor:
    offset = torch.arange(-5, 6, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-(offset**2) / (2 * 1.5**2))
    kernel = kernel / kernel.sum()
    rows = F.conv2d(image, kernel[None, None, :, None], padding=(5, 0))
    return F.conv2d(rows, kernel[None, None, None, :], padding=(0, 5))


def silhouette(person: Tensor, mask: Tensor) -> Tensor:
    """[..., H, W] |share of light that people stop - mask|; `person` from a picture with what may be in front."""
    return (person - mask).abs()


def depth_2d(depth: Tensor, prior: Tensor) -> Tensor:
    """[..., H, W] |log(depth / prior)|; both in metres, above 0 where it counts."""
    return (depth.clamp(min=0.05) / prior.clamp(min=0.05)).log().abs()


def depth_3d(centres: Tensor, points: Tensor) -> Tensor:
    """[N] Huber function of the distance (m) of each centre [N, 3] from the nearest point [M, 3], over its width."""
    nearest = points[torch.cdist(centres.detach(), points).argmin(-1)]
    return F.huber_loss(centres, nearest, reduction="none", delta=HUBER_M).sum(-1) / HUBER_M


def facing(centres: Tensor, quats: Tensor) -> Tensor:
    """[N] bool: whether flat Gaussians in the camera (third axis: outward normal) show their outside."""
    normal = matrix_from_quat(quats)[..., 2]
    return (normal * centres).sum(-1) < 0


def far_offset(offsets: Tensor) -> Tensor:
    """[N] metres beyond `FREE_OFFSET_M`, of offsets [N, 3]."""
    return F.relu(offsets.norm(dim=-1) - FREE_OFFSET_M)


def anisotropy(scales: Tensor) -> Tensor:
    """[N] how much the longest axis exceeds `LONGEST` times the middle one, of scales [N, 3] metres."""
    ordered = scales.sort(-1).values
    return F.relu(ordered[:, 2] / ordered[:, 1] - LONGEST)


def oversize(scales: Tensor, largest: Tensor) -> Tensor:
    """[N] by how much (log) the largest axis of scales [N, 3] exceeds `largest` [N], metres."""
    return F.relu((scales.amax(-1) / largest).log())


def edge_difference(values: Tensor, edges: Tensor) -> Tensor:
    """[E, D] difference of values [N, D] over edges [E, 2]."""
    return values[edges[:, 0]] - values[edges[:, 1]]


def acceleration(positions: Tensor, dt: Tensor) -> Tensor:
    """[T - 2, ..., 3] second derivative of positions [T, ..., 3] (m) with steps dt [T - 1] (s), m/s^2."""
    step = dt.reshape(-1, *[1] * (positions.ndim - 1))
    speed = (positions[1:] - positions[:-1]) / step
    return 2 * (speed[1:] - speed[:-1]) / (step[1:] + step[:-1])


def turn_acceleration(rotations: Tensor, dt: Tensor) -> Tensor:
    """[T - 2, ..., 3] the same of rotations [T, ..., 3, 3], rad/s^2 in the source's axes."""
    step = dt.reshape(-1, *[1] * (rotations.ndim - 2))
    speed = rotvec_from_matrix(rotations[:-1].transpose(-1, -2) @ rotations[1:]) / step
    return 2 * (speed[1:] - speed[:-1]) / (step[1:] + step[:-1])


def soft(residual: Tensor) -> Tensor:
    """[...] pseudo-Huber function sqrt(1 + |r|^2) - 1 of residuals [..., D] in units of their usual size."""
    return (1 + residual.square().sum(-1)).sqrt() - 1
