"""The unknowns of a clip, as named blocks that all start at zero, and what they mean together.

Every block is an increment on the initial values in `Evidence`; rotations are turned by exp of a rotation
vector (an increment in the Lie algebra), so they stay rotations. Two couplings are built into `decode`:

* focal and bodies, JOSH section 3: t_z' = (f / f_init) t_z. A pelvis is a view ray and a depth, so that
  neither the depth nor the focal length moves it in the image.
* focal and camera, after MASt3R's sparse global alignment: the camera turns about, and keeps its distance to,
  a pivot on its optical axis at the people's median depth. A longer focal length therefore moves the camera
  back and leaves world and people where they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from distill.geometry.rotations import matrix_from_rotvec
from distill.geometry.transforms import make_transform
from teacher.optimise.bodies import Points
from teacher.optimise.evidence import Evidence
from teacher.optimise.problem import Problem


@dataclass(kw_only=True, frozen=True)
class Block:
    """One kind of unknown."""

    rate: str
    """Its field in `LearningRates`."""
    about: str
    """What it is, with its unit."""
    stages: tuple[int, ...] = (1, 2)
    """Stages in which it moves."""


BLOCKS: Final = {
    "log_focal": Block(rate="log_focal", about="log f / f_init; one for the clip", stages=(2,)),
    "log_scale": Block(rate="log_scale", about="log of the scale of cameras and scene; one for the clip"),
    "log_drift": Block(rate="log_drift", about="[T] log of a frame's scene depth relative to the clip's scale"),
    "camera_rot": Block(rate="camera_rot", about="[T, 3] rad, in the camera's axes"),
    "camera_pos": Block(rate="camera_pos", about="[T, 3] m, in the world, of the pivot"),
    "root_rot": Block(rate="root_rot", about="[T, P, 3] rad, in the body's axes"),
    "root_ray": Block(rate="root_ray", about="[T, P, 2] shift of x / z and y / z of the pelvis at f_init"),
    "root_depth": Block(rate="root_depth", about="[T, P] log of the pelvis depth relative to the initial one"),
    "pose": Block(rate="pose", about="[T, P, 23, 3] rad, in each joint's own axes"),
    "betas": Block(rate="betas", about="[P, B] standard deviations; one per person and clip"),
    "plane_tilt": Block(rate="plane", about="[3] rad, rotation of the common ground's normal"),
    "plane_offset": Block(rate="plane", about="m, shift of the common ground along its normal"),
}
"""All unknowns."""


@dataclass(kw_only=True)
class State:
    """What the unknowns say: one world, metres."""

    K: Tensor
    """[3, 3] pixels."""
    focal_ratio: Tensor
    """f / f_init."""
    scale: Tensor
    """Scale of cameras and scene relative to the start."""
    depth_scale: Tensor
    """[T] factor from the depths in `Evidence` to metres."""
    rotation: Tensor
    """[T, 3, 3] world from camera."""
    centre: Tensor
    """[T, 3] camera centres."""
    root: Tensor
    """[T, P, 3] pelvis in the camera with the focal coupling taken out."""
    cam_from_body: Tensor
    """[T, P, 4, 4]."""
    body_rot: Tensor
    """[T, P, 23, 3, 3]."""
    betas: Tensor
    """[P, B]."""
    cam: Points
    """Points of the bodies in the camera."""
    world: Points
    """Points of the bodies in the world."""
    normal: Tensor
    """[3] unit normal of the common ground; means nothing where the scene has depth."""
    offset: Tensor
    """Offset of the common ground, n . x = h."""

    @property
    def world_from_cam(self) -> Tensor:
        """[T, 4, 4]."""
        return make_transform(self.rotation, self.centre)


class Unknowns:
    """The blocks of a clip."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        frames, people = evidence.person_weight.shape
        shapes: dict[str, tuple[int, ...]] = {
            "log_focal": (), "log_scale": (), "log_drift": (frames,), "camera_rot": (frames, 3),
            "camera_pos": (frames, 3), "root_rot": (frames, people, 3), "root_ray": (frames, people, 2),
            "root_depth": (frames, people), "pose": (frames, people, 23, 3), "betas": tuple(evidence.betas.shape),
            "plane_tilt": (3,), "plane_offset": (),
        }  # fmt: skip
        self.blocks = {name: evidence.root.new_zeros(shapes[name]).requires_grad_() for name in BLOCKS}

    def decode(self) -> State:
        """The world that the blocks describe."""
        e, x = self.evidence, self.blocks
        focal_ratio, scale = x["log_focal"].exp(), x["log_scale"].exp()
        K = torch.cat((e.K[:2, :2] * focal_ratio, e.K[:2, 2:]), dim=1)
        K = torch.cat((K, e.K[2:]), dim=0)
        rotation, centre = self._cameras(scale, focal_ratio)
        depth = e.root[..., 2] * x["root_depth"].exp()
        ray = e.root[..., :2] / e.root[..., 2:] + x["root_ray"]
        root = depth[..., None] * torch.cat((ray, torch.ones_like(ray[..., :1])), dim=-1)
        coupled = torch.cat((root[..., :2], focal_ratio * root[..., 2:]), dim=-1)  # t_z' = (f / f_init) t_z
        cam_from_body = make_transform(e.root_rot @ matrix_from_rotvec(x["root_rot"]), coupled)
        body_rot = e.body_rot @ matrix_from_rotvec(x["pose"])
        betas = e.betas + x["betas"]
        points = e.pose_points(betas, body_rot, cam_from_body)
        tilt = matrix_from_rotvec(x["plane_tilt"])
        normal, offset = e.ground if e.ground is not None else (e.up, e.up.new_zeros(()))
        return State(
            K=K, focal_ratio=focal_ratio, scale=scale, depth_scale=scale * focal_ratio * x["log_drift"].exp(),
            rotation=rotation, centre=centre, root=root, cam_from_body=cam_from_body, body_rot=body_rot, betas=betas,
            cam=points, world=_to_world(points, rotation, centre), normal=tilt @ normal,
            offset=offset + x["plane_offset"],
        )  # fmt: skip

    def _cameras(self, scale: Tensor, focal_ratio: Tensor) -> tuple[Tensor, Tensor]:
        """World from camera: rotation [T, 3, 3] and centre [T, 3]."""
        e, x = self.evidence, self.blocks
        if e.camera_fixed:
            return e.rotation, scale * e.centre
        rotation = e.rotation @ matrix_from_rotvec(x["camera_rot"])
        pivot = scale * (e.centre + e.pivot * e.rotation[..., 2]) + x["camera_pos"]
        return rotation, pivot - scale * focal_ratio * e.pivot * rotation[..., 2]


