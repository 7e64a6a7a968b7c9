"""A person as Gaussians that are anchored to the surface of a body model and move with its skeleton.

Each Gaussian belongs to an anchor, a vertex of the body model in its rest pose (the canonical pose). It is posed as
vertices are, by linear blend skinning (LBS) with the skinning weights w of its anchor (Loper et al. 2015, eq. 7):

    centre       mu = sum_j w_j (R_j (v + o - J_j) + x_j)          v the shaped anchor, o the offset
    orientation  R = polar(sum_j w_j R_j) R_canonical

R_j and x_j are rotation and position of joint j in the target frame, J_j its rest position. A blend of rotations is no
rotation: its nearest one, the polar factor, turns the Gaussian, so that scales stay what they are.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.body import BodyModel
from distill.body.model import forward_kinematics
from distill.body.surface import coarse_edges, even_vertices, nearest_chosen, vertex_areas, vertex_normals
from distill.errors import FootfallError, refuse_damage
from distill.files import load_arrays, save_arrays
from distill.geometry.rotations import quat_from_matrix
from distill.render.gaussians import Gaussians

AVATAR_FORMAT: Final = "footfall-avatar/1"
FLATNESS: Final = 0.2
"""Scale along the normal over scale in the surface, at the start: a skin, not a cloud."""


@dataclass(kw_only=True)
class Avatar:
    """N Gaussians in the canonical pose: K for each of A anchors, those of one anchor in a row (N = A K)."""

    body_model: str
    """Whose vertices the anchors are and whose coefficients `betas` are: "anny", "smpl" or "smplx"."""
    betas: Tensor
    """[B] shape."""
    anchors: Tensor
    """[N] long: vertex of the body model that each Gaussian belongs to."""
    skinning: Tensor
    """[N, 24] weights of the joints, rows sum to 1; the body model's own at the start."""
    offsets: Tensor
    """[N, 3] metres from the anchor, along the axes of the body frame in the canonical pose."""
    quats: Tensor
    """[N, 4] wxyz, orientation in the canonical pose; need not be unit."""
    scales: Tensor
    """[N, 3] standard deviations, metres; the third is along the normal at the start."""
    opacities: Tensor
    """[N] in 0..1."""
    colors: Tensor
    """[N, 3] RGB in 0..1."""

    def __len__(self) -> int:
        return len(self.anchors)

    def to(self, target: torch.device | torch.dtype | str) -> Avatar:
        """The same on another device or with another floating type."""
        dtype = target if isinstance(target, torch.dtype) else None
        moved: dict[str, Any] = {
            name: tensor if dtype is not None and not tensor.is_floating_point() else tensor.to(target)
            for name, tensor in self.tensors().items()
        }
        return replace(self, **moved)

    def detach(self) -> Avatar:
        """The same, cut from the graph."""
        cut: dict[str, Any] = {name: tensor.detach() for name, tensor in self.tensors().items()}
        return replace(self, **cut)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by the name of its field."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "body_model"}

    def canonical(self, body: BodyModel) -> Gaussians:
        """The Gaussians in the canonical pose, body frame, metres."""
        self._require(body)
        return Gaussians(
            means=self._surface(body) + self.offsets, quats=self.quats, scales=self.scales, opacities=self.opacities,
            colors=self.colors,
        )  # fmt: skip

    def posed(self, body: BodyModel, body_rot: Tensor, target_from_body: Tensor) -> Gaussians:
        """The Gaussians of one frame; differentiable in every tensor of the avatar, the pose and the root.

        Args:
            body: the model that the anchors are vertices of.
            body_rot: [23, 3, 3] joint rotations relative to the parent.
            target_from_body: [4, 4] orientation and pelvis position in any target frame (usually the world), metres.

        Returns:
            N Gaussians in the target frame.

        Raises:
            FootfallError: another body model than the avatar's.
        """
        self._require(body)
        # Under autocast matrix products would have 8 bits: centimetres at the end of an arm.
        with torch.autocast(self.offsets.device.type, enabled=False):
            return self._pose(body, body_rot, target_from_body)

    def _pose(self, body: BodyModel, body_rot: Tensor, target_from_body: Tensor) -> Gaussians:
        rest = body.rest_joints(self.betas)
        rotations, joints = forward_kinematics(rest, body_rot, target_from_body)
        surface = self._surface(body)
        if body.posedirs is not None:
            feature = (body_rot - torch.eye(3).to(body_rot)).flatten()
            surface = surface + (body.posedirs @ feature)[self.anchors]
        shift = joints - (rotations @ rest[..., None])[..., 0]
        blend = torch.einsum("nj,jab->nab", self.skinning, rotations)
        means = (blend @ (surface + self.offsets)[..., None])[..., 0] + self.skinning @ shift
        turn = quat_from_matrix(nearest_rotation(blend))
        return Gaussians(
            means=means, quats=quat_product(turn, self.quats), scales=self.scales, opacities=self.opacities,
            colors=self.colors,
        )  # fmt: skip

    def edges(self, body: BodyModel) -> Tensor:
        """Neighbours [E, 2] among the Gaussians: k of an anchor with k of each anchor beside it on the surface.

        For regularisers such as `distill.body.surface.laplacian` of offsets and colours.
        """
        self._require(body)
        per_anchor = int((self.anchors == self.anchors[0]).sum())
        position = self.anchors[::per_anchor].argsort()  # of the anchors by ascending vertex
        chosen = self.anchors[::per_anchor][position]
        normals = vertex_normals(body.v_template, body.faces)
        cell = nearest_chosen(body.v_template, normals, chosen)
        ends = position[coarse_edges(body.faces, cell)] * per_anchor
        return (ends[:, None] + torch.arange(per_anchor).to(ends)[None, :, None]).flatten(0, 1)

    def _surface(self, body: BodyModel) -> Tensor:
        """[N, 3] the anchors of the shaped body in the canonical pose, metres."""
        return (body.v_template + body.shapedirs @ self.betas)[self.anchors]

    def _require(self, body: BodyModel) -> None:
        got = None
        if body.name != self.body_model:
            got = f"the body model {body.name}"
        elif len(self.betas) != body.num_betas:
            got = f"{body.num_betas} shape coefficients for the {len(self.betas)} of the avatar"
        elif self.anchors.device.type == "cpu" and len(self) and int(self.anchors.max()) >= body.num_vertices:
            got = f"{body.num_vertices} vertices, and an anchor at vertex {int(self.anchors.max())}"
        if got is not None:  # on a GPU the last check would wait for all work before it
            raise FootfallError(
                f"avatar on {self.body_model}", got=got, expected=f"the {self.body_model} that it was made with",
                do="load the body model that the avatar was made with",
            )  # fmt: skip


