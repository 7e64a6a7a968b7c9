"""Problems from synthetic truth, degraded as real initialisers fail, so that a solve can be held against truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import binary_dilation
from scipy.spatial.transform import Rotation

from teacher.optimise.problem import Problem
from teacher.stagefiles import Array, BodyInit, CameraInit, Contacts, DepthInit, People

if TYPE_CHECKING:
    from distill.synthetic import SyntheticClip


@dataclass(kw_only=True)
class Degradation:
    """How the initial values differ from the truth; the defaults leave it as it is."""

    seed: int = 0
    """Of all draws."""
    focal: float = 1.0
    """Factor on the focal length; depths of scene and bodies follow it, as those of real initialisers do."""
    unit: float = 1.0
    """Units of the scene per metre (structure from motion knows no metres)."""
    root_depth: float = 1.0
    """Factor on every pelvis depth, beside that of the focal length."""
    root_depth_sd: float = 0.0
    """Noise of the pelvis depth from frame to frame, relative."""
    root_rot_sd: float = 0.0
    """Noise of the root's orientation from frame to frame, radians per axis."""
    pose_sd: float = 0.0
    """Noise of each joint from frame to frame, radians per axis."""
    betas_sd: float = 0.0
    """Error of the shape, standard deviations."""
    keypoint_px: float = 0.0
    """Noise of keypoints and of scene observations, pixels per axis."""
    depth_sd: float = 0.0
    """Noise of the dense depth, relative."""
    wrong_contacts: float = 0.0
    """Part of the contact labels that is flipped."""
    camera_pos_sd: float = 0.0
    """Noise of the camera centres, metres per axis."""
    camera_rot_sd: float = 0.0
    """Noise of the camera's orientation, radians per axis."""
    dense: bool = True
    """Whether there is dense depth."""
    cameras: str = "sfm"
    """Kind of `CameraInit`: "sfm", "known" (no error may be asked for then) or "static" (no scene at all)."""


def problem_from_truth(clip: SyntheticClip, degradation: Degradation, *, points: int = 1500) -> Problem:
    """The problem that initialisers with these errors would pose.

    Args:
        clip: truth and scene.
        degradation: the errors.
        points: scene points whose observations form the tracks.
    """
    rng = np.random.default_rng(degradation.seed)
    truth = clip.truth
    return Problem(
        clip_id=clip.spec.id,
        timestamps=truth.cameras.timestamps,
        size=truth.cameras.size,
        cameras=_cameras(clip, degradation, rng, points),
        people=_people(clip, degradation, rng),
        bodies=_bodies(clip, degradation, rng),
        contacts=_contacts(truth.motion.contact_prob, degradation, rng),
        depth=_depth(clip, degradation, rng) if degradation.dense and degradation.cameras != "static" else None,
    )


def _cameras(clip: SyntheticClip, d: Degradation, rng: np.random.Generator, count: int) -> CameraInit:
    truth = clip.truth.cameras
    pose = truth.world_from_cam.copy()
    frames = len(pose)
    pose[:, :3, :3] = pose[:, :3, :3] @ _turns(rng, d.camera_rot_sd, (frames,))
    pose[:, :3, 3] += d.camera_pos_sd * rng.standard_normal((frames, 3))
    first_from_world = np.linalg.inv(pose[0])  # an initialiser's world is its first camera
    points = np.zeros((0, 3)) if d.cameras == "static" else clip.sample_points(count)[0]
    obs_frame, obs_point, obs_px = _observe(clip, points)
    pose = first_from_world @ pose
    pose[:, :3, 3] *= d.unit
    points = d.unit * (points @ first_from_world[:3, :3].T + first_from_world[:3, 3])
    known = d.cameras == "known"
    stretch = np.array([[d.focal, 1, 1], [1, d.focal, 1], [1, 1, 1]])
    return CameraInit(
        kind=d.cameras, metric=known, focal_known=known, K=truth.K * stretch,
        world_from_cam=pose, registered=np.ones(frames, bool), points=points.astype(np.float32),
        points_rgb=np.full(points.shape, 128, np.uint8), obs_frame=obs_frame, obs_point=obs_point,
        obs_px=(obs_px + d.keypoint_px * rng.standard_normal(obs_px.shape)).astype(np.float32),
    )  # fmt: skip


