"""How the camera moves: carried, turned on the spot, shaken or fixed, always with the people in view."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from distill.errors import FootfallError
from distill.synthetic.axes import Array, make_rigid, normalise, smooth_noise
from distill.synthetic.spec import ClipSpec
from distill.synthetic.terrain import Terrain

MARGIN = 0.03
"""Part of the image, at each border, that people stay out of."""
LONG_S = 10.0
"""Clips longer than this, seconds, are filmed from a bounded range of directions."""
NEAREST = 1.6
"""Least distance between camera and people, metres."""


@dataclass(kw_only=True, frozen=True)
class CameraTrack:
    """The camera of a clip."""

    K: Array
    """[3, 3] pixels."""
    world_from_cam: Array
    """[T, 4, 4] metres."""


def plan_cameras(spec: ClipSpec, joints: Array, terrain: Terrain) -> CameraTrack:
    """Draw cameras until the people stay in view.

    Args:
        spec: of the clip.
        joints: [T, P, 24, 3] world, metres.
        terrain: that the camera is carried over.

    Raises:
        FootfallError: no such camera was found, for example because people walk too far for a fixed one.
    """
    rng = spec.rng("cameras")
    focal = spec.focal or spec.width * rng.uniform(0.75, 1.05)
    K = np.array([[focal, 0, spec.width / 2], [0, focal, spec.height / 2], [0, 0, 1.0]])
    distance = focal * 1.75 / (rng.uniform(0.52, 0.64) * spec.height)
    outline = _outline(joints)
    for attempt in range(60):
        world_from_cam = _draw(spec, joints, distance * 1.04**attempt, rng, terrain)
        if _sees(world_from_cam, K, spec, outline):
            return CameraTrack(K=K, world_from_cam=world_from_cam)
    raise FootfallError(
        f"clip {spec.id}: camera={spec.camera}", got="people that leave the view", expected="a camera that sees them",
        do="make the clip shorter, the image wider, or let the camera walk",
    )  # fmt: skip


def _outline(joints: Array) -> Array:
    """[T, N, 3] points around all people: joints, a little above the heads and below the feet."""
    crown = joints[:, :, 15] + [0, 0, 0.22]
    soles = joints[:, :, 10:12] - [0, 0, 0.04]
    points = np.concatenate((joints, crown[:, :, None], soles), axis=2)
    return points.reshape(len(joints), -1, 3)


def _sees(world_from_cam: Array, K: Array, spec: ClipSpec, outline: Array) -> bool:
    points = (outline - world_from_cam[:, None, :3, 3]) @ world_from_cam[:, :3, :3]
    if points[..., 2].min() < NEAREST:
        return False
    part = (points[..., :2] / points[..., 2:] @ K[:2, :2].T + K[:2, 2]) / [spec.width, spec.height]
    return bool((part > MARGIN).all() and (part < 1 - MARGIN).all())


def _draw(spec: ClipSpec, joints: Array, distance: float, rng: np.random.Generator, terrain: Terrain) -> Array:
    """One camera track [T, 4, 4] at about `distance` metres from the people."""
    times = spec.times
    centre = joints[:, :, 0].mean(axis=1)
    sigma = 0.4 * spec.fps
    centre = gaussian_filter1d(centre, sigma, axis=0, mode="nearest")
    middle = (centre.min(axis=0) + centre.max(axis=0)) / 2
    azimuth = rng.uniform(-np.pi, np.pi)
    height = rng.uniform(1.25, 1.75)
    aim = centre - [0, 0, rng.uniform(0.02, 0.12)]
    noise = smooth_noise(rng, times, period=0.9, channels=6)
    sway_m, sway_rad = 0.012, np.radians(0.45)
    if spec.camera in ("walk", "shake"):
        # Of the two ways around the people, the one on which the camera goes further: structure from motion needs it.
        rate, since = rng.uniform(0.2, 0.32), times - times[-1] / 2
        # In a long clip the camera swings around the people and back, so that it sees places again.
        drift = rate * since if times[-1] <= LONG_S else 1.1 * np.sin(rate / 1.1 * since)
        ways = [centre + distance * _around(azimuth + sign * drift) for sign in (-1, 1)]
        eye = max(ways, key=_length)
        eye[:, 2] = height + 0.018 * np.sin(2 * np.pi * 1.9 * times + rng.uniform(0, 6))
        if spec.camera == "shake":
            quick = smooth_noise(rng, times, period=0.22, channels=6)
            noise, sway_m, sway_rad = noise + 1.5 * quick, 0.018, np.radians(1.0)
    else:
        eye = np.tile(middle + distance * _around(np.array(azimuth)), (len(times), 1))
        eye[:, 2] = height
        if spec.camera == "static":
            aim, noise = np.tile(middle - [0, 0, 0.08], (len(times), 1)), 0 * noise
        else:  # Held before a standing person's chest, so that it moves a little as they turn.
            eye += 0.25 * normalise((aim - eye) * [1, 1, 0])
    if not terrain.flat:
        eye[:, 2] += gaussian_filter1d(terrain.height(eye[:, :2]), 0.8 * spec.fps, mode="nearest")
    rotation = _look(eye, aim) @ Rotation.from_rotvec(sway_rad * noise[:, :3]).as_matrix()
    return make_rigid(rotation, eye + sway_m * noise[:, 3:])


def _length(path: Array) -> float:
    return float(np.linalg.norm(np.diff(path, axis=0), axis=-1).sum())


def _around(azimuth: Array) -> Array:
    """Unit vectors [..., 3] on the horizontal circle."""
    return np.stack((np.cos(azimuth), np.sin(azimuth), np.zeros_like(azimuth)), axis=-1)


def _look(eye: Array, aim: Array) -> Array:
    """Level cameras [T, 3, 3] (world from camera) at `eye` that look at `aim`."""
    forward = normalise(aim - eye)
    right = normalise(np.cross(forward, [0.0, 0.0, 1.0]))
    return np.stack((right, np.cross(forward, right), forward), axis=-1)
