"""People found from the tokens of one frame, so that a stream needs no detector of its own.

One candidate per token, as in FCOS (arXiv 1904.01355) at a single scale: a score, and the distances from the token's
centre to the four sides of the box around the person whose box has its centre there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.models.backbones import Tokens

RARE = -3.0
"""First log odds that a token is the centre of a person."""


@dataclass(kw_only=True)
class Candidates:
    """One candidate person per token of B frames."""

    logit: Tensor
    """[B, h, w] that the centre of a person's box lies in the token."""
    boxes: Tensor
    """[B, h, w, 4] x0, y0, x1, y1 in pixels of the network's image; may leave it."""


class DetectionHead(nn.Module):
    """Encoder features of frames -> `Candidates`."""

    def __init__(self, feature_dim: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.LayerNorm(feature_dim), nn.Linear(feature_dim, width), nn.GELU())
        self.mix = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.GELU())
        self.out = nn.Conv2d(width, 5, 1)
        nn.init.zeros_(self.out.weight)
        bias = torch.zeros(5)
        bias[0] = RARE
        self.out.bias = nn.Parameter(bias)

    def forward(self, tokens: Tokens) -> Candidates:
        """Every token's candidate."""
        embedded = self.embed(tokens.features.to(self.out.weight.dtype))
        mixed = self.mix(embedded.transpose(1, 2).unflatten(-1, tokens.grid))
        found = self.out(mixed).float().permute(0, 2, 3, 1)
        (down, across), (width, height) = tokens.grid, tokens.size
        y = (torch.arange(down, device=found.device) + 0.5) * (height / down)
        x = (torch.arange(across, device=found.device) + 0.5) * (width / across)
        centre = torch.stack((x.expand(down, across), y[:, None].expand(down, across)), dim=-1)
        # A person usually spans about a quarter of the image; sides stay on their own side of the token's centre.
        reach = F.softplus(found[..., 1:]) / 0.6931 * (max(width, height) / 8)
        return Candidates(
            logit=found[..., 0], boxes=torch.cat((centre - reach[..., :2], centre + reach[..., 2:]), dim=-1)
        )
