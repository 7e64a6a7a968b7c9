"""LPIPS as a loss: where the user's weights are, and a word where they are not."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.metrics.lpips import LEAST_SIDE, load_lpips
from teacher.scene.objective import Perceptual


def open_perceptual(folder: str, weight: float, device: torch.device) -> tuple[Perceptual | None, str]:
    """The loss, or None; and what to write into the record.

    Args:
        folder: with the weights (docs/metrics.md); "": none are given. weight: of the term.

    Raises:
        FootfallError: a folder is given, but holds no such weights.
    """
    if weight == 0:
        return None, "switched off (weight 0)"
    if not folder:
        return None, "left out: no weights given (gaussians.lpips_folder)"
    network = load_lpips(Path(folder))

    def distance(image: Tensor, target: Tensor) -> Tensor:
        """Distance of [H, W, 3] in [0, 1]; small pictures are made large enough for the network."""
        pair = torch.stack((image, target)).permute(0, 3, 1, 2)
        short = min(pair.shape[2:])
        if short < LEAST_SIDE:
            pair = F.interpolate(pair, scale_factor=LEAST_SIDE / short + 0.01, mode="bilinear")
        return network.loss(pair[:1].to(device), pair[1:].to(device))

    return distance, "used: AlexNet"
