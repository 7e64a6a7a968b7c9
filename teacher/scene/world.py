"""Unknowns of the photometric stage, and the world that they describe: cameras, bodies, scene and people.

All unknowns are leaf tensors in one dict, by name, so that they are saved, moved and updated alike:

    camera_rot, camera_pos [T, 3]            corrections about a pivot on the optical axis (rad, m)
    root_rot, root_pos [T, P, 3]             of bodies in the camera, so that a body moves with its camera (rad, m)
    pose [T, P, 23, 3]                       of joints (rad)
    scene/means, log_scales, quats, logits, colors, and background [3]
    personK/offsets, log_scales, quats, logits, colors, skinning
    fieldK/hidden, bias, last                residuals in time
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.avatar import Avatar, quat_product
from distill.body import BodyModel
from distill.geometry.rotations import matrix_from_rotvec, quat_from_matrix
from distill.geometry.transforms import invert, make_transform
from distill.render import Gaussians
from teacher.optimise.bodies import BodyParts
from teacher.scene.residuals import make_field, residuals

CAMERA = ("camera_rot", "camera_pos")
BODY = ("root_rot", "root_pos", "pose")
BY_FRAME = {*CAMERA, *BODY}
"""Unknowns with a row for each frame."""


@dataclass(kw_only=True)
class Base:
    """What the geometric stage found, for the T frames and P people that are refined. Constant."""

    body: BodyModel
    """The body model."""
    parts: BodyParts
    """Its joints, keypoints and contact sites."""
    times: Tensor
    """[T] seconds."""
    moment: Tensor
    """[T] 0 at the clip's first frame, 1 at its last."""
    world_from_cam: Tensor
    """[T, 4, 4]."""
    cam_from_body: Tensor
    """[T, P, 4, 4] metres."""
    body_rot: Tensor
    """[T, P, 23, 3, 3]."""
    betas: Tensor
    """[P, B]."""
    present: Tensor
    """[T, P] bool."""
    contact_prob: Tensor
    """[T, P, 6]."""
    z_up: bool
    """Whether the world's z axis points up."""
    site_height: Tensor
    """[T, P, 6] height (m) at which each site stands by the geometric result; NaN where it does not, or no up."""
    K: Tensor
    """[3, 3] pixels of the footage."""
    keypoints_px: Tensor
    """[T, P, 23, 2] pixels of the footage."""
    keypoint_weight: Tensor
    """[T, P, 23] 0 where not seen."""
    avatars: list[Avatar]
    """P people to start from."""
    scene: Gaussians
    """Scene to start from, in the world."""
    pivot_m: float
    """Depth about which cameras turn: the middle of the scene's."""

    @property
    def dt(self) -> Tensor:
        """[T - 1] seconds."""
        return self.times[1:] - self.times[:-1]


def make_unknowns(base: Base, seed: int) -> dict[str, Tensor]:
    """All unknowns at their start, ready for gradients."""
    frames, people = base.present.shape
    values = {
        "camera_rot": torch.zeros(frames, 3), "camera_pos": torch.zeros(frames, 3),
        "root_rot": torch.zeros(frames, people, 3), "root_pos": torch.zeros(frames, people, 3),
        "pose": torch.zeros(frames, people, 23, 3), "background": torch.full((3,), 0.5),
    }  # fmt: skip
    values |= {f"scene/{name}": value for name, value in _raw(base.scene).items()}
    generator = torch.Generator().manual_seed(seed)
    for person, avatar in enumerate(base.avatars):
        raw = _raw(avatar) | {"offsets": avatar.offsets, "skinning": torch.zeros_like(avatar.skinning)}
        values |= {f"person{person}/{name}": value for name, value in raw.items()}
        values |= {f"field{person}/{name}": value for name, value in make_field(generator).items()}
    device = base.times.device
    return {name: value.detach().to(device).clone().requires_grad_() for name, value in values.items()}


def _raw(source: Gaussians | Avatar) -> dict[str, Tensor]:
    """Unbounded values of what has bounds."""
    raw = {
        "log_scales": source.scales.log(), "quats": source.quats,
        "logits": torch.logit(source.opacities, eps=1e-4), "colors": source.colors,
    }  # fmt: skip
    return raw | {"means": source.means} if isinstance(source, Gaussians) else raw


