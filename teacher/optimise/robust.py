"""The robust function of every term."""

from __future__ import annotations

import torch
from torch import Tensor


def rho(distance: Tensor, gamma: float) -> Tensor:
    """rho_gamma(d) = (d + o)^gamma - o^gamma with o = (1 / gamma)^(1 / (gamma - 1)), so that rho'(0) = 1.

    The function of MASt3R's sparse global alignment and of JOSH's released code: gamma = 1.1 is nearly an
    L1 norm, gamma = 0.4 lets outliers go.

    Args:
        distance: [...] not negative.
        gamma: positive and not 1.
    """
    offset = (1.0 / gamma) ** (1.0 / (gamma - 1.0))
    return (distance + offset) ** gamma - offset**gamma


def length(vectors: Tensor) -> Tensor:
    """Euclidean length of residuals [..., D] -> [...], with gradient 0 instead of NaN at 0."""
    squared = vectors.square().sum(-1)
    positive = squared > 0
    return torch.where(positive, torch.where(positive, squared, 1.0).sqrt(), 0.0)


def rho_slope(distance: Tensor, gamma: float) -> Tensor:
    """rho_gamma'(d) = gamma (d + o)^(gamma - 1)."""
    offset = (1.0 / gamma) ** (1.0 / (gamma - 1.0))
    return gamma * (distance + offset) ** (gamma - 1)
