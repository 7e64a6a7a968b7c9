"""Training the Gaussian head: labelled windows in, losses by rendering out. Everything but the head is frozen.

Two frames of a window are the sources, another is the target; which is which is drawn anew for every batch (in
evaluation the target is the one in the middle). Sources give Gaussians of the scene and evidence of people; they are
drawn as the target's camera sees them, in a part of the picture.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from distill.avatar import Avatar
from distill.body import BodyModel, load_body_model
from distill.body.surface import laplacian
from distill.frozen_pass import as_floats
from distill.gaussian_crops import Crop, choose_crop, seen_by_sources
from distill.gaussian_labels import TeacherAvatars
from distill.gaussian_losses import (
    attribute_error,
    color_error,
    depth_error,
    inner,
    loose_error,
    needle_error,
    ssim_map,
)
from distill.geometry.transforms import invert
from distill.losses import Loss, Term
from distill.models.backbones import Tokens
from distill.models.gaussian_config import GaussianConfig
from distill.models.gaussian_human import Evidence
from distill.models.gaussian_scene import PixelGaussians, grow
from distill.models.gaussian_visibility import look_at_anchors, posed_vertices
from distill.models.held import Held
from distill.models.precision import full_precision
from distill.models.prediction import Prompts
from distill.models.student import Student
from distill.render import Gaussians, Rendering, render

PERSON_EDGE: Final = 3
"""Pixels around people that become no Gaussians of the scene either: edges of masks are not exact."""


@dataclass(kw_only=True)
class GaussianLossConfig:
    """Weight of each term (`gaussian_losses`); 0 leaves it out."""

    color: float = 0.8
    """Picture of scene and people together, mean absolute difference."""
    structure: float = 0.2
    """The same, 1 - SSIM."""
    human_color: float = 0.8
    """A person alone on a background of random colour, mean absolute difference."""
    human_structure: float = 0.2
    """The same, 1 - SSIM."""
    silhouette: float = 0.1
    """People's share of each pixel, what stands in front taken off, against their masks."""
    depth: float = 0.1
    """Depth of the scene, relative."""
    tight: float = 10.0
    """Square of the offset of each anchor's first Gaussian, square metres."""
    loose: float = 1.0
    """Offsets beyond 5.6 cm, metres."""
    needle: float = 0.01
    """Gaussians of people that are more than five times longer than thin."""
    smooth: float = 0.1
    """Offsets (m) and colours unlike their neighbours' on the surface (Laplacian)."""
    teacher: float = 0.5
    """Attributes of the teacher's avatar where anchors match; needs `teacher_avatars`."""

    def __post_init__(self) -> None:
        for name in (f.name for f in fields(self)):
            if not getattr(self, name) >= 0:
                raise ValueError(f"gaussian loss weight {name} is {getattr(self, name)}, expected 0 or more")


@dataclass(kw_only=True)
class GaussianTrainConfig:
    """The Gaussian head as the thing to train (`model: gaussians`), on the student of `init_from`."""

    head: GaussianConfig = field(default_factory=GaussianConfig)
    """The new head; a student that has one already keeps it."""
    loss: GaussianLossConfig = field(default_factory=GaussianLossConfig)
    crop: int = 64
    """Width and height in pixels of the part of a picture that is drawn and compared, 16 or more."""
    teacher_avatars: str = ""
    """Folder of labels whose clips hold avatars (docs/gaussian_head.md); empty: pictures alone teach."""

    def __post_init__(self) -> None:
        if self.crop < 16:
            raise ValueError(f"gaussians: crop is {self.crop}, expected 16 or more")


