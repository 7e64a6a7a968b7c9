"""The sparse global alignment: cameras, scales, focal lengths and depth anchors from matches, in two stages of Adam.

Each image hangs on its parent in a tree. Its pose parameter is not the camera's centre but a *pivot* on the optical
axis at the image's median depth, so that turning a camera does not throw the scene away. Stage 1 aligns matched points
in 3D with poses and scales free; stage 2 their projections, with focal length, principal point and depth anchors free
as far as asked for. Formulas: docs/neural.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import roma
import torch
from torch import Tensor

from teacher.initialisers.mast3r_sfm.canonical import BLOCK, Canonical, anchor_grid
from teacher.initialisers.mast3r_sfm.matching import Matches
from teacher.initialisers.mast3r_sfm.tree import Tree
from teacher.optimise.robust import rho

FOCAL_RANGE = (0.25, 10.0)
"""Of the image's diagonal."""
NEAR = 1e-3
"""Least depth of a projected point."""
PIXELS = (-1000.0, 2000.0)
"""Range that projections are clipped to."""
FALLBACK = 0.01
"""Weight of the pointmaps of pairs without a confident match."""


@dataclass(kw_only=True)
class AlignConfig:
    """The two stages; the defaults are those of MASt3R-SfM."""

    rates: tuple[float, float] = (0.07, 0.01)
    """Adam's step at the start of each stage."""
    steps: tuple[int, int] = (300, 300)
    """Steps of each stage."""
    gammas: tuple[float, float] = (1.5, 0.5)
    """Of the robust function of each stage."""
    free_focal: bool = True
    """Whether stage 2 moves focal lengths."""
    free_centre: bool = True
    """Whether stage 2 moves principal points."""
    free_depth: bool = True
    """Whether stage 2 moves depth anchors."""
    shared_focal: bool = False
    """One focal length for all images, as one parameter with its own step."""
    least_match: float = 5.0
    """A pair whose best match is less confident than this uses its pointmaps instead."""


@dataclass(kw_only=True)
class Pair:
    """Two images and what the network said about them."""

    first: int
    """Index of an image."""
    second: int
    """Index of another one."""
    matches: Matches
    """Pixels that find each other."""
    second_in_first: tuple[Tensor, Tensor] | None = None
    """Pointmap [H, W, 3] of the second image in the first one's camera, and its confidence; used without matches."""


@dataclass(kw_only=True)
class Aligned:
    """The reconstruction after a stage."""

    K: Tensor
    """[N, 3, 3] pixels."""
    world_from_cam: Tensor
    """[N, 4, 4]."""
    anchors: list[Tensor]
    """Depths of each image's anchors, flat."""
    points: list[Tensor]
    """World points of each image's matched pixels, in the order of its pairs."""


@dataclass
class Alignment:
    """A reconstruction and how it was reached."""

    coarse: Aligned
    """After stage 1."""
    fine: Aligned
    """After stage 2."""
    losses: list[float] = field(default_factory=list)
    """Of every step."""


