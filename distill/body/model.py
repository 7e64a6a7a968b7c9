"""Parametric bodies: one reader's arrays, one skinning function that computes only what is asked for.

Every model here is in SMPL's form (Loper et al., "SMPL", SIGGRAPH Asia 2015): a template with linear shape
components, 24 joints that are linear in shape, optional pose correctives, and linear blend skinning.
Equation numbers refer to that paper. We differ in the origin: the `body` frame sits at the pelvis joint
(`distill.geometry.conventions`), so the root transform is the pelvis's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distill.geometry.conventions import CONTACT_SITES, KEYPOINTS, SMPL_JOINTS, SMPL_PARENTS


@dataclass(kw_only=True)
class BodyArrays:
    """What a body file holds. V vertices, B shape coefficients."""

    name: str
    """"anny", "smpl" or "smplx"."""
    v_template: Tensor
    """[V, 3] metres, T-pose, x left, y up, z front."""
    shapedirs: Tensor
    """[V, 3, B] metres per unit of each coefficient."""
    weights: Tensor
    """[V, 24] skinning weights, rows sum to 1."""
    faces: Tensor
    """[F, 3] long, counter-clockwise from outside."""
    joint_template: Tensor
    """[24, 3] metres, joints of the template."""
    joint_shapedirs: Tensor
    """[24, 3, B] metres."""
    keypoint_ids: Tensor
    """[23, k] long: vertices of each keypoint (`conventions.KEYPOINTS`)."""
    keypoint_weights: Tensor
    """[23, k], rows sum to 1."""
    posedirs: Tensor | None = None
    """[V, 3, 207] metres per entry of (R - I) of joints 1..23, or None."""


@dataclass(kw_only=True)
class BodyPoints:
    """Points of posed bodies in the target frame, metres."""

    joints: Tensor
    """[..., 24, 3]."""
    vertices: Tensor | None
    """[..., K, 3] the vertices asked for, or None."""


class BodyModel(nn.Module):
    """A body; all arguments take the same leading batch dimensions."""

    def __init__(self, arrays: BodyArrays) -> None:
        super().__init__()
        self.name = arrays.name
        pelvis = arrays.joint_template[0]
        self.register_buffer("pelvis_template", pelvis, persistent=False)
        self.register_buffer("pelvis_shapedirs", arrays.joint_shapedirs[0], persistent=False)
        self.register_buffer("v_template", arrays.v_template - pelvis)
        # The pelvis moves with shape; taking that out of everything keeps it at the origin.
        self.register_buffer("shapedirs", arrays.shapedirs - arrays.joint_shapedirs[0])
        self.register_buffer("weights", arrays.weights)
        self.register_buffer("faces", arrays.faces)
        self.register_buffer("joint_template", arrays.joint_template - pelvis)
        self.register_buffer("joint_shapedirs", arrays.joint_shapedirs - arrays.joint_shapedirs[0])
        self.register_buffer("keypoint_ids", arrays.keypoint_ids)
        self.register_buffer("keypoint_weights", arrays.keypoint_weights)
        self.register_buffer("posedirs", arrays.posedirs)
        self.site_vertices = find_sites(self.v_template, self.joint_template, self.weights)
        self.keypoint_names = KEYPOINTS
        unique, position = torch.unique(self.keypoint_ids, return_inverse=True)
        self.register_buffer("_keypoint_unique", unique, persistent=False)
        self.register_buffer("_keypoint_position", position, persistent=False)
        self.register_buffer("_site_ids", torch.cat([self.site_vertices[s] for s in CONTACT_SITES]), persistent=False)
        self.register_buffer("all_vertices", torch.arange(len(self.v_template)), persistent=False)

    pelvis_template: Tensor
    pelvis_shapedirs: Tensor
    v_template: Tensor
    shapedirs: Tensor
    weights: Tensor
    faces: Tensor
    joint_template: Tensor
    joint_shapedirs: Tensor
    keypoint_ids: Tensor
    keypoint_weights: Tensor
    posedirs: Tensor | None
    all_vertices: Tensor
    _keypoint_unique: Tensor
    _keypoint_position: Tensor
    _site_ids: Tensor

    @property
    def num_vertices(self) -> int:
        """Vertices of the whole mesh."""
        return len(self.v_template)

    @property
    def num_betas(self) -> int:
        """Shape coefficients."""
        return self.shapedirs.shape[-1]

    def pelvis_offset(self, betas: Tensor) -> Tensor:
        """Where the model's own file has the pelvis at rest, J0(beta) [..., 3], metres; its `transl` adds to that."""
        return self.pelvis_template + torch.einsum("db,...b->...d", self.pelvis_shapedirs, betas)

    def rest_joints(self, betas: Tensor) -> Tensor:
        """Joints [..., 24, 3] in the rest pose, body frame, metres; betas [..., B]."""
        return self.joint_template + torch.einsum("jdb,...b->...jd", self.joint_shapedirs, betas)

    def forward(
        self, betas: Tensor, body_rot: Tensor, target_from_body: Tensor, vertex_ids: Tensor | None = None
    ) -> BodyPoints:
        """Pose bodies.

        Args:
            betas: [..., B] shape coefficients.
            body_rot: [..., 23, 3, 3] joint rotations relative to the parent.
            target_from_body: [..., 4, 4] orientation and pelvis position in any target frame, metres.
            vertex_ids: [K] long, the vertices to compute; None computes joints only.
        """
        rest = self.rest_joints(betas)
        rotations, joints = forward_kinematics(rest, body_rot, target_from_body)
        if vertex_ids is None:
            return BodyPoints(joints=joints, vertices=None)
        shaped = self.v_template[vertex_ids] + torch.einsum("vdb,...b->...vd", self.shapedirs[vertex_ids], betas)
        if self.posedirs is not None:  # eq. 9
            eye = torch.eye(3, dtype=body_rot.dtype, device=body_rot.device)
            feature = (body_rot - eye).flatten(-3)
            shaped = shaped + torch.einsum("vdp,...p->...vd", self.posedirs[vertex_ids], feature)
        # eq. 7: blend the joints' rigid transforms, then apply them; offsets are relative to the rest joints.
        offsets = joints - (rotations @ rest[..., None])[..., 0]
        weights = self.weights[vertex_ids]
        blended_rotation = torch.einsum("vj,...jab->...vab", weights, rotations)
        blended_offset = torch.einsum("vj,...ja->...va", weights, offsets)
        vertices = (blended_rotation @ shaped[..., None])[..., 0] + blended_offset
        return BodyPoints(joints=joints, vertices=vertices)

    def keypoints(self, betas: Tensor, body_rot: Tensor, target_from_body: Tensor) -> Tensor:
        """The 23 keypoints of `conventions.KEYPOINTS`, [..., 23, 3], metres in the target frame."""
        points = self.forward(betas, body_rot, target_from_body, self._keypoint_unique).vertices
        assert points is not None
        picked = points[..., self._keypoint_position, :]
        return (picked * self.keypoint_weights[..., None]).sum(-2)

    def sites(self, betas: Tensor, body_rot: Tensor, target_from_body: Tensor) -> Tensor:
        """One point per contact site, [..., 6, 3]: the mean of its vertices, metres in the target frame."""
        points = self.forward(betas, body_rot, target_from_body, self._site_ids).vertices
        assert points is not None
        split = points.split([len(self.site_vertices[s]) for s in CONTACT_SITES], dim=-2)
        return torch.stack([part.mean(-2) for part in split], dim=-2)

    def stature(self, betas: Tensor) -> Tensor:
        """Standing height [...] in the rest pose, metres."""
        ends = torch.stack((self.v_template[:, 1].argmin(), self.v_template[:, 1].argmax()))
        height = self.v_template[ends, 1] + torch.einsum("vb,...b->...v", self.shapedirs[ends, 1], betas)
        return height[..., 1] - height[..., 0]

    def shape_prior(self) -> tuple[Tensor, Tensor]:
        """Mean [B] and standard deviation [B] of the coefficients over people: 0 and 1 by construction."""
        zero = self.shapedirs.new_zeros(self.num_betas)
        return zero, torch.ones_like(zero)