def make_avatar(
    body: BodyModel, betas: Tensor, *, anchors: int | None = None, per_anchor: int = 1, opacity: float = 0.9
) -> Avatar:
    """An avatar to start from: grey flat Gaussians that tile the skin.

    An anchor stands for the piece of surface nearest to it, and its K Gaussians share that piece's area a. On an even
    mesh of triangles with edges l a vertex has the area l^2 sqrt(3) / 2; so l = sqrt(2 a / (K sqrt(3))) is the spacing,
    and half of it the scale in the surface, for the whole mesh and for any thinning alike.

    Args:
        body: anchors are its vertices.
        betas: [B] shape.
        anchors: how many, evenly spread; None takes every vertex.
        per_anchor: K; the first of several lies on the anchor, the others in a ring around it.
        opacity: of all, 0..1.
    """
    if per_anchor < 1 or not 0 < opacity < 1:
        raise ValueError(f"make_avatar: {per_anchor} Gaussians an anchor of opacity {opacity}")
    with torch.no_grad():
        template_normals = vertex_normals(body.v_template, body.faces)
        chosen = body.all_vertices
        if anchors is not None:
            chosen = even_vertices(body.v_template, template_normals, anchors)
        cell = nearest_chosen(body.v_template, template_normals, chosen)
        vertices = body.v_template + body.shapedirs @ betas
        areas = vertex_areas(vertices, body.faces)
        area = torch.zeros_like(areas[: len(chosen)]).index_add(0, cell, areas)
        spacing = (2 * area / (3**0.5 * per_anchor)).sqrt()
        frames = frames_along(vertex_normals(vertices, body.faces)[chosen])
        count = len(chosen) * per_anchor
        scale = 0.5 * spacing[:, None] * spacing.new_tensor([1.0, 1.0, FLATNESS])
        return Avatar(
            body_model=body.name,
            betas=betas.detach().clone(),
            anchors=chosen.repeat_interleave(per_anchor),
            skinning=body.weights[chosen].repeat_interleave(per_anchor, 0),
            offsets=_ring(frames, spacing, per_anchor),
            quats=quat_from_matrix(frames).repeat_interleave(per_anchor, 0),
            scales=scale.repeat_interleave(per_anchor, 0),
            opacities=spacing.new_full((count,), opacity),
            colors=spacing.new_full((count, 3), 0.5),
        )


def _ring(frames: Tensor, spacing: Tensor, per_anchor: int) -> Tensor:
    """[A K, 3] the first at the anchor, the others at one spacing from it, evenly turned in the surface."""
    angle = torch.arange(per_anchor - 1).to(spacing) * (2 * torch.pi / max(per_anchor - 1, 1))
    ring = torch.stack((angle.cos(), angle.sin(), torch.zeros_like(angle)), -1)
    ring = torch.cat((ring.new_zeros(1, 3), ring))
    return (torch.einsum("aij,kj->aki", frames, ring) * spacing[:, None, None]).flatten(0, 1)


