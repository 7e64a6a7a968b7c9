"""A set of 3D Gaussians, the thing that is rendered: plain values, no logits, logs or harmonics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import roma
import torch
from torch import Tensor

from distill.errors import FootfallError
from distill.geometry.rotations import quat_from_matrix
from distill.geometry.transforms import transform_points

SHAPES: Final[dict[str, tuple[int, ...]]] = {
    "means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "colors": (3,),
}  # fmt: skip
"""Field -> its shape after the first axis, N."""


@dataclass(kw_only=True)
class Gaussians:
    """N Gaussians in one frame (world, camera, body: named by the variable that holds them).

    The density of one is `opacity * exp(-1/2 (x - mean)^T (R S^2 R^T)^-1 (x - mean))` with R of its quaternion and S
    the diagonal of its scales (Kerbl et al., SIGGRAPH 2023, eq. 4 and 6). Fields share dtype and device.

    Raises:
        FootfallError: a field that has another shape than stated, or is not of floats.
    """

    means: Tensor
    """[N, 3] centres, m."""
    quats: Tensor
    """[N, 4] wxyz, need not be of unit length, but not zero."""
    scales: Tensor
    """[N, 3] standard deviations along the axes of R, m; positive."""
    opacities: Tensor
    """[N] 0 to 1."""
    colors: Tensor
    """[N, 3] RGB, 0 to 1."""

    def __post_init__(self) -> None:
        count = self.means.shape[:1]
        for name, shape in SHAPES.items():
            value: Tensor = getattr(self, name)
            if value.shape != (*count, *shape) or not value.is_floating_point():
                raise FootfallError(
                    f"Gaussians, {name}", got=f"{value.dtype} {list(value.shape)}",
                    expected=f"floats [N, {', '.join(map(str, shape))}] with the N of means" if shape else "floats [N]",
                    do="give every field one row for each Gaussian",
                )  # fmt: skip

    def __len__(self) -> int:
        return len(self.means)

    def __getitem__(self, index: Tensor | slice) -> Gaussians:
        """Some of them: a slice, whole numbers [M] or a mask [N]."""
        return self._map(lambda value: value[index])

    def to(self, *args: Any, **kwargs: Any) -> Gaussians:
        """On another device or of another dtype; arguments as of `torch.Tensor.to`."""
        return self._map(lambda value: value.to(*args, **kwargs))

    def detach(self) -> Gaussians:
        """The same values without their history."""
        return self._map(Tensor.detach)

    def moved(self, target_from_source: Tensor) -> Gaussians:
        """The same Gaussians in another frame; differentiable in the transform.

        Args:
            target_from_source: [4, 4] rigid.
        """
        turn = quat_from_matrix(target_from_source[:3, :3]).expand(len(self), 4)
        quats = roma.quat_product(turn.roll(-1, -1), self.quats.roll(-1, -1)).roll(1, -1)  # roma's are xyzw
        return Gaussians(
            means=transform_points(target_from_source, self.means), quats=quats,
            scales=self.scales, opacities=self.opacities, colors=self.colors,
        )  # fmt: skip

    @staticmethod
    def cat(parts: Sequence[Gaussians]) -> Gaussians:
        """All of several sets, in order: at least one set, all in the same frame."""
        return Gaussians(**{name: torch.cat([getattr(part, name) for part in parts]) for name in SHAPES})

    def _map(self, change: Callable[[Tensor], Tensor]) -> Gaussians:
        return Gaussians(**{field.name: change(getattr(self, field.name)) for field in fields(self)})
