"""The part that all heads share: one token per person and view and one per scene and view, read from the
backbone's tokens by a small transformer.

Any number of people in one pass. People are a set: their order is carried through, and rows that are not
valid change nothing for the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.models.backbones import Tokens
from distill.models.blocks import Mlp
from distill.models.matching import Matching
from distill.models.prediction import Prompts
from distill.models.rays import RAY_CHANNELS, box_rays, encode_rays, token_rays
from distill.models.sampling import in_image, sample_boxes


@dataclass(kw_only=True)
class HeadConfig:
    """Size of the heads."""

    width: int = 192
    """Channels of the heads' tokens."""
    layers: int = 3
    """Transformer layers."""
    attention_heads: int = 4
    """Attention heads per layer; they share `width`."""
    roi_cells: int = 7
    """Each box is sampled at roi_cells x roi_cells points."""
    closeup_pixels: int = 64
    """Each person is also looked at in a square picture of their own, this many pixels across."""
    match_channels: int = 64
    """Channels in which tokens of two frames are compared."""
    identity_channels: int = 32
    """Length of the vectors that tell people apart."""

    def __post_init__(self) -> None:
        if min(self.match_channels, self.identity_channels) < 1:
            raise ValueError("match_channels and identity_channels must be 1 or more")
        if min(self.width, self.layers, self.attention_heads) < 1 or self.width % self.attention_heads:
            raise ValueError(f"width {self.width} must be a positive multiple of attention_heads")
        if self.roi_cells < 2 or self.closeup_pixels < 16:
            raise ValueError(
                f"roi_cells is {self.roi_cells} and closeup_pixels {self.closeup_pixels}, expected 2 and 16 or more"
            )


class _Attention(nn.Module):
    """Multi-head attention, keys masked where `keep` is False."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, memory: Tensor, keep: Tensor | None = None) -> Tensor:
        """`x` [B, N, C] reads `memory` [B, M, C]; keep [B, M] bool."""
        q = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.key_value(memory).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mask = None if keep is None else keep[:, None, None, :]
        return self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(-2))


class _Layer(nn.Module):
    """Queries read each other, then both views, then themselves."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_self, self.norm_cross, self.norm_mlp = (nn.LayerNorm(width) for _ in range(3))
        self.self_attention = _Attention(width, heads)
        self.cross_attention = _Attention(width, heads)
        self.mlp = Mlp(width, 4 * width, width)

    def forward(self, x: Tensor, memory: Tensor, keep: Tensor) -> Tensor:
        """Queries [B, N, C], memory [B, M, C], keep [B, N] bool -> [B, N, C]."""
        normed = self.norm_self(x)
        x = x + self.self_attention(normed, normed, keep)
        x = x + self.cross_attention(self.norm_cross(x), memory)
        return x + self.mlp(self.norm_mlp(x))


