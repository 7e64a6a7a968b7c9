"""The solution of the joint normal equations by block elimination, in time linear in frames and people.

A person's chain of frames is block tridiagonal (two frames to a block). It is factored once and taken out of the
border, which holds all cameras and the clip's own unknowns:

    (C - sum_p B_p^T A_p^-1 B_p) x = c - sum_p B_p^T A_p^-1 a_p,   then A_p y_p = a_p - B_p x.

What is left of the cameras is a band; it is solved as a block tridiagonal system too, with an arrow for the clip.
"""

from __future__ import annotations

import torch
from torch import Tensor

from teacher.optimise.normal import CAMERA_REACH, REACH, Normal, Step
from teacher.optimise.tangent import PERSON

MEMORY = 12
"""Frames over which a camera's influence is followed along a chain of bodies. It fades; what is dropped makes the step
not quite Newton's, which costs nothing: its gradient is exact, and only steps that lower the objective are taken."""


def solve(normal: Normal, damping: float, keep_frame: Tensor, keep_global: Tensor) -> Step | None:
    """The step -(H + damping diag H)^-1 g, or None if H is not positive.

    Args:
        damping: Marquardt's. keep_frame: [7] bool, unknowns of each camera that move. keep_global: [6 + P B] bool.
    """
    border = _Border(normal, damping, keep_frame, keep_global)
    chains = [_Chain(normal, p, damping, keep_frame, keep_global) for p in range(normal.people)]
    try:
        for chain in chains:
            chain.eliminate(border)
        cameras, common = border.solve()
    except torch.linalg.LinAlgError:
        return None
    people = torch.stack([chain.substitute(cameras, common) for chain in chains])[:, : normal.frames]
    whole = normal.by_frame.new_zeros(normal.by_frame.shape)
    whole[:, keep_frame] = cameras[: normal.frames]
    shared = normal.by_global.new_zeros(normal.by_global.shape)
    shared[keep_global] = common
    return normal.unpack(-people, -torch.cat((shared, whole.flatten())))


def _damped(matrix: Tensor, damping: float, largest: Tensor) -> Tensor:
    """H + damping diag H, with a floor relative to the largest entry for unknowns that nothing speaks of."""
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    return matrix + torch.diag_embed(damping * diagonal + 1e-9 * largest.clamp(min=1e-12))


class _Tridiagonal:
    """Symmetric block tridiagonal systems: diagonal [N, S, S], and below it [N - 1, S, S]."""

    def __init__(self, diagonal: Tensor, below: Tensor) -> None:
        self._factors: list[Tensor] = []
        self._links: list[Tensor] = []
        for i, block in enumerate(diagonal):
            left = block - self._links[-1] @ self._links[-1].T if i else block
            self._factors.append(torch.linalg.cholesky(left))
            if i < len(below):
                self._links.append(torch.linalg.solve_triangular(self._factors[i], below[i].T, upper=False).T)

    def solve(self, right: Tensor) -> Tensor:
        """Right-hand sides [N, S, K] -> solutions of the same shape."""
        found: list[Tensor] = []
        for i, block in enumerate(right):
            left = block - self._links[i - 1] @ found[-1] if i else block
            found.append(torch.linalg.solve_triangular(self._factors[i], left, upper=False))
        for i in reversed(range(len(found))):
            left = found[i] - self._links[i].T @ found[i + 1] if i < len(self._links) else found[i]
            found[i] = torch.linalg.solve_triangular(self._factors[i].T, left, upper=True)
        return torch.stack(found)


