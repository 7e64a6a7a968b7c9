"""Two older ways to a path, kept as measures for the fuser: JOSH3R's chain, and averages over gaps.

Both take the same observations as the fuser and give the same poses, without contacts, scale or covariance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from distill.fuser.observation import FrameObservation, Motions, axis_variance
from distill.fuser.so3 import Array, exp, inverse, log, rigid, transpose


@dataclass(kw_only=True)
class Paths:
    """Poses of a whole clip."""

    world_from_cam: Array
    """[T, 4, 4] metres."""
    world_from_body: dict[int, Array] = field(default_factory=dict)
    """Id -> [T, 4, 4]; only frames in which the person was observed count."""


def chain_predictions(observations: Sequence[FrameObservation], gap: int = 3) -> Paths:
    """JOSH3R's published integration: body motions in a row, the camera from the body it sees.

    Each person's path starts at their first detection and takes the next detection at least `gap` frames later for
    which the network gave the motion; frames between are interpolated. The camera comes from the person seen longest.
    The other people's first pose comes from that camera, so that all are in one world.

    Raises:
        ValueError: nobody was observed, so that there is nothing to chain.
    """
    seen: dict[int, list[int]] = {}
    for k, frame in enumerate(observations):
        for person in frame.people:
            seen.setdefault(person, []).append(k)
    if not seen:
        raise ValueError("chain_predictions: nobody was observed")
    main = max(seen, key=lambda person: len(seen[person]))
    bodies = {main: _chain_person(observations, main, seen[main], gap, np.eye(4))}
    cameras = _cameras_from(observations, main, seen[main], bodies[main])
    for person, frames in seen.items():
        if person != main:
            start = cameras[frames[0]] @ observations[frames[0]].people[person].cam_from_body
            bodies[person] = _chain_person(observations, person, frames, gap, start)
    return Paths(world_from_cam=cameras, world_from_body=bodies)


def _chain_person(
    observations: Sequence[FrameObservation], person: int, frames: list[int], gap: int, start: Array
) -> Array:
    """[T, 4, 4]; poses of frames without a link are interpolated, ends are repeated."""
    known, poses = [frames[0]], [start]
    for k in frames[1:]:
        if k - known[-1] < gap and k != frames[-1]:
            continue
        motions = observations[k].people[person].motions
        rows = np.flatnonzero(motions.gaps == k - known[-1])
        if len(rows):
            poses.append(poses[-1] @ motions.past_from_now[rows[0]])
            known.append(k)
        elif k - known[-1] >= gap:  # lost for longer than any gap: as the camera of that time saw both
            known.append(k)
            poses.append(poses[-1] @ _bridge(observations, person, known[-2], k))
    return _between(np.array(known), np.stack(poses), len(observations))


def _bridge(observations: Sequence[FrameObservation], person: int, first: int, last: int) -> Array:
    """Body motion over a pause, from roots and camera motions of one frame each."""
    moved = np.eye(4)
    for k in range(first + 1, last + 1):
        rows = np.flatnonzero(observations[k].camera.gaps == 1)
        if len(rows):
            moved = moved @ observations[k].camera.past_from_now[rows[0]]
    a, b = (observations[k].people[person].cam_from_body for k in (first, last))
    return inverse(a) @ moved @ b


def _between(known: Array, poses: Array, count: int) -> Array:
    """Poses of all frames: linear translation, geodesic rotation, ends repeated."""
    frame = np.clip(np.arange(count), known[0], known[-1])
    upper = np.clip(np.searchsorted(known, frame), 1, max(len(known) - 1, 1))
    if len(known) == 1:
        return np.repeat(poses, count, axis=0)
    a, b = poses[upper - 1], poses[upper]
    share = ((frame - known[upper - 1]) / (known[upper] - known[upper - 1]))[:, None]
    turned = log(transpose(a[:, :3, :3]) @ b[:, :3, :3])
    return rigid(a[:, :3, :3] @ exp(share * turned), a[:, :3, 3] + share * (b[:, :3, 3] - a[:, :3, 3]))


def _cameras_from(
    observations: Sequence[FrameObservation], person: int, frames: list[int], world_from_body: Array
) -> Array:
    """[T, 4, 4] cameras from one person; between and outside detections interpolated."""
    poses = np.stack([world_from_body[k] @ inverse(observations[k].people[person].cam_from_body) for k in frames])
    return _between(np.array(frames), poses, len(observations))


def average_gaps(observations: Sequence[FrameObservation]) -> Paths:
    """Every gap's estimate of the new camera, averaged with inverse variances; people as the camera sees them."""
    poses, variances = [np.eye(4)], [np.full(2, 1e-8)]
    for k, frame in enumerate(observations[1:], start=1):
        pose, variance = _average(frame.camera.usable(k), poses, variances)
        poses.append(pose)
        variances.append(variance)
    cameras = np.stack(poses)
    bodies: dict[int, Array] = {}
    for k, frame in enumerate(observations):
        for person, root in frame.people.items():
            path = bodies.setdefault(person, np.tile(np.eye(4), (len(observations), 1, 1)))
            path[k] = cameras[k] @ root.cam_from_body
    return Paths(world_from_cam=cameras, world_from_body=bodies)


def _average(motions: Motions, poses: list[Array], variances: list[Array]) -> tuple[Array, Array]:
    """Inverse-variance mean of a new pose: translations linearly, rotations on the manifold."""
    if not len(motions.gaps):
        return poses[-1], variances[-1] * 2
    guesses = np.stack([poses[-gap] for gap in motions.gaps]) @ motions.past_from_now
    spread = np.stack([variances[-gap] for gap in motions.gaps]) + axis_variance(motions.log_var, 3)
    share = (1 / spread) / (1 / spread).sum(0)
    mean = guesses[0, :3, :3]
    for _ in range(3):
        mean = mean @ exp((share[:, :1] * log(transpose(mean) @ guesses[:, :3, :3])).sum(0))
    return rigid(mean, (share[:, 1:] * guesses[:, :3, 3]).sum(0)), 1 / (1 / spread).sum(0)
