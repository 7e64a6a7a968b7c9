"""Augmentation: whatever is done to the pixels is done to cameras, boxes, masks and bodies too.

A `Plan` is drawn first, so that what a window will look like is known before a picture is decoded.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from distill.data_config import DataConfig
from distill.geometry.conventions import CONTACT_SITES, SMPL_JOINTS

Window = dict[str, Any]

SWAP_JOINTS: Final = tuple(
    SMPL_JOINTS.index(name.replace("left", "?").replace("right", "left").replace("?", "right")) for name in SMPL_JOINTS
)
"""Joint -> the joint it becomes in a mirror."""
SWAP_SITES: Final = tuple(
    CONTACT_SITES.index(name.replace("left", "?").replace("right", "left").replace("?", "right"))
    for name in CONTACT_SITES
)


@dataclass(kw_only=True, frozen=True)
class Plan:
    """What is done to one window."""

    flip: bool = False
    reverse: bool = False
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Factors of brightness, contrast and saturation."""


def draw_plan(config: DataConfig, rng: random.Random) -> Plan:
    """Draw from the settings; the same state of `rng` draws the same."""
    flip, reverse = rng.random() < config.flip, rng.random() < config.reverse
    brightness, contrast, saturation = (1 + config.colour * rng.uniform(-1, 1) for _ in range(3))
    return Plan(flip=flip, reverse=reverse, colour=(brightness, contrast, saturation))


def apply_plan(window: Window, plan: Plan) -> Window:
    """Mirror, turn time around, change colours; the labels go with it."""
    if plan.flip:
        window = flip(window)
    if plan.reverse:
        window = reverse_time(window)
    if plan.colour != (1.0, 1.0, 1.0) and len(window["images"]):
        window = {**window, "images": _colour(window["images"], *plan.colour)}
    return window


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


def _colour(images: Tensor, brightness: float, contrast: float, saturation: float) -> Tensor:
    """One change for the whole window."""
    grey = images.mean(1, keepdim=True)
    images = grey + saturation * (images - grey)
    images = images.mean() + contrast * (images - images.mean())
    return (brightness * images).clamp(0, 1)
