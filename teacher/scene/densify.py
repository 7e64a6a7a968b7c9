"""More Gaussians where the picture still pulls at those that are there (Kerbl et al. 2023, section 5.2).

A plain split that works on any device. gsplat's strategies are not used: they read what its rasterisation keeps
aside, and drive torch's own optimisers; ours moves rows and saves plain tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill.geometry.rotations import matrix_from_quat
from teacher.scene.adam import RowAdam

SHRINK = 1.6
"""Scales of the two halves are smaller by this (3DGS)."""
FAINT_LOGIT = -5.3
"""Opacity 0.005: fainter ones are dropped (3DGS)."""


@torch.no_grad()
def densify(unknowns: dict[str, Tensor], adam: RowAdam, pull: Tensor, share: float) -> int:
    """Split the scene's Gaussians that are pulled at most, along their longest axis; drop faint ones.

    Args:
        unknowns: of `world`; the scene's tensors are replaced. adam: takes the new tensors over.
        pull: [N] mean length of the gradient of each centre. share: of all, that are split.

    Returns:
        How many there are now.
    """
    names = [name for name in unknowns if name.startswith("scene/")]
    old = {name: unknowns[name].detach() for name in names}
    bright = old["scene/logits"] > FAINT_LOGIT
    chosen = torch.zeros_like(bright)
    chosen[pull.topk(int(share * len(pull))).indices] = True
    chosen &= bright
    kept = torch.nonzero(bright & ~chosen).flatten()
    halves = torch.nonzero(chosen).flatten()
    source = torch.cat((kept, halves, halves))
    new = {name: value[source].clone() for name, value in old.items()}
    scales = old["scene/log_scales"][halves].exp()
    longest = torch.nn.functional.one_hot(scales.argmax(-1), 3).to(scales)
    turn = matrix_from_quat(old["scene/quats"][halves])
    step = (turn @ (longest * scales)[..., None])[..., 0]
    first, second = slice(len(kept), len(kept) + len(halves)), slice(len(kept) + len(halves), None)
    new["scene/means"][first] += step
    new["scene/means"][second] -= step
    new["scene/log_scales"][len(kept) :] -= torch.log(torch.tensor(SHRINK))
    fresh = source.clone()
    fresh[len(kept) :] = -1
    for name in names:
        unknowns[name] = new[name].requires_grad_()
        adam.replace(name, unknowns[name], fresh)
    return len(source)
