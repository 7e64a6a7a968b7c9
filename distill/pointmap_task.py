"""Pretraining of a backbone on pairs with known points, as DUSt3R and MASt3R were (arXiv 2312.14132, 2406.09756).

Points alone hardly ask a small network how the camera moved: between neighbouring frames that moves them less than
they are wrong. So probes ask for more and are thrown away afterwards: the encoder's features of a place must be alike
in both views (matching by a softmax over all pairs, as in GMFlow, arXiv 2111.13680), and the last tokens must tell the
flow of the static scene and the camera's motion.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.geometry.cameras import project
from distill.geometry.rotations import matrix_from_sixd
from distill.geometry.transforms import invert, transform_points
from distill.losses import Term, rotation_error, translation_error
from distill.models.backbones import Pair
from distill.models.mast3r import PATCH, Mast3r

PointmapBatch = dict[str, Any]
"""images [B, 2, 3, H, W] in [0, 1]; points [B, 2, H, W, 3] metres, both views in camera a; valid [B, 2, H, W]
bool, False where there is no surface (sky); K [B, 3, 3] pixels, of both views; cam_a_from_cam_b [B, 4, 4] metres."""

CONFIDENCE_ALPHA: Final = 0.2
"""Weight of the reward for confidence (MASt3R's training)."""

CONFIDENCE_MAX: Final = 1e3
"""Larger confidences earn nothing more, so that no pixel rules the loss."""

FLOW_CELLS: Final = 4
"""Flow is asked for at FLOW_CELLS x FLOW_CELLS places of each token."""

SAME_DEPTH: Final = 0.05
"""A point is seen in the other view where that view's depth is the same to this share; also leaves out much that
moves by itself."""

MATCH_CHANNELS: Final = 64
"""Channels in which features are compared."""

WEIGHTS: Final = {"points": 1.0, "flow": 5.0, "match": 0.2, "rotation": 2.0, "translation": 1.0}
"""Of the losses; flow is in image widths, match in nats, rotation in radians, translation in metres."""


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


def static_flow(
    points: Tensor, valid: Tensor, K: Tensor, cam_a_from_cam_b: Tensor, *, view: int
) -> tuple[Tensor, Tensor]:
    """Where the static points of one view are in the other: [B, h, w, 2] in image widths, and where that is known.

    h and w count the places that `FLOW_CELLS` names, `PATCH / FLOW_CELLS` pixels apart.

    Args:
        points: [B, 2, H, W, 3] metres, both views in camera a.
        valid: [B, 2, H, W] bool.
        K: [B, 3, 3] pixels, of both views.
        cam_a_from_cam_b: [B, 4, 4] metres.
        view: 0 for the flow from a to b, 1 for that from b to a.
    """
    step = PATCH // FLOW_CELLS
    height, width = points.shape[2:4]
    into = [torch.eye(4, device=points.device).expand_as(cam_a_from_cam_b), invert(cam_a_from_cam_b)]
    own, other = into[view], into[1 - view]  # cameras from camera a
    here = points[:, view, step // 2 :: step, step // 2 :: step]
    known = valid[:, view, step // 2 :: step, step // 2 :: step]
    start = project(transform_points(own[:, None], here), K[:, None], min_depth=0.1)
    seen = transform_points(other[:, None], here)
    end = project(seen, K[:, None], min_depth=0.1)
    other_depth = transform_points(other[:, None], points[:, 1 - view])[..., 2] * valid[:, 1 - view]
    at = end / end.new_tensor([width, height]) * 2 - 1
    depth = F.grid_sample(other_depth[:, None], at.clamp(-2, 2), mode="nearest", align_corners=False)[:, 0]
    same = (depth - seen[..., 2]).abs() < SAME_DEPTH * seen[..., 2]
    return (end - start) / width, known & same & (seen[..., 2] > 0.1) & (at.abs() < 1).all(-1)


class MotionProbe(nn.Module):
    """Last tokens of a pair -> flow of both views, rotation and translation from b to a; and matches of features."""

    def __init__(self, feature_dim: int, token_dim: int) -> None:
        super().__init__()
        self.describe = nn.Linear(feature_dim, MATCH_CHANNELS)
        self.sharpness = nn.Parameter(torch.tensor(2.5))
        self.flow = nn.ModuleList(nn.Linear(token_dim, 2 * FLOW_CELLS**2) for _ in range(2))
        self.read = nn.ModuleList(nn.Sequential(nn.Linear(token_dim, token_dim), nn.GELU()) for _ in range(2))
        self.motion = nn.Sequential(nn.Linear(2 * token_dim, token_dim), nn.GELU(), nn.Linear(token_dim, 9))
        for last in (*self.flow, self.motion[-1]):  # begin with: nothing moves
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, tokens: list[Tensor], grid: tuple[int, int]) -> tuple[list[Tensor], Tensor, Tensor]:
        """Tokens [B, N, token_dim] of a and b -> flow [B, h, w, 2] of both (as `static_flow`), rotation [B, 3, 3],
        translation [B, 3]."""
        flow = [
            F.pixel_shuffle(layer(token).transpose(1, 2).unflatten(-1, grid), FLOW_CELLS).permute(0, 2, 3, 1)
            for layer, token in zip(self.flow, tokens, strict=True)
        ]
        pooled = torch.cat([layer(token).mean(1) for layer, token in zip(self.read, tokens, strict=True)], dim=-1)
        motion = self.motion(pooled)
        still = motion.new_tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0])
        return flow, matrix_from_sixd(still + motion[:, :6]), motion[:, 6:]

    def matches(self, a: Tensor, b: Tensor) -> Tensor:
        """Features [B, N, feature_dim] of both views -> [B, N, N] log odds that token i of a shows what j of b does."""
        a, b = (F.normalize(self.describe(view), dim=-1) for view in (a, b))
        return self.sharpness.exp() * a @ b.transpose(1, 2)


