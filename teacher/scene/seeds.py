"""Where Gaussians begin: the scene's at optimised points, people's on the skin, both coloured from the frames."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from distill.avatar import Avatar
from distill.body import BodyModel
from distill.geometry.cameras import project
from distill.geometry.rotations import quat_from_matrix
from distill.render import Gaussians
from teacher.scene.footage import Footage
from teacher.scene.terms import facing

Array = NDArray[np.floating]
START_OPACITY = 0.8
"""Of a scene Gaussian: points are surface."""
SPREAD = 0.6
"""Scale over the mean distance to the three nearest neighbours: just closed, not blurred."""
SURFACE_POINTS = 10
"""Nearest points that tell the surface's normal."""
THINNEST = 0.1
"""Least scale along the normal over that along the surface."""
OWN_MASK = 0.9
"""Share of a pixel that must be the person's own before its colour is believed."""


def thin_points(points: Array, rgb: Array, centres: Array, count: int) -> tuple[Array, Array]:
    """At most `count` points: means over voxels whose size grows with the distance from the nearest camera.

    So points are even in the pictures, not in space.

    Args:
        points: [N, 3] metres. rgb: [N, 3] uint8. centres: [T, 3] camera centres, metres.
    """
    if len(points) <= count:
        return points, rgb
    distance = cKDTree(centres).query(points)[0].clip(0.1)
    low, high = 1e-4, 1.0
    for _ in range(20):  # bisection of the voxel's size over its distance
        middle = (low * high) ** 0.5
        low, high = (
            (middle, high) if len(np.unique(_voxels(points, distance, middle), axis=0)) > count else (low, middle)
        )
    _, voxel = np.unique(_voxels(points, distance, high), axis=0, return_inverse=True)
    share = np.bincount(voxel.ravel())[:, None]

    def mean(values: Array) -> Array:
        return np.stack([np.bincount(voxel.ravel(), column) for column in values.T.astype(np.float64)], 1) / share

    return mean(points), mean(rgb)


def _voxels(points: Array, distance: Array, relative: float) -> Array:
    octave = np.floor(np.log2(distance))
    cell = np.floor(points / (relative * 2**octave)[:, None])
    return np.column_stack((octave, cell)).astype(np.int64)


def scene_gaussians(points: Array, rgb: Array, centres: Array, count: int) -> Gaussians:
    """Discs of the scene at thinned points, in the world, along the local surface; arguments as of `thin_points`.

    Round Gaussians would not do: on ground seen at a slant each hides what lies behind it, and the whole texture moves
    up in the picture by about their radius (3 pixels in a first trial), which a camera then follows.
    """
    kept, colours = thin_points(points, rgb, centres, count)
    neighbours = min(4, len(kept))
    distance = np.atleast_2d(cKDTree(kept).query(kept, k=neighbours)[0])[:, 1:].mean(-1)
    far = cKDTree(centres).query(kept)[0]
    scale = np.clip(SPREAD * distance, 1e-3 * far, 0.1 * far)  # a lone point must not become a wall
    axes, flatness = surface_axes(kept, points)
    scales = scale[:, None] * np.column_stack((np.ones((len(kept), 2)), flatness.clip(THINNEST, 1)))
    return Gaussians(
        means=_tensor(kept), quats=quat_from_matrix(_tensor(axes)), scales=_tensor(scales),
        opacities=torch.full((len(kept),), START_OPACITY), colors=_tensor(colours) / 255,
    )  # fmt: skip


def surface_axes(places: Array, points: Array) -> tuple[Array, Array]:
    """Rotations [M, 3, 3] whose third column is the normal of the surface near each place [M, 3], and how round it is
    there [M]: spread along the normal over that along the surface, from the nearest of the points [N, 3]."""
    near = points[np.atleast_2d(cKDTree(points).query(places, k=min(SURFACE_POINTS, len(points)))[1])]
    off = near - near.mean(1, keepdims=True)
    spread, axes = np.linalg.eigh(np.einsum("nki,nkj->nij", off, off))  # ascending
    axes = axes[:, :, ::-1].copy()
    axes[:, :, 0] *= np.sign(np.linalg.det(axes))[:, None]
    return axes, np.sqrt(spread[:, 0].clip(0) / spread[:, 1].clip(1e-12))


def _tensor(values: Array) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.float32))


def coloured(
    avatar: Avatar,
    body: BodyModel,
    footage: Footage,
    person: int,
    body_rot: Tensor,
    cam_from_body: Tensor,
    present: Tensor,
) -> Avatar:
    """The avatar with each Gaussian's mean colour over the frames in which its outside is seen.

    One that is never seen takes the colour of the nearest one that is, in the rest pose; if none is, all stay grey.

    Args:
        person: which of the masks is its own. body_rot: [T, 23, 3, 3]. cam_from_body: [T, 4, 4]. present: [T].
    """
    total, seen = torch.zeros_like(avatar.colors), torch.zeros_like(avatar.opacities)
    width, height = footage.size
    for frame in torch.nonzero(present).flatten().tolist():
        posed = avatar.posed(body, body_rot[frame], cam_from_body[frame])
        pixel = project(posed.means, footage.K).floor().long()
        inside = (pixel >= 0).all(-1) & (pixel[:, 0] < width) & (pixel[:, 1] < height) & (posed.means[:, 2] > 0)
        column, row = pixel[:, 0].clamp(0, width - 1), pixel[:, 1].clamp(0, height - 1)
        own = footage.masks[frame, person, row, column] > OWN_MASK
        weight = (inside & own & facing(posed.means, posed.quats)).float()
        total += weight[:, None] * footage.images[frame, row, column]
        seen += weight
    known = seen > 0
    if not bool(known.any()):
        return avatar
    mean = total / seen.clamp(min=1)[:, None]
    places = avatar.canonical(body).means
    nearest = torch.cdist(places, places[known]).argmin(-1)
    return replace(avatar, colors=torch.where(known[:, None], mean, mean[known][nearest]))
