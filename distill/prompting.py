"""What the student is asked in training: boxes as a detector gives them, masks or none, a known lens or a guessed one.

Labels stay as they are; only the question varies. It costs no pixels, so it goes with cached features too.
"""

from __future__ import annotations

import random
from typing import Any, Final

import torch
from torch import Tensor

from distill.data_config import DataConfig
from distill.geometry.cameras import make_intrinsics

GUESSED_FOCAL: Final = 0.8
"""Focal length where nobody knows it, in image diagonals (`stream.StreamConfig.focal_guess`)."""


def plain_prompts(window: dict[str, Any]) -> dict[str, Tensor]:
    """The labels' own boxes, masks and lens: prompt_boxes, prompt_masks, prompt_K, K_known of a window."""
    return {
        "prompt_boxes": window["boxes"], "prompt_masks": window["masks"], "prompt_K": window["K"],
        "K_known": torch.tensor(True),
    }  # fmt: skip


def draw_prompts(window: dict[str, Any], config: DataConfig, rng: random.Random) -> dict[str, Tensor]:
    """Prompts of a window [P people, V frames] in training; the same state of `rng` draws the same."""
    generator = torch.Generator().manual_seed(rng.getrandbits(62))
    boxes = window["boxes"]
    size = (boxes[..., 2:] - boxes[..., :2]).repeat(*(1,) * (boxes.ndim - 1), 2)
    noise = torch.randn(boxes.shape, generator=generator) * config.box_jitter
    masked = torch.rand(len(boxes), generator=generator) < config.mask_share
    known = bool(torch.rand((), generator=generator) >= config.guessed_lens)
    height, width = window["images"].shape[-2:]
    guess = make_intrinsics(torch.tensor(GUESSED_FOCAL * (width**2 + height**2) ** 0.5), (width, height))
    return {
        "prompt_boxes": boxes + noise * size,
        "prompt_masks": window["masks"] * masked[:, None, None, None],
        "prompt_K": window["K"] if known else guess.expand_as(window["K"]).clone(),
        "K_known": torch.tensor(known),
    }
