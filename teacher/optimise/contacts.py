"""Where contacts meet the scene: partners of the contact sites, and contact probabilities that follow the motion.

A contact site (heel, toe, hand) that touches the scene hides the very point that it touches. Its partner is
therefore found beside it: the nearest valid background pixels carry a local surface, and that surface is
followed to the site's own pixel. Inverse depth of a plane is affine in the pixel, so the fit is linear:

    1 / d = a u + b v + c   <=>   m . X = 1 with m = (a fx, b fy, a cx + b cy + c)

JOSH takes the depth of the nearest valid pixel as it is; on ground seen at a slant that pixel lies nearer
than the foot, and its test (depth ratio at most 1.01 between the site's pixel and the partner's) then drops
most contacts or keeps biased ones. Following the surface removes the slant from the residual and from the
test, which compares the nearest pixel's depth with the surface there. The surface under a foot must also be
about level (`only_level`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from teacher.optimise.tracks import observed_depth
from teacher.stagefiles import Array, CameraInit, DepthInit

FEET = 4
"""The first sites of `conventions.CONTACT_SITES` are those of the feet."""


@dataclass(kw_only=True)
class Partners:
    """The scene behind each contact site, [T, P, 6, ...]; entries of weight 0 are finite and mean nothing."""

    px: Tensor
    """[T, P, 6, 2] the site's own pixel at the time of the search."""
    depth: Tensor
    """[T, P, 6] z of the surface there, in the unit that the solve starts from."""
    normal: Tensor
    """[T, P, 6, 3] unit normal of the surface in the camera, towards the camera."""
    weight: Tensor
    """[T, P, 6] confidence: 0 without a partner, else the cosine between view ray and normal (a surface
    seen at a slant leaves the depth less certain)."""


