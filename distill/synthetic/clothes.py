"""What people wear: one colour per vertex, by where the vertex lies in the rest pose (a T-pose)."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch

from distill.synthetic.axes import Array
from distill.synthetic.motion import JOINT

SKIN: Final = np.array(
    [[0.95, 0.78, 0.68], [0.87, 0.66, 0.52], [0.72, 0.50, 0.37], [0.50, 0.33, 0.23], [0.36, 0.23, 0.17]]
)
"""Skin colours."""
HAIR: Final = np.array(
    [[0.10, 0.08, 0.07], [0.25, 0.16, 0.10], [0.45, 0.30, 0.16], [0.70, 0.55, 0.30], [0.45, 0.44, 0.43]]
)
"""Hair colours."""
_BASE_Y: Final = 1.0
"""Offset that keeps pattern coordinates positive."""


def dress(body: Any, betas: Array, rng: np.random.Generator) -> Array:
    """Colours [V, 3] in [0, 1] of a person with shape `betas` [B]: skin, hair, face, shirt, trousers, shoes."""
    rest = torch.eye(3).expand(23, 3, 3)
    shape = torch.as_tensor(betas, dtype=torch.float32)
    points = body(shape, rest, torch.eye(4), vertex_ids=body.all_vertices)
    vertices, joints = points.vertices.double().numpy(), points.joints.double().numpy()
    face = body.keypoints(shape, rest, torch.eye(4)).double().numpy()
    where = {name: joints[index] for name, index in JOINT.items()}
    x, y, z = np.abs(vertices[:, 0]), vertices[:, 1], vertices[:, 2]

    skin = SKIN[rng.integers(len(SKIN))] * rng.uniform(0.95, 1.05)
    colours = np.tile(skin, (len(vertices), 1))
    sleeve = where["left_elbow"][0] * rng.uniform(0.75, 0.9) if rng.uniform() < 0.5 else 0.97 * where["left_wrist"][0]
    hem = where["left_knee"][1] + rng.uniform(-0.02, 0.12) if rng.uniform() < 0.25 else -10.0
    waist = where["pelvis"][1] + rng.uniform(-0.02, 0.06)
    collar = where["neck"][1] + 0.02
    shirt = (y > waist) & (y < collar) & (x < sleeve)
    trousers = (y <= waist) & (y > hem) & (x < 0.45)
    colours[shirt] = _cloth(rng, vertices[shirt], plain=0.3)
    colours[trousers] = _cloth(rng, vertices[trousers], plain=0.8) * rng.uniform(0.45, 0.9)
    shoes = y < where["left_ankle"][1] - 0.005
    colours[shoes] = rng.uniform(0.08, 0.85) * np.array([1, rng.uniform(0.8, 1), rng.uniform(0.7, 1)])
    nose, eyes = face[0], face[1:3]
    hair = (y > eyes[:, 1].mean() - 0.08) & (z < where["head"][2] + 0.01) | (y > eyes[:, 1].mean() + 0.065)
    colours[hair & (y > where["head"][1])] = HAIR[rng.integers(len(HAIR))]
    for eye in eyes:
        distance = np.linalg.norm((vertices - eye) * [1, 1.6, 0.5], axis=-1)
        colours[distance < 0.013] = 0.12
        brow = np.linalg.norm((vertices - eye - [0, 0.024, 0]) * [0.6, 2.5, 0.3], axis=-1)
        colours[brow < 0.014] *= 0.45
    lips = np.linalg.norm((vertices - nose + [0, 0.037, 0]) * [0.55, 2.0, 0.3], axis=-1) < 0.015
    colours[lips] *= [0.85, 0.55, 0.55]
    return np.clip(colours * (1 + 0.04 * rng.standard_normal((len(vertices), 1))), 0.02, 0.98)


def _cloth(rng: np.random.Generator, vertices: Array, *, plain: float) -> Array:
    """One colour, or stripes, or checks of two, with folds of light and dark."""
    first, second = rng.uniform(0.08, 0.92, (2, 3))
    across = np.floor((vertices[:, 1] + _BASE_Y) / rng.uniform(0.03, 0.08)) % 2
    along = np.floor((vertices[:, 0] + _BASE_Y) / rng.uniform(0.03, 0.08)) % 2
    kind = rng.uniform()
    mix = 0 * across if kind < plain else across if kind < plain + (1 - plain) / 2 else (across + along) / 2
    waves = rng.normal(0, 22, (3, 6))
    folds = np.sin(vertices @ waves + rng.uniform(0, 6, 6)).mean(axis=-1)
    return (first + mix[:, None] * (second - first)) * (1 + 0.25 * folds[:, None])
