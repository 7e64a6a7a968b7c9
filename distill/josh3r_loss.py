"""JOSH3R's training loss, term by term and unreduced (arXiv 2501.02158, supplement; weights are all one).

The published code holds the loss but no trainer and no data. Every function here is one of its terms; `docs/josh3r.md`
lists them with the readings that the published code leaves open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from distill.errors import FootfallError
from distill.geometry.conventions import SMPL_JOINTS
from distill.geometry.rotations import matrix_from_sixd
from distill.models.josh3r import Josh3rOutput

RELATIVE_FLOOR_M: Final = 1e-3
"""Added to the denominator of relative errors, metres."""
_RIGHT: Final = [SMPL_JOINTS.index(name) for name in ("right_foot", "right_ankle")]
_LEFT: Final = [SMPL_JOINTS.index(name) for name in ("left_foot", "left_ankle")]
FEET: Final = [*_LEFT[:1], *_RIGHT[:1], *_LEFT[1:], *_RIGHT[1:]]
"""Joints that touch the ground: left foot, right foot, left ankle, right ankle."""

Joints = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(betas [B, n], body_rot [B, 23, 3, 3], rotation [B, 3, 3], transl [B, 3]) -> joints [B, 24, 3], with the body model's
own `transl`: the body turns about its pelvis, which stays where the model's file has it at rest, then moves by it."""


@dataclass(kw_only=True)
class Josh3rLabels:
    """What JOSH3R is trained towards. Both frames are in camera a, like MASt3R's points."""

    rel_trans: Tensor
    """[B, 3] metres: R_a^T (transl_b - transl_a)."""
    rel_rot6d: Tensor
    """[B, 6] first two rows of R_a^T R_b, both orientations in one frame."""
    trans: Tensor
    """[B, 2, 3] `transl` in camera a, metres, of frames a and b."""
    rot6d: Tensor
    """[B, 2, 6] orientation in camera a."""
    betas: Tensor
    """[B, n]."""
    body_rot: Tensor
    """[B, 2, 23, 3, 3] joint rotations relative to the parent."""
    points: Tensor
    """[B, 2, H*W, 3] points of both views' pixels in camera a, metres."""
    points_mask: Tensor
    """[B, 2, H*W] bool: where they are known."""


def relative_translation_error(predicted: Tensor, target: Tensor) -> Tensor:
    """|dt - dt*| [B] metres of [B, 3]."""
    return (predicted - target).norm(dim=-1)


def relative_rotation_error(predicted: Tensor, target: Tensor) -> Tensor:
    """(dR - dR*)^2 [B, 6] of the raw, unnormalised 6D."""
    return (predicted - target).square()


def camera_translation_error(predicted: Tensor, target: Tensor) -> Tensor:
    """|t - t*| / (|t*| + 1 mm) [B] of [B, 3]."""
    return (predicted - target).norm(dim=-1) / (target.norm(dim=-1) + RELATIVE_FLOOR_M)


def contact_scale_error(joints: Tensor, points: Tensor, scale: Tensor) -> Tensor:
    """Distance of the feet to the nearest scaled point of the scene, metres.

    The points themselves are not moved by this term, only their scale and the person; there are no contact labels:
    every frame counts as one in which all feet are down.

    Args:
        joints: [B, 24, 3] in camera a.
        points: [B, N, 3] unscaled.
        scale: [B, 1].

    Returns:
        [B, 4], in the order of `FEET`.
    """
    scene = scale[:, None] * points.detach()
    feet = joints[:, FEET]
    with torch.no_grad():
        nearest = torch.cdist(feet, scene).argmin(-1)
    return (feet - scene.gather(1, nearest[..., None].expand(-1, -1, 3))).norm(dim=-1)


def contact_static_error(joints_a: Tensor, joints_b: Tensor) -> Tensor:
    """How far the foot that moved less has moved, for feet and for ankles: [B, 2] metres of joints [B, 24, 3]."""
    moved = (joints_b - joints_a).norm(dim=-1)
    return torch.minimum(moved[:, _RIGHT], moved[:, _LEFT])


def depth_error(points: Tensor, scale: Tensor, target: Tensor) -> Tensor:
    """|s X - X*| / (|X*| + 1 mm) [B, N] of points [B, N, 3] and scale [B, 1]."""
    return (scale[:, None] * points - target).norm(dim=-1) / (target.norm(dim=-1) + RELATIVE_FLOOR_M)


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Mean of values [B, ...] with weights [B], zero if nothing has a weight."""
    values = values.flatten(1).mean(1) if values.ndim > 1 else values
    return (values * weight).sum() / weight.sum().clamp(min=1e-12)


def josh3r_losses(
    output: Josh3rOutput, labels: Josh3rLabels, joints: Joints, weight: Tensor | None = None
) -> dict[str, Tensor]:
    """The seven terms by name, reduced as published; their plain sum is the loss.

    Args:
        output: with points.
        labels: the same B pairs.
        joints: the body.
        weight: [B] trust in each pair; None trusts all alike, as published.

    Raises:
        FootfallError: an answer without points.
    """
    if output.points_a is None or output.points_b is None:
        raise FootfallError("JOSH3R's loss", got="an answer without points", expected="points", do="pair(points=True)")
    weight = torch.ones_like(output.scale_a[:, 0]) if weight is None else weight
    camera = [_posed(joints, labels, v, matrix_from_sixd(labels.rot6d[:, v]), t) for v, t in enumerate(_trans(output))]
    eye = torch.eye(3).to(output.rel_trans).expand(len(weight), 3, 3)
    here = _posed(joints, labels, 0, eye, torch.zeros_like(output.rel_trans))
    moved = _posed(joints, labels, 1, matrix_from_sixd(output.rel_rot6d), output.rel_trans)
    scale = [
        weighted_mean(contact_scale_error(camera[0], output.points_a, output.scale_a), weight),
        weighted_mean(contact_scale_error(camera[1], output.points_b, output.scale_b), weight),
    ]
    depth = torch.stack(
        (
            depth_error(output.points_a, output.scale_a, labels.points[:, 0]),
            depth_error(output.points_b, output.scale_b, labels.points[:, 1]),
        ),
        dim=1,
    )
    pixels = labels.points_mask * weight[:, None, None]
    return {
        "rel_trans": weighted_mean(relative_translation_error(output.rel_trans, labels.rel_trans), weight),
        "rel_rot": weighted_mean(relative_rotation_error(output.rel_rot6d, labels.rel_rot6d), weight),
        "trans_a": weighted_mean(camera_translation_error(output.trans_a, labels.trans[:, 0]), weight),
        "trans_b": weighted_mean(camera_translation_error(output.trans_b, labels.trans[:, 1]), weight),
        "contact_scale": scale[0] + scale[1],
        "contact_static": weighted_mean(contact_static_error(here, moved), weight),
        "depth": (depth * pixels).sum() / pixels.sum().clamp(min=1e-12),
    }


def _trans(output: Josh3rOutput) -> tuple[Tensor, Tensor]:
    return output.trans_a, output.trans_b


def _posed(joints: Joints, labels: Josh3rLabels, view: int, rotation: Tensor, transl: Tensor) -> Tensor:
    """Joints [B, 24, 3] of one frame's labelled pose, placed."""
    return joints(labels.betas, labels.body_rot[:, view], rotation, transl)