class _Border:
    """Kept unknowns of cameras (a band) and clip (an arrow); frames are filled up to whole blocks."""

    def __init__(self, normal: Normal, damping: float, keep_frame: Tensor, keep_global: Tensor) -> None:
        pad = -normal.frames % CAMERA_REACH
        band = normal.frame_frame[..., keep_frame, :][..., keep_frame]
        self.band = torch.nn.functional.pad(band, (0, 0, 0, 0, 0, 0, 0, pad))
        self.band[:, 0] = _damped(self.band[:, 0], damping, _largest(self.band[:, 0]))
        self.band[normal.frames :, 0] = torch.eye(self.band.shape[-1]).to(self.band)
        self.mixed = torch.nn.functional.pad(normal.frame_global[:, keep_frame][..., keep_global], (0, 0, 0, 0, 0, pad))
        common = normal.global_global[keep_global][:, keep_global]
        self.common = _damped(common, damping, _largest(common))
        self.by_camera = torch.nn.functional.pad(normal.by_frame[:, keep_frame], (0, 0, 0, pad))
        self.by_common = normal.by_global[keep_global]

    def take_out(self, product: Tensor, first: int, last: int) -> None:
        """Subtract a product [globals + window, 1 + globals + window] (its first column belongs to the right side)."""
        fixed, count, width = len(self.by_common), last - first, self.by_camera.shape[-1]
        self.by_common -= product[:fixed, 0]
        self.common -= product[:fixed, 1 : 1 + fixed]
        if width == 0:
            return
        own = product[fixed:]
        self.by_camera[first:last] -= own[:, 0].unflatten(0, (count, width))
        self.mixed[first:last] -= own[:, 1 : 1 + fixed].unflatten(0, (count, width))
        row, column = torch.tril_indices(count, count, device=product.device)
        blocks = own[:, 1 + fixed :].unflatten(0, (count, width)).unflatten(-1, (count, width))
        self.band[first + column, row - column] -= blocks[row, :, column]

    def solve(self) -> tuple[Tensor, Tensor]:
        """Cameras [T (filled up), kept] and the clip's unknowns [kept]."""
        width, fixed = self.by_camera.shape[-1], len(self.by_common)
        common, right = self.common, self.by_common
        if width:
            both = torch.cat((self.by_camera[..., None], self.mixed), -1).unflatten(0, (-1, CAMERA_REACH)).flatten(1, 2)
            solved = self._tridiagonal().solve(both).unflatten(1, (CAMERA_REACH, width)).flatten(0, 1)
            common = common - torch.einsum("tcg,tch->gh", self.mixed, solved[..., 1:])
            right = right - torch.einsum("tcg,tc->g", self.mixed, solved[..., 0])
        found = torch.cholesky_solve(right[:, None], torch.linalg.cholesky(common))[:, 0] if fixed else right
        if not width:
            return self.by_camera, found
        return solved[..., 0] - solved[..., 1:] @ found, found

    def _tridiagonal(self) -> _Tridiagonal:
        band = self.band.unflatten(0, (-1, CAMERA_REACH))  # [N, column, gap, c, c]
        row, column = torch.meshgrid(*(2 * (torch.arange(CAMERA_REACH),)), indexing="ij")
        lower = band[:, torch.minimum(row, column), (row - column).abs()]
        above = (row < column).to(band.device)[..., None, None]
        diagonal = torch.where(above, lower.transpose(-1, -2), lower)
        reached = (row <= column).to(band.device)[..., None, None]
        gap = (CAMERA_REACH + row - column).clamp(max=CAMERA_REACH)
        below = torch.where(reached, band[:-1][:, column, gap], torch.zeros_like(diagonal[:1]))
        return _Tridiagonal(*(block.transpose(2, 3).flatten(3).flatten(1, 2) for block in (diagonal, below)))


def _largest(matrix: Tensor) -> Tensor:
    """The largest diagonal entry, or 0."""
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    return diagonal.max() if diagonal.numel() else matrix.new_zeros(())