class World:
    """Reads the unknowns; every method is differentiable in them."""

    def __init__(self, base: Base, unknowns: dict[str, Tensor]) -> None:
        self.base, self.unknowns = base, unknowns

    def world_from_cam(self) -> Tensor:
        """[T, 4, 4]: the base, turned about the pivot and shifted, both in the camera's own axes."""
        turn = matrix_from_rotvec(self.unknowns["camera_rot"])
        return self.base.world_from_cam @ make_transform(turn, self.camera_shift())

    def camera_shift(self) -> Tensor:
        """[T, 3] how far the camera's centre is from that of the base, in the base camera's axes, metres."""
        turn = matrix_from_rotvec(self.unknowns["camera_rot"])
        pivot = turn.new_tensor([0.0, 0.0, self.base.pivot_m])
        return self.unknowns["camera_pos"] + pivot - turn @ pivot

    def bodies(self) -> tuple[Tensor, Tensor]:
        """Joint rotations [T, P, 23, 3, 3] and cam_from_body [T, P, 4, 4]."""
        body_rot = self.base.body_rot @ matrix_from_rotvec(self.unknowns["pose"])
        rotation = self.base.cam_from_body[..., :3, :3] @ matrix_from_rotvec(self.unknowns["root_rot"])
        return body_rot, make_transform(rotation, self.base.cam_from_body[..., :3, 3] + self.unknowns["root_pos"])

    def scene(self) -> Gaussians:
        """The static scene in the world."""
        x = self.unknowns
        return Gaussians(
            means=x["scene/means"], quats=x["scene/quats"], scales=x["scene/log_scales"].exp(),
            opacities=x["scene/logits"].sigmoid(), colors=x["scene/colors"],
        )  # fmt: skip

    def avatar(self, person: int) -> Avatar:
        """A person in the rest pose."""
        x, base = self.unknowns, self.base.avatars[person]
        part = f"person{person}"
        skinning = (base.skinning + x[f"{part}/skinning"]).clamp(min=0)
        return replace(
            base, offsets=x[f"{part}/offsets"], quats=x[f"{part}/quats"], scales=x[f"{part}/log_scales"].exp(),
            opacities=x[f"{part}/logits"].sigmoid(), colors=x[f"{part}/colors"],
            skinning=skinning / skinning.sum(-1, keepdim=True).clamp(min=1e-6),
        )  # fmt: skip

    def people(
        self, frame: int, body_rot: Tensor, target_from_body: Tensor, *, in_time: bool, fixed: bool = False
    ) -> Gaussians:
        """Everybody who is present in a frame, in the target frame.

        Args:
            frame: which. body_rot: [P, 23, 3, 3]. target_from_body: [P, 4, 4].
            in_time: with the residuals of the field. fixed: no gradient to the Gaussians, only to the bodies.
        """
        parts = []
        for person in torch.nonzero(self.base.present[frame]).flatten().tolist():
            avatar = self.avatar(person).detach() if fixed else self.avatar(person)
            posed = avatar.posed(self.base.body, body_rot[person], target_from_body[person])
            if in_time:
                posed = self._residual(posed, avatar, person, frame, target_from_body[person, :3, :3], fixed)
            parts.append(posed)
        return Gaussians.cat(parts)

    def _residual(
        self, posed: Gaussians, avatar: Avatar, person: int, frame: int, rotation: Tensor, fixed: bool
    ) -> Gaussians:
        weights = {name: self.unknowns[f"field{person}/{name}"] for name in ("hidden", "bias", "last")}
        weights = {name: value.detach() for name, value in weights.items()} if fixed else weights
        canonical = avatar.canonical(self.base.body).means.detach()
        position, turn, colour = residuals(weights, canonical, float(self.base.moment[frame]))
        return replace(
            posed, means=posed.means + position @ rotation.transpose(-1, -2), colors=posed.colors + colour,
            quats=quat_product(posed.quats, quat_from_matrix(matrix_from_rotvec(turn))),
        )  # fmt: skip

    def remember(self, names: Iterable[str]) -> Callable[[], None]:
        """A function that gives these unknowns the values back that they have now."""
        kept = {name: self.unknowns[name].detach().clone() for name in names}

        def take_back() -> None:
            for name, value in kept.items():
                self.unknowns[name].data.copy_(value)

        return take_back

    def cam_from_world(self) -> Tensor:
        """[T, 4, 4]."""
        return invert(self.world_from_cam())


def normalised(avatar: Avatar) -> Avatar:
    """An avatar as files hold it: unit quaternions, colours in 0..1."""
    return replace(avatar, quats=F.normalize(avatar.quats, dim=-1), colors=avatar.colors.clamp(0, 1)).detach()
