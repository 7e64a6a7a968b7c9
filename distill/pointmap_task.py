"""Pretraining of a backbone on pairs with known points, as DUSt3R and MASt3R were (arXiv 2312.14132, 2406.09756)."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn

from distill.losses import Term
from distill.models.backbones import Pair
from distill.models.mast3r import Mast3r

PointmapBatch = dict[str, Any]
"""images [B, 2, 3, H, W] in [0, 1]; points [B, 2, H, W, 3] metres, both views in camera a; valid [B, 2, H, W]
bool, False where there is no surface (sky)."""

CONFIDENCE_ALPHA: Final = 0.2
"""Weight of the reward for confidence (MASt3R's training)."""

CONFIDENCE_MAX: Final = 1e3
"""Larger confidences earn nothing more, so that no pixel rules the loss."""


def confident_regression(predicted: Tensor, confidence: Tensor, target: Tensor, scale: Tensor) -> Tensor:
    """C |X - X*| / scale - alpha log C per pixel (DUSt3R, eq. 4); 0 for a perfect, unsure prediction (C = 1).

    The prediction is metric: it is compared as it is. `scale` [...] only balances near and far scenes.

    Args:
        predicted: [..., 3] metres.
        confidence: [...], 1 and above.
        target: [..., 3] metres.
        scale: [...] metres, of the labels.
    """
    error = (predicted - target).norm(dim=-1) / scale
    confidence = confidence.clamp(max=CONFIDENCE_MAX)
    return confidence * error - CONFIDENCE_ALPHA * confidence.log()


def scene_distance(points: Tensor, valid: Tensor) -> Tensor:
    """Mean distance [B] from camera a of the labelled points [B, 2, H, W, 3] of both views, metres."""
    distance = torch.where(valid, points.norm(dim=-1), 0.0)
    return distance.sum((1, 2, 3)) / valid.sum((1, 2, 3)).clamp(min=1)


class PointmapTask(nn.Module):
    """A backbone in training: ordered pairs in, one loss and metric errors out."""

    def __init__(self, backbone: Mast3r) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, batch: PointmapBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses to be summed, and detached numbers to be logged (units in their names)."""
        images, target, valid = batch["images"], batch["points"], batch["valid"]
        tokens = self.backbone.encode(images.flatten(0, 1))
        points, confidence = stacked(self.backbone.decode(tokens[0::2], tokens[1::2]))
        scale = scene_distance(target, valid)[:, None, None, None].clamp(min=1e-3)
        values = confident_regression(points, confidence, target, scale)
        losses = {"points": Term(values, valid).mean()}
        with torch.no_grad():
            error = (points - target).norm(dim=-1)
            relative = error / target.norm(dim=-1).clamp(min=0.1)
            report = {
                "points_a_m": Term(error[:, 0], valid[:, 0]).mean(),
                "points_b_m": Term(error[:, 1], valid[:, 1]).mean(),
                "relative_percent": 100 * Term(relative, valid).mean(),
                "confidence": Term(confidence, valid).mean(),
            }
        return losses, report


def stacked(pair: Pair) -> tuple[Tensor, Tensor]:
    """Points [B, 2, H, W, 3] and confidence [B, 2, H, W] of both views (equal sizes)."""
    assert pair.points_a is not None and pair.points_b is not None
    assert pair.conf_a is not None and pair.conf_b is not None
    return torch.stack((pair.points_a, pair.points_b), dim=1), torch.stack((pair.conf_a, pair.conf_b), dim=1)
