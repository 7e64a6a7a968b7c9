"""The objective of the photometric stage: which picture reaches which unknown, with masks, weights and sums.

Bodies are unknowns of the camera's frame, so gradients go where JOintGS routes them without any being blocked:
separate phase: the scene's picture moves the camera, the people's picture moves the bodies; joint phase: one picture
of both, in which people and scene hide each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.geometry.cameras import crop_intrinsics, pixel_grid, unproject
from distill.render import Gaussians, Rendering, render
from teacher.scene import motion, terms
from teacher.scene.config import GaussiansConfig
from teacher.scene.footage import Footage
from teacher.scene.world import World

Perceptual = Callable[[Tensor, Tensor], Tensor]
"""Distance of two images [H, W, 3] in [0, 1]."""
BORDER = 0.012
"""Part of the image's width around people that belongs to nobody: masks are never exact."""
MARGIN = 0.2
"""Part of a person's box by which the picture of people is larger."""
IN_FRONT_M = 0.3
"""Background this much nearer than the nearest pelvis stands in front of the people."""
MAX_POINTS = 400
"""Points of a person's depth that centres are compared with."""


@dataclass(kw_only=True)
class View:
    """Footage at one level, with what follows from it."""

    footage: Footage
    background: Tensor
    """[T, H, W] 1 where surely nobody is."""
    free: Tensor
    """[T, H, W] 0 where something may stand in front of people."""
    boxes: list[tuple[int, int, int, int]]
    """T boxes around the people (left, top, width, height), pixels; empty ones where nobody is seen."""


def make_view(footage: Footage, pelvis_depth: Tensor) -> View:
    """A level of the footage; pelvis_depth [T] of the nearest person, metres."""
    people = footage.people
    radius = max(1, round(BORDER * footage.size[0]))
    near = F.max_pool2d(people[:, None], 2 * radius + 1, 1, radius)[:, 0]
    front = (footage.depth > 0) & (footage.depth < pelvis_depth[:, None, None] - IN_FRONT_M)
    return View(
        footage=footage, background=(near < 0.05).to(people), free=(~front).to(people),
        boxes=[_box(mask, footage.size) for mask in people],
    )  # fmt: skip


def _box(mask: Tensor, size: tuple[int, int]) -> tuple[int, int, int, int]:
    rows, columns = torch.nonzero(mask > 0.05, as_tuple=True)
    if len(rows) == 0:
        return 0, 0, 0, 0
    width, height = size
    top, bottom, left, right = (int(value) for value in (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1))
    margin = max(3, round(MARGIN * max(right - left, bottom - top)))
    left, top, right, bottom = left - margin, top - margin, right + margin, bottom + margin
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    return left, top, right - left, bottom - top


