"""The normal equations of the joint problem, and their solution by block elimination.

Unknowns of a person couple only with the next two frames and with the clip's border (all cameras, focal length,
scale, plane, shapes). A person's chain is therefore block tridiagonal (two frames to a block); it is factored
once, and the border is solved from the Schur complement

    (C - sum_p B_p^T A_p^-1 B_p) x = c - sum_p B_p^T A_p^-1 a_p,   then A_p y_p = a_p - B_p x.

Cost: linear in frames and people, but for the border, whose share grows with the square of the window's length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from teacher.optimise.tangent import COMMON, FRAME, PERSON

REACH = 2
"""Frames that a person's unknowns couple with, before and after."""


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
        self.chain = [zeros(people, frames, PERSON, PERSON) for _ in range(REACH + 1)]
        """[d][p, t]: rows of frame t + d, columns of frame t."""
        self.person_frame = zeros(people, frames, 2 * REACH + 1, PERSON, FRAME)
        """[p, t, k]: person in frame t with the camera of frame t + k - 2."""
        self.person_global = zeros(people, frames, PERSON, self.globals)
        self.frame_frame = zeros(frames, frames, FRAME, FRAME)
        self.frame_global = zeros(frames, FRAME, self.globals)
        self.global_global = zeros(self.globals, self.globals)
        self.by_person = zeros(people, frames, PERSON)
        self.by_frame = zeros(frames, FRAME)
        self.by_global = zeros(self.globals)

    def columns(self, person: int) -> Tensor:
        """Places of a person's `shared` unknowns (see `tangent`) among the globals."""
        own = torch.arange(self.betas) + COMMON + person * self.betas
        return torch.cat((torch.arange(COMMON), own)).to(self.by_global.device)

    def add_local(self, product: Tensor, gap: int) -> None:
        """Products [T - gap, P, V, V] of local vectors: rows of frame t + gap, columns of frame t.

        For gap 0 the product is symmetric and added once; otherwise its transpose is implied.
        """
        count = len(product)
        later, earlier = slice(gap, gap + count), slice(0, count)
        body, camera, shared = slice(0, PERSON), slice(PERSON, PERSON + FRAME), slice(PERSON + FRAME, None)
        frame = torch.arange(count, device=product.device)
        for p in range(self.people):
            block, columns = product[:, p], self.columns(p)
            self.chain[gap][p, earlier] += block[:, body, body]
            self.person_frame[p, later, REACH - gap] += block[:, body, camera]
            self.person_global[p, later][:, :, columns] += block[:, body, shared]
            self.frame_frame[frame + gap, frame] += block[:, camera, camera]
            self.frame_global[later][:, :, columns] += block[:, camera, shared]
            inner = block[:, shared, shared].sum(0)
            if gap:
                turned = block.transpose(-1, -2)
                self.person_frame[p, earlier, REACH + gap] += turned[:, body, camera]
                self.person_global[p, earlier][:, :, columns] += turned[:, body, shared]
                self.frame_frame[frame, frame + gap] += turned[:, camera, camera]
                self.frame_global[earlier][:, :, columns] += turned[:, camera, shared]
                inner = inner + inner.T
            self.global_global[columns[:, None], columns] += inner

    def add_gradient(self, gradient: Tensor) -> None:
        """J^T W r [T, P, V] by local vectors."""
        self.by_person += gradient[..., :PERSON].transpose(0, 1)
        self.by_frame += gradient[..., PERSON : PERSON + FRAME].sum(1)
        for p in range(self.people):
            self.by_global[self.columns(p)] += gradient[:, p, PERSON + FRAME :].sum(0)

    def add_pairs(
        self, frames: tuple[Tensor, Tensor], jacobians: tuple[Tensor, Tensor, Tensor], residual: Tensor
    ) -> None:
        """Rows [N, D] (weighted by the roots of their weights) of two cameras [N, D, 7] each and the clip [N, D, 6]."""
        size = self.frames**2
        for a, frame_a in enumerate(frames):
            turned = jacobians[a].transpose(-1, -2)
            self.by_frame.index_add_(0, frame_a, (turned @ residual[..., None])[..., 0])
            self.frame_global[..., :COMMON].index_add_(0, frame_a, turned @ jacobians[2])
            for b, frame_b in enumerate(frames):
                flat = self.frame_frame.view(size, FRAME, FRAME)
                flat.index_add_(0, frame_a * self.frames + frame_b, turned @ jacobians[b])
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
        return self._unpack(self.by_person, torch.cat((self.by_global, self.by_frame.flatten())))

    def solve(self, damping: float, keep_frame: Tensor, keep_global: Tensor) -> Step | None:
        """The step -(H + damping diag H)^-1 g of the kept border unknowns and all people, or None if H is not positive.

        Args:
            damping: Marquardt's. keep_frame: [T, 7] bool. keep_global: [6 + P B] bool.
        """
        keep = torch.cat((keep_global, keep_frame.flatten()))
        # Globals first: the cameras that a block of frames has met are then a prefix of the border.
        border = torch.cat((
            torch.cat((self.global_global, self.frame_global.flatten(0, 1).T), 1),
            torch.cat((self.frame_global.flatten(0, 1), self.frame_frame.transpose(1, 2).flatten(2).flatten(0, 1)), 1),
        ))[keep][:, keep]  # fmt: skip
        right = torch.cat((self.by_global, self.by_frame.flatten()))[keep]
        border = _damped(border, damping)
        chains = [_Chain(self, p, damping, keep) for p in range(self.people)]
        try:
            for chain in chains:
                chain.eliminate(border, right)
            factor = torch.linalg.cholesky(border)
        except torch.linalg.LinAlgError:
            return None
        found = torch.cholesky_solve(right[:, None], factor)[:, 0]
        people = torch.stack([chain.substitute(found) for chain in chains])
        whole = right.new_zeros(len(keep))
        whole[keep] = found
        return self._unpack(-people, -whole)

    def _unpack(self, person: Tensor, border: Tensor) -> Step:
        common, betas, frame = border.split((COMMON, self.people * self.betas, self.frames * FRAME))
        return Step(
            person=person.transpose(0, 1), frame=frame.unflatten(0, (self.frames, FRAME)), common=common,
            betas=betas.unflatten(0, (self.people, self.betas)),
        )  # fmt: skip


