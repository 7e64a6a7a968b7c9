"""LPIPS with AlexNet (Zhang et al., CVPR 2018, version 0.1), from weight files that the user holds.

Neither file is shipped: the backbone is torchvision's AlexNet, trained on ImageNet; the heads come with the package
`lpips`. Without them there is no LPIPS, and every report says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distill.errors import FootfallError
from distill.metrics.images import lpips_from_features
from distill.metrics.inputs import DegenerateError

BACKBONE: Final = "alexnet-owt-7be5be79.pth"
"""torchvision's state of AlexNet (keys `features.N.weight`, `features.N.bias`)."""
HEADS: Final = "alex.pth"
"""`lpips/weights/v0.1/alex.pth` of the package (keys `linK.model.1.weight`)."""
LEAST_SIDE: Final = 35
"""Pixels: below this AlexNet's last layers have nothing to look at."""
ALEXNET: Final[dict[int, tuple[tuple[int, ...], dict[str, int]]]] = {
    0: ((64, 3, 11, 11), {"stride": 4, "padding": 2}),
    3: ((192, 64, 5, 5), {"padding": 2}),
    6: ((384, 192, 3, 3), {"padding": 1}),
    8: ((256, 384, 3, 3), {"padding": 1}),
    10: ((256, 256, 3, 3), {"padding": 1}),
}
"""Position of each convolution in torchvision's AlexNet -> shape of its weight, and how it is applied."""
_SHIFT: Final = (-0.030, -0.088, -0.188)
_SCALE: Final = (0.458, 0.448, 0.450)
"""The package's normalisation of images in [-1, 1]."""


class AlexLpips:
    """The distance; make it by `load_lpips`."""

    def __init__(self, convolutions: list[tuple[Tensor, Tensor]], heads: list[Tensor]) -> None:
        self._convolutions, self._heads = convolutions, [head.flatten().numpy() for head in heads]

    def __call__(self, target: Any, prediction: Any, *, rescale: bool = True) -> float:
        """Distance of two images; 0 for equal ones.

        Args:
            target, prediction: [H, W, 3] in 0..1, at least `LEAST_SIDE` pixels a side.
            rescale: to [-1, 1], as the network was trained; False repeats what HUGS and JOintGS did.

        Raises:
            DegenerateError: too small for the network.
        """
        if min(np.shape(target)[:2]) < LEAST_SIDE:
            raise DegenerateError(f"LPIPS: {np.shape(target)[:2]} pixels, fewer than {LEAST_SIDE} a side")
        true, predicted = (self._features(image, rescale) for image in (target, prediction))
        return float(lpips_from_features(true, predicted, self._heads)[0])

    def loss(self, target: Tensor, prediction: Tensor) -> Tensor:
        """The same distance [], differentiable in both images [1, 3, H, W] in 0..1, rescaled; on their device."""
        total = target.new_zeros(())
        true, predicted = self._layers(2 * target - 1), self._layers(2 * prediction - 1)
        for a, b, head in zip(true, predicted, self._heads, strict=True):
            unit = [x / (1e-8 + x.square().sum(1, keepdim=True)).sqrt() for x in (a, b)]
            weight = torch.as_tensor(head).to(a)[:, None, None]
            total = total + ((unit[0] - unit[1]).square() * weight).sum(1).mean()
        return total

    @torch.no_grad()
    def _features(self, image: Any, rescale: bool) -> list[Any]:
        x = torch.as_tensor(np.asarray(image, np.float32)).permute(2, 0, 1)[None]
        return [layer.numpy() for layer in self._layers(2 * x - 1 if rescale else x)]

    def _layers(self, x: Tensor) -> list[Tensor]:
        """Features of images [1, 3, H, W] in [-1, 1] after each convolution."""
        x = (x - x.new_tensor(_SHIFT)[:, None, None]) / x.new_tensor(_SCALE)[:, None, None]
        features = []
        for (position, (_, options)), (weight, bias) in zip(ALEXNET.items(), self._convolutions, strict=True):
            if position in (3, 6):
                x = F.max_pool2d(x, 3, 2)
            x = F.relu(F.conv2d(x, weight.to(x), bias.to(x), **options))  # type: ignore[arg-type]
            features.append(x)
        return features


def load_lpips(folder: Path) -> AlexLpips:
    """Read `BACKBONE` and `HEADS` from a folder.

    Raises:
        FootfallError: one is missing or is something else.
    """
    backbone, heads = _state(folder / BACKBONE), _state(folder / HEADS)
    convolutions, lines = [], []
    for index, (position, (shape, _)) in enumerate(ALEXNET.items()):
        names = f"features.{position}.weight", f"features.{position}.bias"
        weight, bias = (_tensor(folder / BACKBONE, backbone, name) for name in names)
        head = _tensor(folder / HEADS, heads, f"lin{index}.model.1.weight")
        if tuple(weight.shape) != shape or tuple(bias.shape) != shape[:1] or tuple(head.shape) != (1, shape[0], 1, 1):
            raise _not_weights(folder, f"{names[0]} {tuple(weight.shape)} with a head of {tuple(head.shape)}")
        convolutions.append((weight, bias))
        lines.append(head)
    return AlexLpips(convolutions, lines)


def _state(path: Path) -> Any:
    if not path.is_file():
        raise _not_weights(path, "no such file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make torch raise a dozen kinds
        raise _not_weights(path, f"unreadable ({type(error).__name__})") from error


def _tensor(path: Path, state: Any, name: str) -> Tensor:
    found = state.get(name) if isinstance(state, dict) else None
    if not isinstance(found, Tensor):
        raise _not_weights(path, f"no tensor {name}")
    return found.float()


def _not_weights(path: Path, got: str) -> FootfallError:
    return FootfallError(
        f"LPIPS weights {path}", got=got,
        expected=f"{BACKBONE} (torchvision's AlexNet) and {HEADS} (of the package lpips, version 0.1) in one folder",
        do="put both there, or leave images.lpips_weights empty: the report then says that LPIPS is missing",
    )  # fmt: skip