class _Scene:
    """All unknowns, and the world they describe."""

    def __init__(self, views: Sequence[Canonical], tree: Tree, config: AlignConfig) -> None:
        like, count = views[0].points, len(views)
        self.tree, self.config = tree, config
        self.size = [view.points.shape[1::-1] for view in views]  # width, height
        self.base_focal = torch.tensor([view.focal for view in views]).to(like)
        self.core = [view.anchors.flatten() for view in views]
        self.median = torch.stack([core.median() for core in self.core])
        self.quaternion = [torch.tensor([0.0, 0, 0, 1]).to(like).requires_grad_() for _ in views]
        self.shift = [torch.zeros(3).to(like).requires_grad_() for _ in views]
        self.log_scale = [torch.zeros(()).to(like).requires_grad_() for _ in views]
        start = self.base_focal.log()
        shared = start.mean().clone().requires_grad_()
        self.log_focal = [shared] * count if config.shared_focal else [f.clone().requires_grad_() for f in start]
        self.centre = [torch.full((2,), 0.5).to(like).requires_grad_() for _ in views]
        self.depth = [(core / core.median()).requires_grad_() for core in self.core]

    def unknowns(self, stage: int) -> list[Tensor]:
        """Parameters of a stage, each once."""
        chosen = [*self.quaternion, *self.shift, *self.log_scale]
        if stage == 2:
            chosen += self.log_focal if self.config.free_focal else []
            chosen += self.centre if self.config.free_centre else []
            chosen += self.depth if self.config.free_depth else []
        return list({id(parameter): parameter for parameter in chosen}.values())

    def normalise(self) -> None:
        """Quaternions of length 1."""
        with torch.no_grad():
            for quaternion in self.quaternion:
                quaternion /= quaternion.norm()

    def decode(self) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
        """K [N, 3, 3], world_from_cam [N, 4, 4], anchor depths, and focal lengths [N]."""
        size = torch.tensor(self.size).to(self.base_focal)
        diagonal = size.norm(dim=-1)
        focal = torch.stack(self.log_focal).exp()
        focal = torch.minimum(torch.maximum(focal, FOCAL_RANGE[0] * diagonal), FOCAL_RANGE[1] * diagonal)
        centre = torch.stack(self.centre)
        K = torch.zeros(len(focal), 3, 3).to(focal)
        K[:, 0, 0] = K[:, 1, 1] = focal
        K[:, :2, 2] = centre * size
        K[:, 2, 2] = 1
        scale = torch.stack(self.log_scale).exp()
        gauge = 1 / scale.min()  # so that the scene does not shrink to a point
        pivot = scale * self.median * focal / self.base_focal
        rotations, places = self._down_the_tree()
        aside = (size / focal[:, None]) * (0.5 - centre)
        arm = pivot[:, None] * torch.cat((aside, torch.ones_like(aside[:, :1])), -1)
        eye = gauge * (places - (rotations @ arm[..., None])[..., 0])
        pose = torch.eye(4).to(eye).repeat(len(eye), 1, 1)
        pose = torch.cat((torch.cat((rotations, eye[..., None]), -1), pose[:, 3:]), 1)
        anchors = [gauge * (pivot[i] + (depth - 1) * self.median[i] * scale[i]) for i, depth in enumerate(self.depth)]
        return K, pose, anchors, focal

    def _down_the_tree(self) -> tuple[Tensor, Tensor]:
        """Rotations [N, 3, 3] and pivots [N, 3]: each relative to the parent, the root first."""
        root, edges = self.tree
        turn = roma.unitquat_to_rotmat(torch.nn.functional.normalize(torch.stack(self.quaternion), dim=-1))
        rotation, place = {root: turn[root]}, {root: self.shift[root]}
        for parent, child in edges:
            rotation[child] = rotation[parent] @ turn[child]
            place[child] = rotation[parent] @ self.shift[child] + place[parent]
        order = range(len(turn))
        return torch.stack([rotation[i] for i in order]), torch.stack([place[i] for i in order])


