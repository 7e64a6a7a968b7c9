"""What a perfect initialiser would see of a synthetic clip: everything that `degrade` then makes wrong.

Made once per clip (about 10 ms a frame), because many degraded problems are posed of the same clip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.ndimage import binary_dilation

from teacher.stagefiles import Array

if TYPE_CHECKING:
    from distill.synthetic import SyntheticClip

SHRINK: Final = 2
"""Pixels of the image per pixel of depth maps and masks, each way."""
REACH_M: Final = 0.15
"""What lies this much nearer than a keypoint hides it; a keypoint lies within the flesh, so less may be its own."""


@dataclass(kw_only=True)
class ExactView:
    """T frames, P people, N scene points, M observations."""

    clip: SyntheticClip
    """Truth and scene."""
    points: Array
    """[N, 3] scene points, world, metres."""
    obs_frame: Array
    """[M] int32."""
    obs_point: Array
    """[M] int32."""
    obs_px: Array
    """[M, 2] float64, pixels."""
    depth: Array
    """[T, h, w] float32, metres; 0 on people and in the sky."""
    keypoints_cam: Array
    """[T, P, 23, 3] metres."""
    keypoints_px: Array
    """[T, P, 23, 2] pixels."""
    keypoint_seen: Array
    """[T, P, 23] bool: inside the image and hidden neither by the scene nor by somebody else."""


def exact_view(clip: SyntheticClip, points: int = 1500) -> ExactView:
    """Look at a clip with perfect eyes.

    Args:
        clip: truth and scene.
        points: scene points whose observations form the tracks.
    """
    truth = clip.truth.cameras
    nearest = _people_depth(clip)
    masks = binary_dilation(np.isfinite(nearest).any(1), np.ones((1, 3, 3)), iterations=2)
    scene = clip.sample_points(points)[0].astype(np.float64) if points else np.zeros((0, 3))
    frame, point, px = _observe(clip, scene, masks)
    K = truth.K / np.array([[SHRINK], [SHRINK], [1.0]])
    size = (masks.shape[2], masks.shape[1])
    depth = np.stack([clip.scene.cast_depth(K, pose, size) for pose in truth.world_from_cam])
    keypoints = clip.keypoints_cam().astype(np.float64)
    keypoints_px = project_px(keypoints, truth.K)
    return ExactView(
        clip=clip, points=scene, obs_frame=frame, obs_point=point, obs_px=px, depth=np.where(masks, 0, depth),
        keypoints_cam=keypoints, keypoints_px=keypoints_px,
        keypoint_seen=_seen(clip, keypoints, keypoints_px, nearest),
    )  # fmt: skip


def project_px(in_camera: Array, K: Array) -> Array:
    """Pixels [..., 2] of points [..., 3] in the camera; points behind it are moved before it."""
    ahead = np.maximum(in_camera[..., 2:], 1e-6)
    return np.asarray(in_camera[..., :2] / ahead @ K[:2, :2].T + K[:2, 2])


def _people_depth(clip: SyntheticClip) -> Array:
    """[T, P, h, w] float32: depth of each person's nearest vertex in a pixel, infinite where there is none."""
    truth = clip.truth.cameras
    height, width = truth.size[1] // SHRINK, truth.size[0] // SHRINK
    people = clip.truth.motion.present.shape[1]
    nearest = np.full((len(truth.world_from_cam), people, height, width), np.inf, np.float32)
    for frame, vertices in enumerate(clip.people_vertices()):
        pose = truth.world_from_cam[frame]
        in_camera = (vertices - pose[:3, 3]) @ pose[:3, :3]  # [P, V, 3]
        px = project_px(in_camera, truth.K) / SHRINK
        inside = ((px >= 0) & (px < (width, height))).all(-1) & (in_camera[..., 2] > 0.1)
        person, vertex = np.nonzero(inside)
        col, row = px[person, vertex].astype(int).T
        np.minimum.at(nearest[frame], (person, row, col), in_camera[person, vertex, 2])
    return nearest


def _observe(clip: SyntheticClip, points: Array, masks: Array) -> tuple[Array, Array, Array]:
    """Frame [M], point [M] and pixel [M, 2] of every sight of a scene point that nothing hides."""
    truth = clip.truth.cameras
    found = [(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 2)))]
    for frame, pose in enumerate(truth.world_from_cam if len(points) else ()):
        offset = points - pose[:3, 3]
        in_camera = offset @ pose[:3, :3]
        px = project_px(in_camera, truth.K)
        ids = np.flatnonzero((in_camera[:, 2] > 0.1) & ((px >= 0) & (px < truth.size)).all(-1))
        col, row = (px[ids] / SHRINK).astype(int).T
        ids = ids[~masks[frame, row.clip(max=masks.shape[1] - 1), col.clip(max=masks.shape[2] - 1)]]
        first = clip.scene.caster.cast(np.broadcast_to(pose[:3, 3], (len(ids), 3)), offset[ids])
        ids = ids[first.distance > 0.995]
        found.append((np.full(len(ids), frame), ids, px[ids]))
    frames, ids, pixels = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return frames.astype(np.int32), ids.astype(np.int32), pixels


def _seen(clip: SyntheticClip, keypoints: Array, px: Array, nearest: Array) -> Array:
    """[T, P, 23] bool: see `ExactView.keypoint_seen`."""
    truth = clip.truth.cameras
    depth = keypoints[..., 2]
    inside = ((px >= 0) & (px < truth.size)).all(-1) & (depth > 0.1)
    height, width = nearest.shape[2:]
    col = (px[..., 0] / SHRINK).astype(int).clip(0, width - 1)
    row = (px[..., 1] / SHRINK).astype(int).clip(0, height - 1)
    frames, people = depth.shape[:2]
    before = nearest[np.arange(frames)[:, None, None], :, row, col]  # [T, P, 23, P']: who stands there, how near
    own = np.eye(people, dtype=bool)[None, :, None]
    other = np.where(own, np.inf, before).min(-1) < depth - REACH_M
    pose = truth.world_from_cam
    ray = np.einsum("tij,tpkj->tpki", pose[:, :3, :3], keypoints)
    origin = np.broadcast_to(pose[:, None, None, :3, 3], ray.shape)
    hit = clip.scene.caster.cast(origin.reshape(-1, 3), ray.reshape(-1, 3)).distance.reshape(depth.shape)
    return np.asarray(inside & ~other & (hit * depth > depth - REACH_M))
