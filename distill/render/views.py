"""Cameras to look at Gaussians from, and pictures to look at."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from distill.errors import FootfallError
from distill.geometry.transforms import invert, make_transform


def look_at(eye: Tensor, target: Tensor, up: Tensor) -> Tensor:
    """Cameras at `eye` that look at `target` with `up` upwards in the picture: cam_from_world [..., 4, 4].

    Args:
        eye: [..., 3] world, m.
        target: [..., 3] world, m.
        up: [3] world, need not be of unit length.

    Raises:
        FootfallError: a camera would look along `up`, or from its own target.
    """
    forward = target - eye
    right = torch.linalg.cross(forward, up.expand_as(forward))
    if bool((right.norm(dim=-1) <= 1e-6 * forward.norm(dim=-1) * up.norm()).any()):
        raise FootfallError(
            "look_at", got="a camera that looks along up, or stands in its target", expected="a side view",
            do="move the camera aside, or give another up",
        )  # fmt: skip
    axes = torch.stack((right, torch.linalg.cross(forward, right), forward), -1)
    return invert(make_transform(axes / axes.norm(dim=-2, keepdim=True), eye))


def turntable(target: Tensor, up: Tensor, *, distance: float, height: float, count: int) -> Tensor:
    """Cameras in equal steps of a circle around a point, seen from above counter-clockwise: [count, 4, 4].

    Args:
        target: [3] what they look at, world, m.
        up: [3] the axis, world.
        distance: radius of the circle, m.
        height: of the circle over `target`, m.
        count: how many; the first stands on the side of the world's x axis (of y, where x is up).
    """
    axis = up / up.norm()
    start = torch.eye(3).to(axis)[int(axis[0].abs() > 0.9)]
    start = start - (start @ axis) * axis
    start = start / start.norm()
    side = torch.linalg.cross(axis, start)
    angle = torch.arange(count).to(axis)[:, None] * (2 * math.pi / count)
    eye = target + distance * (angle.cos() * start + angle.sin() * side) + height * axis
    return look_at(eye, target, up)


def to_images(color: Tensor) -> list[Image.Image]:
    """Pictures [C, H, W, 3] with values 0 to 1 (others are cut off) as images."""
    values = (color.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return [Image.fromarray(np.ascontiguousarray(picture)) for picture in values]