@dataclass(kw_only=True)
class _Anchored:
    """Pixels of one image that hang on its anchors."""

    pixels: Tensor
    """[M, 3] x, y, 1."""
    index: Tensor
    """[M] anchor."""
    offset: Tensor
    """[M] depth relative to the anchor's."""

    @staticmethod
    def of(view: Canonical, xy: Tensor) -> _Anchored:
        """Pixels xy [M, 2] of a view."""
        x, y = xy.unbind(-1)
        across = view.anchors.shape[1]
        index = (y // BLOCK) * across + x // BLOCK
        at_anchor = _anchor_ratio(view).flatten()[index]
        ones = torch.ones_like(x)
        return _Anchored(
            pixels=torch.stack((x, y, ones), -1).to(view.points), index=index, offset=view.ratio[y, x] / at_anchor
        )

    def world(self, scene: _Scene, decoded: tuple[Tensor, Tensor, list[Tensor], Tensor], image: int) -> Tensor:
        """[M, 3]."""
        K, pose, anchors, focal = decoded
        depth = anchors[image][self.index]
        depth = depth * (1 + (self.offset - 1) * scene.base_focal[image] / focal[image])
        local = depth[:, None] * (self.pixels @ torch.linalg.inv(K[image]).T)
        return local @ pose[image, :3, :3].T + pose[image, :3, 3]


def _anchor_ratio(view: Canonical) -> Tensor:
    """[h, w] ratios at the anchors themselves."""
    rows, columns = anchor_grid(*view.ratio.shape)
    return view.ratio[rows][:, columns]


def align(views: Sequence[Canonical], pairs: Sequence[Pair], tree: Tree, config: AlignConfig) -> Alignment:
    """Reconstruct.

    Args:
        views: canonical view of every image. pairs: in both orders (i, j) and (j, i). tree: over the images.
        config: the stages.
    """
    scene = _Scene(views, tree, config)
    anchored = [
        [_Anchored.of(views[p.first], p.matches.first) for p in pairs if p.first == i] for i in range(len(views))
    ]
    whole = [
        _Anchored(
            **{name: torch.cat([getattr(part, name) for part in parts]) for name in ("pixels", "index", "offset")}
        )
        for parts in anchored
    ]
    begin = _starts(pairs, len(views))
    sure = [k for k, pair in enumerate(pairs) if bool((pair.matches.confidence > config.least_match).any())]
    result: list[Aligned] = []
    losses: list[float] = []
    for stage in (1, 2):
        steps, rate = config.steps[stage - 1], config.rates[stage - 1]
        optimiser = torch.optim.Adam(scene.unknowns(stage), lr=rate, betas=(0.9, 0.9))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
        last: Aligned | None = None
        for _ in range(steps):
            optimiser.zero_grad()
            decoded = scene.decode()
            points = [whole[i].world(scene, decoded, i) for i in range(len(views))]
            loss = _loss(stage, scene, decoded, points, pairs, begin, sure, views, config)
            losses.append(float(loss.detach()))
            last = _snapshot(decoded, points)
            loss.backward()
            optimiser.step()
            schedule.step()
            scene.normalise()
        result.append(last if last is not None else _snapshot(scene.decode(), []))
    return Alignment(coarse=result[0], fine=result[1], losses=losses)


def _starts(pairs: Sequence[Pair], count: int) -> dict[tuple[int, int], slice]:
    """Where the matches of each ordered pair lie among the points of its first image."""
    length, found = [0] * count, {}
    for pair in pairs:
        begin = length[pair.first]
        length[pair.first] += len(pair.matches.first)
        found[pair.first, pair.second] = slice(begin, length[pair.first])
    return found


def _loss(
    stage: int, scene: _Scene, decoded: tuple[Tensor, Tensor, list[Tensor], Tensor], points: list[Tensor],
    pairs: Sequence[Pair], begin: dict[tuple[int, int], slice], sure: list[int], views: Sequence[Canonical],
    config: AlignConfig,
) -> Tensor:  # fmt: skip
    """L3D or L2D over the sure pairs, each weighted by its matches' confidences; pointmaps for the others."""
    K, pose, _, _ = decoded
    gamma = config.gammas[stage - 1]
    total, weight = points[0].new_zeros(()), 0.0
    for k in sure:
        pair = pairs[k]
        mine = points[pair.first][begin[pair.first, pair.second]]
        other = points[pair.second][begin[pair.second, pair.first]]
        if stage == 1:
            residual = mine - other
        else:
            camera = torch.linalg.inv(pose[pair.first])
            local = other @ camera[:3, :3].T + camera[:3, 3]
            seen = local @ K[pair.first].T
            residual = pair.matches.first - (seen[:, :2] / seen[:, 2:].clamp(min=NEAR)).clamp(*PIXELS)
        total = total + (pair.matches.confidence * rho(_length(residual), gamma)).sum()
        weight += float(pair.matches.confidence.sum())
    loss = total / weight if sure else total
    if len(sure) == len(pairs):
        return loss
    return loss + FALLBACK * _pointmap_loss(scene, decoded, pairs, sure, views)


def _pointmap_loss(
    scene: _Scene, decoded: tuple[Tensor, Tensor, list[Tensor], Tensor], pairs: Sequence[Pair], sure: list[int],
    views: Sequence[Canonical],
) -> Tensor:  # fmt: skip
    """Pairs without a confident match: the second image's own points against what the pair says of them."""
    _, pose, _, _ = decoded
    total, weight = pose.new_zeros(()), 0.0
    for k in set(range(len(pairs))) - set(sure):
        pair = pairs[k]
        if pair.second_in_first is None:
            continue
        seen, confidence = (part[::BLOCK, ::BLOCK].flatten(0, 1) for part in pair.second_in_first)
        height, width = views[pair.second].points.shape[:2]
        grid = torch.stack(
            torch.meshgrid(torch.arange(0, width, BLOCK), torch.arange(0, height, BLOCK), indexing="xy"), -1
        )
        own = _Anchored.of(views[pair.second], grid.reshape(-1, 2)).world(scene, decoded, pair.second)
        moved = seen @ pose[pair.first, :3, :3].T + pose[pair.first, :3, 3]
        total = total + (confidence * rho(_length(own - moved), 1.1)).sum()
        weight += float(confidence.sum())
    return total / max(weight, 1e-9)


def _length(residual: Tensor) -> Tensor:
    """Euclidean length [...] of [..., D] with gradient 0 at 0."""
    square = residual.square().sum(-1)
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)


def _snapshot(decoded: tuple[Tensor, Tensor, list[Tensor], Tensor], points: list[Tensor]) -> Aligned:
    K, pose, anchors, _ = decoded
    return Aligned(
        K=K.detach(), world_from_cam=pose.detach(), anchors=[a.detach() for a in anchors],
        points=[p.detach() for p in points],
    )  # fmt: skip
