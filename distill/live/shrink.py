"""Frames as a stream takes them: one size, through a pinhole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill.errors import require
from distill.stream_config import StreamConfig

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[Any]
ASPECT = 0.02
"""Frames whose shape differs by more than this share from the first one's are of another camera."""


class Shrink:
    """Reduces frames to a working size, and takes a known lens's distortion out of them."""

    def __init__(self, size: tuple[int, int], long_side: int, config: StreamConfig) -> None:
        """For frames of (width, height) to be reduced to `long_side`; smaller ones keep their size."""
        scale = min(1.0, long_side / max(size))
        self.source = size
        self.size = (max(2, 2 * round(size[0] * scale / 2)), max(2, 2 * round(size[1] * scale / 2)))
        by = np.array([[self.size[0] / size[0]], [self.size[1] / size[1]], [1.0]])
        self.matrix = config.matrix(size) * by
        """[3, 3] intrinsics in pixels of the reduced frames."""
        self._maps: tuple[Array, Array] | None = None
        if any(config.lens[4:]):
            cv2 = require("cv2", extra="people")
            # OpenCV puts the centre of the first pixel at (0, 0).
            matrix = self.matrix - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
            distortion = np.asarray(config.lens[4:], np.float64)
            self._maps = cv2.initUndistortRectifyMap(matrix, distortion, None, matrix, self.size, cv2.CV_32FC1)

    @property
    def K(self) -> Tensor:
        """`matrix` as a tensor."""
        import torch  # not above: `distill.runner` does without

        return torch.from_numpy(self.matrix).float()

    def fits(self, image: Array) -> bool:
        """Whether a frame [H, W, 3] is of the same shape as the first one, at any size."""
        width, height = self.source
        return abs(image.shape[1] * height / (image.shape[0] * width) - 1) < ASPECT

    def __call__(self, image: Array) -> Array:
        """[H, W, 3] uint8 -> the same picture at `size`."""
        small = np.asarray(Image.fromarray(image).resize(self.size, Image.Resampling.BILINEAR, reducing_gap=2.0))
        if self._maps is None:
            return small
        cv2 = require("cv2", extra="people")
        undistorted: Array = cv2.remap(small, *self._maps, cv2.INTER_LINEAR)
        return undistorted