def match_divergence(logits: Tensor, flow: Tensor, known: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Cross entropy [B, N, cells] of the token in which each place of a token lies in the other view, and where known.

    Args:
        logits: [B, N, N] as `MotionProbe.matches`, rows of the view that the flow starts in.
        flow, known: as `static_flow` of that view.
        grid: tokens down and across.
    """
    down, across = (torch.arange(n * FLOW_CELLS, device=flow.device) + 0.5 for n in grid)
    y, x = torch.meshgrid(down / FLOW_CELLS, across / FLOW_CELLS, indexing="ij")
    column = (x + flow[..., 0] * grid[1]).floor().long()
    row = (y + flow[..., 1] * grid[1]).floor().long()  # flow is in widths
    known = known & (column >= 0) & (column < grid[1]) & (row >= 0) & (row < grid[0])
    target = torch.where(known, row * grid[1] + column, 0)

    def by_token(places: Tensor) -> Tensor:
        """[B, h, w] -> [B, N, cells]."""
        return F.pixel_unshuffle(places[:, None], FLOW_CELLS).flatten(2).transpose(1, 2)

    chosen = by_token(target.float()).long()
    return -logits.log_softmax(-1).gather(-1, chosen), by_token(known.float()) > 0


class PointmapTask(nn.Module):
    """A backbone in training: ordered pairs in, losses and metric errors out."""

    def __init__(self, backbone: Mast3r, dense: int) -> None:
        """`dense`: of how many pairs of a batch the points are asked for (they cost the most)."""
        super().__init__()
        self.backbone, self.dense = backbone, dense
        self.probe = MotionProbe(backbone.feature_dim, backbone.token_dim)

    def forward(self, batch: PointmapBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses to be summed, and detached numbers to be logged (units in their names)."""
        tokens = self.backbone.encode(batch["images"].flatten(0, 1))
        a, b = tokens[0::2], tokens[1::2]
        pair = self.backbone.decode(a[: self.dense], b[: self.dense])
        points, report = self._points(pair, {name: value[: self.dense] for name, value in batch.items()})
        last = [pair.tokens_a[-1], pair.tokens_b[-1]]
        if len(batch["images"]) > self.dense:
            others = self.backbone.decode(a[self.dense :], b[self.dense :], points=False)
            last = [torch.cat((last[0], others.tokens_a[-1])), torch.cat((last[1], others.tokens_b[-1]))]
        terms = {"points": points, **self._motion(last, (a.features, b.features), batch, a.grid)}
        report |= {
            "flow_percent": 100 * terms["flow"].mean().detach(),
            "match_nats": terms["match"].mean().detach(),
            "rotation_deg": terms["rotation"].mean().detach().rad2deg(),
            "translation_m": terms["translation"].mean().detach(),
        }
        return {name: WEIGHTS[name] * term.mean() for name, term in terms.items()}, report

    def _points(self, pair: Pair, batch: PointmapBatch) -> tuple[Term, dict[str, Tensor]]:
        """Confidence-weighted regression of points, and errors in metres."""
        target, valid = batch["points"], batch["valid"]
        points, confidence = stacked(pair)
        scale = scene_distance(target, valid)[:, None, None, None].clamp(min=1e-3)
        with torch.no_grad():
            error = (points - target).norm(dim=-1)
            relative = error / target.norm(dim=-1).clamp(min=0.1)
            report = {
                "points_a_m": Term(error[:, 0], valid[:, 0]).mean(),
                "points_b_m": Term(error[:, 1], valid[:, 1]).mean(),
                "relative_percent": 100 * Term(relative, valid).mean(),
                "confidence": Term(confidence, valid).mean(),
            }
        return Term(confident_regression(points, confidence, target, scale), valid), report

    def _motion(
        self, tokens: list[Tensor], features: tuple[Tensor, Tensor], batch: PointmapBatch, grid: tuple[int, int]
    ) -> dict[str, Term]:
        """Matches and flow of the static scene in both directions, and the camera's motion."""
        flow, rotation, translation = self.probe(tokens, grid)
        truth = batch["cam_a_from_cam_b"]
        labels = [static_flow(batch["points"], batch["valid"], batch["K"], truth, view=view) for view in range(2)]
        errors = [(found - wanted).norm(dim=-1) for found, (wanted, _) in zip(flow, labels, strict=True)]
        logits = self.probe.matches(*features)
        matched = [
            match_divergence(rows, *label, grid)
            for rows, label in zip((logits, logits.transpose(1, 2)), labels, strict=True)
        ]
        everywhere = torch.ones(len(truth), device=truth.device)
        return {
            "flow": Term(torch.stack(errors, dim=1), torch.stack([known for _, known in labels], dim=1)),
            "match": Term(*(torch.stack(part, dim=1) for part in zip(*matched, strict=True))),
            "rotation": Term(rotation_error(rotation, truth[:, :3, :3]), everywhere),
            "translation": Term(translation_error(translation, truth[:, :3, 3]), everywhere),
        }


def stacked(pair: Pair) -> tuple[Tensor, Tensor]:
    """Points [B, 2, H, W, 3] and confidence [B, 2, H, W] of both views (equal sizes)."""
    assert pair.points_a is not None and pair.points_b is not None
    assert pair.conf_a is not None and pair.conf_b is not None
    return torch.stack((pair.points_a, pair.points_b), dim=1), torch.stack((pair.conf_a, pair.conf_b), dim=1)
