"""A body as animation programs want it: one rest mesh, one skeleton, few weights per vertex."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from distill.body import BodyModel
from distill.geometry.conventions import SMPL_PARENTS

Array = NDArray[Any]
CHILDREN: Final = tuple(tuple(j for j, parent in enumerate(SMPL_PARENTS) if parent == k) for k in range(24))
"""Of each of the 24 joints."""


@dataclass(kw_only=True)
class Rig:
    """A person in the rest pose, body frame (pelvis at the origin, x left, y up, z front), metres."""

    joints: Array
    """[24, 3]."""
    vertices: Array
    """[V, 3]."""
    normals: Array
    """[V, 3] of unit length."""
    faces: Array
    """[F, 3] counter-clockwise from outside."""
    influences: Array
    """[V, S] joints that move a vertex, the strongest first; S is a multiple of 4."""
    weights: Array
    """[V, S] of those joints; rows sum to 1, unused places are 0."""

    @property
    def offsets(self) -> Array:
        """[24, 3] of each joint from its parent; zero for the pelvis."""
        parents = np.maximum(SMPL_PARENTS, 0)
        return self.joints - self.joints[parents]

    def tip(self, joint: int) -> Array:
        """[3] from a joint to the vertex farthest from it among those that it moves most."""
        own = self.vertices[self.influences[:, 0] == joint] - self.joints[joint]
        if len(own) == 0:
            return 0.5 * self.offsets[joint]
        return own[np.linalg.norm(own, axis=-1).argmax()]


def make_rig(body: BodyModel, betas: Array) -> Rig:
    """The rig of a shape [B]. Every weight is kept; pose correctives have no place in a rig and are left out."""
    shape = torch.from_numpy(np.asarray(betas, np.float32))
    joints = body.rest_joints(shape).double().numpy()
    vertices = (body.v_template + torch.einsum("vdb,b->vd", body.shapedirs, shape)).double().numpy()
    faces = body.faces.numpy()
    full = body.weights.double().numpy()
    slots = max(4, -(-int((full > 0).sum(1).max()) // 4) * 4)
    order = np.argsort(-full, axis=1, kind="stable")[:, :slots]
    weights = np.take_along_axis(full, order, axis=1)
    return Rig(
        joints=joints,
        vertices=vertices,
        normals=vertex_normals(vertices, faces),
        faces=faces,
        influences=np.where(weights > 0, order, 0),
        weights=weights / weights.sum(1, keepdims=True),
    )


def vertex_normals(vertices: Array, faces: Array) -> Array:
    """[V, 3] unit normals, faces weighted by area; up where a vertex has no face."""
    corners = vertices[faces]
    by_face = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], by_face)
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    return np.where(length > 1e-12, normals / np.maximum(length, 1e-12), [0.0, 1.0, 0.0])


def corrective_error(body: BodyModel, body_rot: Array) -> float:
    """Metres by which the mesh without pose correctives is off at most, over the poses [N, 23, 3, 3]; 0 without any."""
    if body.posedirs is None or len(body_rot) == 0:
        return 0.0
    feature = torch.from_numpy(body_rot - np.eye(3)).float().flatten(-3)
    moved = torch.einsum("vdp,np->nvd", body.posedirs, feature)
    return float(moved.norm(dim=-1).max())
