"""A 3D view of results that needs nothing but a browser: points, people, cameras, a time slider.

The page carries its data and the canvas code of `scene3d.html`; it loads nothing from elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from distill.geometry.conventions import SMPL_PARENTS
from distill.pictures.overlay import colour_of
from distill.pictures.plots import rigid_between
from distill.results import Result

Array = NDArray[Any]
MAX_POINTS: Final = 6000


def scene_data(results: Mapping[str, Result], *, reference: str) -> dict[str, Any]:
    """What the viewer draws, as JSON-able values; every result is moved rigidly into `reference`'s world."""
    layers = []
    for name, result in results.items():
        move = np.eye(4) if name == reference else rigid_between(results[reference], result)
        joints = result.joints_world @ move[:3, :3].T + move[:3, 3]
        people = [
            {
                "colour": colour_of(k),
                "joints": [
                    np.round(joints[t, k], 3).tolist() if result.motion.present[t, k] else None
                    for t in range(len(joints))
                ],
            }
            for k in range(len(result.motion.ids))
        ]
        layers.append({"name": name, "people": people, "cameras": _frusta(result, move)})
    points, rgb = _thin(results[reference])
    return {
        "layers": layers,
        "points": np.round(points, 3).tolist(),
        "rgb": rgb.tolist(),
        "parents": SMPL_PARENTS,
        "frames": len(results[reference].cameras.timestamps),
    }


def _thin(result: Result) -> tuple[Array, Array]:
    """At most `MAX_POINTS` scene points, evenly picked, within reach of the people."""
    roots = result.world_from_body[..., :3, 3][result.motion.present]
    centre = roots.mean(0) if len(roots) else np.zeros(3)
    near = np.linalg.norm(result.scene_points - centre, axis=-1) < 15.0
    points, rgb = result.scene_points[near], result.scene_rgb[near]
    step = max(1, len(points) // MAX_POINTS)
    return points[::step], rgb[::step]


def _frusta(result: Result, move: Array) -> list[list[list[float]]]:
    """Per frame: the camera centre and the four corners of an image plane at 0.4 m."""
    width, height = result.cameras.size
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    rays = np.concatenate((corners, np.ones((4, 1))), 1) @ np.linalg.inv(result.cameras.K).T * 0.4
    local = np.concatenate((np.zeros((1, 3)), rays))
    world = np.einsum("tij,nj->tni", move[:3, :3] @ result.cameras.world_from_cam[:, :3, :3], local)
    centres = result.cameras.world_from_cam[:, :3, 3] @ move[:3, :3].T + move[:3, 3]
    return np.round(world + centres[:, None], 3).tolist()


def scene_html(data: dict[str, Any], element: str = "scene") -> str:
    """A `<div>` with canvas, slider and layer switches, and the script that runs it."""
    payload = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    template = (resources.files(__package__) / "scene3d.html").read_text(encoding="utf-8")
    return template.replace("%ID%", element).replace("%DATA%", payload)
