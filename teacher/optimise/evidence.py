"""The tensors that the terms compare the unknowns with: constant through the solve, but for the contacts.

T frames, P people. Lengths of the scene are in metres as far as the first estimate of the scale goes
(`unit` holds the factor), so that all unknowns start near the right size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from distill.body import BodyModel, load_body_model
from distill.errors import FootfallError
from distill.geometry.cameras import project
from distill.geometry.conventions import SMPL_JOINTS
from distill.geometry.transforms import make_transform, transform_points
from teacher.optimise.bodies import BodyParts, Points
from teacher.optimise.bridging import bridged_bodies
from teacher.optimise.config import OptimiseConfig
from teacher.optimise.contact_chain import reestimate
from teacher.optimise.contacts import Partners, SceneDepth, find_partners, only_level
from teacher.optimise.problem import Problem
from teacher.optimise.scale import Witness, combine, depth_witness, spread, still_witness, weighted_quantile
from teacher.optimise.tracks import Tracks, make_tracks
from teacher.stagefiles import Array

TOUCHING = 0.5
"""Probability above which a site counts as touching."""
NEAR_M = 1.0
"""Distance of two pelvises from which on bodies may touch, metres."""
CLEAR_DEPTH = 0.15
"""Spread of log depth ratios up to which the scene's depth is believed as it is."""


@dataclass(kw_only=True)
class Evidence:
    """What the solve is given, as tensors."""

    body: BodyParts
    """The points of the bodies that terms need."""
    size: tuple[int, int]
    """Width and height, pixels."""
    dt: Tensor
    """[T - 1] seconds between frames."""
    K: Tensor
    """[3, 3] initial intrinsics, pixels."""
    unit: float
    """Metres per unit of the initialiser's scene, first estimate."""
    unit_from: str
    """What that estimate rests on: "given", "metric" (but uncertain), contacts by "depth", "still" or
    "depth+still", a guess from the "pelvis", or "none"."""
    rotation: Tensor
    """[T, 3, 3] initial world from camera."""
    centre: Tensor
    """[T, 3] initial camera centres, metres."""
    root_rot: Tensor
    """[T, P, 3, 3] initial camera from body."""
    root: Tensor
    """[T, P, 3] initial pelvis in the camera, metres."""
    body_rot: Tensor
    """[T, P, 23, 3, 3] initial joint rotations."""
    betas: Tensor
    """[P, B] initial shape."""
    camera_fixed: bool
    """Whether the camera poses are no unknowns."""
    person_weight: Tensor
    """[T, P] confidence of the body, 0 where absent."""
    seen: Tensor
    """[T, P] bool: whether the body rests on an image; a body that is present but not seen bridges a gap."""
    keypoints_px: Tensor
    """[T, P, 23, 2]."""
    keypoint_weight: Tensor
    """[T, P, 23] score, 0 where absent."""
    metres_per_px: Tensor
    """[T, P] at the initial pelvis depth."""
    person_px: Tensor
    """[T, P] height of the person in the image, pixels."""
    tracks: Tracks
    """Background correspondences of the solve."""
    held_out: Tracks
    """Correspondences that the solve never sees."""
    scene: SceneDepth | None
    """Background depths, or None where nothing is known of them."""
    given_contact: Tensor
    """[T, P, 6] probabilities of the contacts stage."""
    contact_prob: Tensor
    """[T, P, 6] probabilities in use; renewed as the world improves."""
    align_sd: float
    """Spread of the contacts' opinions on depth relative to `CLEAR_DEPTH`, at least 1; L_c1 is divided by it."""
    partners: Partners | None
    """Scene partners of the contact sites; renewed as things move."""
    ground: tuple[Tensor, Tensor] | None
    """Initial common plane (normal [3], offset), where the scene has no depth."""
    up: Tensor
    """[3] up direction in the world that the bodies' own axes suggest."""
    people_near: bool = False
    """Whether any two people come within `NEAR_M` of each other."""

    @property
    def pivot(self) -> float:
        """Median distance of the people, metres: the depth that focal length and camera are coupled at."""
        return float(self.root[..., 2][self.person_weight > 0].median())

    def pose_points(self, betas: Tensor, body_rot: Tensor, cam_from_body: Tensor) -> Points:
        """Points of all bodies in the camera; betas [P, B] are those of the clip."""
        return self.body(betas, body_rot, cam_from_body)

    def search(self, sites_cam: Tensor, K: Tensor, config: OptimiseConfig) -> Partners | None:
        """Partners for contact sites [T, P, 6, 3] in the camera."""
        if self.scene is None:
            return None
        scaled = sites_cam * (self.K[0, 0] / K[0, 0])
        focal_first = torch.cat((sites_cam[..., :2], scaled[..., 2:]), dim=-1)  # same pixels under the first K
        partners = _search(self.scene, focal_first, self.K, self.person_px, self.size, config)
        return only_level(partners, self.up @ self.rotation, config.foot_slope_deg)

    def renew(self, sites_cam: Tensor, K: Tensor, depth_scale: Tensor, config: OptimiseConfig) -> None:
        """Find the partners again, and how well they agree; sites [T, P, 6, 3] metres, depth_scale [T]."""
        self.partners = self.search(sites_cam, K, config)
        if self.partners is None:
            return
        weight = self.partners.weight * (self.contact_prob > TOUCHING)
        ratio = (sites_cam[..., 2].clamp(min=0.05) / (depth_scale[:, None, None] * self.partners.depth)).log()
        if bool((weight > 0).any()):
            ratio, weight = ratio[weight > 0], weight[weight > 0]
            self.align_sd = max(1.0, spread(ratio, weighted_quantile(ratio, weight), weight) / CLEAR_DEPTH)


