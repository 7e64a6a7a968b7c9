"""What skinning cannot say: small changes of a person's Gaussians in time (JOintGS, "temporal offset")."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

SPACE_FREQUENCIES: Final = 4
TIME_FREQUENCIES: Final = 4
HIDDEN: Final = 32
OUTPUTS: Final = 9
"""Three of position, three of rotation, three of colour."""
POSITION_M: Final = 0.05
"""Position for an output of 1."""


def make_field(generator: torch.Generator) -> dict[str, Tensor]:
    """Weights of a field: two layers; the last is zero, so that it starts by changing nothing."""
    inputs = 6 * SPACE_FREQUENCIES + 2 * TIME_FREQUENCIES
    return {
        "hidden": torch.randn(inputs, HIDDEN, generator=generator) / math.sqrt(inputs),
        "bias": torch.zeros(HIDDEN),
        "last": torch.zeros(HIDDEN, OUTPUTS),
    }


def residuals(weights: dict[str, Tensor], canonical: Tensor, moment: float) -> tuple[Tensor, Tensor, Tensor]:
    """Changes of position (m, body axes), rotation (rotation vector) and colour, [N, 3] each.

    Args:
        weights: of `make_field`. canonical: [N, 3] centres in the rest pose, metres. moment: 0 at the clip's first
            frame, 1 at its last.
    """
    place = _waves(canonical, SPACE_FREQUENCIES)
    time = _waves(canonical.new_tensor([moment - 0.5]), TIME_FREQUENCIES).expand(len(canonical), -1)
    hidden = torch.nn.functional.gelu(torch.cat((place, time), -1) @ weights["hidden"] + weights["bias"])
    position, rotation, colour = (hidden @ weights["last"]).split(3, -1)
    return POSITION_M * position, rotation, colour


def _waves(values: Tensor, count: int) -> Tensor:
    """[..., D] -> [..., 2 D count] sines and cosines, one octave apart (Mildenhall et al. 2020, eq. 4)."""
    angle = values[..., None] * math.pi * 2.0 ** torch.arange(count, device=values.device, dtype=values.dtype)
    return torch.cat((angle.sin(), angle.cos()), -1).flatten(-2)
