"""Parts of JOSH3R's trained half: a person's token from a box, and the small networks that answer.

Module and parameter names are those of the published checkpoint (genforce/JOSH); the code is our own, written
from a description of what it computes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD_BLOCKS = 2
"""Residual blocks of every answering network."""
DROPOUT = 0.5
"""Inside the residual blocks, in training only."""


def sample_boxes(tokens: Tensor, boxes: Tensor, size: tuple[int, int], points: tuple[int, int]) -> Tensor:
    """Features at a grid of points that spans each box, edges included.

    Args:
        tokens: [B, C, h, w] map over the image.
        boxes: [B, 4] x0, y0, x1, y1 in pixels of the image; they may leave it and are not clamped: outside, the
            map's border is repeated.
        size: (width, height) of the image in pixels.
        points: points down and across.

    Returns:
        [B, C, points down, points across].
    """
    scale = boxes.new_tensor(size).repeat(2)
    low, high = (boxes / scale * 2 - 1).chunk(2, dim=-1)  # pixels -> [-1, 1] from edge to edge of the image
    rows = torch.linspace(0, 1, points[0], device=boxes.device, dtype=boxes.dtype)
    columns = torch.linspace(0, 1, points[1], device=boxes.device, dtype=boxes.dtype)
    y = low[:, 1:] + (high - low)[:, 1:] * rows
    x = low[:, :1] + (high - low)[:, :1] * columns
    at = torch.stack(
        (x[:, None].expand(-1, points[0], -1), y[:, :, None].expand(-1, -1, points[1])), dim=-1
    )  # grid_sample wants (x, y)
    return F.grid_sample(tokens, at, mode="bilinear", padding_mode="border", align_corners=False)


class HumanFeatures(nn.Module):
    """Features in a person's box -> one token."""

    def __init__(self, dim: int, channels: int, points: tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(channels)
        self.fc1 = nn.Linear(channels * points[0] * points[1], dim)
        self.bn_fc1 = nn.BatchNorm1d(dim)

    def forward(self, box: Tensor) -> Tensor:
        """[B, dim, points down, points across] -> [B, dim]; there is no activation at the end."""
        x = F.relu(self.bn1(self.conv1(box)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.relu(self.bn3(self.conv3(x)))
        return self.bn_fc1(self.fc1(x.flatten(1)))


class ResidualBlock(nn.Module):
    """ReLU(x + BN(Linear(Dropout(ReLU(BN(Linear(x)))))))."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, dim)
        self.norm1 = nn.BatchNorm1d(dim)
        self.dropout = nn.Dropout(DROPOUT)
        self.linear2 = nn.Linear(dim, dim)
        self.norm2 = nn.BatchNorm1d(dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, dim] -> [B, dim]."""
        inner = self.dropout(F.relu(self.norm1(self.linear1(x))))
        return F.relu(x + self.norm2(self.linear2(inner)))


class MlpHead(nn.Module):
    """Token(s) -> numbers."""

    def __init__(self, dim_in: int, dim: int, out: int, *, bias: bool) -> None:
        super().__init__()
        first = nn.Sequential(nn.Linear(dim_in, dim), nn.BatchNorm1d(dim), nn.ReLU())
        blocks = [nn.Sequential(ResidualBlock(dim)) for _ in range(HEAD_BLOCKS)]
        self.head_layers = nn.Sequential(first, *blocks, nn.Linear(dim, out, bias=bias))

    def forward(self, x: Tensor) -> Tensor:
        """[B, dim_in] -> [B, out]."""
        return self.head_layers(x)

    def start_at_zero(self) -> None:
        """Make the first answer zero whatever the input."""
        last = self.head_layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
