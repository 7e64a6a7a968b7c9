"""MASt3R's architecture (arXiv 2406.09756, after DUSt3R 2312.14132 and CroCo v2 2211.10408), written anew.

Parameter names and numbers are those of the published checkpoints, so that they load unchanged; the code
shares nothing with theirs. What differs is speed: fused attention, position tables computed once per
grid, nothing read back to the host.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from distill.models.backbones import Backbone, Pair, Preprocessing, Tokens, check_image_size
from distill.models.blocks import NORM_EPS, DecoderBlock, EncoderBlock
from distill.models.dpt import DenseHead, Dpt
from distill.models.precision import full_precision
from distill.models.rope import Rope, rope_of_grid

PATCH: Final = 16


@dataclass(frozen=True, kw_only=True)
class Mast3rConfig:
    """Shape of the network. The defaults are the published model's."""

    enc_dim: int = 1024
    enc_depth: int = 24
    enc_heads: int = 16
    dec_dim: int = 768
    dec_depth: int = 12
    dec_heads: int = 12
    rope_base: float = 100.0
    hooks: tuple[int, int, int, int] = (0, 6, 9, 12)
    """Decoder layers that DPT reads; 0 is the encoder's output."""
    dpt_dim: int = 256
    dpt_last_dim: int = 128
    dpt_layer_dims: tuple[int, int, int, int] = (96, 192, 384, 768)
    descriptor_dim: int = 24
    """Channels of the local features; 0 for a model without them."""
    conf_min: float = 1.0
    """Confidence is conf_min + exp(x)."""
    desc_conf_min: float = 0.0
    long_side: int = 512
    """Longer image side in training, pixels."""

    def __post_init__(self) -> None:
        for dim, heads in ((self.enc_dim, self.enc_heads), (self.dec_dim, self.dec_heads)):
            if dim % (4 * heads):
                raise ValueError(f"{dim} channels do not split into {heads} heads of a multiple of 4")
        if len(self.hooks) != 4 or list(self.hooks) != sorted(self.hooks):
            raise ValueError(f"hooks {self.hooks} must be four layers in ascending order")
        if self.hooks[0] < 0 or self.hooks[-1] > self.dec_depth:
            raise ValueError(f"hooks {self.hooks} must lie within 0..{self.dec_depth}")
        if len(self.dpt_layer_dims) != 4 or min(self.enc_depth, self.dec_depth, self.long_side) < 1:
            raise ValueError("four dpt_layer_dims, and depths and long_side of at least 1 are expected")


class _PatchEmbed(nn.Module):
    """Image to tokens by one strided convolution."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, PATCH, stride=PATCH)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, H/16 * W/16, dim]."""
        return self.proj(images).flatten(2).transpose(1, 2)


