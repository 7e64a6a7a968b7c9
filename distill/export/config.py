"""Settings of `footfall export`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

Precision = Literal["float32", "float16", "bfloat16", "int8"]

PRECISIONS: Final[dict[str, tuple[Precision, ...]]] = {
    "pt2": ("float32", "bfloat16", "float16"),
    "onnx": ("float32", "float16", "int8"),
    "aoti": ("float32", "bfloat16", "float16"),
}
"""Kind of graph -> the precisions that it can have. onnxruntime has no bfloat16 kernels on CPUs; PyTorch's own int8 is
not built here."""


@dataclass(kw_only=True)
class ExportConfig:
    """Settings of `footfall export`."""

    size: list[int] | None = None
    """Width and height of the network's images; None takes 16:9 at the backbone's size."""
    precision: Precision = "float32"
    """Of the backbone: float32; float16 or bfloat16; int8 (onnx alone, and only where it passes). Heads stay
    float32."""
    video: str | None = None
    """Frames 0 and 10 of this video, or of this folder of images, are the parity input; None takes a generated
    picture."""
    runs: int = 20
    """Timed calls per graph."""

    def __post_init__(self) -> None:
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise ValueError(f"size is {self.size}, expected width and height")
        if self.runs < 1:
            raise ValueError(f"runs is {self.runs}, expected 1 or more")
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision is {self.precision!r}, expected one of {', '.join(get_args(Precision))}")
