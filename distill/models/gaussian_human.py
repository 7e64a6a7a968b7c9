"""People's Gaussians: a few on each anchor, a vertex of the body, in the rest pose, from what frames said of it.

What frames say is averaged (`Evidence`), so an avatar improves with every frame and costs the same memory. An anchor
nobody has seen yet is filled in from its mirror image, from its part of the body, and from the rest of the person:

    c_0 = (w c + 0.1 w_m c_m + 0.01 sum_j W_j w_j c_j + 0.001 c_all) / (sum of the same weights)

with w how well a thing was seen, m the mirror vertex, j the joints that move the anchor. A small network then moves
every Gaussian from where it starts. Its last layer starts at zero: a fresh head wears the mean of what was seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.avatar import Avatar, frames_along, make_avatar, quat_product
from distill.body import BodyModel
from distill.body.surface import vertex_normals
from distill.geometry.rotations import quat_from_matrix
from distill.models.gaussian_config import GaussianConfig
from distill.models.gaussian_visibility import Sight
from distill.models.precision import full_precision

CHANNELS: Final = 14
"""Offset 3, scale 3, quaternion 4, opacity 1, colour 3."""
TIGHT_REACH: Final = 0.03
"""Metres that the first Gaussian of an anchor can move from it along each axis."""
FREE_REACH: Final = 0.15
"""Metres that the others can move."""
TIGHT_OPACITY: Final = 2.2
"""Logit of the first one's opacity at the start: a closed skin."""
FREE_OPACITY: Final = -3.0
"""Logit of the others': hair and clothes are grown, not cut away."""
FREQUENCIES: Final = 6
"""Of the encoding of places in the rest pose, 1 to 32 per metre."""
FILL: Final = (1.0, 0.1, 0.01, 0.001)
"""How much the anchor itself, its mirror image, its part of the body and the whole person count."""
_PERSON: Final = 32
"""Channels into which the backbone's features are lifted."""


@dataclass(kw_only=True)
class Template:
    """Where Gaussians start on one body model; the same for everybody."""

    start: Avatar
    """One Gaussian per anchor, mean shape."""
    frames: Tensor
    """[A, 3, 3] rest pose: third column the normal."""
    places: Tensor
    """[A, 3] anchors in the rest pose, metres."""
    mirror: Tensor
    """[A] the anchor on the other side."""
    edges: Tensor
    """[E, 2] neighbours among the A * K Gaussians of an avatar: k of an anchor and k of the one beside it."""

    @property
    def anchors(self) -> Tensor:
        """[A] vertices."""
        return self.start.anchors

    def to(self, device: torch.device) -> Template:
        """On another device."""
        return Template(
            start=self.start.to(str(device)), frames=self.frames.to(device), places=self.places.to(device),
            mirror=self.mirror.to(device), edges=self.edges.to(device),
        )  # fmt: skip


def make_template(body: BodyModel, config: GaussianConfig) -> Template:
    """Anchors of a body, evenly spread.

    Raises:
        ValueError: more anchors than vertices.
    """
    wanted = config.anchors or None
    start = make_avatar(body, body.v_template.new_zeros(body.num_betas), anchors=wanted)
    places = body.v_template[start.anchors]
    frames = frames_along(vertex_normals(body.v_template, body.faces)[start.anchors])
    mirror = torch.cdist(places * places.new_tensor([-1.0, 1.0, 1.0]), places).argmin(1)
    copies = torch.arange(config.per_anchor)
    edges = (start.edges(body).cpu()[:, None] * config.per_anchor + copies[None, :, None]).flatten(0, 1)
    return Template(start=start, frames=frames, places=places, mirror=mirror, edges=edges.to(places.device))


@dataclass(kw_only=True)
class Evidence:
    """What frames have said of the A anchors of one person: weighted means."""

    weight: Tensor
    """[A] sum of the weights."""
    features: Tensor
    """[A, C]."""
    colors: Tensor
    """[A, 3]."""
    frames: float
    """Frames in which the person was looked at."""

    @staticmethod
    def none(anchors: int, channels: int, device: torch.device | None = None) -> Evidence:
        """Before the first frame."""
        return Evidence(
            weight=torch.zeros(anchors, device=device), features=torch.zeros(anchors, channels, device=device),
            colors=torch.zeros(anchors, 3, device=device), frames=0.0,
        )  # fmt: skip

    def with_sight(self, sight: Sight, person: int) -> Evidence:
        """With one more frame, of which the person is number `person`."""
        new = sight.weight[person]
        total = self.weight + new
        share = (new / total.clamp(min=1e-9))[:, None]
        return Evidence(
            weight=total, frames=self.frames + 1,
            features=torch.lerp(self.features, sight.features[person].to(self.features.dtype), share),
            colors=torch.lerp(self.colors, sight.colors[person], share),
        )  # fmt: skip


