"""The normal equations of the joint problem, summed by blocks.

Unknowns of a person couple with the next two frames, with cameras nearby and with the clip's own unknowns (focal
length, scale, plane, shapes). Cameras couple with each other through scene points up to `CAMERA_REACH` frames apart.
`elimination` solves them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from teacher.optimise.tangent import COMMON, FRAME, PERSON

REACH = 2
"""Frames that a person's unknowns couple with, before and after."""
CAMERA_REACH = 32
"""Frames over which two cameras couple. Pairs of observations farther apart pull with their exact gradient, but not
through this coupling, so that time and memory stay linear in the number of frames."""


@dataclass(kw_only=True)
class Step:
    """A step of the unknowns."""

    person: Tensor
    """[T, P, 75]."""
    frame: Tensor
    """[T, 7]."""
    common: Tensor
    """[6]."""
    betas: Tensor
    """[P, B]."""


class Normal:
    """J^T W J and J^T W r of one linearisation, by blocks."""

    def __init__(self, frames: int, people: int, betas: int, like: Tensor) -> None:
        self.frames, self.people, self.betas = frames, people, betas
        self.globals = COMMON + people * betas
        zeros = like.new_zeros
        even = frames + frames % 2  # two frames make a block; an empty one fills the last
        self.chain = [zeros(people, even, PERSON, PERSON) for _ in range(REACH + 1)]
        """[d][p, t]: rows of frame t + d, columns of frame t."""
        self.person_frame = zeros(people, even, 2 * REACH + 1, PERSON, FRAME)
        """[p, t, k]: person in frame t with the camera of frame t + k - 2."""
        self.person_global = zeros(people, even, PERSON, self.globals)
        self.frame_frame = zeros(frames, CAMERA_REACH + 1, FRAME, FRAME)
        """[t, d]: rows of camera t + d, columns of camera t."""
        self.frame_global = zeros(frames, FRAME, self.globals)
        self.global_global = zeros(self.globals, self.globals)
        self.by_person = zeros(people, even, PERSON)
        self.by_frame = zeros(frames, FRAME)
        self.by_global = zeros(self.globals)

    def columns(self, person: int) -> Tensor:
        """Places of a person's `shared` unknowns (see `tangent`) among the globals."""
        own = torch.arange(self.betas) + COMMON + person * self.betas
        return torch.cat((torch.arange(COMMON), own)).to(self.by_global.device)

    def add_local(self, product: Tensor, gap: int, start: int) -> None:
        """Products [N, P, V, V] of local vectors: rows of frame t + gap, columns of frame t, from t = start.

        For gap 0 the product is symmetric and added once; otherwise its transpose is implied.
        """
        count = len(product)
        later, earlier = slice(start + gap, start + gap + count), slice(start, start + count)
        body, camera, shared = slice(0, PERSON), slice(PERSON, PERSON + FRAME), slice(PERSON + FRAME, None)
        for p in range(self.people):
            block, columns = product[:, p], self.columns(p)
            self.chain[gap][p, earlier] += block[:, body, body]
            self.person_frame[p, later, REACH - gap] += block[:, body, camera]
            self.person_global[p, later][:, :, columns] += block[:, body, shared]
            self.frame_frame[earlier, gap] += block[:, camera, camera]
            self.frame_global[later][:, :, columns] += block[:, camera, shared]
            inner = block[:, shared, shared].sum(0)
            if gap:
                turned = block.transpose(-1, -2)
                self.person_frame[p, earlier, REACH + gap] += turned[:, body, camera]
                self.person_global[p, earlier][:, :, columns] += turned[:, body, shared]
                self.frame_global[earlier][:, :, columns] += turned[:, camera, shared]
                inner = inner + inner.T
            self.global_global[columns[:, None], columns] += inner

    def add_gradient(self, gradient: Tensor, start: int) -> None:
        """J^T W r [N, P, V] by local vectors, from frame `start`."""
        frames = slice(start, start + len(gradient))
        self.by_person[:, frames] += gradient[..., :PERSON].transpose(0, 1)
        self.by_frame[frames] += gradient[..., PERSON : PERSON + FRAME].sum(1)
        for p in range(self.people):
            self.by_global[self.columns(p)] += gradient[:, p, PERSON + FRAME :].sum(0)

    def add_pairs(
        self, frames: tuple[Tensor, Tensor], jacobians: tuple[Tensor, Tensor, Tensor], residual: Tensor
    ) -> None:
        """Rows [N, D] (weighted by the roots of their weights) of two cameras [N, D, 7] each and the clip [N, D, 6]."""
        band = self.frame_frame.view(-1, FRAME, FRAME)
        for a, frame_a in enumerate(frames):
            turned = jacobians[a].transpose(-1, -2)
            self.by_frame.index_add_(0, frame_a, (turned @ residual[..., None])[..., 0])
            self.frame_global[..., :COMMON].index_add_(0, frame_a, turned @ jacobians[2])
            band.index_add_(0, frame_a * (CAMERA_REACH + 1), turned @ jacobians[a])
        later = frames[0] > frames[1]  # the rows of the lower triangle belong to the later camera
        across = jacobians[0].transpose(-1, -2) @ jacobians[1]
        across = torch.where(later[:, None, None], across, across.transpose(-1, -2))
        gap = (frames[0] - frames[1]).abs()
        near = gap <= CAMERA_REACH
        place = torch.minimum(*frames) * (CAMERA_REACH + 1) + gap
        band.index_add_(0, place[near], across[near])
        turned = jacobians[2].transpose(-1, -2)
        self.by_global[:COMMON] += (turned @ residual[..., None])[..., 0].sum(0)
        self.global_global[:COMMON, :COMMON] += (turned @ jacobians[2]).sum(0)

    def freeze_person(self, keep: Tensor) -> None:
        """Take unknowns of people out: keep [75] bool; the others get no step."""
        if bool(keep.all()):
            return
        stay = keep.to(self.by_person)
        for part in self.chain:
            part *= stay[:, None] * stay
        self.person_frame *= stay[:, None]
        self.person_global *= stay[:, None]
        self.by_person *= stay

    def gradient(self) -> Step:
        """J^T W r by the unknowns."""
        people = self.by_person[:, : self.frames]
        return self.unpack(people, torch.cat((self.by_global, self.by_frame.flatten())))

    def unpack(self, person: Tensor, border: Tensor) -> Step:
        """A step from the people's part [P, T, 75] and that of the clip, globals before cameras."""
        common, betas, frame = border.split((COMMON, self.people * self.betas, self.frames * FRAME))
        return Step(
            person=person.transpose(0, 1), frame=frame.unflatten(0, (self.frames, FRAME)), common=common,
            betas=betas.unflatten(0, (self.people, self.betas)),
        )  # fmt: skip