class Trunk(nn.Module):
    """Backbone tokens of a pair and prompts -> tokens of the scene and of people."""

    def __init__(self, config: HeadConfig, in_channels: int, feature_dim: int) -> None:
        """`in_channels` of the tokens read, `feature_dim` of the encoder's features among them."""
        super().__init__()
        width = config.width
        self.config = config
        self.embed = nn.Sequential(nn.LayerNorm(in_channels), nn.Linear(in_channels, width))
        self.embed_ray = nn.Linear(RAY_CHANNELS, width)
        self.embed_cell = nn.Linear(width, width // 4)
        self.embed_roi = nn.Linear(width // 4 * config.roi_cells**2, width)
        self.embed_box = Mlp(RAY_CHANNELS + 8, width, width)
        self.embed_mate = Mlp(width, width, width)
        self.embed_cover = nn.Linear(width + 1, width)
        self.embed_time = nn.Linear(3, width)
        self.guessed_lens = nn.Parameter(torch.randn(width) * 0.02)
        self.matching = Matching(feature_dim, config.match_channels, width)
        self.view = nn.Parameter(torch.randn(2, width) * 0.02)
        self.scene = nn.Parameter(torch.randn(2, width) * 0.02)
        self.layers = nn.ModuleList(_Layer(width, config.attention_heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)

    def forward(
        self, views: tuple[Tensor, Tensor], frames: tuple[Tokens, Tokens], people: Prompts
    ) -> tuple[Tensor, Tensor]:
        """Read one pair.

        Args:
            views: tokens of view a and b, [B, N, in_channels] each.
            frames: grids and image sizes of the two views.
            people: boxes, validity, intrinsics.

        Returns:
            scene [B, 2, width], one token per view; people [B, P, 2, width], one per person and view.
        """
        rays = [token_rays(people.K[:, view], frame.grid, frame.size) for view, frame in enumerate(frames)]
        odds = self.matching.log_odds(*(frame.features.to(self.view.dtype) for frame in frames))
        moved = [self.matching(odds, *rays), self.matching(odds.transpose(1, 2), *rays[::-1])]
        memory, queries = [], []
        for view, (tokens, frame) in enumerate(zip(views, frames, strict=True)):
            embedded = self.embed(tokens)
            where = self._lens(self.embed_ray(encode_rays(rays[view]).to(embedded.dtype)), people)
            memory.append(embedded + where + moved[view][0] + self.view[view])
            queries.append(self._person_tokens(embedded + moved[view][0], frame, people, view))
        batch = people.valid.shape[0]  # not len(): export would take it for a constant
        valid = people.valid
        person = torch.stack(queries, dim=2)  # [B, P, 2, width]
        if people.looks is not None:
            person = person + people.looks
        # Each person's token hears from the same person in the other frame, if seen there.
        person = person + self.embed_mate(person.flip(2)) * valid.flip(2)[..., None]
        scene = self.scene + torch.stack([field for _, field in moved], dim=1)
        x = torch.cat((scene, person.flatten(1, 2)), dim=1)
        if people.seconds is not None:
            seconds = people.seconds.to(x.dtype)[:, None]
            x = x + self.embed_time(torch.cat((seconds, seconds.sqrt(), torch.ones_like(seconds)), dim=-1))[:, None]
        keep = torch.cat((valid.new_ones(batch, 2), valid.flatten(1, 2)), dim=1)
        both = torch.cat(memory, dim=1)
        for layer in self.layers:
            x = layer(x, both, keep)
        x = self.norm(x)
        return x[:, :2], x[:, 2:].reshape(person.shape)

    def _person_tokens(self, embedded: Tensor, frame: Tokens, people: Prompts, view: int) -> Tensor:
        """Tokens [B, P, width] of all people in one view, from boxes; `embedded` tells what is there and moves."""
        boxes, K = people.boxes[:, :, view], people.K[:, view]
        maps = embedded.transpose(1, 2).unflatten(-1, frame.grid)
        cells = self.embed_cell(sample_boxes(maps, boxes, frame.size, self.config.roi_cells))
        centre, box_size = box_rays(boxes, K)
        cut = in_image(boxes, frame.size)  # tells where the image cuts it
        numbers = torch.cat((encode_rays(centre), box_size, box_size.log(), cut), dim=-1)
        token = self.embed_roi(cells.flatten(-2)) + self.embed_box(numbers.to(cells.dtype)) + self.view[view]
        return token if people.masks is None else token + self._covered(embedded, people.masks[:, :, view])

    def _covered(self, embedded: Tensor, masks: Tensor) -> Tensor:
        """What the masks [B, P, h, w] add: the mean token under each; nothing where a mask is empty."""
        cover = masks.flatten(2).to(embedded.dtype)
        area = cover.sum(-1, keepdim=True)
        mean = cover @ embedded / area.clamp(min=1e-3)
        share = area / cover.shape[-1]
        return self.embed_cover(torch.cat((mean, share), dim=-1)) * (area > 0)

    def _lens(self, rays: Tensor, people: Prompts) -> Tensor:
        """Embedded rays where the lens is known, and a sign that it is a guess where not."""
        if people.K_known is None:
            return rays
        return torch.where(people.K_known[:, None, None], rays, rays + self.guessed_lens)