def filled_colors(evidence: Evidence, template: Template) -> Tensor:
    """Colours [A, 3] of all anchors, the unseen ones filled in (the equation of this module)."""
    weight, colors = evidence.weight[:, None], evidence.colors
    skinning = template.start.skinning
    by_part = skinning.T @ torch.cat((weight * colors, weight), dim=1)  # [24, 4]: sums over each joint's anchors
    part = skinning @ by_part
    whole = torch.cat((weight * colors, weight), dim=1).sum(0, keepdim=True)
    whole = torch.cat((whole[:, :3] + 0.5e-6, whole[:, 3:] + 1e-6), dim=1)  # grey where nothing was ever seen
    parts = (
        torch.cat((weight * colors, weight), dim=1),
        torch.cat((weight * colors, weight), dim=1)[template.mirror],
        part / part[:, 3:].clamp(min=1e-6) * (part[:, 3:] > 1e-6),
        whole / whole[:, 3:],
    )
    total = torch.stack([share * one.expand(len(colors), 4) for share, one in zip(FILL, parts, strict=True)]).sum(0)
    return total[:, :3] / total[:, 3:]


class HumanHead(nn.Module):
    """Evidence of one person -> an avatar."""

    def __init__(self, config: GaussianConfig, feature_channels: int) -> None:
        """`feature_channels` of the backbone's encoder."""
        super().__init__()
        self.config, self.feature_channels = config, feature_channels
        self.lift = nn.Sequential(nn.LayerNorm(feature_channels), nn.Linear(feature_channels, _PERSON), nn.GELU())
        places = 3 + 6 * FREQUENCIES
        channels = 2 * _PERSON + places + 3 + 3 + 3 + 3
        width = config.human_width
        self.hidden = nn.Sequential(nn.Linear(channels, width), nn.GELU(), nn.Linear(width, width), nn.GELU())
        self.out = nn.Linear(width, CHANNELS * config.per_anchor)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, evidence: Evidence, template: Template, betas: Tensor) -> Avatar:
        """The avatar of a person with shape betas [B]; differentiable in the head's weights."""
        base = filled_colors(evidence, template)
        raw = self.out(self.hidden(self._inputs(evidence, template, base)))
        with full_precision(base.device):
            return self._dress(raw.float().unflatten(-1, (self.config.per_anchor, CHANNELS)), template, base, betas)

    def _inputs(self, evidence: Evidence, template: Template, base: Tensor) -> Tensor:
        """[A, channels]: features of the anchor and of the person, where it is, its colours, how well it was seen."""
        seen = (evidence.weight / (evidence.weight + 1))[:, None]
        lifted = self.lift(evidence.features) * seen
        person = lifted.sum(0) / seen.sum().clamp(min=1e-6)
        angles = template.places[..., None] * (2.0 ** torch.arange(FREQUENCIES, device=base.device))
        places = torch.cat((template.places, angles.sin().flatten(1), angles.cos().flatten(1)), dim=1)
        age = base.new_full((len(base), 1), math.log1p(evidence.frames))
        return torch.cat((
            lifted, person.expand_as(lifted), places, template.frames[..., 2], base, evidence.colors * seen,
            seen, seen[template.mirror], age,
        ), dim=1)  # fmt: skip

    def _dress(self, raw: Tensor, template: Template, base: Tensor, betas: Tensor) -> Avatar:
        """What the network says [A, K, 14], relative to the frame along the normal -> Gaussians in the rest pose."""
        count, copies = raw.shape[:2]
        offset, scale, turn, opacity, color = raw.split((3, 3, 4, 1, 3), dim=-1)
        tight = (torch.arange(copies, device=raw.device) == 0)[:, None]
        reach = torch.where(tight, TIGHT_REACH, FREE_REACH)
        start = torch.where(tight, TIGHT_OPACITY, FREE_OPACITY)
        identity = turn.new_tensor([1.0, 0.0, 0.0, 0.0])
        frames = quat_from_matrix(template.frames)[:, None].expand(count, copies, 4)
        return Avatar(
            body_model=template.start.body_model,
            betas=betas,
            anchors=template.anchors.repeat_interleave(copies),
            skinning=template.start.skinning.repeat_interleave(copies, 0),
            offsets=torch.einsum("aij,akj->aki", template.frames, reach * offset.tanh()).flatten(0, 1),
            quats=quat_product(frames, F.normalize(turn + identity, dim=-1)).flatten(0, 1),
            scales=(template.start.scales[:, None] * scale.clamp(-3, 2).exp()).flatten(0, 1),
            opacities=(opacity + start)[..., 0].sigmoid().flatten(),
            colors=(torch.logit(base.clamp(0.02, 0.98))[:, None] + color).sigmoid().flatten(0, 1),
        )