class Objective:
    """Loss of some frames; `parts` of the last call are its terms before weighting."""

    def __init__(
        self, world: World, views: dict[int, View], config: GaussiansConfig, held_out: set[int],
        perceptual: Perceptual | None,
    ) -> None:  # fmt: skip
        self.world, self.views, self.config = world, views, config
        self.held_out, self.perceptual = held_out, perceptual
        self.edges = [avatar.edges(world.base.body) for avatar in world.base.avatars]
        self.largest = [4 * avatar.scales.amax(-1) for avatar in world.base.avatars]
        self.parts: dict[str, float] = {}

    def __call__(
        self, phase: str, level: int, frames: tuple[int, ...], generator: torch.Generator, *, scene: bool = True
    ) -> Tensor:
        """Loss of a step.

        Args:
            phase: of `config.PHASES`. level: factor of the pictures. frames: drawn in this step.
            generator: of the random backgrounds, on the CPU. scene: whether the scene is drawn, or people alone.
        """
        world, weights, base = self.world, self.config.weights, self.world.base
        body_rot, cam_from_body = world.bodies()
        world_from_cam = world.world_from_cam()
        found: dict[str, Tensor] = {}
        for frame in frames:
            view, fixed = self.views[level], frame in self.held_out
            if phase == "joint":
                pictures = self._composite(
                    view, frame, fixed, world_from_cam[frame], body_rot[frame], cam_from_body[frame]
                )
            else:
                pictures = self._scene(view, frame, fixed, world_from_cam[frame]) if scene else {}
                view = self.views[max(1, level // 2)]
                if view.boxes[frame][2] and bool(base.present[frame].any()):
                    bodies = body_rot[frame], cam_from_body[frame]
                    _add(pictures, self._people(view, frame, fixed, *bodies, generator))
            _add(found, pictures)
        if phase != "warm_up":
            points = base.parts(base.betas, body_rot, cam_from_body)
            found |= motion.smoothness(world, points if phase == "joint" else None, world_from_cam, body_rot)
            if phase == "joint":  # cameras must be good before feet can be held still in the world
                found["contact"] = motion.contacts(base, points, world_from_cam)
            found["keypoints"] = motion.keypoints(base, points)
            found["prior"] = motion.closeness(world, self.config.prior)
        for name, value in self._shape(phase).items():
            found[name] = len(frames) * value
        self.parts = {name: float(value.detach()) for name, value in found.items()}
        weighted = [getattr(weights, name) * value for name, value in found.items() if getattr(weights, name) > 0]
        return torch.stack(weighted).sum()

    def _scene(self, view: View, frame: int, fixed: bool, world_from_cam: Tensor) -> dict[str, Tensor]:
        """The scene alone, people masked out: for camera and scene."""
        footage, weight = view.footage, view.background[frame]
        scene, behind = self._static(fixed)
        drawn = draw(scene, torch.linalg.inv(world_from_cam), footage.K, footage.size, background=behind)
        found = self._colours(drawn.color[0], footage.images[frame], weight, weight.sum())
        return found | {"depth_2d": _depth_of_scene(drawn, footage.depth[frame], weight)}

    def _people(
        self, view: View, frame: int, fixed: bool, body_rot: Tensor, cam_from_body: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """People alone, before a colour drawn anew each time: for bodies and people."""
        footage = view.footage
        left, top, width, height = view.boxes[frame]
        part = (slice(top, top + height), slice(left, left + width))
        people = self.world.people(frame, body_rot, cam_from_body, in_time=False, fixed=fixed)
        colour = torch.rand(3, generator=generator).to(footage.images)
        identity = torch.eye(4).to(footage.images)
        K = crop_intrinsics(footage.K, left, top)
        drawn = draw(people, identity, K, (width, height), person=torch.ones(len(people)).to(colour), background=colour)
        mask, free = footage.people[frame][part], view.free[frame][part]
        target = footage.images[frame][part] * mask[..., None] + colour * (1 - mask[..., None])
        area = mask.sum().clamp(min=1)
        found = self._colours(drawn.color[0], target, free, area)
        found["silhouette"] = (terms.silhouette(drawn.person[0], mask) * free).sum() / area
        depth = self._depth_of_people(footage, frame, body_rot, cam_from_body)
        return found if depth is None else found | {"depth_3d": depth}

    def _composite(
        self, view: View, frame: int, fixed: bool, world_from_cam: Tensor, body_rot: Tensor, cam_from_body: Tensor
    ) -> dict[str, Tensor]:
        """Scene and people in one picture, each hiding the other."""
        footage = view.footage
        gaussians, behind = self._static(fixed)
        person = torch.zeros(len(gaussians)).to(behind)
        if bool(self.world.base.present[frame].any()):
            people = self.world.people(frame, body_rot, world_from_cam @ cam_from_body, in_time=True, fixed=fixed)
            gaussians = Gaussians.cat([gaussians, people])
            person = torch.cat((person, torch.ones(len(people)).to(person)))
        cam_from_world = torch.linalg.inv(world_from_cam)
        drawn = draw(gaussians, cam_from_world, footage.K, footage.size, person=person, background=behind)
        everywhere = torch.ones_like(view.background[frame])
        found = self._colours(drawn.color[0], footage.images[frame], everywhere, everywhere.sum())
        # People cover a small part of the picture; they count as much as the scene does, as in the separate phase.
        mask = footage.people[frame]
        _add(found, self._colours(drawn.color[0], footage.images[frame], mask, mask.sum().clamp(min=1)))
        found["silhouette"] = terms.silhouette(drawn.person[0], mask).sum() / mask.sum().clamp(min=1)
        found["depth_2d"] = _depth_of_scene(drawn, footage.depth[frame], view.background[frame])
        depth = self._depth_of_people(footage, frame, body_rot, cam_from_body)
        return found if depth is None else found | {"depth_3d": depth}

    def _static(self, fixed: bool) -> tuple[Gaussians, Tensor]:
        scene, behind = self.world.scene(), self.world.unknowns["background"]
        return (scene.detach(), behind.detach()) if fixed else (scene, behind)

    def _colours(self, image: Tensor, target: Tensor, weight: Tensor, area: Tensor) -> dict[str, Tensor]:
        weights = self.config.weights
        found = {"l1": (terms.absolute(image, target) * weight).sum() / area.clamp(min=1)}
        if weights.ssim > 0:
            whole = weight[..., None]
            map_ = terms.dissimilarity(image * whole, target * whole)
            found["ssim"] = (map_ * weight).sum() / weight.sum().clamp(min=1)
        if self.perceptual is not None and weights.lpips > 0:
            found["lpips"] = self.perceptual(image * weight[..., None], target * weight[..., None])
        return found

    def _depth_of_people(self, footage: Footage, frame: int, body_rot: Tensor, cam_from_body: Tensor) -> Tensor | None:
        """Visible centres against the prior's points: moves the root alone, so a limb never bends to mend a depth."""
        if self.config.weights.depth_3d == 0:
            return None
        found = []
        for person in torch.nonzero(self.world.base.present[frame]).flatten().tolist():
            depth = footage.person_depth[frame]
            pixels = pixel_grid(footage.size, device=depth.device)[(footage.masks[frame, person] > 0.9) & (depth > 0)]
            if len(pixels) < 10:
                continue
            pixels = pixels[:: max(1, len(pixels) // MAX_POINTS)]
            column, row = pixels.long().unbind(-1)
            points = unproject(pixels, depth[row, column], footage.K)
            avatar = self.world.avatar(person).detach()
            posed = avatar.posed(self.world.base.body, body_rot[person].detach(), cam_from_body[person].detach())
            seen = terms.facing(posed.means, posed.quats)
            root = cam_from_body[person, :3, 3]
            found.append(terms.depth_3d(posed.means[seen] + (root - root.detach()), points).mean())
        return torch.stack(found).mean() if found else None

    def _shape(self, phase: str) -> dict[str, Tensor]:
        """Regularisers of people's Gaussians, mean over people."""
        world = self.world
        found: dict[str, Tensor] = {}
        for person, base in enumerate(world.base.avatars):
            avatar, edges = world.avatar(person), self.edges[person]
            difference = terms.edge_difference(avatar.offsets / 0.01, edges).square().sum(-1).mean()
            difference = difference + terms.edge_difference(avatar.colors, edges).square().sum(-1).mean()
            parts = {
                "offsets": avatar.offsets.square().sum(-1).mean(),
                "far_offsets": terms.far_offset(avatar.offsets).mean(),
                "laplacian": difference,
                "skinning": (avatar.skinning - base.skinning).square().sum(-1).mean(),
                "anisotropy": terms.anisotropy(avatar.scales).mean()
                + terms.oversize(avatar.scales, self.largest[person]).mean(),
            }
            if phase == "joint":
                parts["dynamics"] = self.world.unknowns[f"field{person}/last"].square().mean()
            _add(found, parts)
        return {name: value / len(world.base.avatars) for name, value in found.items()}


def draw(
    gaussians: Gaussians, cam_from_world: Tensor, K: Tensor, size: tuple[int, int],
    *, person: Tensor | None = None, background: Tensor | None = None,
) -> Rendering:  # fmt: skip
    """One camera: cam_from_world [4, 4], K [3, 3]. Antialiased: else a person is wider in a small picture than in a
    large one, by a pixel, and the body goes away from the camera to fit its mask."""
    return render(
        gaussians, cam_from_world[None], K[None], size, person=person, background=background, antialiased=True
    )


def _depth_of_scene(drawn: Rendering, prior: Tensor, weight: Tensor) -> Tensor:
    known = weight * (prior > 0) * (drawn.alpha[0].detach() > 0.5)
    return (terms.depth_2d(drawn.depth[0], prior) * known).sum() / known.sum().clamp(min=1)


def _add(total: dict[str, Tensor], parts: dict[str, Tensor]) -> None:
    for name, value in parts.items():
        total[name] = total[name] + value if name in total else value
