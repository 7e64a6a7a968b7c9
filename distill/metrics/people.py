"""Whether people stand in each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

from distill.metrics.inputs import Array, as_floats, require_finite


def vertex_normals(vertices: ArrayLike, faces: ArrayLike) -> Array:
    """Unit outward normals [V, 3] of a mesh: area-weighted means of its faces' normals (counter-clockwise)."""
    points, triangles = as_floats("vertices", vertices, None, 3), np.asarray(faces, np.int64)
    a, b, c = (points[triangles[:, corner]] for corner in range(3))
    face_normals = np.cross(b - a, c - a)
    normals = np.zeros_like(points)
    for corner in range(3):
        np.add.at(normals, triangles[:, corner], face_normals)
    return normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)


def person_penetration(vertices_a: ArrayLike, vertices_b: ArrayLike, faces_b: ArrayLike) -> Array:
    """How deep person a's surface is inside person b's, per frame, cm; 0 if nowhere.

    A vertex of a counts as inside if it lies behind the surface of b at b's nearest vertex; the depth is the
    distance to that vertex, and a frame's value is the greatest. Evaluate both ways round and take the larger.

    Args:
        vertices_a: [T, V, 3] metres. vertices_b: [T, W, 3]. faces_b: [F, 3].

    Returns:
        [T].
    """
    a = require_finite("vertices_a", as_floats("vertices_a", vertices_a, None, None, 3))
    b = require_finite("vertices_b", as_floats("vertices_b", vertices_b, None, None, 3))
    if len(a) != len(b):
        raise ValueError(f"{len(a)} frames of a and {len(b)} of b")
    depth = np.zeros(len(a))
    for frame, (points, surface) in enumerate(zip(a, b, strict=True)):
        low, high = surface.min(0), surface.max(0)
        near = points[((points > low) & (points < high)).all(-1)]  # only these can be inside
        if len(near) == 0:
            continue
        distance, nearest = cKDTree(surface).query(near)
        inside = ((near - surface[nearest]) * vertex_normals(surface, faces_b)[nearest]).sum(-1) < 0
        depth[frame] = 100 * (distance * inside).max()
    return depth