class Mast3r(Backbone):
    """Siamese ViT encoder, two decoders that read each other, one dense head per view."""

    patch_size = PATCH
    has_points = True

    def __init__(self, config: Mast3rConfig) -> None:
        super().__init__()
        self.config = config
        self.feature_dim, self.token_dim = config.enc_dim, config.dec_dim
        self.preprocessing = Preprocessing(long_side=config.long_side, multiple=PATCH)
        self.patch_embed = _PatchEmbed(config.enc_dim)
        self.enc_blocks = nn.ModuleList(EncoderBlock(config.enc_dim, config.enc_heads) for _ in range(config.enc_depth))
        self.enc_norm = nn.LayerNorm(config.enc_dim, eps=NORM_EPS)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.dec_dim))  # in the file, never used
        self.decoder_embed = nn.Linear(config.enc_dim, config.dec_dim)
        self.dec_blocks, self.dec_blocks2 = (
            nn.ModuleList(DecoderBlock(config.dec_dim, config.dec_heads) for _ in range(config.dec_depth))
            for _ in range(2)
        )
        self.dec_norm = nn.LayerNorm(config.dec_dim, eps=NORM_EPS)
        self.downstream_head1, self.downstream_head2 = (_dense_head(config) for _ in range(2))

    def encode(self, images: Tensor) -> Tokens:
        """Images [B, 3, H, W] in [0, 1] -> features [B, h*w, enc_dim] after the encoder's norm."""
        check_image_size(images, PATCH)
        height, width = images.shape[-2:]
        grid = (height // PATCH, width // PATCH)
        x = self.patch_embed(((images - 0.5) / 0.5).to(self.patch_embed.proj.weight.dtype))
        rope = self._rope(grid, self.config.enc_dim // self.config.enc_heads, x.device)
        for block in self.enc_blocks:
            x = block(x, rope)
        return Tokens(features=self.enc_norm(x), grid=grid, size=(width, height))

    def decode(self, a: Tokens, b: Tokens, *, points: bool = True, descriptors: bool = False) -> Pair:
        """Ordered pairs of images; the views may differ in size, not in batch. See `Backbone.decode`."""
        layers_a, layers_b = self.decode_tokens(a, b)
        pair = Pair(tokens_a=layers_a[1:], tokens_b=layers_b[1:])
        # Points and confidence leave through exponentials: float32, whatever the trunk and autocast do.
        with full_precision(a.features.device):
            if points:
                pair.points_a, pair.conf_a = self._points(self.downstream_head1, layers_a, a.grid)
                pair.points_b, pair.conf_b = self._points(self.downstream_head2, layers_b, b.grid)
            if descriptors and self.config.descriptor_dim:
                pair.desc_a, pair.desc_conf_a = self._descriptors(self.downstream_head1, layers_a, a.grid)
                pair.desc_b, pair.desc_conf_b = self._descriptors(self.downstream_head2, layers_b, b.grid)
        return pair

    def decode_tokens(self, a: Tokens, b: Tokens) -> tuple[list[Tensor], list[Tensor]]:
        """Tokens of both views per layer: encoder features, then every decoder layer, the last normalised."""
        head_dim = self.config.dec_dim // self.config.dec_heads
        rope_a = self._rope(a.grid, head_dim, a.features.device)
        rope_b = self._rope(b.grid, head_dim, b.features.device)
        layers_a, layers_b = [a.features], [b.features]
        x_a, x_b = self.decoder_embed(a.features), self.decoder_embed(b.features)
        for block_a, block_b in zip(self.dec_blocks, self.dec_blocks2, strict=True):
            # Both branches read the other one as it left the previous layer.
            x_a, x_b = block_a(x_a, x_b, rope_a, rope_b), block_b(x_b, x_a, rope_b, rope_a)
            layers_a.append(x_a)
            layers_b.append(x_b)
        layers_a[-1], layers_b[-1] = self.dec_norm(x_a), self.dec_norm(x_b)
        return layers_a, layers_b

    def set_trunk_dtype(self, dtype: torch.dtype) -> None:
        """Cast everything but the dense heads."""
        for name, child in self.named_children():
            if not name.startswith("downstream_head"):
                child.to(dtype)

    def _rope(self, grid: tuple[int, int], head_dim: int, device: torch.device) -> Rope:
        return rope_of_grid(grid, head_dim, self.config.rope_base, device)

    def _points(self, head: DenseHead, layers: Sequence[Tensor], grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Points [B, H, W, 3] in camera a and confidence [B, H, W]."""
        raw = head.dpt([layers[hook].float() for hook in self.config.hooks], grid).permute(0, 2, 3, 1)
        return points_from_raw(raw[..., :3]), self.config.conf_min + raw[..., 3].exp()

    def _descriptors(self, head: DenseHead, layers: Sequence[Tensor], grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Unit descriptors [B, H, W, descriptor_dim] and their confidence [B, H, W]."""
        raw = head.descriptors(torch.cat((layers[0], layers[-1]), dim=-1).float(), grid).permute(0, 2, 3, 1)
        descriptor, confidence = raw[..., :-1], raw[..., -1]
        return descriptor / descriptor.norm(dim=-1, keepdim=True), self.config.desc_conf_min + confidence.exp()


def points_from_raw(raw: Tensor) -> Tensor:
    """Raw head output [..., 3] -> points: the direction is kept, the distance is expm1 of the norm."""
    distance = raw.norm(dim=-1, keepdim=True)
    return raw / distance.clamp(min=1e-8) * torch.expm1(distance)


def _dense_head(config: Mast3rConfig) -> DenseHead:
    dims = [config.enc_dim if hook == 0 else config.dec_dim for hook in config.hooks]
    dpt = Dpt(dims, dim=config.dpt_dim, last_dim=config.dpt_last_dim, layer_dims=config.dpt_layer_dims, channels=4)
    return DenseHead(
        dpt,
        feature_dims=config.enc_dim + config.dec_dim,
        patch=PATCH,
        descriptor_channels=config.descriptor_dim + 1 if config.descriptor_dim else 0,
    )


def initialise(model: Mast3r, seed: int) -> None:
    """Fill for training from scratch: Xavier-uniform linear layers, zero biases, DPT as PyTorch does it.

    The same seed gives the same weights; the caller's random state is left alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm | nn.Conv2d | nn.ConvTranspose2d):
                module.reset_parameters()
        embed = model.patch_embed.proj.weight
        bound = math.sqrt(6.0 / (embed[0].numel() + embed.shape[0]))  # Xavier on the flattened kernel
        nn.init.uniform_(embed, -bound, bound)
        nn.init.normal_(model.mask_token, std=0.02)
