"""Two older ways to a path, kept as measures for the fuser: JOSH3R's chain, and averages over gaps.

Both take the same observations as the fuser and give the same poses, without contacts, scale or covariance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from distill.fuser.observation import FrameObservation, Motions, axis_variance
from distill.fuser.so3 import Array, exp, inverse, log, rigid, transpose
from distill.trajectory import Path, chain, interpolate_frames, pair_frames


@dataclass(kw_only=True)
class Paths:
    """Poses of a whole clip."""

    world_from_cam: Array
    """[T, 4, 4] metres."""
    world_from_body: dict[int, Array] = field(default_factory=dict)
    """Id -> [T, 4, 4]; only frames in which the person was observed count."""


def chain_predictions(observations: Sequence[FrameObservation]) -> Paths:
    """JOSH3R's published integration (`distill.trajectory.chain`): body motions in a row, the camera from the body.

    Each person is chained from their first detection. The camera comes from the person seen longest; the others'
    chains begin where that camera saw them first, so that all are in one world. Frames without a detection take
    interpolated cameras.

    Raises:
        ValueError: nobody was observed, so that there is nothing to chain.
    """
    seen: dict[int, list[int]] = {}
    for k, frame in enumerate(observations):
        for person in frame.people:
            seen.setdefault(person, []).append(k)
    if not seen:
        raise ValueError("chain_predictions: nobody was observed")
    main, *others = sorted(seen, key=lambda person: -len(seen[person]))
    path = _chain_person(observations, main, seen[main])
    every = torch.arange(len(observations))
    cameras = interpolate_frames(path.frames, path.world_from_cam, every).numpy()
    bodies = {main: interpolate_frames(path.frames, path.world_from_body, every).numpy()}
    for person in others:
        path = _chain_person(observations, person, seen[person])
        first = seen[person][0]
        start = cameras[first] @ observations[first].people[person].cam_from_body
        bodies[person] = start @ interpolate_frames(path.frames, path.world_from_body, every).numpy()
    return Paths(world_from_cam=cameras, world_from_body=bodies)


def _chain_person(observations: Sequence[FrameObservation], person: int, frames: list[int]) -> Path:
    """One person's chain; steps over pauses for which the network gave no motion come from what the camera saw."""
    steps = np.stack(
        [np.eye(4)] + [_step(observations, person, frames[a], frames[b]) for a, b in pair_frames(frames).tolist()]
    )[1:]
    cam_from_body = np.stack([observations[k].people[person].cam_from_body for k in frames])
    return chain(
        frames, torch.from_numpy(steps[:, :3, 3]), torch.from_numpy(steps[:, :2, :3]).flatten(-2),
        torch.from_numpy(cam_from_body),
    )  # fmt: skip


def _step(observations: Sequence[FrameObservation], person: int, first: int, last: int) -> Array:
    """body_first_from_body_last: the network's motion for that gap, else from both roots and camera steps between."""
    motions = observations[last].people[person].motions
    rows = np.flatnonzero(motions.gaps == last - first)
    if len(rows):
        return np.asarray(motions.past_from_now[rows[0]], np.float64)
    moved = np.eye(4)
    for k in range(first + 1, last + 1):
        for row in np.flatnonzero(observations[k].camera.gaps == 1):
            moved = moved @ observations[k].camera.past_from_now[row]
    a, b = (observations[k].people[person].cam_from_body for k in (first, last))
    return inverse(a) @ moved @ b


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
