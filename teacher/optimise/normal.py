"""The normal equations of the joint problem, and their solution by block elimination.

Unknowns of a person couple only with the next two frames and with the clip's border (all cameras, focal length,
scale, plane, shapes). A person's chain is therefore block tridiagonal (two frames to a block); it is factored
once, and the border is solved from the Schur complement

    (C - sum_p B_p^T A_p^-1 B_p) x = c - sum_p B_p^T A_p^-1 a_p,   then A_p y_p = a_p - B_p x.

Cost: linear in frames and people, but for the factor of the border (7 unknowns a frame).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from teacher.optimise.tangent import COMMON, FRAME, PERSON

REACH = 2
"""Frames that a person's unknowns couple with, before and after."""
MEMORY = 12
"""Frames over which a camera's influence is followed along a chain of bodies."""


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
        self.frame_frame = zeros(frames, frames, FRAME, FRAME)
        self.frame_global = zeros(frames, FRAME, self.globals)
        self.global_global = zeros(self.globals, self.globals)
        self.by_person = zeros(people, even, PERSON)
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
        self.by_person[:, : self.frames] += gradient[..., :PERSON].transpose(0, 1)
        self.by_frame += gradient[..., PERSON : PERSON + FRAME].sum(1)
        for p in range(self.people):
            self.by_global[self.columns(p)] += gradient[:, p, PERSON + FRAME :].sum(0)

    def add_pairs(
        self, frames: tuple[Tensor, Tensor], jacobians: tuple[Tensor, Tensor, Tensor], residual: Tensor
    ) -> None:
        """Rows [N, D] (weighted by the roots of their weights) of two cameras [N, D, 7] each and the clip [N, D, 6]."""
        first, second = frames
        for a, frame_a in enumerate(frames):
            turned = jacobians[a].transpose(-1, -2)
            self.by_frame.index_add_(0, frame_a, (turned @ residual[..., None])[..., 0])
            self.frame_global[..., :COMMON].index_add_(0, frame_a, turned @ jacobians[2])
            self.frame_frame.view(-1, FRAME, FRAME).index_add_(0, frame_a * (self.frames + 1), turned @ jacobians[a])
        across = torch.zeros_like(self.frame_frame).view(-1, FRAME, FRAME)
        across.index_add_(0, first * self.frames + second, jacobians[0].transpose(-1, -2) @ jacobians[1])
        across = across.view_as(self.frame_frame)
        self.frame_frame += across + across.permute(1, 0, 3, 2)
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
        return self._unpack(people, torch.cat((self.by_global, self.by_frame.flatten())))

    def solve(self, damping: float, keep_frame: Tensor, keep_global: Tensor) -> Step | None:
        """The step -(H + damping diag H)^-1 g of the kept border unknowns and all people, or None if H is not positive.

        Args:
            damping: Marquardt's. keep_frame: [7] bool. keep_global: [6 + P B] bool.
        """
        keep = torch.cat((keep_global, keep_frame.repeat(self.frames)))
        cameras = self.frame_frame.transpose(1, 2).flatten(2).flatten(0, 1)
        mixed = self.frame_global.flatten(0, 1)
        border = torch.cat((torch.cat((self.global_global, mixed.T), 1), torch.cat((mixed, cameras), 1)))
        border = _damped(border[keep][:, keep], damping)
        right = torch.cat((self.by_global, self.by_frame.flatten()))[keep]
        chains = [_Chain(self, p, damping, keep_frame, keep_global) for p in range(self.people)]
        try:
            for chain in chains:
                chain.eliminate(border, right)
            factor = torch.linalg.cholesky(border)
        except torch.linalg.LinAlgError:
            return None
        found = torch.cholesky_solve(right[:, None], factor)[:, 0]
        people = torch.stack([chain.substitute(found) for chain in chains])[:, : self.frames]
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
    """One person's block tridiagonal system, factored from the first frame to the last.

    The columns that a block meets are the kept globals and the cameras of a moving window of frames: through a
    chain of bodies a camera's influence on later ones fades, and is dropped after `MEMORY` frames. The step is then
    not quite Newton's, which costs nothing: its gradient is exact, and only steps that lower the objective are taken.
    """

    def __init__(self, normal: Normal, person: int, damping: float, keep_frame: Tensor, keep_global: Tensor) -> None:
        chain = [part[person] for part in normal.chain]
        own = _damped(chain[0], damping)
        first, second, inside = own[0::2], own[1::2], chain[1][0::2]
        self._diagonal = torch.cat((torch.cat((first, inside.transpose(1, 2)), 2), torch.cat((inside, second), 2)), 1)
        # Rows: frames t + 2, t + 3; columns: frames t, t + 1.
        far, odd = chain[2], chain[1]
        upper, lower = (
            torch.cat((far[0:-2:2], odd[1:-1:2]), 2),
            torch.cat((torch.zeros_like(far[0:-2:2]), far[1:-2:2]), 2),
        )
        self._below = torch.cat((upper, lower), 1)
        self._right = normal.by_person[person].reshape(-1, 2 * PERSON)
        self._globals = normal.person_global[person][..., keep_global].reshape(-1, 2 * PERSON, int(keep_global.sum()))
        self._cameras = normal.person_frame[person][..., keep_frame]
        self._frames, self._width = normal.frames, int(keep_frame.sum())
        self._factors: list[Tensor] = []
        self._links: list[Tensor] = []
        self._solved: list[Tensor] = []

    def _columns(self, block: int) -> tuple[int, int]:
        """First and last but one frame whose camera the block may meet."""
        return max(0, 2 * block - MEMORY), min(self._frames, 2 * block + 2 + REACH)

    def _coupled(self, block: int) -> Tensor:
        """[150, 1 + globals + window] right-hand side, globals and cameras of a block."""
        first, last = self._columns(block)
        cameras = self._right.new_zeros(2 * PERSON, last - first, self._width)
        for half in range(2):
            frame = 2 * block + half
            for k in range(2 * REACH + 1):
                other = frame + k - REACH
                if first <= other < last and frame < self._frames:
                    cameras[half * PERSON : (half + 1) * PERSON, other - first] = self._cameras[frame, k]
        return torch.cat((self._right[block][:, None], self._globals[block], cameras.flatten(1)), 1)

    def eliminate(self, border: Tensor, right: Tensor) -> None:
        """Factor, and take the chain out of the border's matrix and right-hand side (in place)."""
        fixed = 1 + self._globals.shape[-1]
        link: Tensor | None = None
        for i, diagonal in enumerate(self._diagonal):
            block = self._coupled(i)
            first, last = self._columns(i)
            if link is not None:
                diagonal = diagonal - link @ link.T
                carried = link @ self._solved[-1]
                before = self._columns(i - 1)
                gone, stay = (first - before[0]) * self._width, (before[1] - first) * self._width
                block[:, :fixed] -= carried[:, :fixed]
                block[:, fixed : fixed + stay] -= carried[:, fixed + gone :]
            factor = torch.linalg.cholesky(diagonal)
            solved = torch.linalg.solve_triangular(factor, block, upper=False)
            product = solved[:, 1:].T @ solved
            shared, window = slice(0, fixed - 1), slice(fixed - 1 + first * self._width, fixed - 1 + last * self._width)
            right[shared] -= product[shared, 0]
            right[window] -= product[fixed - 1 :, 0]
            border[shared, shared] -= product[shared, 1:fixed]
            border[shared, window] -= product[shared, fixed:]
            border[window, shared] -= product[fixed - 1 :, 1:fixed]
            border[window, window] -= product[fixed - 1 :, fixed:]
            self._factors.append(factor)
            self._solved.append(solved)
            if i < len(self._below):
                link = torch.linalg.solve_triangular(factor, self._below[i].T, upper=False).T
                self._links.append(link)

    def substitute(self, border: Tensor) -> Tensor:
        """[T (even), 75] the chain's unknowns, given those of the border."""
        fixed = self._globals.shape[-1]
        found: list[Tensor] = []
        for i in reversed(range(len(self._factors))):
            first, last = self._columns(i)
            known = torch.cat((border[:fixed], border[fixed + first * self._width : fixed + last * self._width]))
            value = self._solved[i][:, 0] - self._solved[i][:, 1:] @ known
            if found:
                value = value - self._links[i].T @ found[-1]
            found.append(torch.linalg.solve_triangular(self._factors[i].T, value[:, None], upper=True)[:, 0])
        return torch.cat(found[::-1]).reshape(-1, PERSON)
