"""What the photometric stage compares its pictures with: frames, masks and depth at the size that is worked at."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distill.geometry.cameras import resize_intrinsics


@dataclass(kw_only=True)
class Footage:
    """T frames of H x W pixels, P people."""

    images: Tensor
    """[T, H, W, 3] RGB, 0 to 1."""
    masks: Tensor
    """[T, P, H, W] share of each pixel that shows the person, 0 to 1."""
    depth: Tensor
    """[T, H, W] z of the background, metres; 0 where unknown or on a person."""
    person_depth: Tensor
    """[T, H, W] z of what is seen on people, metres; 0 elsewhere and where unknown."""
    K: Tensor
    """[3, 3] pixels."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, pixels."""
        return self.images.shape[2], self.images.shape[1]

    @property
    def people(self) -> Tensor:
        """[T, H, W] share of each pixel that shows anybody."""
        return self.masks.sum(1).clamp(max=1)

    def to(self, device: torch.device) -> Footage:
        """The same on another device."""
        return Footage(**{name: value.to(device) for name, value in vars(self).items()})

    def smaller(self, factor: int) -> Footage:
        """Colours and masks averaged over blocks, depth of each block's middle; `factor` 1 gives the same."""
        if factor == 1:
            return self
        width, height = (max(8, round(n / factor)) for n in self.size)
        K = resize_intrinsics(self.K, self.size, (width, height))
        images = F.interpolate(self.images.permute(0, 3, 1, 2), (height, width), mode="area").permute(0, 2, 3, 1)
        return replace(
            self, images=images, masks=F.interpolate(self.masks, (height, width), mode="area"), K=K,
            depth=_nearest(self.depth, height, width), person_depth=_nearest(self.person_depth, height, width),
        )  # fmt: skip


def _nearest(depth: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(depth[:, None], (height, width), mode="nearest-exact")[:, 0]


def make_footage(
    images: np.ndarray, ids: np.ndarray, people: int, K: np.ndarray, size: tuple[int, int],
    *, depth: np.ndarray | None = None, person_depth: np.ndarray | None = None,
) -> Footage:  # fmt: skip
    """Footage at a working size from what the stages wrote.

    Args:
        images: [T, h, w, 3] uint8. ids: [T, h, w] uint8 identity maps (0 background, k+1 person k).
        people: P. K: [3, 3] pixels of `images`. size: (width, height) to work at.
        depth, person_depth: [T, any, any] metres, 0 unknown; None: nothing is known.
    """
    width, height = size
    shape = (len(images), height, width)

    def resized(values: np.ndarray | None) -> Tensor:
        if values is None or values.size == 0:
            return torch.zeros(shape)
        return _nearest(torch.from_numpy(np.asarray(values, np.float32)), height, width)

    colours = np.stack([_area(image, size) for image in images])
    masks = [np.stack([_area((one == k + 1).astype(np.float32), size) for k in range(people)]) for one in ids]
    scaled = resize_intrinsics(torch.from_numpy(np.asarray(K, np.float32)), images.shape[2:0:-1], size)
    return Footage(
        images=torch.from_numpy(colours) / 255, masks=torch.from_numpy(np.stack(masks)), depth=resized(depth),
        person_depth=resized(person_depth), K=scaled,
    )  # fmt: skip


def _area(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image [h, w, ...] averaged down to (width, height), float32."""
    values = torch.from_numpy(np.asarray(image, np.float32))
    channels = values[None, None] if values.ndim == 2 else values.permute(2, 0, 1)[None]
    small = F.interpolate(channels, (size[1], size[0]), mode="area")[0]
    return (small[0] if values.ndim == 2 else small.permute(1, 2, 0)).numpy()
