"""Settings of reading, windows and augmentation: `TrainConfig.data`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

PIXEL_AUGMENTATION: Final = ("zoom", "colour", "blur", "compression")
"""Settings that change what a frozen backbone sees, other than `flip`: 0 turns each off."""


@dataclass(kw_only=True)
class DataConfig:
    """Reading and windows."""

    shards: str = ""
    """Folder, glob or URL of shards."""
    held_out_shards: str = ""
    """Shards for the evaluation in the loop; empty leaves it out."""
    val_share: float = 0.0
    """Share of the sources in `shards` that are kept from training, by hash: no video or source is on both sides. They
    are the evaluation in the loop unless `held_out_shards` names others."""
    gaps: list[int] = field(default_factory=lambda: [1, 3, 10])
    """Frame gaps between consecutive frames of a window, drawn at random."""
    window_frames: int = 3
    """Frames per window; two short gaps and the long one between them are trained together."""
    windows_per_sample: int = 4
    """Windows drawn from each sample per epoch."""
    mix: int = 256
    """Windows wait among this many others, so that a batch shows different clips."""
    batch_size: int = 8
    """Windows per step and process."""
    workers: int = 1
    """Reading processes per training process; 0 reads in the training process itself."""
    max_people: int = 4
    """People per window; those with the largest boxes."""
    flip: float = 0.5
    """Share of windows that are mirrored."""
    reverse: float = 0.25
    """Share of windows that run backwards in time."""
    colour: float = 0.2
    """Largest relative change of brightness, contrast and saturation."""
    zoom: float = 0.25
    """Largest magnification by a crop: the network sees a part of the frame down to 1 / (1 + zoom) of its sides."""
    blur: float = 0.8
    """Largest standard deviation of a Gaussian blur in network pixels; half of the windows stay sharp."""
    compression: float = 0.2
    """Share of windows that are compressed again, as JPEG of quality 30 to 90."""
    box_jitter: float = 0.06
    """Standard deviation of the sides of the boxes that the student is given, shares of the box."""
    mask_share: float = 0.5
    """Share of people whose mask the student is given beside the box."""
    guessed_lens: float = 0.15
    """Share of windows whose intrinsics the student is not told."""
    feature_cache: str = ""
    """Folder that keeps the frozen backbone's features between epochs and runs; empty computes them each time."""
    feature_cache_gb: float = 20.0
    """Disk budget of that folder in GB (1e9 bytes); a full cache is read but grows no further."""
    feature_cache_windows: int = 8
    """Different windows per sample with a feature cache, mirrored and reversed ones among them; epochs take turns."""

    def __post_init__(self) -> None:
        if not self.gaps or min(self.gaps) < 1 or self.window_frames < 2:
            raise ValueError("data: gaps of at least 1 and window_frames of at least 2 are expected")
        if not 0 <= self.val_share < 1:
            raise ValueError(f"data.val_share: got {self.val_share}, expected 0 or more and less than 1")
        if min(self.batch_size, self.windows_per_sample, self.max_people, self.mix) < 1 or self.workers < 0:
            raise ValueError("data: batch_size, windows_per_sample, max_people, mix >= 1 and workers >= 0 are expected")
        if min(self.flip, self.reverse, self.compression) < 0 or max(self.flip, self.reverse, self.compression) > 1:
            raise ValueError("data: flip, reverse and compression are shares, 0 to 1")
        if not 0 <= self.colour < 1 or not 0 <= self.zoom <= 4 or self.blur < 0:
            raise ValueError("data: 0 <= colour < 1, 0 <= zoom <= 4 and blur >= 0 are expected")
        if self.feature_cache:
            self._check_cache()

    def _check_cache(self) -> None:
        """Cached features are those of the plain and of the mirrored frame, and of nothing else."""
        on = [f"data.{name}=0" for name in PIXEL_AUGMENTATION if getattr(self, name) > 0]
        if on:
            raise ValueError(
                f"data.feature_cache keeps features of plain and mirrored frames only; turn off: {' '.join(on)}"
            )
        if self.feature_cache_gb <= 0 or self.feature_cache_windows < self.windows_per_sample:
            raise ValueError("data: feature_cache_gb > 0 and feature_cache_windows >= windows_per_sample are expected")
