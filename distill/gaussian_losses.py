"""Terms of the Gaussian head's objective: pictures, silhouettes, depth, shape of the Gaussians, the teacher's own.

Unreduced, as those of `distill.losses`; masks and weights are applied there.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.avatar import Avatar
from distill.losses import smooth_norm

SSIM_RADIUS: Final = 5
"""Pixels that the window of `ssim_map` reaches to each side."""
LOOSE_M: Final = 0.056
"""Offsets up to this long, in metres, cost nothing (LHM, arXiv 2503.10625)."""
NEEDLE: Final = 5.0
"""Longest over shortest scale up to which a Gaussian's shape costs nothing (the same)."""
_SMALL: Final = 1e-6
_MOST_PER_ANCHOR: Final = 1 << 20


def ssim_map(target: Tensor, picture: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), 11 x 11 Gaussian of sigma 1.5, K = 0.01 and 0.03.

    Args:
        target, picture: [C, H, W] in [0, 1], sides of 11 pixels or more.

    Returns:
        [H - 10, W - 10], means over channels, where the window fits.
    """
    place = torch.arange(-SSIM_RADIUS, SSIM_RADIUS + 1, device=target.device, dtype=target.dtype)
    window = torch.exp(-place.square() / (2 * 1.5**2))
    window = window / window.sum()

    def mean(images: Tensor) -> Tensor:
        rows = F.conv2d(images[:, None], window[None, None, None])
        return F.conv2d(rows, window[None, None, :, None])[:, 0]

    products = torch.cat((target, picture, target.square(), picture.square(), target * picture))
    mu_t, mu_p, tt, pp, tp = mean(products).chunk(5)
    var_t, var_p, covariance = tt - mu_t.square(), pp - mu_p.square(), tp - mu_t * mu_p
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mu_t * mu_p + c1) * (2 * covariance + c2)
    return (similarity / ((mu_t.square() + mu_p.square() + c1) * (var_t + var_p + c2))).mean(0)


def inner(mask: Tensor) -> Tensor:
    """The part of a mask [H, W] that `ssim_map` speaks of."""
    return mask[SSIM_RADIUS:-SSIM_RADIUS, SSIM_RADIUS:-SSIM_RADIUS]


def color_error(target: Tensor, picture: Tensor) -> Tensor:
    """Mean absolute difference over channels: [3, H, W] twice -> [H, W]."""
    return (target - picture).abs().mean(0)


def depth_error(target: Tensor, depth: Tensor) -> Tensor:
    """|log z - log z*| [H, W] of depths in metres above 0."""
    ratio = depth.clamp(min=_SMALL).log() - target.clamp(min=_SMALL).log()
    return smooth_norm(ratio[..., None])


def loose_error(offsets: Tensor) -> Tensor:
    """Metres by which offsets [N, 3] are longer than `LOOSE_M`: [N]."""
    return F.relu((offsets.square().sum(-1) + _SMALL**2).sqrt() - LOOSE_M)


def needle_error(scales: Tensor) -> Tensor:
    """By how much the longest over the shortest scale of [N, 3] exceeds `NEEDLE`: [N]."""
    return F.relu(scales.amax(-1) / scales.amin(-1) - NEEDLE)


def match_avatars(student: Avatar, teacher: Avatar) -> tuple[Tensor, Tensor]:
    """Rows [M] of both that mean the same Gaussian: the same anchor, the first of it with the first, and so on.

    A teacher that has split, cloned or dropped Gaussians has more or fewer on an anchor; the others still match.
    """
    (ours, our_rows), (theirs, their_rows) = _numbered(student.anchors), _numbered(teacher.anchors)
    at = torch.searchsorted(theirs, ours).clamp(max=len(theirs) - 1)
    found = theirs[at] == ours
    return our_rows[found], their_rows[at[found]]


def _numbered(anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Ascending numbers [N], one for each (anchor, how many of that anchor came before), and the rows they are of."""
    rows = anchors.argsort(stable=True)
    ordered = anchors[rows].contiguous()
    number = torch.arange(len(ordered), device=ordered.device) - torch.searchsorted(ordered, ordered)
    return ordered * _MOST_PER_ANCHOR + number, rows


def attribute_error(student: Avatar, teacher: Avatar) -> Tensor:
    """How far matched Gaussians are apart, [M, 5]: centre (m), log scale, 1 - |q . q*|, opacity, colour."""
    ours, theirs = match_avatars(student, teacher)
    quats = (F.normalize(student.quats[ours], dim=-1) * F.normalize(teacher.quats[theirs], dim=-1)).sum(-1).abs()
    logs = student.scales[ours].log() - teacher.scales[theirs].clamp(min=_SMALL).log()
    return torch.stack((
        smooth_norm(student.offsets[ours] - teacher.offsets[theirs]),
        logs.abs().mean(-1),
        1 - quats,
        (student.opacities[ours] - teacher.opacities[theirs]).abs(),
        (student.colors[ours] - teacher.colors[theirs]).abs().mean(-1),
    ), dim=-1)  # fmt: skip