def _damped(matrix: Tensor, damping: float) -> Tensor:
    """H + damping diag H, with a floor for unknowns that nothing speaks of."""
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    floor = 1e-9 * diagonal.amax(dim=(-1,), keepdim=True).clamp(min=1e-12)
    return matrix + torch.diag_embed(damping * diagonal + floor)


class _Chain:
    """One person's block tridiagonal system, factored from the first frame to the last."""

    def __init__(self, normal: Normal, person: int, damping: float, keep: Tensor) -> None:
        frames = normal.frames + normal.frames % 2
        pad = frames - normal.frames
        parts = [torch.nn.functional.pad(part[person], (0, 0, 0, 0, 0, pad)) for part in normal.chain]
        own = _damped(parts[0], damping)
        if pad:
            own[-1] = torch.eye(PERSON).to(own)
        first, second = own[0::2], own[1::2]
        inside = parts[1][0::2]
        self.diagonal = torch.cat((torch.cat((first, inside.transpose(1, 2)), 2), torch.cat((inside, second), 2)), 1)
        # Rows: frames t + 2, t + 3; columns: frames t, t + 1.
        far, odd = parts[2], parts[1]
        zero = torch.zeros_like(far[0:-2:2])
        self.below = torch.cat((torch.cat((far[0:-2:2], odd[1:-1:2]), 2), torch.cat((zero, far[1:-2:2]), 2)), 1)
        self.right = torch.nn.functional.pad(normal.by_person[person], (0, 0, 0, pad)).reshape(-1, 2 * PERSON)
        self.coupling, self.ends = _coupling(normal, person, keep, pad)
        self._frames = normal.frames
        self._factors: list[Tensor] = []
        self._links: list[Tensor] = []
        self._solved: list[Tensor] = []

    def eliminate(self, border: Tensor, right: Tensor) -> None:
        """Factor, and take the chain out of the border's matrix and right-hand side (in place)."""
        link: Tensor | None = None
        before: Tensor | None = None
        for i, diagonal in enumerate(self.diagonal):
            end = self.ends[i]
            block = torch.cat((self.right[i][:, None], self.coupling[i, :, :end]), 1)
            if link is not None and before is not None:
                diagonal = diagonal - link @ link.T
                block[:, : before.shape[1]] -= link @ before
            factor = torch.linalg.cholesky(diagonal)
            solved = torch.linalg.solve_triangular(factor, block, upper=False)
            border[:end, :end] -= solved[:, 1:].T @ solved[:, 1:]
            right[:end] -= solved[:, 1:].T @ solved[:, 0]
            self._factors.append(factor)
            self._solved.append(solved)
            if i < len(self.below):
                link = torch.linalg.solve_triangular(factor, self.below[i].T, upper=False).T
                self._links.append(link)
            before = solved

    def substitute(self, border: Tensor) -> Tensor:
        """[T, 75] the chain's unknowns, given those of the border."""
        found: list[Tensor] = []
        for i in reversed(range(len(self._factors))):
            solved = self._solved[i]
            value = solved[:, 0] - solved[:, 1:] @ border[: solved.shape[1] - 1]
            if found:
                value = value - self._links[i].T @ found[-1]
            found.append(torch.linalg.solve_triangular(self._factors[i].T, value[:, None], upper=True)[:, 0])
        return torch.cat(found[::-1]).reshape(-1, PERSON)[: self._frames]


def _coupling(normal: Normal, person: int, keep: Tensor, pad: int) -> tuple[Tensor, list[int]]:
    """A person's coupling with the kept border, [blocks, 150, kept], and where each block's last column ends."""
    frames = normal.frames
    dense = normal.by_person.new_zeros(frames, PERSON, frames, FRAME)
    for k in range(2 * REACH + 1):
        shift = k - REACH
        rows = torch.arange(max(0, -shift), min(frames, frames - shift), device=dense.device)
        dense[rows, :, rows + shift] = normal.person_frame[person, rows, k]
    whole = torch.cat((normal.person_global[person], dense.flatten(2)), 2)[..., keep]
    whole = torch.nn.functional.pad(whole, (0, 0, 0, 0, 0, pad)).reshape(-1, 2 * PERSON, whole.shape[-1])
    kept_before = torch.nn.functional.pad(keep.cumsum(0), (1, 0)).tolist()
    reach = [min(frames, 2 * i + 2 + REACH) for i in range(len(whole))]
    return whole, [kept_before[normal.globals + FRAME * last] for last in reach]