def _observe(clip: SyntheticClip, points: Array) -> tuple[Array, Array, Array]:
    """Frame [M], point [M] and pixel [M, 2] of every sight of a scene point that nothing hides."""
    truth = clip.truth.cameras
    people = _people_masks(clip, truth.size)
    found: list[tuple[Array, Array, Array]] = []
    for frame, world_from_cam in enumerate(truth.world_from_cam if len(points) else ()):
        offset = points - world_from_cam[:3, 3]
        in_camera = offset @ world_from_cam[:3, :3]
        px = in_camera[:, :2] / np.maximum(in_camera[:, 2:], 1e-6) @ truth.K[:2, :2].T + truth.K[:2, 2]
        inside = (in_camera[:, 2] > 0.1) & ((px >= 0) & (px < truth.size)).all(-1)
        ids = np.flatnonzero(inside)
        first = clip.scene.caster.cast(np.broadcast_to(world_from_cam[:3, 3], (len(ids), 3)), offset[ids])
        col, row = px[ids].astype(int).T
        ids = ids[(first.distance > 0.995) & ~people[frame, row, col]]
        found.append((np.full(len(ids), frame), ids, px[ids]))
    if not found:
        return np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros((0, 2))
    frames, ids, pixels = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return frames.astype(np.int32), ids.astype(np.int32), pixels


def _people_masks(clip: SyntheticClip, size: tuple[int, int]) -> Array:
    """[T, height, width] bool: pixels near a person's projected mesh."""
    truth = clip.truth.cameras
    scale = np.asarray(size) / np.asarray(truth.size)
    masks = np.zeros((len(truth.world_from_cam), size[1], size[0]), bool)
    for frame, vertices in enumerate(clip.people_vertices()):
        in_camera = (vertices.reshape(-1, 3) - truth.world_from_cam[frame, :3, 3]) @ truth.world_from_cam[frame, :3, :3]
        px = (in_camera[:, :2] / in_camera[:, 2:] @ truth.K[:2, :2].T + truth.K[:2, 2]) * scale
        col, row = px[((px >= 0) & (px < size)).all(-1)].astype(int).T
        masks[frame, row, col] = True
    return binary_dilation(masks, np.ones((1, 3, 3)), iterations=2)


def _people(clip: SyntheticClip, d: Degradation, rng: np.random.Generator) -> People:
    """Keypoints as a landmark detector would give them; those off the image have no score."""
    in_camera = clip.keypoints_cam().astype(np.float64)
    truth = clip.truth.cameras
    px = in_camera[..., :2] / in_camera[..., 2:] @ truth.K[:2, :2].T + truth.K[:2, 2]
    inside = ((px >= 0) & (px < truth.size)).all(-1)
    px += d.keypoint_px * rng.standard_normal(px.shape)
    hips = in_camera[..., 11:13, :].mean(-2, keepdims=True)
    return People(
        visible=clip.truth.motion.present,
        box_xyxy=np.concatenate((px.min(-2), px.max(-2)), axis=-1).astype(np.float32),
        score=np.ones(px.shape[:2], np.float32),
        keypoints_px=px.astype(np.float32),
        keypoint_score=np.asarray(inside, np.float32),
        keypoints_hip=(in_camera - hips).astype(np.float32),
    )


def _bodies(clip: SyntheticClip, d: Degradation, rng: np.random.Generator) -> BodyInit:
    motion, K = clip.truth.motion, clip.truth.cameras.K
    frames, people = motion.present.shape
    pose = motion.cam_from_body.copy()
    pose[..., :3, :3] = pose[..., :3, :3] @ _turns(rng, d.root_rot_sd, (frames, people))
    pose[..., :3, 3] *= d.root_depth * np.exp(d.root_depth_sd * rng.standard_normal((frames, people, 1)))
    pose[..., 2, 3] *= d.focal  # t_z' = (f / f_true) t_z
    return BodyInit(
        body_model=motion.body_model,
        focal_px=float(K[0, 0] * d.focal),
        present=motion.present,
        betas=(motion.betas + d.betas_sd * rng.standard_normal(motion.betas.shape)).astype(np.float32),
        body_rot=motion.body_rot @ _turns(rng, d.pose_sd, (frames, people, 23)),
        cam_from_body=pose,
        confidence=np.ones((frames, people), np.float32),
    )


def _contacts(truth: Array, d: Degradation, rng: np.random.Generator) -> Contacts:
    wrong = rng.random(truth.shape) < d.wrong_contacts
    return Contacts(prob=np.where(wrong, 1 - truth, truth).astype(np.float32))


def _depth(clip: SyntheticClip, d: Degradation, rng: np.random.Generator, shrink: int = 2) -> DepthInit:
    truth = clip.truth.cameras
    size = (truth.size[0] // shrink, truth.size[1] // shrink)
    K = truth.K / np.array([[shrink], [shrink], [1.0]])
    depth = np.stack([clip.scene.cast_depth(K, pose, size) for pose in truth.world_from_cam])
    depth = depth * np.exp(d.depth_sd * rng.standard_normal(depth.shape)) * d.unit
    return DepthInit(depth=np.where(_people_masks(clip, size), 0, depth).astype(np.float16))


def _turns(rng: np.random.Generator, sd: float, shape: tuple[int, ...]) -> Array:
    """Random rotations [*shape, 3, 3] with `sd` radians per axis."""
    vectors = sd * rng.standard_normal((*shape, 3))
    return Rotation.from_rotvec(vectors.reshape(-1, 3)).as_matrix().reshape(*shape, 3, 3)
