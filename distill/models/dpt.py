"""Dense heads of MASt3R: DPT for points and confidence (arXiv 2103.13413), an MLP for local features.

Module and parameter names are those of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from distill.models.blocks import Mlp


def _double(x: Tensor) -> Tensor:
    """Bilinear upsampling by 2 of [B, C, h, w], corners aligned as in DPT."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class ResidualConv(nn.Module):
    """x + conv(ReLU(conv(ReLU(x)))), 3x3."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, h, w]."""
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class Fusion(nn.Module):
    """Add a level to the path from the coarser ones and double its size."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.resConfUnit1 = ResidualConv(dim)  # in the coarsest fusion it is in the file and never used
        self.resConfUnit2 = ResidualConv(dim)
        self.out_conv = nn.Conv2d(dim, dim, 1)

    def forward(self, level: Tensor, path: Tensor | None = None) -> Tensor:
        """`level` [B, C, h, w], `path` the same or None at the coarsest -> [B, C, 2h, 2w]."""
        x = level if path is None else path + self.resConfUnit1(level)
        return self.out_conv(_double(self.resConfUnit2(x)))


class Scratch(nn.Module):
    """Projection of four levels to one width, and their fusion."""

    def __init__(self, layer_dims: Sequence[int], dim: int) -> None:
        super().__init__()
        self.layer1_rn, self.layer2_rn, self.layer3_rn, self.layer4_rn = (
            nn.Conv2d(layer_dim, dim, 3, padding=1, bias=False) for layer_dim in layer_dims
        )
        self.refinenet1, self.refinenet2, self.refinenet3, self.refinenet4 = (Fusion(dim) for _ in range(4))

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Four maps, strides 1/4, 1/2, 1 and 2 tokens -> [B, dim, 8h, 8w] for h x w tokens."""
        first = self.layer1_rn(levels[0])
        second = self.layer2_rn(levels[1])
        third = self.layer3_rn(levels[2])
        path = self.refinenet4(self.layer4_rn(levels[3]))
        # With an odd number of tokens the doubled path is one row or column too large.
        path = self.refinenet3(third, path[:, :, : third.shape[2], : third.shape[3]])
        return self.refinenet1(first, self.refinenet2(second, path))


class Dpt(nn.Module):
    """Tokens of four layers -> a map of `channels` at image size."""

    def __init__(
        self, token_dims: Sequence[int], *, dim: int, last_dim: int, layer_dims: Sequence[int], channels: int
    ) -> None:
        super().__init__()
        first, second, third, fourth = layer_dims
        self.act_postprocess = nn.ModuleList(
            (
                nn.Sequential(nn.Conv2d(token_dims[0], first, 1), nn.ConvTranspose2d(first, first, 4, stride=4)),
                nn.Sequential(nn.Conv2d(token_dims[1], second, 1), nn.ConvTranspose2d(second, second, 2, stride=2)),
                nn.Sequential(nn.Conv2d(token_dims[2], third, 1)),
                nn.Sequential(nn.Conv2d(token_dims[3], fourth, 1), nn.Conv2d(fourth, fourth, 3, stride=2, padding=1)),
            )
        )
        self.scratch = Scratch(layer_dims, dim)
        self.head = nn.Sequential(
            nn.Conv2d(dim, dim // 2, 3, padding=1),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            nn.Conv2d(dim // 2, last_dim, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(last_dim, channels, 1),
        )

    def forward(self, layers: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """Four token tensors [B, h*w, C] of a grid (h, w) -> [B, channels, 16h, 16w]."""
        maps = [tokens.transpose(1, 2).unflatten(-1, grid) for tokens in layers]
        return self.head(self.scratch([step(x) for step, x in zip(self.act_postprocess, maps, strict=True)]))


class DenseHead(nn.Module):
    """The head of one view: DPT, and the local-feature MLP if the model has descriptors."""

    def __init__(self, dpt: Dpt, *, feature_dims: int, patch: int, descriptor_channels: int) -> None:
        super().__init__()
        self.dpt = dpt
        self.patch = patch
        if descriptor_channels:
            self.head_local_features = Mlp(feature_dims, 4 * feature_dims, descriptor_channels * patch**2)

    def descriptors(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Encoder and last decoder tokens side by side [B, h*w, C] -> [B, channels, patch*h, patch*w]."""
        maps = self.head_local_features(tokens).transpose(1, 2).unflatten(-1, grid)
        return F.pixel_shuffle(maps, self.patch)
