"""Dense depth from known camera motion: plane sweep on keyframes, triangulated points between, splats elsewhere.

Plane sweep (Collins, "A space-sweep approach to true multi-image matching", CVPR 1996): for each of many
depths, neighbours are warped onto the frame as if everything lay at that depth; the depth at which they agree
best wins. Where nothing agrees, inverse depth is interpolated over image triangles between the triangulated
points. All other frames get the points of the two keyframes around them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.errors import require
from teacher.initialisers.background import FrameReader
from teacher.initialisers.depth_models import DepthModelConfig, run_depth_model
from teacher.initialisers.registry import Outcome, Report, StageMissingError, register
from teacher.stagefiles import CameraInit, DepthInit
from teacher.workspace import ClipFolder

Array = NDArray[Any]


@dataclass(kw_only=True)
class DepthConfig:
    """Dense depth."""

    use: str = "sweep"
    """sweep, transformers (a network, docs/neural.md), or files:FOLDER."""
    network: DepthModelConfig = field(default_factory=DepthModelConfig)
    """For use=transformers."""
    long_side: int = 160
    """Longer side of the depth maps, pixels."""
    planes: int = 80
    """Depths tried."""
    neighbours: int = 4
    """Frames compared with each keyframe."""
    keyframe_step: int = 4
    """Frames between swept keyframes."""
    min_agreement: float = 0.55
    """Least normalised cross-correlation to be believed."""
    baseline: float = 0.06
    """Wanted distance to a neighbour, as a share of the median depth."""

    def __post_init__(self) -> None:
        if self.long_side < 32 or self.planes < 8 or self.neighbours < 1 or self.keyframe_step < 1:
            raise ValueError("depth: long_side >= 32, planes >= 8, neighbours and keyframe_step >= 1 are expected")


@dataclass(kw_only=True)
class _Sweep:
    """What every frame of the sweep shares."""

    reader: FrameReader
    cameras: CameraInit
    size: tuple[int, int]
    K: Array
    """[3, 3] of the small images, top-left pixel centre at (0, 0) as OpenCV has it."""


@register("depth", "sweep", needs=("frames", "people", "cameras"), licence="Apache-2.0")
def run(clip: ClipFolder, config: DepthConfig, report: Report) -> Outcome:
    """Depth of the background in every frame.

    Raises:
        StageMissingError: the camera stays in place, so there is no parallax to see depth by.
    """
    cameras = CameraInit.load(clip.require("cameras"))
    if len(cameras.points) < 20:
        raise StageMissingError(f"no parallax: the camera is {cameras.kind} and has {len(cameras.points)} points")
    reader = FrameReader(clip)
    scale = config.long_side / max(reader.size)
    size = (round(reader.size[0] * scale), round(reader.size[1] * scale))
    stretch = np.array([[size[0] / reader.size[0]], [size[1] / reader.size[1]], [1.0]])
    K = cameras.K * stretch - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    sweep = _Sweep(reader=reader, cameras=cameras, size=size, K=K)
    keyframes = sorted({*range(0, len(reader), config.keyframe_step), len(reader) - 1})
    keyframes = [k for k in keyframes if cameras.registered[k]]
    greys: dict[int, Array] = {}
    swept: dict[int, Array] = {}
    shares = []
    for position, key in enumerate(keyframes):
        report(0.9 * position / len(keyframes), f"plane sweep, frame {key}")
        depth, share = _keyframe_depth(sweep, key, keyframes, greys, config)
        swept[key] = depth
        shares.append(share)
    maps = np.stack([_frame_depth(sweep, index, swept) for index in range(len(reader))])
    DepthInit(depth=maps.astype(np.float16)).save(clip.stage_dir("depth"))
    return Outcome(
        summary={
            "coverage": round(float((maps > 0).mean()), 3),
            "swept": round(float(np.mean(shares)), 3),
            "keyframes": len(keyframes),
            "agreement_with_points": round(_agreement(sweep, maps), 4),
        }
    )


@register(
    "depth", "transformers", needs=("frames", "people", "cameras"), licence="Apache-2.0 (weights: their own)", gpu=True
)
def run_network(clip: ClipFolder, config: DepthConfig, report: Report) -> Outcome:
    """Depth of the background by a network for single images (`depth_models`)."""
    return run_depth_model(clip, config.network, config.long_side, report)


def _small_grey(sweep: _Sweep, index: int, cache: dict[int, Array]) -> Array:
    cv2 = require("cv2", extra="teacher")
    if index not in cache:
        small = cv2.resize(sweep.reader.grey(index), sweep.size, interpolation=cv2.INTER_AREA)
        cache[index] = small.astype(np.float32)
    return cache[index]


def _small_background(sweep: _Sweep, index: int) -> Array:
    cv2 = require("cv2", extra="teacher")
    return cv2.resize(sweep.reader.background(index), sweep.size, interpolation=cv2.INTER_NEAREST) > 0


def _keyframe_depth(
    sweep: _Sweep, key: int, keyframes: list[int], greys: dict[int, Array], config: DepthConfig
) -> tuple[Array, float]:
    """Depth [h, w] of a keyframe (0 unknown), and the share of it that the sweep gave."""
    sparse_px, sparse_z = _sparse(sweep, key)
    between = _between_points(sparse_px, sparse_z, sweep.size)
    background = _small_background(sweep, key)
    if len(sparse_z) < 8:
        return np.where(background, between, 0.0), 0.0
    near, far = np.percentile(sparse_z, [2, 98])
    inverse = np.linspace(
        1 / (1.6 * far), 1 / (0.35 * near), config.planes
    )  # the ground before the camera has few points
    neighbours = _neighbours(sweep, key, keyframes, float(np.median(sparse_z)), config)
    if not neighbours:
        return np.where(background, between, 0.0), 0.0
    scores = _sweep_scores(sweep, key, neighbours, inverse, greys)
    best = scores.argmax(0)
    depth = 1 / _between_planes(scores, best, inverse)
    believed = (scores.max(0) > config.min_agreement) & (best > 0) & (best < config.planes - 1) & background
    off = (between > 0) & (np.abs(depth / np.where(between > 0, between, 1) - 1) > 0.3)
    believed &= ~off
    return np.where(background, np.where(believed, depth, between), 0.0), float(believed.mean())


def _sparse(sweep: _Sweep, index: int) -> tuple[Array, Array]:
    """Triangulated points seen in a frame: pixels [n, 2] of the small image and depths [n]."""
    cameras = sweep.cameras
    seen = cameras.obs_point[cameras.obs_frame == index]
    cam_from_world = np.linalg.inv(cameras.world_from_cam[index])
    points = cameras.points[seen] @ cam_from_world[:3, :3].T + cam_from_world[:3, 3]
    points = points[points[:, 2] > 1e-3]
    pixels = points @ sweep.K.T
    return pixels[:, :2] / pixels[:, 2:], points[:, 2]


def _between_points(pixels: Array, depth: Array, size: tuple[int, int]) -> Array:
    """Inverse depth interpolated over the Delaunay triangles of the points; [h, w], 0 outside."""
    from scipy.interpolate import LinearNDInterpolator
    from scipy.spatial import QhullError

    grid = np.stack(np.meshgrid(np.arange(size[0]), np.arange(size[1])), -1)
    try:
        inverse = LinearNDInterpolator(pixels, 1 / depth)(grid)
    except (QhullError, ValueError):  # fewer than three points, or all on one line
        return np.zeros((size[1], size[0]))
    return np.where(np.isfinite(inverse), 1 / np.where(np.isfinite(inverse), inverse, 1), 0.0)


def _neighbours(sweep: _Sweep, key: int, keyframes: list[int], depth: float, config: DepthConfig) -> list[int]:
    """Keyframes whose distance is nearest to the wanted baseline and that look the same way, on both sides."""
    poses = sweep.cameras.world_from_cam
    others = np.array([k for k in keyframes if k != key])
    if len(others) == 0:
        return []
    distance = np.linalg.norm(poses[others, :3, 3] - poses[key, :3, 3], axis=-1) / depth
    same_way = poses[others, :3, 2] @ poses[key, :3, 2] > np.cos(0.6)
    cost = np.abs(np.log(np.maximum(distance, 1e-6) / config.baseline)) + 10 * ~same_way
    usable = (distance > 0.1 * config.baseline) & same_way
    chosen: list[int] = []
    for side in (others < key, others > key):
        order = [int(others[k]) for k in np.argsort(cost) if side[k] and usable[k]]
        chosen += order[: (config.neighbours + 1) // 2]
    return chosen[: config.neighbours]


def _sweep_scores(
    sweep: _Sweep, key: int, neighbours: list[int], inverse: Array, greys: dict[int, Array], window: int = 9
) -> Array:
    """[planes, h, w] agreement in [-1, 1]: mean over the better half of the neighbours (the rest may be hidden)."""
    cv2 = require("cv2", extra="teacher")

    def box(image: Array) -> Array:
        return cv2.boxFilter(image, -1, (window, window), borderType=cv2.BORDER_REFLECT)

    reference = _small_grey(sweep, key, greys)
    mean = box(reference)
    deviation = np.sqrt(np.maximum(box(reference * reference) - mean * mean, 0)) + 2.0  # 2 grey levels: noise floor
    K_inverse = np.linalg.inv(sweep.K)
    scores = np.empty((len(neighbours), len(inverse), *reference.shape), np.float32)
    for row, other in enumerate(neighbours):
        image = _small_grey(sweep, other, greys)
        other_from_key = np.linalg.inv(sweep.cameras.world_from_cam[other]) @ sweep.cameras.world_from_cam[key]
        for column, inverse_depth in enumerate(inverse):
            # Points at depth 1/inverse_depth move by this homography from the keyframe to the neighbour.
            plane = other_from_key[:3, :3] + inverse_depth * np.outer(other_from_key[:3, 3], [0, 0, 1])
            warped = cv2.warpPerspective(
                image, sweep.K @ plane @ K_inverse, sweep.size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            )
            mean_w = box(warped)
            deviation_w = np.sqrt(np.maximum(box(warped * warped) - mean_w * mean_w, 0)) + 2.0
            scores[row, column] = (box(reference * warped) - mean * mean_w) / (deviation * deviation_w)
    half = (len(neighbours) + 1) // 2
    return np.sort(scores, axis=0)[-half:].mean(0)


def _between_planes(scores: Array, best: Array, inverse: Array) -> Array:
    """Inverse depth at the top of a parabola through the best plane and its two neighbours."""
    inner = np.clip(best, 1, len(inverse) - 2)[None]
    low, middle, high = (np.take_along_axis(scores, inner + k, 0)[0] for k in (-1, 0, 1))
    bend = low - 2 * middle + high
    shift = np.where(bend < -1e-6, 0.5 * (low - high) / np.minimum(bend, -1e-6), 0.0)
    return inverse[0] + (inner[0] + np.clip(shift, -0.5, 0.5)) * (inverse[1] - inverse[0])


def _frame_depth(sweep: _Sweep, index: int, swept: dict[int, Array]) -> Array:
    """Depth [h, w] of any frame: its own sweep, or the points of the keyframes before and after it."""
    if index in swept:
        return swept[index]
    keys = sorted(swept, key=lambda k: abs(k - index))
    around = [k for k in (max((k for k in keys if k < index), default=None),
                          min((k for k in keys if k > index), default=None)) if k is not None]  # fmt: skip
    depth = np.full((sweep.size[1], sweep.size[0]), np.inf)
    for key in around:
        np.minimum(depth, _splat(sweep, key, index, swept[key]), out=depth)
    depth = np.where(np.isfinite(depth), depth, 0.0)
    return np.where(_small_background(sweep, index), _close_gaps(depth), 0.0)


def _splat(sweep: _Sweep, source: int, target: int, depth: Array) -> Array:
    """Depth of `target` from the points of `source`, nearest wins; inf where none falls."""
    rows, columns = np.nonzero(depth > 0)
    rays = np.stack((columns, rows, np.ones_like(rows)), -1) @ np.linalg.inv(sweep.K).T
    points = rays * depth[rows, columns][:, None]
    poses = sweep.cameras.world_from_cam
    target_from_source = np.linalg.inv(poses[target]) @ poses[source]
    points = points @ target_from_source[:3, :3].T + target_from_source[:3, 3]
    points = points[points[:, 2] > 1e-3]
    pixels = points @ sweep.K.T
    pixels = np.rint(pixels[:, :2] / pixels[:, 2:]).astype(int)
    inside = ((pixels >= 0) & (pixels < np.array(sweep.size))).all(-1)
    splat = np.full((sweep.size[1], sweep.size[0]), np.inf)
    np.minimum.at(splat, (pixels[inside, 1], pixels[inside, 0]), points[inside, 2])
    return splat


def _close_gaps(depth: Array) -> Array:
    """Fill one-pixel gaps of a splat with the mean inverse depth of the 3x3 neighbours."""
    cv2 = require("cv2", extra="teacher")
    known = (depth > 0).astype(np.float32)
    inverse = np.where(depth > 0, 1 / np.where(depth > 0, depth, 1), 0).astype(np.float32)
    total = cv2.boxFilter(inverse, -1, (3, 3), normalize=False)
    count = cv2.boxFilter(known, -1, (3, 3), normalize=False)
    fill = (depth == 0) & (count >= 3)
    return np.where(fill, count / np.maximum(total, 1e-9), depth)


def _agreement(sweep: _Sweep, maps: Array) -> float:
    """Median relative difference between the maps and the triangulated points."""
    errors = []
    for index in range(0, len(maps), 5):
        pixels, depth = _sparse(sweep, index)
        at = np.rint(pixels).astype(int)
        inside = ((at >= 0) & (at < np.array(sweep.size))).all(-1)
        dense = maps[index][at[inside, 1], at[inside, 0]]
        errors.append(np.abs(dense / depth[inside] - 1)[dense > 0])
    return float(np.median(np.concatenate(errors))) if errors else float("nan")
