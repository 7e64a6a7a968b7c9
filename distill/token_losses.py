"""Losses of what is read from the tokens themselves: who is there, who is who, and which tokens show the same place.

Unreduced; `losses.Loss` weighs and masks them.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.geometry.cameras import project
from distill.geometry.transforms import transform_points
from distill.losses import MIN_DEPTH_M, Term
from distill.models.detection_head import Candidates
from distill.models.rays import token_rays

FOCUS: Final = 2.0
"""Exponent of the focal loss (arXiv 1708.02002, eq. 5)."""
POSITIVE_SHARE: Final = 0.25
"""Weight of tokens that are a person's centre; the others weigh 1 - POSITIVE_SHARE (the same, section 3.2)."""
TEMPERATURE: Final = 0.1
"""Of the softmax over people (InfoNCE, arXiv 1807.03748)."""
SAME_DEPTH: Final = 0.1
"""A place is seen in the other frame where the depth there is the same to this share; tokens are coarse."""


def centre_tokens(boxes: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Tokens [B, P] in which the centres of boxes [B, P, 4] lie, row-major, and whether they lie in the image."""
    (down, across), (width, height) = grid, size
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    column, row = (centre[..., 0] * across / width).floor().long(), (centre[..., 1] * down / height).floor().long()
    inside = (column >= 0) & (column < across) & (row >= 0) & (row < down)
    return torch.where(inside, row * across + column, 0), inside


def detection_terms(candidates: Candidates, boxes: Tensor, valid: Tensor, size: tuple[int, int]) -> dict[str, Term]:
    """How well people are found.

    Args:
        candidates: of B frames, h x w tokens.
        boxes: [B, P, 4] pixels of the network's image of (width, height) `size`, the nearest people first.
        valid: [B, P] bool.

    Returns:
        `detection`: focal loss per token [B, h*w] in nats per frame; tokens on a person beside their centre token do
        not count. `detection_box`: 1 - generalised overlap (GIoU, arXiv 1902.09630) [B, h*w] of the candidates on a
        person, beside the centre too: if one of them is believed, it must be seen to be the same person.
    """
    batch, down, across = candidates.logit.shape
    count = down * across
    index, inside = centre_tokens(boxes, (down, across), size)
    there = valid & inside
    rows = torch.arange(batch, device=boxes.device)[:, None].expand_as(index)
    target = torch.zeros(batch, count, device=boxes.device)
    target[rows[there], index[there]] = 1.0
    logit = candidates.logit.flatten(1)
    unlikely = torch.where(target > 0, (-logit).sigmoid(), logit.sigmoid())  # probability of the wrong answer
    share = torch.where(target > 0, POSITIVE_SHARE, 1 - POSITIVE_SHARE)
    nats = F.binary_cross_entropy_with_logits(logit, target, reduction="none")
    focal = share * unlikely**FOCUS * nats * count
    on_person = _inner_tokens(boxes, (down, across), size) & valid[..., None]  # [B, P, h*w]
    on_person |= F.one_hot(index, count).bool() & there[..., None]
    owner = on_person.int().argmax(1)  # the nearest, who hides the others
    wanted = boxes.gather(1, owner[..., None].expand(-1, -1, 4))
    box = 1 - generalised_overlap(candidates.boxes.flatten(1, 2), wanted)
    taken = on_person.any(1)
    return {"detection": Term(focal, ~taken | (target > 0)), "detection_box": Term(box, taken)}


def _inner_tokens(boxes: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """[B, P, h*w] bool: the token's centre lies in the inner half of the box."""
    (down, across), (width, height) = grid, size
    y, x = torch.meshgrid(
        (torch.arange(down, device=boxes.device) + 0.5) * (height / down),
        (torch.arange(across, device=boxes.device) + 0.5) * (width / across),
        indexing="ij",
    )
    places = torch.stack((x, y), dim=-1).flatten(0, 1)
    centre, quarter = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) / 4
    return ((places - centre[..., None, :]).abs() <= quarter[..., None, :]).all(-1)


def generalised_overlap(a: Tensor, b: Tensor) -> Tensor:
    """GIoU of boxes [..., 4] in [-1, 1]: overlap minus the empty share of the smallest box around both."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    area_a, area_b = ((box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1) for box in (a, b))
    union = (area_a + area_b - shared).clamp(min=1e-6)
    around = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1).clamp(min=1e-6)
    return shared / union - (around - union) / around


def identity_term(a: Tensor, b: Tensor, both: Tensor, seen_b: Tensor, clip: Tensor) -> Term:
    """Everybody of frame a should be most like themselves in frame b, among all people of the batch.

    Args:
        a: [B, P, D] unit vectors in frame a; b: in frame b.
        both: [B, P] bool, seen in both frames.
        seen_b: [B, P] bool, seen in frame b.
        clip: [B] number of the clip; people of other windows of the same clip are not compared, they may be the same.

    Returns:
        Cross entropy [B, P] in nats.
    """
    people = a.shape[1]
    window = torch.arange(len(a), device=a.device).repeat_interleave(people)
    clip = clip.repeat_interleave(people)
    logits = a.flatten(0, 1) @ b.flatten(0, 1).T / TEMPERATURE
    comparable = seen_b.flatten() & ((clip[:, None] != clip) | (window[:, None] == window))
    own = torch.eye(len(logits), dtype=torch.bool, device=a.device)
    logits = logits.masked_fill(~(comparable | own), -1e4)
    return Term(-logits.log_softmax(-1).diagonal().unflatten(0, both.shape), both)


def match_term(
    odds: Tensor, depth_a: Tensor, depth_b: Tensor, K: tuple[Tensor, Tensor], cam_b_from_cam_a: Tensor,
    size: tuple[int, int],
) -> Term:  # fmt: skip
    """Cross entropy [B, N] in nats of the token of b that shows what stands still in the middle of a token of a.

    Args:
        odds: [B, N, N] log odds, rows of view a.
        depth_a, depth_b: [B, h, w] metres of the background in the middle of the tokens, 0 unknown.
        K: [B, 3, 3] of each view, pixels of images of (width, height) `size`.
        cam_b_from_cam_a: [B, 4, 4] metres.
    """
    down, across = depth_a.shape[1:]
    rays = token_rays(K[0], (down, across), size)
    ahead = torch.cat((rays, torch.ones_like(rays[..., :1])), dim=-1)
    seen = transform_points(cam_b_from_cam_a, ahead * depth_a.flatten(1)[..., None])
    pixels = project(seen, K[1], min_depth=MIN_DEPTH_M)
    index, inside = centre_tokens(pixels.repeat(1, 1, 2), (down, across), size)
    there = depth_b.flatten(1).gather(1, index)
    same = (there - seen[..., 2]).abs() < SAME_DEPTH * seen[..., 2]
    known = inside & same & (depth_a.flatten(1) > 0) & (there > 0) & (seen[..., 2] > MIN_DEPTH_M)
    return Term(-odds.log_softmax(-1).gather(-1, index[..., None])[..., 0], known)