def frames_along(normals: Tensor) -> Tensor:
    """Rotations [N, 3, 3] whose third column is the unit normal [N, 3]; the first lies in the surface."""
    # The axis that is least along the normal is never parallel to it.
    axis = F.one_hot(normals.abs().argmin(-1), 3).to(normals)
    first = F.normalize(torch.linalg.cross(axis, normals, dim=-1), dim=-1)
    return torch.stack((first, torch.linalg.cross(normals, first, dim=-1), normals), dim=-1)


def nearest_rotation(matrix: Tensor, steps: int = 7) -> Tensor:
    """Polar factor [..., 3, 3] of matrices with a positive determinant: the rotation nearest to each.

    Newton's iteration X <- (X + X^-T) / 2 (Higham 1986, eq. 3.3), X^-T from cofactors. Seven steps reach float32 from
    singular values of 0.05, which two joints make at 174 degrees; and it is ten times faster here than a batched SVD,
    whose gradient is not defined at a rotation, the usual case.
    """
    for _ in range(steps):
        a, b, c = matrix.unbind(-2)
        cofactors = torch.stack(
            (torch.linalg.cross(b, c, dim=-1), torch.linalg.cross(c, a, dim=-1), torch.linalg.cross(a, b, dim=-1)), -2
        )
        determinant = (a * cofactors[..., 0, :]).sum(-1).clamp(min=1e-6)  # opposite turns cancel: keep it finite
        matrix = 0.5 * (matrix + cofactors / determinant[..., None, None])
    return matrix


def quat_product(first: Tensor, second: Tensor) -> Tensor:
    """Hamilton product [..., 4] of quaternions wxyz: the turn `second`, then `first`."""
    a, u = first[..., :1], first[..., 1:]
    b, v = second[..., :1], second[..., 1:]
    real = a * b - (u * v).sum(-1, keepdim=True)
    return torch.cat((real, a * v + b * u + torch.linalg.cross(u, v, dim=-1)), -1)


def save_avatar(path: Path, avatar: Avatar, meta: dict[str, Any] | None = None) -> None:
    """Write an avatar as .npz (float32); `meta` is JSON-able and comes back from `load_avatar`."""
    arrays = {
        name: tensor.detach().cpu().long().numpy() if name == "anchors" else tensor.detach().cpu().float().numpy()
        for name, tensor in avatar.tensors().items()
    }
    save_arrays(path, arrays, {"format": AVATAR_FORMAT, "body_model": avatar.body_model, "about": meta or {}})


def load_avatar(path: Path) -> tuple[Avatar, dict[str, Any]]:
    """Read what `save_avatar` wrote: the avatar and its `meta`.

    Raises:
        FootfallError: missing, damaged, of another format, or with values that are no Gaussians.
    """
    arrays, meta = load_arrays(path)
    names = [field.name for field in fields(Avatar) if field.name != "body_model"]
    problem = None
    if meta.get("format") != AVATAR_FORMAT:
        problem = f"format {meta.get('format')!r}"
    elif missing := sorted(set(names) - set(arrays)):
        problem = f"no array {missing[0]!r}"
    else:
        with refuse_damage(path, expected=f"an avatar ({AVATAR_FORMAT})", do="make the avatar again"):
            tensors = {name: torch.from_numpy(arrays[name]) for name in names}
            avatar = Avatar(body_model=str(meta["body_model"]), **tensors)
            problem = _problem(avatar)
            if problem is None:
                return avatar, dict(meta["about"])
    raise FootfallError(str(path), got=problem, expected=f"an avatar ({AVATAR_FORMAT})", do="make the avatar again")


def _problem(avatar: Avatar) -> str | None:
    """What is wrong with an avatar read from a file, or None."""
    count = len(avatar.anchors)
    shapes = {
        "anchors": (count,), "betas": (avatar.betas.numel(),), "skinning": (count, 24), "offsets": (count, 3),
        "quats": (count, 4), "scales": (count, 3), "opacities": (count,), "colors": (count, 3),
    }  # fmt: skip
    for name, tensor in avatar.tensors().items():
        if tuple(tensor.shape) != shapes[name]:
            return f"{name} of shape {tuple(tensor.shape)}, wanted {shapes[name]}"
        if not torch.isfinite(tensor).all():
            return f"{name} that is not finite"
    if avatar.anchors.is_floating_point() or (count and int(avatar.anchors.min()) < 0):
        return "anchors that are no vertices"
    if (avatar.scales <= 0).any() or (avatar.opacities < 0).any() or (avatar.opacities > 1).any():
        return "scales or opacities out of range"
    if (avatar.quats.norm(dim=-1) < 1e-6).any():
        return "an orientation without length"
    return None
