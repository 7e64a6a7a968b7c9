"""Who is who: a unit vector per person and frame, alike for one person in all frames and unlike for others.

Read from the encoder's features of one frame alone, so that somebody who left is known again when they return.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from distill.models.backbones import Tokens
from distill.models.sampling import sample_boxes

CELLS = 5
"""Boxes are looked at in CELLS x CELLS places; clothes are above one another, so rows are kept apart."""


class IdentityHead(nn.Module):
    """Encoder features and boxes -> identity vectors."""

    def __init__(self, feature_dim: int, channels: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.LayerNorm(feature_dim), nn.Linear(feature_dim, 2 * channels), nn.GELU())
        self.out = nn.Linear(2 * channels * CELLS, channels)

    def forward(self, tokens: Tokens, boxes: Tensor) -> Tensor:
        """Boxes [B, P, 4] (pixels of the network's image) -> unit vectors [B, P, channels]."""
        embedded = self.embed(tokens.features.to(self.out.weight.dtype))
        cells = sample_boxes(embedded.transpose(1, 2).unflatten(-1, tokens.grid), boxes, tokens.size, CELLS)
        rows = cells.unflatten(2, (CELLS, CELLS)).amax(3)  # a person is narrower than their box
        return F.normalize(self.out(rows.flatten(2)).float(), dim=-1)
