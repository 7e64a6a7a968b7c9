"""The robust function of every term."""

from __future__ import annotations

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


def smoothed(vectors: Tensor, width: float) -> Tensor:
    """Length of residuals [..., D] -> [...], round at 0: sqrt(|r|^2 + width^2)."""
    return (vectors.square().sum(-1) + width**2).sqrt()


def rho_slope(distance: Tensor, gamma: float) -> Tensor:
    """rho_gamma'(d) = gamma (d + o)^(gamma - 1)."""
    offset = (1.0 / gamma) ** (1.0 / (gamma - 1.0))
    return gamma * (distance + offset) ** (gamma - 1)
