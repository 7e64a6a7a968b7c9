"""One window: a few frames of a sample with their labels, cut to a view and brought to network size."""

from __future__ import annotations

import math
import random
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from distill.augment import WHOLE, Plan, Rectangle, Window, change_pixels, cut_boxes
from distill.data_config import DataConfig
from distill.geometry.cameras import crop_intrinsics, resize_intrinsics
from distill.geometry.rotations import matrix_from_quat
from distill.geometry.transforms import from_quat_trans
from distill.prompting import plain_prompts
from distill.shards.schema import Array, Sample

PLAIN: Final = Plan()
"""Nothing is changed."""


def choose_frames(count: int, config: DataConfig, rng: random.Random) -> list[int]:
    """Frames of one window, in order of time; gaps that do not fit are shortened.

    Raises:
        ValueError: the sample is shorter than a window.
    """
    if count < config.window_frames:
        raise ValueError(f"a sample of {count} frames is shorter than a window of {config.window_frames}")
    gaps = [rng.choice(config.gaps) for _ in range(config.window_frames - 1)]
    while sum(gaps) > count - 1:
        largest = max(range(len(gaps)), key=gaps.__getitem__)
        gaps[largest] -= 1
    start = rng.randrange(count - sum(gaps))
    return [start + sum(gaps[:k]) for k in range(config.window_frames)]


def make_window(
    sample: Sample, frames: list[int], network_size: tuple[int, int], max_people: int, *, patch: int = 16,
    plan: Plan = PLAIN,
) -> Window:  # fmt: skip
    """One window at network size (width, height); tensors as in `distill.task.Batch` without the batch axis.

    Args:
        sample: where it is cut from.
        frames: numbers of its frames.
        network_size: (width, height).
        max_people: the largest boxes are kept.
        patch: pixels per token, the cell of `masks`.
        plan: its view and its changes of pixels are made here, the rest by `augment.apply_plan`.
    """
    arrays = sample.arrays
    view = _view(sample, frames, plan)
    boxes, present = arrays["box_xyxy"][frames], arrays["present"][frames]
    if plan.view != WHOLE:
        boxes, present = cut_boxes(boxes, present, view)
    people = _choose_people(boxes, present, max_people)

    def take(array: Array) -> Tensor:
        """[V, P, ...] -> [P, V, ...]."""
        return torch.from_numpy(array[:, people]).transpose(0, 1).contiguous()

    seen_size = (view[2] - view[0], view[3] - view[1])
    scale = torch.tensor([network_size[0] / seen_size[0], network_size[1] / seen_size[1]] * 2)
    K = torch.from_numpy(arrays["K"])
    K = resize_intrinsics(crop_intrinsics(K, view[0], view[1]), seen_size, network_size)
    world_from_cam = from_quat_trans(
        torch.from_numpy(arrays["world_from_cam_quat"][frames]),
        torch.from_numpy(arrays["world_from_cam_trans"][frames]),
    )
    valid = take(present)
    # Labels count where a person is seen.
    weight = take(arrays["frame_weight"][frames]).masked_fill(~valid, torch.inf).amin(1)
    body = from_quat_trans(take(arrays["cam_from_body_quat"][frames]), take(arrays["cam_from_body_trans"][frames]))
    grid = (network_size[0] // patch, network_size[1] // patch)
    window: Window = {
        "images": _images(sample, frames, network_size, view, plan),
        "masks": _masks(sample, frames, people, grid, view),
        "depth": _depth(sample, frames, grid, view),
        "seconds": torch.from_numpy(arrays["timestamps"][frames] - arrays["timestamps"][frames[0]]).float(),
        "K": K.expand(len(frames), 3, 3).clone(),
        "boxes": (take(boxes) - torch.tensor([view[0], view[1]] * 2)) * scale,
        "valid": valid,
        "cam_from_body": body,
        "body_rot": matrix_from_quat(take(arrays["body_quat"][frames])),
        "betas": torch.from_numpy(arrays["betas"][people]),
        "joints_cam": take(arrays["joints_cam"][frames]),
        "contact_prob": take(arrays["contact_prob"][frames]),
        "world_from_cam": world_from_cam,
        "weight": weight,
        "name": f"{sample.key}:{','.join(map(str, frames))}",
    }
    return window | plain_prompts(window)


def _view(sample: Sample, frames: list[int], plan: Plan) -> Rectangle:
    """The plan's view in pixels of the frame, or the whole frame if nobody would be left in it."""
    width, height = sample.meta["size"]
    view = (plan.view[0] * width, plan.view[1] * height, plan.view[2] * width, plan.view[3] * height)
    _, left = cut_boxes(sample.arrays["box_xyxy"][frames], sample.arrays["present"][frames], view)
    return view if left.any() else (0.0, 0.0, float(width), float(height))


def _images(sample: Sample, frames: list[int], size: tuple[int, int], view: Rectangle, plan: Plan) -> Tensor:
    """[V, 3, H, W] uint8: they become floats on the device that computes with them."""
    shares = (size[0] / (view[2] - view[0]), size[1] / (view[3] - view[1]))
    wanted = tuple(math.ceil(side * share) for side, share in zip(sample.meta["size"], shares, strict=True))
    images = []
    for frame in frames:
        picture, factor = sample.picture(frame, (wanted[0], wanted[1]))
        left, top, right, bottom = (edge / factor for edge in view)
        box = (left, top, min(right, picture.width), min(bottom, picture.height))
        images.append(picture.resize(size, Image.Resampling.BICUBIC, box=box))
    return torch.from_numpy(np.stack([np.asarray(image) for image in change_pixels(images, plan)])).permute(0, 3, 1, 2)


def _masks(
    sample: Sample, frames: list[int], people: list[int], grid: tuple[int, int], view: Rectangle
) -> Tensor:  # fmt: skip
    """[P, V, h, w]: the share of each token's cell that a person covers; all 0 where nobody was segmented."""
    masks = np.zeros((len(people), len(frames), grid[1], grid[0]), np.uint8)
    for column, frame in enumerate(frames):
        identities = sample.mask(frame)
        for row, person in enumerate(people):
            covered = Image.fromarray((identities == person + 1).view(np.uint8) * np.uint8(255))
            masks[row, column] = np.asarray(covered.resize(grid, Image.Resampling.BOX, box=view))  # shares of area
    return torch.from_numpy(masks).float() / 255


def _depth(sample: Sample, frames: list[int], grid: tuple[int, int], view: Rectangle) -> Tensor:
    """[V, h, w] metres of the background in the middle of each token; 0 where it is unknown."""
    depth = sample.arrays["depth"][frames]
    size = (depth.shape[2], depth.shape[1])
    if not size[0] * size[1]:
        return torch.zeros(len(frames), grid[1], grid[0])
    column, row = (
        ((view[axis] + (np.arange(grid[axis]) + 0.5) / grid[axis] * (view[axis + 2] - view[axis]))
         * size[axis] / sample.meta["size"][axis]).astype(int).clip(0, size[axis] - 1)
        for axis in (0, 1)
    )  # fmt: skip
    return torch.from_numpy(depth[:, row[:, None], column].astype(np.float32))


def _choose_people(boxes: Array, present: Array, limit: int) -> list[int]:
    """People seen in any of the frames [V, P, ...], largest first."""
    area = (np.clip(boxes[..., 2:] - boxes[..., :2], 0, None).prod(-1) * present).sum(0)
    return [int(k) for k in np.argsort(-area, kind="stable") if area[k] > 0][:limit]
