"""What rendering gives, and the one function that renders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from distill.errors import FootfallError
from distill.render.gaussians import Gaussians
from distill.render.reference import draw_reference
from distill.render.splatting import draw_gsplat

BACKENDS: Final = ("auto", "gsplat", "reference")
"""auto: gsplat for tensors on CUDA, the reference for all others."""


@dataclass(kw_only=True)
class Rendering:
    """Pictures of C cameras."""

    color: Tensor
    """[C, H, W, 3] RGB, background included."""
    alpha: Tensor
    """[C, H, W] share of light that the Gaussians stop, 0 to 1."""
    depth: Tensor
    """[C, H, W] z in the camera, mean over what stops the light, m; 0 where alpha is 0."""
    person: Tensor
    """[C, H, W] share of light that people stop: their silhouette, less what stands in front of them."""


def render(
    gaussians: Gaussians,
    cam_from_world: Tensor,
    K: Tensor,
    size: tuple[int, int],
    *,
    person: Tensor | None = None,
    background: Tensor | None = None,
    antialiased: bool = False,
    backend: str = "auto",
) -> Rendering:
    """Pictures of Gaussians, differentiable in all of them and in the cameras; conventions in docs/render.md.

    Computes in float32 whatever the dtype of the inputs and autocast, or in float64 where the Gaussians are (reference
    only). All tensors lie on one device.

    Args:
        gaussians: N of them in the world.
        cam_from_world: [C, 4, 4] rigid.
        K: [C, 3, 3] pixels, without skew. The reference differentiates it, gsplat cannot.
        size: (width, height) of the pictures, pixels.
        person: [N] 1 for Gaussians of people, 0 for those of the scene; None: no people.
        background: [3] or [C, 3] RGB behind everything; None: black.
        antialiased: lower opacities by as much as the blur of the projection makes Gaussians larger (Yu et al., CVPR
            2024, eq. 9), so that pictures of several sizes agree; what is thinner than a pixel no longer grows.
        backend: one of `BACKENDS`.

    Raises:
        FootfallError: another shape than stated, several devices, or numbers that are not finite; gsplat is asked for
            and is not installed, cannot be built, gets tensors that are not on CUDA, or is to differentiate K.
    """
    _check(gaussians, cam_from_world, K, size, person, background, backend)
    if person is None:
        person = torch.zeros_like(gaussians.opacities)
    features = torch.cat((gaussians.colors, person.to(gaussians.colors)[:, None]), -1)
    drawn, depth, alpha = draw_features(
        gaussians, cam_from_world, K, size, features, antialiased=antialiased, backend=backend
    )
    color = drawn[..., :3]
    if background is not None:
        behind = background.to(color).expand(len(K), 3)
        color = color + (1 - alpha)[..., None] * behind[:, None, None]
    return Rendering(color=color, alpha=alpha, depth=depth, person=drawn[..., 3])


def draw_features(
    gaussians: Gaussians, cam_from_world: Tensor, K: Tensor, size: tuple[int, int], features: Tensor,
    *, antialiased: bool = False, backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Any values of Gaussians, summed as colours are: features [N, D] -> [C, H, W, D], depth and alpha [C, H, W].

    For values that are no colours, such as how far a Gaussian moves when a joint turns. All other arguments and the
    precision are those of `render`, which checks them.
    """
    device = gaussians.means.device.type
    chosen = ("gsplat" if device == "cuda" else "reference") if backend == "auto" else backend
    dtype = torch.float64 if chosen == "reference" and gaussians.means.dtype == torch.float64 else torch.float32
    draw = draw_gsplat if chosen == "gsplat" else draw_reference
    with torch.autocast(device, enabled=False):
        return draw(
            gaussians.to(dtype), cam_from_world.to(dtype), K.to(dtype), size, features.to(dtype),
            antialiased=antialiased,
        )  # fmt: skip


def _check(
    gaussians: Gaussians,
    cam_from_world: Tensor,
    K: Tensor,
    size: tuple[int, int],
    person: Tensor | None,
    background: Tensor | None,
    backend: str,
) -> None:
    """Raise what `render` promises of shapes, devices and names."""
    if backend not in BACKENDS:
        raise FootfallError("render, backend", got=backend, expected=" or ".join(BACKENDS), do="name one of them")
    if len(size) != 2 or min(size) < 1:
        raise FootfallError("render, size", got=size, expected="(width, height) of at least one pixel", do="mend it")
    count, cameras = len(gaussians), len(cam_from_world)
    wanted: dict[str, tuple[Tensor | None, list[tuple[int, ...]]]] = {
        "cam_from_world": (cam_from_world, [(cameras, 4, 4)]), "K": (K, [(cameras, 3, 3)]),
        "person": (person, [(count,)]), "background": (background, [(3,), (cameras, 3)]),
    }  # fmt: skip
    for name, (value, shapes) in wanted.items():
        if value is None:
            continue
        if tuple(value.shape) not in shapes:
            raise FootfallError(
                f"render, {name}", got=list(value.shape), expected=" or ".join(str(list(shape)) for shape in shapes),
                do="C cameras and N Gaussians are counted by cam_from_world and gaussians",
            )  # fmt: skip
        if value.device != gaussians.means.device:
            raise FootfallError(
                f"render, {name}", got=f"a tensor on {value.device}", expected=f"one on {gaussians.means.device}",
                do="move it to the device of the Gaussians",
            )  # fmt: skip
    _check_finite(vars(gaussians) | {name: value for name, (value, _) in wanted.items() if value is not None})


def _check_finite(tensors: dict[str, Tensor]) -> None:
    """A Gaussian with a NaN would not be drawn, and nobody would know."""
    finite = torch.stack([value.isfinite().all() for value in tensors.values()])  # one wait for the device, not nine
    if not bool(finite.all()):
        name = next(name for name, good in zip(tensors, finite.tolist(), strict=True) if not good)
        raise FootfallError(
            f"render, {name}", got="NaN or infinity", expected="finite numbers",
            do="look for the step that made them: a learning rate too high, a division by zero",
        )  # fmt: skip
