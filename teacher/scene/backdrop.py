"""A scene for clips in which no point of it is known: a camera that stands, or only turns, sees no parallax.

Such a camera sees the same pictures at any depth. Pixels become points of a floor below everything, or of a sphere
beyond everybody: people stand before what is behind them. Views from elsewhere would show a stage set, not the place.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from distill.geometry.cameras import pixel_grid, unproject
from distill.results import Result
from teacher.scene.footage import Footage

Array = NDArray[Any]
FRAMES: Final = 8
"""Frames that give points, even over the clip."""
EVERY: Final = 3
"""Pixels between two points."""
BEYOND: Final = 2.0
"""Radius of the sphere about the cameras' middle, in distances of whoever is farthest from it."""
BELOW_M: Final = 0.05
"""The floor lies so far under the lowest joint (bodies have soles) and the lowest camera."""
ANYBODY: Final = 0.02
"""Share of people in a pixel from which on it is not of the scene."""


def with_backdrop(result: Result, frames: Array, footage: Footage) -> Result:
    """The result with points of a backdrop as its scene.

    Args:
        result: of the geometric stage. frames: [T] indices into it. footage: of these frames.
    """
    joints = result.joints_world[result.motion.present].reshape(-1, 3)
    centres = result.cameras.world_from_cam[frames, :3, 3]
    middle = centres.mean(0)
    radius = BEYOND * (np.linalg.norm(joints - middle, axis=1).max() + np.linalg.norm(centres - middle, axis=1).max())
    grounded = result.meta["world"] == "z_up_ground"
    floor = min(joints[:, 2].min(), centres[:, 2].min()) - BELOW_M if grounded else -np.inf
    pixels = pixel_grid(footage.size)[::EVERY, ::EVERY]
    rays = unproject(pixels, torch.ones(pixels.shape[:2]), footage.K).numpy().astype(np.float64)
    points, colours = [], []
    for row in np.unique(np.linspace(0, len(frames) - 1, FRAMES).round().astype(int)):
        pose = result.cameras.world_from_cam[frames[row]]
        free = (footage.people[row] < ANYBODY).numpy()[::EVERY, ::EVERY]
        directions = rays[free] @ pose[:3, :3].T
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        down = -directions[:, 2]
        distance = np.full(len(directions), radius)
        falls = down > 0
        distance[falls] = np.minimum((pose[2, 3] - floor) / down[falls], radius)
        points.append(pose[:3, 3] + distance[:, None] * directions)
        colours.append(footage.images[row].numpy()[::EVERY, ::EVERY][free])
    rgb = (255 * np.concatenate(colours)).round().astype(np.uint8)
    return replace(result, scene_points=np.concatenate(points).astype(np.float32), scene_rgb=rgb)