def make_evidence(problem: Problem, config: OptimiseConfig) -> Evidence:
    """Tensors of a problem, in metres as far as its scale is known by now.

    Raises:
        FootfallError: no file for the bodies' model.
    """
    body = BodyParts(_body_model(problem, config))
    tensor = lambda array: torch.from_numpy(np.array(array, np.float32))  # noqa: E731 - a name for a conversion
    bodies, seen = bridged_bodies(problem, config.bridge_s), torch.from_numpy(problem.bodies.present)
    present = torch.from_numpy(bodies.present)
    pose = tensor(_without_empty(bodies.cam_from_body, bodies.present))
    K = tensor(problem.cameras.K)
    betas, body_rot = tensor(bodies.betas), tensor(bodies.body_rot)
    points = body(betas, body_rot, pose)
    person_px = _heights_px(points.joints, K, present)
    # Nobody knows what touches in a gap: even odds, so that the frames around it and the motion decide.
    given = torch.where(seen[..., None], tensor(problem.contacts.prob), 0.5) * present[..., None]
    dt = tensor(np.diff(problem.timestamps))
    contact = present[..., None] * reestimate(given, dt)
    rotation = tensor(problem.cameras.world_from_cam[:, :3, :3])
    up = body_up(points.joints @ rotation.transpose(-1, -2)[:, None], present)
    unit, unit_from = _initial_unit(problem, config, points, contact * seen[..., None], person_px, up @ rotation)
    scene = _scene(problem, config, unit, person_px)
    centre = tensor(unit * problem.cameras.world_from_cam[:, :3, 3])
    tracks, held_out = make_tracks(
        problem.cameras, unit=unit, gaps=config.track_gaps, max_pairs=config.pairs_per_frame * len(pose),
        held_out=config.held_out, seed=config.seed,
    )  # fmt: skip
    ground = None
    if scene is None:
        sites = transform_points(make_transform(rotation, centre), points.sites.flatten(1, 2))
        ground = _initial_plane(sites, contact.flatten(1), up)
    return Evidence(
        body=body, size=problem.size, dt=dt, K=K, unit=unit, unit_from=unit_from,
        rotation=rotation, centre=centre, root_rot=pose[..., :3, :3], root=pose[..., :3, 3], body_rot=body_rot,
        betas=betas, camera_fixed=problem.cameras_known,
        person_weight=present * tensor(bodies.confidence).clamp(0.05, 1), seen=seen,
        keypoints_px=tensor(problem.people.keypoints_px),
        keypoint_weight=tensor(problem.people.keypoint_score) * seen[..., None],
        metres_per_px=pose[..., 2, 3].clamp(min=0.1) / K[0, 0], person_px=person_px, tracks=tracks,
        held_out=held_out, scene=scene, given_contact=given, contact_prob=contact, align_sd=1.0, partners=None,
        ground=ground, up=up,
    )  # fmt: skip


def _without_empty(cam_from_body: Array, present: Array) -> Array:
    """Bodies that are absent and have no place in front of the camera get the middle place of the present ones."""
    empty = ~present & (cam_from_body[..., 2, 3] < 0.1)
    filled = cam_from_body.copy()
    filled[empty, :3, 3] = np.median(cam_from_body[present][:, :3, 3], axis=0)
    return filled


def body_up(joints_world: Tensor, present: Tensor) -> Tensor:
    """[3] mean direction from ankles to neck: up, as people stand.

    Args:
        joints_world: [T, P, 24, 3] in the world's axes. present: [T, P] bool.
    """
    neck = joints_world[..., SMPL_JOINTS.index("neck"), :]
    ankles = joints_world[..., [SMPL_JOINTS.index("left_ankle"), SMPL_JOINTS.index("right_ankle")], :].mean(-2)
    axis = torch.nn.functional.normalize(neck - ankles, dim=-1)[present]
    return torch.nn.functional.normalize(axis.mean(0), dim=0)


