"""Transformer blocks of CroCo v2 and MASt3R (arXiv 2211.10408, 2406.09756), on fused attention.

Module and parameter names are those of the published checkpoints. Tokens are [B, N, C].
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from distill.models.rope import Rope, apply_rope

NORM_EPS = 1e-6
"""LayerNorm epsilon of the published models (not PyTorch's default)."""


def _split_heads(tokens: Tensor, heads: int) -> Tensor:
    """[B, N, C] -> [B, heads, N, C / heads]."""
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)


class SelfAttention(nn.Module):
    """Multi-head self-attention with one projection for queries, keys and values, in that order."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rope: Rope) -> Tensor:
        """Tokens [B, N, C] -> [B, N, C]."""
        q, k, v = (_split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        attended = F.scaled_dot_product_attention(apply_rope(q, rope), apply_rope(k, rope), v)
        return self.proj(attended.transpose(1, 2).flatten(-2))


class CrossAttention(nn.Module):
    """Multi-head attention from one view's tokens to the other view's, each with its own positions."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.projq = nn.Linear(dim, dim)
        self.projk = nn.Linear(dim, dim)
        self.projv = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, other: Tensor, rope: Rope, rope_other: Rope) -> Tensor:
        """Queries from `x` [B, N, C], keys and values from `other` [B, M, C] -> [B, N, C]."""
        q = apply_rope(_split_heads(self.projq(x), self.heads), rope)
        k = apply_rope(_split_heads(self.projk(other), self.heads), rope_other)
        v = _split_heads(self.projv(other), self.heads)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2))


class Mlp(nn.Module):
    """Two linear layers with an exact (erf) GELU between them."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] -> [..., out]."""
        return self.fc2(F.gelu(self.fc1(x)))


class EncoderBlock(nn.Module):
    """Pre-norm self-attention and MLP."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = SelfAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, 4 * dim, dim)

    def forward(self, x: Tensor, rope: Rope) -> Tensor:
        """Tokens [B, N, C] -> [B, N, C]."""
        x = x + self.attn(self.norm1(x), rope)
        return x + self.mlp(self.norm2(x))


class DecoderBlock(nn.Module):
    """Pre-norm self-attention, cross-attention to the other view, MLP."""

    def __init__(self, dim: int, heads: int, *, mlp_ratio: float = 4, eps: float = NORM_EPS) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = SelfAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.norm_y = nn.LayerNorm(dim, eps=eps)
        self.cross_attn = CrossAttention(dim, heads)
        self.norm3 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(mlp_ratio * dim), dim)

    def forward(self, x: Tensor, other: Tensor, rope: Rope, rope_other: Rope) -> Tensor:
        """`x` [B, N, C] reads the other view's tokens [B, M, C] of the previous layer -> [B, N, C]."""
        x = x + self.attn(self.norm1(x), rope)
        x = x + self.cross_attn(self.norm2(x), self.norm_y(other), rope, rope_other)
        return x + self.mlp(self.norm3(x))