class GaussianTask(nn.Module):
    """A student whose Gaussian head is trained, with the losses."""

    def __init__(self, student: Student, config: GaussianTrainConfig, body: BodyModel | None = None) -> None:
        """Body model of the student's config, unless given; everything of the student but the head is frozen."""
        super().__init__()
        assert student.gaussians is not None
        student.requires_grad_(False)
        student.gaussians.requires_grad_(True)
        self.student, self.head, self.config = student, student.gaussians, config
        self.body = Held(body or load_body_model(student.config.body_model))
        self.loss = Loss({f.name: getattr(config.loss, f.name) for f in fields(config.loss)})
        self.teacher = TeacherAvatars(Path(config.teacher_avatars)) if config.teacher_avatars else None

    def forward(self, batch: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """`task.Batch` with masks and depth of every pixel -> losses to be summed, and numbers to be logged."""
        images = as_floats(batch["images"])
        count, views = images.shape[:2]
        sources, target = self._roles(views)
        frames = {view: self.student.encode(images[:, view]) for view in sources}
        scenes = {view: self._scene(batch, frames, view, sources[1 - number]) for number, view in enumerate(sources)}
        with full_precision(images.device):
            collected: dict[str, list[Term]] = defaultdict(list)
            for window in range(count):
                for name, term in self._window(batch, images, frames, scenes, window, target).items():
                    collected[name].append(term)
            terms = {name: _joined(parts) for name, parts in collected.items()}
            losses = self.loss(terms)
        # Every weight takes part in every step, also where nobody is in the picture: DDP waits for all of them.
        idle = sum(
            (0.0 * parameter.sum() for parameter in self.head.parameters()), torch.zeros((), device=images.device)
        )
        losses["color"] = losses["color"] + idle
        return losses, _report(terms)

    def _roles(self, views: int) -> tuple[list[int], int]:
        """Two sources and a target."""
        if not self.training:
            return [0, views - 1], views // 2
        order = torch.randperm(views).tolist()
        return sorted(order[:2]), order[2]

    def _scene(
        self, batch: dict[str, Any], frames: dict[int, Tokens], view: int, other: int
    ) -> tuple[PixelGaussians, Tensor]:
        """Gaussians of frame `view` of all windows, and metres per unit of its points [B]."""
        pair = self.student.backbone.decode(frames[view], frames[other])
        assert pair.points_a is not None and pair.conf_a is not None
        people = grow(batch["masks"][:, :, view].amax(1) > 0.5, PERSON_EDGE)
        metres = _scale_of_labels(pair.points_a[..., 2], batch["depth"][:, view], people)
        if (metres == 0).any():
            metres = torch.where(metres > 0, metres, self._own_scale(batch, frames, view, other))
        last = pair.tokens_a[-1]
        K = batch["K"][:, view]
        return self.head.scene(frames[view], last, pair.points_a, pair.conf_a, K, people), metres

    @torch.no_grad()
    def _own_scale(self, batch: dict[str, Any], frames: dict[int, Tokens], view: int, other: int) -> Tensor:
        """Metres per unit [B] as the student itself says: labels without depth cannot."""
        order = [view, other]
        people = Prompts(
            boxes=batch["prompt_boxes"][:, :, order], valid=batch["valid"][:, :, order],
            K=batch["prompt_K"][:, order], K_known=batch["K_known"],
        )  # fmt: skip
        return self.student.pair(frames[view], frames[other], people).log_scene_scale.exp()

    def _window(
        self, batch: dict[str, Any], images: Tensor, frames: dict[int, Tokens],
        scenes: dict[int, tuple[PixelGaussians, Tensor]], row: int, target: int,
    ) -> dict[str, Term]:  # fmt: skip
        """All terms of one window."""
        scene, people, avatars = self._gaussians(batch, frames, scenes, row, target)
        boxes = batch["boxes"][row, sorted(people), target]
        random = self.training
        crop = choose_crop(images.shape[-2:], self.config.crop, boxes, random=random)
        terms = self._whole_picture(batch, images, scene, people, crop, list(scenes), row, target)
        if people:
            alone = sorted(people)[int(torch.randint(len(people), ())) if random else 0]
            near = choose_crop(
                images.shape[-2:], self.config.crop, batch["boxes"][row, alone : alone + 1, target], random=False
            )
            terms |= self._person_alone(batch, images, people[alone], alone, near, row, target)
            terms |= self._shape_terms(batch, avatars, row)
        return terms

    @torch.no_grad()
    def draw(self, batch: dict[str, Any], sources: tuple[int, int], target: int) -> list[Rendering]:
        """Whole pictures of the target frame of all windows, from two sources; the backdrop is the first source's."""
        images = as_floats(batch["images"])
        frames = {view: self.student.encode(images[:, view]) for view in sources}
        scenes = {view: self._scene(batch, frames, view, sources[1 - number]) for number, view in enumerate(sources)}
        size = (images.shape[-1], images.shape[-2])
        pictures = []
        for row in range(len(images)):
            scene, people, _ = self._gaussians(batch, frames, scenes, row, target)
            every = Gaussians.cat([scene, *people.values()])
            person = (torch.arange(len(every), device=images.device) >= len(scene)).to(every.opacities)
            pictures.append(render(
                every, invert(batch["world_from_cam"][row, target])[None], batch["K"][row, target][None], size,
                person=person, background=scenes[sources[0]][0].backdrop[row], antialiased=True,
            ))  # fmt: skip
        return pictures

    def _gaussians(
        self, batch: dict[str, Any], frames: dict[int, Tokens], scenes: dict[int, tuple[PixelGaussians, Tensor]],
        row: int, target: int,
    ) -> tuple[Gaussians, dict[int, Gaussians], dict[int, Avatar]]:  # fmt: skip
        """Scene and people of one window in the world, as they are in the target frame; and people in the rest pose."""
        world_from_cam = batch["world_from_cam"][row]
        parts = [cells.of(row, metres[row])[0].moved(world_from_cam[view]) for view, (cells, metres) in scenes.items()]
        avatars = self._avatars(batch, frames, list(scenes), row, target)
        world_from_body = world_from_cam[target] @ batch["cam_from_body"][row, :, target]
        people = {
            person: avatar.posed(self.body.module, batch["body_rot"][row, person, target], world_from_body[person])
            for person, avatar in avatars.items()
        }
        return Gaussians.cat(parts), people, avatars

    def _avatars(
        self, batch: dict[str, Any], frames: dict[int, Tokens], sources: list[int], row: int, target: int
    ) -> dict[int, Avatar]:
        """People who are seen in a source and in the target, from what the sources say."""
        template, body = self.head.template(self.body.module), self.body.module
        valid = batch["valid"][row] & (batch["weight"][row] > 0)[:, None]
        people = (valid[:, sources].any(1) & valid[:, target]).nonzero()[:, 0].tolist()
        channels, device = frames[sources[0]].features.shape[-1], frames[sources[0]].features.device
        evidence = {p: Evidence.none(len(template.anchors), channels, device) for p in people}
        for view in sources:
            there = [p for p in people if valid[p, view]]
            if not there:
                continue
            posed = posed_vertices(
                body, batch["betas"][row, there], batch["body_rot"][row, there, view],
                batch["cam_from_body"][row, there, view],
            )  # fmt: skip
            masks = batch["masks"][row, there, view]
            masks = torch.where(masks.amax((1, 2), keepdim=True) > 0, masks, 1.0)  # some were never segmented
            sight = look_at_anchors(
                frames[view][row : row + 1], posed, body.faces, template.anchors, batch["K"][row, view], masks=masks
            )
            for number, person in enumerate(there):
                evidence[person] = evidence[person].with_sight(sight, number)
        return {p: self.head.human(evidence[p], template, batch["betas"][row, p]) for p in people}

    def _whole_picture(
        self, batch: dict[str, Any], images: Tensor, scene: Gaussians, people: dict[int, Gaussians], crop: Crop,
        sources: list[int], row: int, target: int,
    ) -> dict[str, Term]:  # fmt: skip
        """Scene and people together, in a part of the target's picture."""
        every = Gaussians.cat([scene, *people.values()])
        person = torch.zeros_like(every.opacities)
        person[len(scene) :] = 1
        drawn = render(
            every, invert(batch["world_from_cam"][row, target])[None], crop.K(batch["K"][row, target])[None], crop.size,
            person=person, antialiased=True,
        )  # fmt: skip
        picture, wanted = drawn.color[0].permute(2, 0, 1), crop.cut(images[row, target])
        mask = crop.cut(batch["masks"][row, :, target].amax(0))
        known = crop.cut(seen_by_sources(batch, sources, target, row))
        static = known & (mask < 0.02)
        drawable = mask > 0.5 if people else torch.zeros_like(static)
        used = (static | drawable).to(picture)
        depth = crop.cut(batch["depth"][row, target])
        hit = static & (depth > 0) & (drawn.alpha[0].detach() > 0.5)
        return {
            "color": Term(color_error(wanted, picture), used),
            "structure": Term(1 - ssim_map(wanted, picture), inner(used)),
            "silhouette": Term((drawn.person[0] - mask).abs(), torch.full_like(mask, float(bool(people)))),
            "depth": Term(depth_error(depth, drawn.depth[0]), hit.to(picture)),
        }

    def _person_alone(
        self, batch: dict[str, Any], images: Tensor, gaussians: Gaussians, person: int, crop: Crop, row: int,
        target: int,
    ) -> dict[str, Term]:  # fmt: skip
        """One person on a background that hides nothing: what should be transparent shows."""
        background = torch.rand(3, device=images.device) if self.training else images.new_full((3,), 0.5)
        drawn = render(
            gaussians, invert(batch["world_from_cam"][row, target])[None],
            crop.K(batch["K"][row, target])[None], crop.size, background=background, antialiased=True,
        )  # fmt: skip
        masks = crop.cut(batch["masks"][row, :, target])
        mine = masks[person]
        others = (masks.sum(0) - mine) > 0.02  # whoever stands there may hide this one
        wanted = crop.cut(images[row, target]) * mine + background[:, None, None] * (1 - mine)
        picture = drawn.color[0].permute(2, 0, 1)
        segmented = bool(mine.any())
        used = (~others).to(picture) * batch["weight"][row, person] * segmented
        return {
            "human_color": Term(color_error(wanted, picture), used),
            "human_structure": Term(1 - ssim_map(wanted, picture), inner(used)),
        }

    def _shape_terms(self, batch: dict[str, Any], avatars: dict[int, Avatar], row: int) -> dict[str, Term]:
        """How Gaussians of people may look, whatever the picture says; and how the teacher's do."""
        collected: dict[str, list[Term]] = defaultdict(list)
        edges = self.head.template(self.body.module).edges
        for person, avatar in avatars.items():
            first = torch.arange(len(avatar), device=avatar.offsets.device) % self.head.config.per_anchor == 0
            ones = torch.ones_like(avatar.opacities)
            rough = laplacian(torch.cat((avatar.offsets, avatar.colors), dim=1), edges)
            found = {
                "tight": Term(avatar.offsets.square().sum(-1), first.float()),
                "loose": Term(loose_error(avatar.offsets), ones),
                "needle": Term(needle_error(avatar.scales), ones),
                "smooth": Term(rough.square().mean(-1), ones),
            }
            clip = batch["name"][row].split(":")[0].rpartition("-")[0]
            known = self.teacher.find(clip, batch["betas"][row, person]) if self.teacher else None
            if known is not None:
                error = attribute_error(avatar, known)
                found["teacher"] = Term(error, batch["weight"][row, person].expand(len(error)))
            for name, term in found.items():
                collected[name].append(term)
        return {name: _joined(parts) for name, parts in collected.items()}


def _scale_of_labels(depth: Tensor, wanted: Tensor, people: Tensor) -> Tensor:
    """Metres per unit of the points' depth [B, H, W], by the labels' depth of the background; 0 where there is none."""
    scales = []
    for mine, label, hidden in zip(depth, wanted, people, strict=True):
        known = (label > 0) & (mine > 0) & ~hidden
        scales.append((label[known] / mine[known]).median() if known.any() else mine.new_zeros(()))
    return torch.stack(scales)


def _joined(parts: list[Term]) -> Term:
    """The same term of several windows as one, flat."""
    values = [part.values.flatten(1) if part.values.ndim > part.weight.ndim else part.values for part in parts]
    weights = [
        part.weight[:, None].expand_as(value) if value.ndim > part.weight.ndim else part.weight
        for part, value in zip(parts, values, strict=True)
    ]
    return Term(torch.cat([v.flatten() for v in values]), torch.cat([w.flatten() for w in weights]))


def _report(terms: dict[str, Term]) -> dict[str, Tensor]:
    """Means in units for people, detached."""
    names = {
        "color": ("color_percent", 100.0), "human_color": ("human_color_percent", 100.0),
        "silhouette": ("silhouette_percent", 100.0), "depth": ("depth_percent", 100.0),
    }  # fmt: skip
    report = {name: factor * terms[term].mean().detach() for term, (name, factor) in names.items() if term in terms}
    report["ssim"] = 1 - terms["structure"].mean().detach()
    return report
