"""A motion on another body in SMPL's form: a shape whose skeleton is closest, rotations that keep bones' directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from distill.body import BodyModel
from distill.body.model import forward_kinematics
from distill.convert.rig import CHILDREN
from distill.geometry.conventions import SMPL_PARENTS

Array = NDArray[Any]
SHAPE_SPREAD: Final = 0.03
"""Metres by which a joint may miss for a coefficient to move by one standard deviation: keeps shapes human."""


@dataclass(kw_only=True)
class Retargeted:
    """A motion on the target body."""

    betas: Array
    """[B] of the target."""
    rest: Array
    """[24, 3] its rest joints, pelvis at the origin, metres."""
    world_from_body: Array
    """[N, 4, 4]."""
    body_rot: Array
    """[N, 23, 3, 3]."""
    error_mean: float
    """Mean distance between joints of the source and of the target, metres, over the frames with presence."""
    error_max: float
    """The largest such distance, metres."""


def retarget(
    source_rest: Array, world_from_body: Array, body_rot: Array, target: BodyModel, present: Array
) -> Retargeted:
    """Move a motion to `target`.

    Shape: least squares of the rest joints, J(b) = J0 + D b, with a normal prior on b. Rotations: the global rotation
    of joint j becomes R_j A_j, where A_j turns the target's bones that leave j onto the source's in the rest pose
    (Kabsch, or the smallest turn of a single bone), so that bones point as they did. The pelvis stays where it was.

    Args:
        source_rest: [24, 3] rest joints of the source, pelvis at the origin.
        world_from_body: [N, 4, 4].
        body_rot: [N, 23, 3, 3].
        target: body model of the result.
        present: [N] bool, frames over which the error is taken.
    """
    rest0 = target.joint_template.double().numpy()
    directions = target.joint_shapedirs.double().numpy().reshape(-1, target.num_betas)
    missing = (source_rest - rest0).reshape(-1)
    prior = SHAPE_SPREAD**2 * np.eye(target.num_betas)
    betas = np.linalg.solve(directions.T @ directions + prior, directions.T @ missing)
    rest = rest0 + (directions @ betas).reshape(-1, 3)

    aligned = np.stack([_align(rest, source_rest, joint) for joint in range(24)])
    turned = _chain(source_rest, body_rot, world_from_body)[0] @ aligned
    parents = np.array(SMPL_PARENTS[1:])
    local = np.swapaxes(turned[:, parents], -1, -2) @ turned[:, 1:]
    root = world_from_body.copy()
    root[:, :3, :3] = turned[:, 0]
    ours, theirs = _chain(source_rest, body_rot, world_from_body)[1], _chain(rest, local, root)[1]
    distance = np.linalg.norm(ours - theirs, axis=-1)[present]
    return Retargeted(
        betas=betas, rest=rest, world_from_body=root, body_rot=local,
        error_mean=float(distance.mean()), error_max=float(distance.max()),
    )  # fmt: skip


def _chain(rest: Array, body_rot: Array, world_from_body: Array) -> tuple[Array, Array]:
    """Global rotations [N, 24, 3, 3] and positions [N, 24, 3]."""
    joints = torch.from_numpy(rest).expand(len(body_rot), -1, -1)
    rotations, places = forward_kinematics(joints, torch.from_numpy(body_rot), torch.from_numpy(world_from_body))
    return rotations.numpy(), places.numpy()


def _align(target_rest: Array, source_rest: Array, joint: int) -> Array:
    """[3, 3] that turns the target's bones leaving a joint onto the source's; identity at the ends of the body."""
    children = list(CHILDREN[joint])
    if not children:
        return np.eye(3)
    theirs, ours = (rest[children] - rest[joint] for rest in (target_rest, source_rest))
    if len(children) > 1:
        return Rotation.align_vectors(ours, theirs)[0].as_matrix()
    axis, cosine = np.cross(theirs[0], ours[0]), float(theirs[0] @ ours[0])
    sine = float(np.linalg.norm(axis))
    return Rotation.from_rotvec(axis / max(sine, 1e-12) * np.arctan2(sine, cosine)).as_matrix()
