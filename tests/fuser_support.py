"""Paths and observations that several tests of the fuser share."""

from __future__ import annotations

import numpy as np

from distill.fuser.observation import VARIANCE_PER_AXIS, FrameObservation, Motions, PersonObservation
from distill.fuser.so3 import Array, exp, inverse, rigid

FPS = 30.0
GAPS = (1, 3, 10)


def smooth_path(count: int, seed: int = 0, *, turn: float = 0.3, speed: float = 1.0) -> Array:
    """[T, 4, 4] poses that drift along smooth curves; the first is the identity."""
    rng = np.random.default_rng(seed)
    time = np.arange(count)[:, None] / FPS
    angles = turn * rng.uniform(0.5, 1, 3) * np.sin(time * rng.uniform(0.5, 1.5, 3))
    places = speed * rng.uniform(-1, 1, 3) * time + 0.1 * np.sin(time * rng.uniform(1, 2, 3))
    poses = rigid(exp(angles), places)
    return inverse(poses[:1]) @ poses


def motions_of(poses: Array, k: int, noise: tuple[float, float] = (0.0, 0.0), rng: np.random.Generator | None = None,
               said: tuple[float, float] = (0.004, 0.01)) -> Motions:  # fmt: skip
    """Motions from frame k back over `GAPS`, with Gaussian noise (rad, m per axis); `said`: claimed, per axis."""
    gaps = [gap for gap in GAPS if gap <= k]
    moves = np.stack([inverse(poses[k - gap]) @ poses[k] for gap in gaps]) if gaps else np.zeros((0, 4, 4))
    if rng is not None and gaps:
        wrong = rng.standard_normal((len(gaps), 6)) * np.repeat(noise, 3)
        moves = rigid(moves[:, :3, :3] @ exp(wrong[:, :3]), moves[:, :3, 3] + wrong[:, 3:])
    return Motions(gaps=np.array(gaps, np.int64), past_from_now=moves, log_var=np.tile(log_var(*said), (len(gaps), 1)))


def log_var(rotation: float, translation: float) -> Array:
    """What a student says when it means these deviations per axis."""
    return np.log(np.square([rotation, translation]) * VARIANCE_PER_AXIS[3])


def exact(cameras: Array, bodies: dict[int, Array], **seen: range) -> list[FrameObservation]:
    """Observations without errors; people are seen in all frames, or in those of `seen["p7"]`. No contacts."""
    observations = []
    for k in range(len(cameras)):
        people = {}
        for person, path in bodies.items():
            frames = seen.get(f"p{person}", range(len(cameras)))
            if k not in frames:
                continue
            motions = motions_of(path, k)
            both = np.array([k - gap in frames for gap in motions.gaps], bool)
            people[person] = PersonObservation(
                cam_from_body=inverse(cameras[k]) @ path[k], root_log_var=np.full(3, np.log(0.01**2)),
                contact_prob=np.zeros(6), feet=np.zeros((4, 3)),
                motions=Motions(gaps=motions.gaps[both], past_from_now=motions.past_from_now[both],
                                log_var=motions.log_var[both]),
            )  # fmt: skip
        observations.append(FrameObservation(timestamp=k / FPS, camera=motions_of(cameras, k), people=people))
    return observations


def in_front(cameras: Array, seed: int = 5) -> Array:
    """[T, 4, 4] a body that walks about four metres before the first camera."""
    path = smooth_path(len(cameras), seed, speed=0.5)
    path = rigid(path[:, :3, :3], path[:, :3, 3] + [0.0, 0.0, 4.0])
    return path
