"""Where each token of one frame is in the other: what a camera's motion is read from.

Matching by a softmax over all pairs of tokens (GMFlow, arXiv 2111.13680, section 3.2), on the encoder's features, so
that every backbone has it. Displacements are given between rays, not pixels: they mean the same for every lens.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.models.precision import full_precision

MATCH_NUMBERS: Final = 4
"""Numbers per token: displacement (2), probability of the best match, spread of all."""
FIELD_NUMBERS: Final = 3 + 6 + 2
"""Numbers per frame: a turn (3), mean and slopes of what it leaves (6), certainty, spread."""
FIELD_SCALE: Final = 20.0
"""Brings turns and parallax, hundredths of a radian, to the size of other inputs."""
_SCALE: Final = 8.0
"""Brings displacements, tenths of the plane z = 1, to the size of other inputs."""


class Matching(nn.Module):
    """Encoder features of two frames -> what moved where."""

    def __init__(self, feature_dim: int, channels: int, width: int) -> None:
        super().__init__()
        self.describe = nn.Linear(feature_dim, channels)
        self.sharpness = nn.Parameter(torch.tensor(2.5))
        self.embed = nn.Linear(MATCH_NUMBERS, width)
        self.embed_field = nn.Sequential(nn.Linear(FIELD_NUMBERS, width), nn.GELU(), nn.Linear(width, width))

    def log_odds(self, a: Tensor, b: Tensor) -> Tensor:
        """Features [B, N, C] and [B, M, C] -> [B, N, M] log odds that token i of a shows what token j of b does."""
        a, b = (F.normalize(self.describe(view).float(), dim=-1) for view in (a, b))
        return self.sharpness.exp() * a @ b.transpose(1, 2)

    def forward(self, odds: Tensor, rays: Tensor, rays_other: Tensor) -> tuple[Tensor, Tensor]:
        """Where the match of each token of a view lies, embedded.

        Args:
            odds: [B, N, M] from `log_odds`, rows of this view.
            rays: [B, N, 2] of this view's tokens on the plane z = 1.
            rays_other: [B, M, 2] of the other view's.

        Returns:
            per token [B, N, width], and of the whole field of displacements [B, width].
        """
        dtype = self.embed.weight.dtype
        with full_precision(odds.device):
            share = odds.float().softmax(-1)
            mean = share @ rays_other
            spread = (share @ rays_other.square() - mean.square()).clamp(min=0).sum(-1, keepdim=True).sqrt()
            moved, sure = mean - rays, share.amax(-1, keepdim=True)
            field = torch.cat((field_numbers(moved, rays, sure), sure.mean(1), spread.mean(1)), dim=-1)
            numbers = torch.cat((moved * _SCALE, sure, spread), dim=-1)
        return self.embed(numbers.to(dtype)), self.embed_field(field.to(dtype))


def field_numbers(moved: Tensor, rays: Tensor, sure: Tensor) -> Tensor:
    """What a field of displacements says of a camera, [B, 3 + 6]: its turn, and the moments of what is left.

    When the scene turns by a small w before the camera, the ray (x, y) moves by (-x y w_x + (1 + x^2) w_y - y w_z,
    -(1 + y^2) w_x + x y w_y + x w_z), whatever its depth (w x p for p = (x, y, 1), projected; Longuet-Higgins and
    Prazdny 1980); w is the weighted least squares answer. What is left, its mean and slopes, is parallax.

    Args:
        moved: [B, N, 2] displacements of rays. rays: [B, N, 2]. sure: [B, N, 1] weights.
    """
    x, y = rays.unbind(-1)
    rows = torch.stack(
        (torch.stack((-x * y, 1 + x * x, -y), dim=-1), torch.stack((-(1 + y * y), x * y, x), dim=-1)), dim=-2
    )  # [B, N, 2, 3]
    weight = (sure / sure.sum(1, keepdim=True).clamp(min=1e-6))[..., None]
    normal = (rows * weight).transpose(-1, -2) @ rows
    right = ((rows * weight).transpose(-1, -2) @ moved[..., None]).sum(1)[..., 0]
    # 3 x 3, solved by its adjugate: a general solver has no ONNX operator.
    turn = solve3(normal.sum(1) + 1e-6 * torch.eye(3, device=rays.device, dtype=rays.dtype), right)
    left = moved - (rows @ turn[:, None, :, None])[..., 0]
    weight = weight[..., 0]
    moments = [(weight * left * factor[..., None]).sum(1) for factor in (torch.ones_like(x), x, y)]
    return torch.cat((turn, *moments), dim=-1) * FIELD_SCALE


def solve3(matrix: Tensor, right: Tensor) -> Tensor:
    """Solution [B, 3] of systems [B, 3, 3] by Cramer's rule."""
    a, b, c = matrix.unbind(-1)
    bc, ca, ab = (torch.linalg.cross(*pair) for pair in ((b, c), (c, a), (a, b)))
    rows = torch.stack((bc, ca, ab), dim=-2)
    return (rows @ right[..., None])[..., 0] / (a * bc).sum(-1, keepdim=True)