class _Chain:
    """One person's block tridiagonal system.

    The columns that a block meets are the kept globals and the cameras of a moving window of frames (`MEMORY`).
    """

    def __init__(self, normal: Normal, person: int, damping: float, keep_frame: Tensor, keep_global: Tensor) -> None:
        self._chain = [part[person] for part in normal.chain]
        self._damping, self._largest = damping, _largest(self._chain[0])
        self._right = normal.by_person[person].reshape(-1, 2 * PERSON)
        self._globals = normal.person_global[person][..., keep_global].reshape(-1, 2 * PERSON, int(keep_global.sum()))
        self._cameras = normal.person_frame[person][..., keep_frame]
        self._frames = normal.frames
        self._factors: list[Tensor] = []
        self._links: list[Tensor] = []
        self._solved: list[Tensor] = []

    def _diagonal(self, block: int) -> Tensor:
        """[150, 150] of the block's two frames."""
        first = 2 * block
        own = _damped(self._chain[0][first : first + 2], self._damping, self._largest)
        link = self._chain[1][first]
        return torch.cat((torch.cat((own[0], link.T), 1), torch.cat((link, own[1]), 1)))

    def _below(self, block: int) -> Tensor:
        """[150, 150]: rows of the next block, columns of this one."""
        first = 2 * block
        near, far = self._chain[1][first + 1], self._chain[2]
        upper = torch.cat((far[first], near), 1)
        return torch.cat((upper, torch.cat((torch.zeros_like(near), far[first + 1]), 1)))

    def _window(self, block: int) -> tuple[int, int]:
        """First and last but one frame whose camera the block may meet."""
        return max(0, 2 * block - MEMORY), min(self._frames, 2 * block + 2 + REACH)

    def _coupled(self, block: int) -> Tensor:
        """[150, 1 + globals + window] right-hand side, globals and cameras of a block."""
        first, last = self._window(block)
        cameras = self._right.new_zeros(2, PERSON, last - first, self._cameras.shape[-1])
        for half in range(2):
            frame = 2 * block + half
            start, stop = max(first, frame - REACH), min(last, frame + REACH + 1)
            near = self._cameras[frame, start - frame + REACH : stop - frame + REACH]
            cameras[half, :, start - first : stop - first] = near.transpose(0, 1)
        return torch.cat((self._right[block][:, None], self._globals[block], cameras.flatten(2).flatten(0, 1)), 1)

    def eliminate(self, border: _Border) -> None:
        """Factor from the first block to the last, and take each out of the border."""
        fixed, width = 1 + self._globals.shape[-1], self._cameras.shape[-1]
        for i in range(len(self._right)):
            diagonal, block = self._diagonal(i), self._coupled(i)
            first, last = self._window(i)
            if i:
                diagonal = diagonal - self._links[-1] @ self._links[-1].T
                carried = self._links[-1] @ self._solved[-1]
                before = self._window(i - 1)
                gone, stay = (first - before[0]) * width, (before[1] - first) * width
                block[:, :fixed] -= carried[:, :fixed]
                block[:, fixed : fixed + stay] -= carried[:, fixed + gone :]
            factor = torch.linalg.cholesky(diagonal)
            solved = torch.linalg.solve_triangular(factor, block, upper=False)
            border.take_out(solved[:, 1:].T @ solved, first, last)
            self._factors.append(factor)
            self._solved.append(solved)
            if i + 1 < len(self._right):
                self._links.append(torch.linalg.solve_triangular(factor, self._below(i).T, upper=False).T)

    def substitute(self, cameras: Tensor, common: Tensor) -> Tensor:
        """[T (even), 75] the chain's unknowns, given those of the border."""
        found: list[Tensor] = []
        for i in reversed(range(len(self._factors))):
            first, last = self._window(i)
            known = torch.cat((common, cameras[first:last].flatten()))
            value = self._solved[i][:, 0] - self._solved[i][:, 1:] @ known
            if found:
                value = value - self._links[i].T @ found[-1]
            found.append(torch.linalg.solve_triangular(self._factors[i].T, value[:, None], upper=True)[:, 0])
        return torch.cat(found[::-1]).reshape(-1, PERSON)
