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
_SCALE: Final = 8.0
"""Brings displacements, tenths of the plane z = 1, to the size of other inputs."""


class Matching(nn.Module):
    """Encoder features of two frames -> what moved where."""

    def __init__(self, feature_dim: int, channels: int, width: int) -> None:
        super().__init__()
        self.describe = nn.Linear(feature_dim, channels)
        self.sharpness = nn.Parameter(torch.tensor(2.5))
        self.embed = nn.Linear(MATCH_NUMBERS, width)

    def log_odds(self, a: Tensor, b: Tensor) -> Tensor:
        """Features [B, N, C] and [B, M, C] -> [B, N, M] log odds that token i of a shows what token j of b does."""
        a, b = (F.normalize(self.describe(view).float(), dim=-1) for view in (a, b))
        return self.sharpness.exp() * a @ b.transpose(1, 2)

    def forward(self, odds: Tensor, rays: Tensor, rays_other: Tensor) -> Tensor:
        """Tokens [B, N, width] that tell each token of a view where its match lies.

        Args:
            odds: [B, N, M] from `log_odds`, rows of this view.
            rays: [B, N, 2] of this view's tokens on the plane z = 1.
            rays_other: [B, M, 2] of the other view's.
        """
        with full_precision(odds.device):
            share = odds.float().softmax(-1)
            mean = share @ rays_other
            spread = (share @ rays_other.square() - mean.square()).clamp(min=0).sum(-1, keepdim=True).sqrt()
            numbers = torch.cat(((mean - rays) * _SCALE, share.amax(-1, keepdim=True), spread), dim=-1)
        return self.embed(numbers.to(self.embed.weight.dtype))
