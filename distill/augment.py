"""Augmentation: whatever is done to the pixels is done to cameras, boxes, masks and bodies too.

A `Plan` is drawn first, so that what a window will look like is known before a picture is decoded.
"""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from distill.data_config import DataConfig
from distill.geometry.conventions import CONTACT_SITES, SMPL_JOINTS

Window = dict[str, Any]
Array = NDArray[Any]

SWAP_JOINTS: Final = tuple(
    SMPL_JOINTS.index(name.replace("left", "?").replace("right", "left").replace("?", "right")) for name in SMPL_JOINTS
)
"""Joint -> the joint it becomes in a mirror."""
SWAP_SITES: Final = tuple(
    CONTACT_SITES.index(name.replace("left", "?").replace("right", "left").replace("?", "right"))
    for name in CONTACT_SITES
)


Rectangle = tuple[float, float, float, float]
"""Left, top, right, bottom."""
WHOLE: Final[Rectangle] = (0.0, 0.0, 1.0, 1.0)
MIN_LEFT: Final = 0.25
"""A person of whom a crop leaves less than this share of the box is no longer seen."""


@dataclass(kw_only=True, frozen=True)
class Plan:
    """What is done to one window: the same to all of its frames, as one camera would."""

    flip: bool = False
    reverse: bool = False
    view: Rectangle = WHOLE
    """The part of the frame that is seen, in widths and heights of the frame."""
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Factors of brightness, contrast and saturation."""
    blur: float = 0.0
    """Standard deviation, network pixels."""
    quality: int | None = None
    """Of a second JPEG compression."""


def draw_plan(config: DataConfig, rng: random.Random) -> Plan:
    """Draw from the settings; the same state of `rng` draws the same, and each draw takes its turn whatever is off."""
    flip, reverse = rng.random() < config.flip, rng.random() < config.reverse
    side = 1 / (1 + config.zoom * rng.random())
    left, top = rng.random() * (1 - side), rng.random() * (1 - side)
    brightness, contrast, saturation = (1 + config.colour * rng.uniform(-1, 1) for _ in range(3))
    blur = config.blur * max(0.0, rng.uniform(-1, 1))
    quality, compress = rng.randint(30, 90), rng.random() < config.compression
    return Plan(
        flip=flip,
        reverse=reverse,
        view=(left, top, left + side, top + side),
        colour=(brightness, contrast, saturation),
        blur=blur,
        quality=quality if compress else None,
    )


def cut_boxes(boxes: Array, present: Array, view: Rectangle) -> tuple[Array, Array]:
    """Boxes [..., 4] and who is seen [...] after a crop to `view` (all pixels of the frame).

    Boxes are cut at the edges of the view; people of whom less than `MIN_LEFT` is left are no longer seen.
    """
    low, high = np.asarray(view[:2], np.float32), np.asarray(view[2:], np.float32)
    cut = np.concatenate((boxes[..., :2].clip(low, high), boxes[..., 2:].clip(low, high)), axis=-1)
    area, before = (np.clip(b[..., 2:] - b[..., :2], 0, None).prod(-1) for b in (cut, boxes))
    return cut, present & (area >= MIN_LEFT * before) & (area > 0)


def apply_plan(window: Window, plan: Plan) -> Window:
    """Mirror and turn time around; the labels go with it. (View, colours, blur: when pictures are decoded.)"""
    if plan.flip:
        window = flip(window)
    if plan.reverse:
        window = reverse_time(window)
    return window


def change_pixels(images: list[Image.Image], plan: Plan) -> list[Image.Image]:
    """Colours, blur and compression of the frames of a window, alike in all; nothing moves."""
    brightness, contrast, saturation = plan.colour
    if plan.colour != (1.0, 1.0, 1.0):
        mean = float(np.mean([np.asarray(image.convert("L"), np.float32).mean() for image in images]))
        values = brightness * (mean + contrast * (np.arange(256) - mean))
        table = values.clip(0, 255).round().astype(int).tolist() * 3
        images = [ImageEnhance.Color(image).enhance(saturation).point(table) for image in images]
    if plan.blur > 0:
        images = [image.filter(ImageFilter.GaussianBlur(plan.blur)) for image in images]
    if plan.quality is not None:
        images = [_compressed(image, plan.quality) for image in images]
    return images


def _compressed(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def flip(window: Window) -> Window:
    """The window as seen in a mirror: image x -> width - x, camera and world x -> -x, left <-> right."""
    width = window["images"].shape[-1]
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0]))
    mirror4 = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    K = window["K"].clone()
    K[..., 0, 2] = width - K[..., 0, 2]
    boxes = window["boxes"]
    body_joints = [joint - 1 for joint in SWAP_JOINTS[1:]]
    return {
        **window,
        "images": window["images"].flip(-1),
        "masks": window["masks"].flip(-1),
        "depth": window["depth"].flip(-1),
        "K": K,
        "boxes": torch.stack((width - boxes[..., 2], boxes[..., 1], width - boxes[..., 0], boxes[..., 3]), dim=-1),
        # Mirrored camera, mirrored body: both sides of every transform and rotation are conjugated.
        "cam_from_body": mirror4 @ window["cam_from_body"] @ mirror4,
        "world_from_cam": mirror4 @ window["world_from_cam"] @ mirror4,
        "body_rot": mirror @ window["body_rot"][..., body_joints, :, :] @ mirror,
        "joints_cam": window["joints_cam"][..., list(SWAP_JOINTS), :] * torch.tensor([-1.0, 1.0, 1.0]),
        "contact_prob": window["contact_prob"][..., list(SWAP_SITES)],
    }


def reverse_time(window: Window) -> Window:
    """The frames in the opposite order."""
    by_frame, by_person = (
        ("images", "depth", "K", "world_from_cam"),
        ("masks", "boxes", "valid", "cam_from_body", "body_rot"),
    )
    turned = {name: window[name].flip(0) for name in by_frame}
    turned |= {name: window[name].flip(1) for name in (*by_person, "joints_cam", "contact_prob")}
    return {**window, **turned, "seconds": window["seconds"][-1] - window["seconds"].flip(0)}