def _body_model(problem: Problem, config: OptimiseConfig) -> BodyModel:
    name = problem.bodies.body_model
    if name != "anny" and not config.body_file:
        raise FootfallError(
            f"clip {problem.clip_id}: bodies of the model {name!r}", got="no file of that model",
            expected="optimise.body_file=FILE", do=f"set it to your licensed {name} file",
        )  # fmt: skip
    return load_body_model(name if name == "anny" else f"{name}:{config.body_file}")


def _heights_px(joints_cam: Tensor, K: Tensor, present: Tensor) -> Tensor:
    """[T, P] extent of the projected joints in the image, pixels."""
    pixels = project(joints_cam.flatten(1, 2), K, min_depth=0.05).unflatten(1, joints_cam.shape[1:3])
    extent = (pixels.amax(-2) - pixels.amin(-2)).amax(-1)
    return torch.where(present, extent, torch.ones_like(extent)).clamp(min=1)


def _scene(problem: Problem, config: OptimiseConfig, unit: float, person_px: Tensor) -> SceneDepth | None:
    if not problem.has_scene:
        return None
    if problem.depth is None:
        return SceneDepth.from_points(problem.cameras, len(problem.timestamps), unit=unit)
    present = torch.from_numpy(problem.bodies.present)
    radius = config.search_radius * float(person_px[present].median())
    # The person hides about half of the disc around a foot, so this spacing leaves `neighbours` pixels in it.
    spacing = radius * (np.pi / (2 * config.neighbours)) ** 0.5
    return SceneDepth.from_dense(problem.depth, problem.size, unit=unit, spacing=spacing)


def _initial_unit(
    problem: Problem, config: OptimiseConfig, points: Points, contact: Tensor, person_px: Tensor, up_cam: Tensor
) -> tuple[float, str]:
    """Metres per unit of the scene, in closed form, from the witnesses of `scale` whose terms are in use.

    Without contacts the pelvis is compared with the background around it, which is a guess: people usually
    stand nearer than what is seen beside them.
    """
    if problem.cameras.metric:
        return 1.0, "given" if problem.scale_known else "metric"
    if problem.cameras_known:  # a fixed camera travels nowhere, so only depth could tell, if there is any
        config = replace(config, weights=replace(config.weights, contact_still=0.0))
    scene = _scene(problem, config, 1.0, person_px)
    K = torch.from_numpy(problem.cameras.K).float()
    certain = contact * (contact > TOUCHING)
    witnesses: dict[str, Witness | None] = {}
    if scene is not None and config.weights.contact_align > 0:
        partners = _search(scene, points.sites, K, person_px, problem.size, config)
        partners = only_level(partners, up_cam, config.foot_slope_deg)
        witnesses["depth"] = depth_witness(points.sites[..., 2], partners.depth, certain * partners.weight)
    if config.weights.contact_still > 0:
        pose = torch.from_numpy(problem.cameras.world_from_cam).float()
        dt = torch.from_numpy(np.diff(problem.timestamps)).float()
        witnesses["still"] = still_witness(points.sites, pose[:, :3, :3], pose[:, :3, 3], certain, dt)
    best, names = combine(witnesses)
    if best is None and scene is not None:
        pelvis = points.joints[..., :1, :]
        wide = replace(config, search_radius=1.0, depth_ratio=10.0)
        partners = _search(scene, pelvis, K, person_px, problem.size, wide)
        present = torch.from_numpy(problem.bodies.present)[..., None]
        best, names = depth_witness(pelvis[..., 2], partners.depth, present * partners.weight), "pelvis"
    return (float(np.exp(best.log_scale)), names) if best is not None else (1.0, "none")


def _search(
    scene: SceneDepth, points_cam: Tensor, K: Tensor, person_px: Tensor, size: tuple[int, int], config: OptimiseConfig
) -> Partners:
    """Partners for points [T, P, S, 3] in the camera; K [3, 3] is the one that `scene` was measured with."""
    pixels = project(points_cam.flatten(1, 2), K).unflatten(1, points_cam.shape[1:3])
    return find_partners(
        scene, pixels.numpy(), config.search_radius * person_px.numpy(), K.double().numpy(),
        size=size, count=config.neighbours, depth_ratio=config.depth_ratio,
    )  # fmt: skip


def _initial_plane(sites_world: Tensor, weight: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Plane through the touching sites, level by the bodies' up direction."""
    height = sites_world @ up
    touching = weight > TOUCHING
    chosen = touching if bool(touching.any()) else torch.ones_like(touching)
    return up, height[chosen].median()