def free_blocks(problem: Problem) -> set[str]:
    """Names of the blocks that this problem leaves open; the others keep their given values.

    Known cameras keep poses, scale and focal length; a fixed camera defines the world, so its pose is no
    unknown; a focal length that was given stays, and so does the one that the turns of a fixed camera were
    measured with.
    """
    frozen: set[str] = set()
    if problem.cameras_known:
        frozen |= {"camera_rot", "camera_pos"}
    if problem.scale_known or (problem.cameras_known and not problem.has_scene):
        frozen.add("log_scale")
    if problem.scale_known or not problem.has_scene:
        frozen.add("log_drift")
    turns = not np.allclose(problem.cameras.world_from_cam[:, :3, :3], problem.cameras.world_from_cam[0, :3, :3])
    if problem.cameras.focal_known or (problem.cameras_known and turns):
        frozen.add("log_focal")
    if problem.has_scene:
        frozen |= {"plane_tilt", "plane_offset"}
    return set(BLOCKS) - frozen


def _to_world(points: Points, rotation: Tensor, centre: Tensor) -> Points:
    def move(cam: Tensor) -> Tensor:
        return cam @ rotation.transpose(-1, -2)[:, None] + centre[:, None, None]

    return Points(joints=move(points.joints), keypoints=move(points.keypoints), sites=move(points.sites))
