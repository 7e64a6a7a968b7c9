"""Gaussians of many frames as one scene of bounded size: cells of a grid that keep weighted moments.

A Gaussian falls into the cell of its centre, on the level of its size: cells of level l are `cell_m` 2^l wide, and a
Gaussian goes to the first level whose cells are as wide as itself. What meets in a cell becomes one Gaussian with the
same first and second moments, weighted by confidence times opacity (w):

    mu = sum w mu_i / sum w        Sigma = sum w (Sigma_i + mu_i mu_i^T) / sum w - mu mu^T

so places that frames disagree about become larger, and nothing falls between cells. When there are too many, the
finest level is given up: its cells pass into those twice as wide that contain them. Sums know no order and cells nest,
so the scene does not depend on the order of the frames (but for rounding).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from distill.geometry.rotations import matrix_from_quat, quat_from_matrix
from distill.render import Gaussians

_BITS: Final = 19
_OFFSET: Final = 1 << (_BITS - 1)
_MOST_LEVEL: Final = 15
_UPPER: Final = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
_SUMS: Final = 14
"""Confidence 1, w 1, w mu 3, w (Sigma + mu mu^T) 6, w colour 3."""
LEAST_SCALE: Final = 1e-4
"""Metres; merged Gaussians are no thinner."""


@dataclass(kw_only=True)
class MapConfig:
    """The scene that a stream draws."""

    cell_m: float = 0.03
    """Width of the smallest cells, metres."""
    most: int = 60_000
    """Gaussians are merged into larger cells when there are more than this."""

    def __post_init__(self) -> None:
        if self.cell_m <= 0 or self.most < 1:
            raise ValueError("gaussian map: cell_m > 0 and most >= 1 are expected")


class GaussianMap:
    """`add` the Gaussians of a frame, read `gaussians`; at most `most` cells are kept between calls."""

    def __init__(self, config: MapConfig | None = None) -> None:
        self.config = config or MapConfig()
        self.level = 0
        """Finest level in use."""
        self._keys = torch.zeros(0, dtype=torch.long)
        self._sums = torch.zeros(0, _SUMS, dtype=torch.float64)

    def __len__(self) -> int:
        return len(self._keys)

    @torch.no_grad()
    def add(self, gaussians: Gaussians, confidence: Tensor) -> None:
        """Merge Gaussians of one frame, in the world; confidence [N] above 0. Those beyond the grid are left out."""
        keys, inside = self._keys_of(gaussians)
        sums = _moments(gaussians[inside], confidence[inside])
        self._keys, self._sums = _merged(torch.cat((self._keys, keys[inside])), torch.cat((self._sums, sums)))
        while len(self._keys) > self.config.most and self.level < _MOST_LEVEL:
            self.level += 1
            self._keys, self._sums = _merged(_coarser(self._keys, self.level), self._sums)

    def gaussians(self) -> Gaussians:
        """The scene so far, in the world."""
        sums = self._sums
        weight = sums[:, 1:2]
        mean, second, color = sums[:, 2:5] / weight, sums[:, 5:11] / weight, sums[:, 11:14] / weight
        covariance = torch.empty(len(sums), 3, 3, dtype=torch.float64)
        for column, (i, j) in enumerate(_UPPER):
            covariance[:, i, j] = covariance[:, j, i] = second[:, column] - mean[:, i] * mean[:, j]
        variance, axes = torch.linalg.eigh(covariance)
        axes = axes * torch.linalg.det(axes).sign()[:, None, None]  # an odd number of axes: this makes a rotation
        return Gaussians(
            means=mean.float(), quats=quat_from_matrix(axes).float(),
            scales=variance.clamp(min=LEAST_SCALE**2).sqrt().float(),
            opacities=(sums[:, 1] / sums[:, 0]).clamp(0, 1).float(), colors=color.clamp(0, 1).float(),
        )  # fmt: skip

    def _keys_of(self, gaussians: Gaussians) -> tuple[Tensor, Tensor]:
        """Packed level and cell [N], and which lie inside the grid."""
        means = gaussians.means.cpu().double()
        size = 2 * gaussians.scales.cpu().double().mean(-1)
        level = (size / self.config.cell_m).clamp(min=1).log2().ceil().long().clamp(max=_MOST_LEVEL)
        # Cells are counted on the finest level and halved, so that a coarse cell is exactly the fine ones inside it.
        fine = (means / self.config.cell_m).floor()
        inside = (fine.abs() < _OFFSET).all(-1) & torch.isfinite(size)
        level = level.clamp(min=self.level)
        cell = torch.where(inside[:, None], fine, 0.0).long() >> level[:, None]
        return _pack(level, cell), inside


def _pack(level: Tensor, cell: Tensor) -> Tensor:
    """[N], [N, 3] -> [N]."""
    x, y, z = (cell + _OFFSET).unbind(-1)
    return ((level << _BITS | x) << _BITS | y) << _BITS | z


def _coarser(keys: Tensor, level: Tensor | int) -> Tensor:
    """Keys of the cells of `level` or above that contain these."""
    mask = (1 << _BITS) - 1
    cell = torch.stack([keys >> (2 * _BITS) & mask, keys >> _BITS & mask, keys & mask], dim=-1) - _OFFSET
    old = keys >> (3 * _BITS)
    new = old.clamp(min=level)
    return _pack(new, cell >> (new - old)[:, None])


def _merged(keys: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of equal keys."""
    unique, inverse = torch.unique(keys, return_inverse=True)
    return unique, sums.new_zeros(len(unique), sums.shape[1]).index_add_(0, inverse, sums)


def _moments(gaussians: Gaussians, confidence: Tensor) -> Tensor:
    """Rows [N, 14] whose sums a cell keeps."""
    flat = gaussians.detach().to("cpu", torch.float64)
    confidence = confidence.detach().cpu().double()[:, None]
    weight = confidence * flat.opacities[:, None].clamp(min=1e-6)
    spread = matrix_from_quat(flat.quats) * flat.scales[:, None]
    second = spread @ spread.transpose(1, 2) + flat.means[:, :, None] * flat.means[:, None]
    upper = torch.stack([second[:, i, j] for i, j in _UPPER], dim=-1)
    return torch.cat((confidence, weight, weight * flat.means, weight * upper, weight * flat.colors), dim=1)