class SceneDepth:
    """Background depths of every frame, ready to be searched by pixel."""

    def __init__(self, pixels: list[Array], depths: list[Array]) -> None:
        """Per frame: pixels [N, 2] and depths [N] above 0."""
        self.pixels, self.depths = pixels, depths
        self._trees = [cKDTree(px) if len(px) else None for px in pixels]

    @classmethod
    def from_dense(cls, depth: DepthInit, size: tuple[int, int], *, unit: float, spacing: float) -> SceneDepth:
        """From dense depth: about one pixel per `spacing` pixels of the frame in each direction."""
        _, height, width = depth.depth.shape
        cell = np.array([size[0] / width, size[1] / height])
        step = np.maximum(1, np.round(spacing / cell)).astype(int)
        cols, rows = np.arange(step[0] // 2, width, step[0]), np.arange(step[1] // 2, height, step[1])
        grid = np.stack(np.meshgrid((cols + 0.5) * cell[0], (rows + 0.5) * cell[1]), axis=-1)
        sampled = unit * depth.depth[:, rows[:, None], cols].astype(np.float64)
        return cls([grid[frame > 0] for frame in sampled], [frame[frame > 0] for frame in sampled])

    @classmethod
    def from_points(cls, cameras: CameraInit, frames: int, *, unit: float) -> SceneDepth:
        """From the sparse points that each frame observes, where there is no dense depth."""
        depth = unit * observed_depth(cameras)
        chosen = [(cameras.obs_frame == t) & (depth > 0) for t in range(frames)]
        return cls([cameras.obs_px[c].astype(np.float64) for c in chosen], [depth[c] for c in chosen])

    def nearest(self, frame: int, pixels: Array, *, count: int, radius: Array) -> tuple[Array, Array, Array]:
        """The `count` nearest background pixels of each query.

        Args:
            frame: index. pixels: [N, 2]. count: neighbours wanted. radius: [N] pixels, farther ones are left out.

        Returns:
            pixels [N, count, 2], depths [N, count], found [N, count] bool, nearest first.
        """
        tree = self._trees[frame]
        if tree is None:
            empty = np.zeros((len(pixels), count))
            return np.zeros((len(pixels), count, 2)), empty, empty.astype(bool)
        distance, index = tree.query(pixels, k=np.arange(1, count + 1))
        found = distance <= radius[:, None]
        index = np.where(np.isfinite(distance), index, 0)
        return self.pixels[frame][index], self.depths[frame][index], found


def find_partners(
    scene: SceneDepth,
    sites_px: Array,
    radius: Array,
    K: Array,
    *,
    size: tuple[int, int],
    count: int,
    depth_ratio: float,
) -> Partners:
    """Find the partner of every site that lies inside the image and passes the depth test.

    Args:
        scene: background depths.
        sites_px: [T, P, 6, 2] pixels of the contact sites.
        radius: [T, P] how far partners may lie, pixels.
        K: [3, 3] intrinsics under which `scene` was measured.
        size: of the image.
        count: neighbours that a surface is fitted to.
        depth_ratio: largest ratio between the nearest neighbour's depth and the surface there.
    """
    frames, people, sites = sites_px.shape[:3]
    flat = sites_px.reshape(frames, people * sites, 2).astype(np.float64)
    near = [scene.nearest(t, flat[t], count=count, radius=np.repeat(radius[t], sites)) for t in range(frames)]
    px, depth, found = (np.concatenate(parts) for parts in zip(*near, strict=True))
    query = flat.reshape(-1, 2)
    inside = ((query >= 0) & (query < np.asarray(size))).all(-1)
    plane = _fit_inverse_depth(px - query[:, None], depth, found)
    own = plane[:, 2]  # inverse depth at the site's own pixel
    at_nearest = (plane * np.column_stack((px[:, 0] - query, np.ones(len(query))))).sum(-1)
    ratio = at_nearest * depth[:, 0]
    spread = own * depth[:, 0]
    good = inside & (found.sum(-1) >= 6) & (own > 1e-4)
    good &= (ratio < depth_ratio) & (ratio > 1 / depth_ratio)
    good &= (spread < 1.5) & (spread > 1 / 1.5)  # the surface must not be followed to quite another depth
    normal, cosine = _surface(plane, query, K)
    shape = (frames, people, sites)
    safe_depth = np.where(good, 1 / np.where(own > 1e-4, own, 1.0), 1.0)
    return Partners(
        px=torch.from_numpy(query.reshape(*shape, 2)).float(),
        depth=torch.from_numpy(safe_depth.reshape(shape)).float(),
        normal=torch.from_numpy(normal.reshape(*shape, 3)).float(),
        weight=torch.from_numpy(np.where(good, cosine, 0.0).reshape(shape)).float(),
    )


def only_level(partners: Partners, up_cam: Tensor, max_slope_deg: float) -> Partners:
    """Partners without those of feet on too steep a surface: nobody stands there, so the depth is wrong.

    Depth of a bare floor is often that of the wall behind it; such a surface has neither the floor's place nor
    its slope, and the slope can be tested before the scale is known.

    Args:
        partners: of all sites. up_cam: [T, 3] up as the bodies have it, in the camera. max_slope_deg: degrees.
    """
    cosine = (partners.normal * up_cam[:, None, None]).sum(-1)
    steep = cosine < np.cos(np.radians(max_slope_deg))
    steep[..., FEET:] = False
    return replace(partners, weight=partners.weight * ~steep)


def _fit_inverse_depth(offset: Array, depth: Array, found: Array, rounds: int = 4) -> Array:
    """[N, 3] coefficients (a, b, c) of 1 / d = a du + b dv + c, by least squares reweighted for outliers.

    Args:
        offset: [N, k, 2] pixels from the query. depth: [N, k]. found: [N, k] bool.
    """
    inverse = 1 / np.where(depth > 0, depth, 1.0)
    reach = np.maximum(np.abs(offset * found[..., None]).max((1, 2)), 1.0)[:, None, None]
    design = np.concatenate((offset / reach, np.ones_like(offset[..., :1])), axis=-1)
    weight = found.astype(np.float64)
    ridge = np.diag([1e-3, 1e-3, 1e-9])  # without spread in the image the surface is taken to face the camera
    solution = np.zeros((len(depth), 3))
    for _ in range(rounds):
        normal = np.einsum("nk,nki,nkj->nij", weight, design, design) + ridge
        right = np.einsum("nk,nki,nk->ni", weight, design, inverse)
        solution = np.linalg.solve(normal, right[..., None])[..., 0]
        residual = np.abs((design @ solution[..., None])[..., 0] - inverse) / inverse
        weight = found / (1 + (residual / 0.02) ** 2)  # Cauchy, 2 % of the depth
    solution[:, :2] /= reach[:, 0]
    return solution


def _surface(plane: Array, query: Array, K: Array) -> tuple[Array, Array]:
    """Normal [N, 3] towards the camera, and cosine [N] between it and the view ray, of fitted surfaces."""
    a, b = plane[:, 0], plane[:, 1]
    c = plane[:, 2] - a * query[:, 0] - b * query[:, 1]  # offsets were measured from the query
    m = np.stack((a * K[0, 0], b * K[1, 1], a * K[0, 2] + b * K[1, 2] + c), axis=-1)
    normal = -m / np.maximum(np.linalg.norm(m, axis=-1, keepdims=True), 1e-12)
    ray = np.column_stack((query, np.ones(len(query)))) @ np.linalg.inv(K).T
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    return normal, np.abs((normal * ray).sum(-1))
