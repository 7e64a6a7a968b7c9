"""From shard samples to training batches: windows are chosen, augmented, put into groups of one size and collated.

Randomness is a pure function of (seed, epoch, sample), never of a global state.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
import torch.utils.data
from torch import Tensor

from distill.augment import Plan, Window, apply_plan, draw_plan
from distill.data_config import DataConfig
from distill.feature_cache import FeatureCache
from distill.prompting import draw_prompts, plain_prompts
from distill.shards.reader import ShardReader, mixed
from distill.shards.schema import Sample
from distill.window import PLAIN, choose_frames, make_window

__all__ = ["DataConfig", "Window", "Windows", "choose_frames", "collate", "make_window", "to_device"]


class Windows(torch.utils.data.IterableDataset[Window]):
    """Windows of the samples of a reader; augmented when `training`.

    Left out are windows without a person or with a camera that was filled in rather than measured, and, counted
    as damaged, what is left of a sample whose pictures cannot be decoded or that is shorter than a window.
    """

    def __init__(
        self, reader: ShardReader, config: DataConfig, network_size: Callable[[tuple[int, int]], tuple[int, int]], *,
        seed: int, training: bool, patch: int = 16, cache: FeatureCache | None = None,
    ) -> None:  # fmt: skip
        """`network_size`: from image size to network size (`Student.network_size`); `patch`: pixels per token;
        `cache`: features are taken from here where they are."""
        super().__init__()
        self.reader, self.config, self.network_size = reader, config, network_size
        self.seed, self.training = seed, training
        self.patch, self.cache = patch, cache

    def __iter__(self) -> Iterator[Window]:
        epoch = self.reader.epoch if self.training else 0
        numbers = range(self.config.windows_per_sample)
        draws: Iterator[tuple[Sample, int]] = ((sample, number) for sample in self.reader for number in numbers)
        if self.training:  # else all windows of a batch would show the same clip
            draws = mixed(draws, random.Random(f"{self.seed}/{epoch}/windows"), self.config.mix)
        damaged: set[str] = set()
        for sample, number in draws:
            if sample.key in damaged:
                continue
            try:
                # Prompts are drawn anew in each epoch, also where a cache holds the windows fixed.
                prompt_rng = random.Random(f"{self.seed}/{epoch}/{sample.key}/{number}/prompts")
                window = self._window(sample, self._random(sample, epoch, number), prompt_rng)
            except (OSError, ValueError) as error:
                damaged.add(sample.key)
                self.reader.skip(error)
            else:
                if window is not None:
                    yield window

    def _random(self, sample: Sample, epoch: int, number: int) -> random.Random:
        """State that decides a window. With a cache, epochs take turns through a fixed list of windows."""
        if self.cache is not None and self.training:
            number = (epoch * self.config.windows_per_sample + number) % self.config.feature_cache_windows
            return random.Random(f"{self.seed}/{sample.key}/{number}")
        return random.Random(f"{self.seed}/{epoch}/{sample.key}/{number}")

    def _window(self, sample: Sample, rng: random.Random, prompt_rng: random.Random) -> Window | None:
        frames = choose_frames(len(sample.arrays["timestamps"]), self.config, rng)
        if not sample.arrays["camera_valid"][frames].all() or not sample.arrays["present"][frames].any():
            return None
        network_size = self.network_size((int(sample.meta["size"][0]), int(sample.meta["size"][1])))
        plan = draw_plan(self.config, rng) if self.training else PLAIN
        keys, stored = self._stored(sample, frames, network_size, plan)
        window = make_window(sample, frames, network_size, self.config.max_people, patch=self.patch, plan=plan)
        window = apply_plan(window, plan)
        prompts = draw_prompts(window, self.config, prompt_rng) if self.training else plain_prompts(window)
        return {**window, **prompts, **keys, **(stored or {})}

    def _stored(
        self, sample: Sample, frames: list[int], size: tuple[int, int], plan: Plan
    ) -> tuple[dict[str, Any], dict[str, Tensor] | None]:
        """Names of a window's frames in the cache, and what is stored of it."""
        if self.cache is None:
            return {}, None
        order = frames[::-1] if plan.reverse else frames
        keys = [self.cache.frame_key(sample.frames[k], size, mirrored=plan.flip) for k in order]
        return {"frame_keys": keys}, self.cache.read_window(keys)


PERSON_FIELDS: Final = (
    "masks", "boxes", "prompt_boxes", "prompt_masks", "valid", "cam_from_body", "body_rot", "betas", "joints_cam",
    "contact_prob", "weight",
)  # fmt: skip
STORED_FIELDS: Final = ("features", "pair_tokens", "pair_points")
"""Of windows that came from the feature cache."""


def collate(windows: list[Window]) -> dict[str, Any]:
    """Stack windows; people are padded to the largest number, with valid False and weight 0.

    With a feature cache (windows carry `frame_keys`) `STORED_FIELDS` have rows only for windows that were in it; the
    list `cached` tells which those were.
    """
    people = max(len(window["boxes"]) for window in windows)
    cached = ["features" in window for window in windows]
    batch: dict[str, Any] = defaultdict(list)
    for window in windows:
        for key, value in window.items():
            batch[key].append(_pad(value, people, key) if key in PERSON_FIELDS else value)
    batch = {key: torch.stack(rows) if isinstance(rows[0], Tensor) else rows for key, rows in batch.items()}
    if "frame_keys" in batch:
        batch["cached"] = cached
    return batch


def _pad(rows: Tensor, people: int, key: str) -> Tensor:
    missing = people - len(rows)
    if missing == 0:
        return rows
    filler = rows.new_zeros((missing, *rows.shape[1:]))
    if key in ("cam_from_body", "body_rot"):  # padding must stay finite through every loss
        filler = torch.eye(rows.shape[-1], dtype=rows.dtype).expand(filler.shape).clone()
    if key == "cam_from_body":
        filler[..., 2, 3] = 3.0
    if key == "joints_cam":
        filler[..., 2] = 3.0
    if key in ("boxes", "prompt_boxes"):
        filler[..., 2:] = 16.0
    return torch.cat((rows, filler))


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Move the tensors of a batch."""
    return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}
