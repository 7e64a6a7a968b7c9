"""How the points and cameras of a `State` move with the unknowns: exact derivatives, frame by frame.

A *local* vector of unknowns belongs to one frame and one person:

    [ root_rot 3, root_ray 2, root_depth 1, pose 69 | camera_rot 3, camera_pos 3, log_drift 1 | shared ]
    shared = [ log_focal, log_scale, plane_tilt 3, plane_offset, betas B of that person ]

Rotations are moved on the right, R exp(d): in the body's, joint's or camera's own axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from distill.geometry.rotations import cross_matrix
from teacher.optimise.evidence import Evidence
from teacher.optimise.variables import State

PERSON: Final = 75
"""Unknowns of one person in one frame."""
FRAME: Final = 7
"""Unknowns of one camera in one frame."""
COMMON: Final = 6
"""Unknowns of the clip: focal length, scale, plane."""
FOCAL, SCALE, PLANE = 0, 1, slice(2, 6)
"""Places among the common unknowns."""


@dataclass(kw_only=True)
class Tangent:
    """Derivatives of the points of some frames by local vectors of V = 75 + 7 + 6 + B unknowns."""

    cam: Tensor
    """[T, P, K, 3, V] of the points in the camera, metres; K as `BodyParts.pieces`."""
    world: Tensor
    """[T, P, K, 3, V] of the points in the world."""


def tangent(state: State, centre: Tensor, evidence: Evidence, frames: slice) -> Tangent:
    """Derivatives of the points in some frames; centre [T, 3, 7 + 6] of `centre_tangent`."""
    rotation, cam_from_body = state.rotation[frames], state.cam_from_body[frames]
    at = evidence.body.pieces.linearise(state.betas, state.body_rot[frames], cam_from_body)
    count, people, points = at.points.shape[:3]
    own = at.by_turn @ at.rotations[..., None, :, :, :]  # [T, P, K, 24, 3, 3] by turns in the joints' own axes
    turns = own.movedim(-3, -2).flatten(-2)  # [T, P, K, 3, 72]
    move = at.points.new_zeros(count, people, 3, 3)  # of the pelvis by ray (2) and log depth
    move[..., 0, 0] = move[..., 1, 1] = state.root[frames][..., 2]
    move[..., 2] = cam_from_body[..., :3, 3]
    cam = at.points.new_zeros(count, people, points, 3, PERSON + FRAME + COMMON + at.by_shape.shape[-1])
    cam[..., :3] = turns[..., :3]
    cam[..., 3:6] = move[:, :, None]
    cam[..., 6:PERSON] = turns[..., 3:]
    common = PERSON + FRAME
    cam[..., 2, common + FOCAL] = cam_from_body[:, :, None, 2, 3]  # t_z' = (f / f_init) t_z (JOSH, section 3)
    cam[..., common + COMMON :] = at.by_shape
    world = rotation[:, None, None] @ cam
    world[..., PERSON : common + COMMON] += centre[frames][:, None, None]
    if not evidence.camera_fixed:
        world[..., PERSON : PERSON + 3] -= rotation[:, None, None] @ cross_matrix(at.points)
    return Tangent(cam=cam, world=world)


def centre_tangent(state: State, camera_pos: Tensor, evidence: Evidence) -> Tensor:
    """[T, 3, 7 + 6] derivatives of the camera centres, by the unknowns of the frame and of the clip.

    C = s (c + p r_z) + x - s (f / f_init) p R_z: see `Unknowns._cameras`; p is the distance of the pivot.

    Args:
        camera_pos: the block of that name, [T, 3].
    """
    found = state.centre.new_zeros(len(state.centre), 3, FRAME + COMMON)
    if evidence.camera_fixed:
        found[..., FRAME + SCALE] = state.centre
        return found
    reach = state.scale * state.focal_ratio * evidence.pivot
    axis = torch.tensor([0.0, 0.0, 1.0]).to(state.centre)
    found[..., :3] = reach * state.rotation @ cross_matrix(axis)
    found[..., 3:6] = torch.eye(3).to(found)
    found[..., FRAME + SCALE] = state.centre - camera_pos
    found[..., FRAME + FOCAL] = -reach * state.rotation[..., 2]
    return found
