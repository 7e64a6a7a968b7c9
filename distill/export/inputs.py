"""What exported graphs are checked on: two frames of a video, or a generated pair of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from distill.errors import FootfallError
from distill.export.config import ExportConfig
from distill.models.prediction import Prompts
from distill.models.student import Student
from distill.video import Decoder


def example_input(size: tuple[int, int]) -> tuple[Tensor, Prompts]:
    """A generated pair of pictures [2, 3, H, W] and prompts for two people, for parity without a video.

    The pictures have the spectrum of natural images (amplitude 1/f); the second is the first, shifted.
    """
    width, height = size
    generator = torch.Generator().manual_seed(0)
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]).clamp(min=1 / width)
    noise = torch.fft.rfft2(torch.randn(3, height, width, generator=generator))
    picture = torch.fft.irfft2(noise / frequency, s=(height, width))
    picture = (picture / (4 * picture.std()) + 0.5).clamp(0, 1)
    return torch.stack((picture, picture.roll(4, dims=-1))), example_prompts(size)


def example_prompts(size: tuple[int, int]) -> Prompts:
    """Two standing people in both frames of one pair, at a plausible lens."""
    width, height = size
    K = torch.tensor([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]]).expand(1, 2, 3, 3)
    boxes = torch.tensor([[0.2, 0.2, 0.4, 0.9], [0.6, 0.3, 0.75, 0.8]]) * torch.tensor([width, height, width, height])
    return Prompts(
        boxes=boxes[None, :, None].repeat(1, 1, 2, 1), valid=torch.ones(1, 2, 2, dtype=torch.bool), K=K,
        K_known=torch.tensor([True]), seconds=torch.tensor([0.4]),
    )  # fmt: skip


def read_parity_input(student: Student, config: ExportConfig) -> tuple[Tensor, Prompts]:
    """Images and prompts at the size to export: from the configured video, or generated.

    Raises:
        FootfallError: the video cannot be read, or the size does not fit the backbone.
    """
    size = student.network_size((1920, 1080)) if config.size is None else (config.size[0], config.size[1])
    multiple = student.backbone.module.preprocessing.multiple
    if size[0] % multiple or size[1] % multiple:
        raise FootfallError(
            f"export size {size}", got="no multiple", expected=f"multiples of {multiple}", do="mend size"
        )
    if config.video is None:
        return example_input(size)
    return read_frames(Path(config.video), size), example_prompts(size)


def read_frames(video: Path, size: tuple[int, int], frames: tuple[int, ...] = (0, 10)) -> Tensor:
    """Frames [N, 3, H, W] in [0, 1] of a video or folder of images, at (width, height).

    Raises:
        FootfallError: not a video, or one of its frames cannot be read.
    """
    decoder = Decoder(video, fps=None)
    pictures = []
    for index in frames:
        at = min(index, len(decoder) - 1)
        frame = next(image for _, image in decoder.frames(range(at, at + 1))) if at >= 0 else None
        if frame is None:
            raise FootfallError(f"video {video}", got=f"no frame {at}", expected="a video", do="check the file")
        small = Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
        pictures.append(torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255)
    return torch.stack(pictures)