def forward_kinematics(rest: Tensor, body_rot: Tensor, target_from_body: Tensor) -> tuple[Tensor, Tensor]:
    """Chain the joints (eq. 3).

    Args:
        rest: [..., 24, 3] rest joints, pelvis at the origin.
        body_rot: [..., 23, 3, 3] relative rotations.
        target_from_body: [..., 4, 4].

    Returns:
        Rotations [..., 24, 3, 3] and positions [..., 24, 3] of the joints in the target frame.
    """
    rotations = [target_from_body[..., :3, :3]]
    positions = [target_from_body[..., :3, 3]]
    for joint in range(1, len(SMPL_PARENTS)):
        parent = SMPL_PARENTS[joint]
        offset = (rest[..., joint, :] - rest[..., parent, :])[..., None]
        rotations.append(rotations[parent] @ body_rot[..., joint - 1, :, :])
        positions.append(positions[parent] + (rotations[parent] @ offset)[..., 0])
    return torch.stack(rotations, dim=-3), torch.stack(positions, dim=-2)


def find_sites(v_template: Tensor, joints: Tensor, weights: Tensor, count: int = 8) -> dict[str, Tensor]:
    """Vertices [<= count] of each contact site, found on any mesh of a body in T-pose.

    Heel: the lowest vertices behind the ankle. Toe: the lowest vertices of the toes, near their joint. Hand: the
    vertices that hang most below the hand joint (the palm side in a T-pose with palms down).
    """
    sites: dict[str, Tensor] = {}
    for side in ("left", "right"):
        ankle, toe, hand = (SMPL_JOINTS.index(f"{side}_{part}") for part in ("ankle", "foot", "hand"))
        of_foot = weights[:, [ankle, toe]].sum(1) > 0.9
        reach = (joints[toe, 2] - joints[ankle, 2]).abs()
        behind = of_foot & (v_template[:, 2] < joints[ankle, 2] + 0.1 * reach)
        # Only what moves with the toes: it stays on the ground while the heel rises and the foot turns about the ball.
        front = (weights[:, toe] > 0.9) & ((v_template[:, 2] - joints[toe, 2]).abs() < 0.4 * reach)
        of_hand = weights[:, hand] > 0.5
        for name, chosen in (("heel", behind), ("toe", front), ("hand", of_hand)):
            ids = torch.nonzero(chosen).flatten()
            lowest = v_template[ids, 1].argsort()[:count]
            sites[f"{side}_{name}"] = ids[lowest].sort().values
    return sites
