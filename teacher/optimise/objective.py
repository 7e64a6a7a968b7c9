"""The joint objective: the only place where terms are weighted, masked, made robust and added.

    L = sum over terms of  lambda * sum_i w_i rho_gamma(|r_i|) / sum_i w_i

`TERMS` says which term runs in which stage, with which gamma (JOSH: 1.1, and 0.4 for pixels), and from which
parts of the state and the evidence its residuals r and its weights w are made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from distill.geometry.cameras import unproject
from distill.geometry.conventions import SMPL_JOINTS
from teacher.optimise import terms
from teacher.optimise.config import OptimiseConfig
from teacher.optimise.contacts import FEET
from teacher.optimise.evidence import TOUCHING, Evidence
from teacher.optimise.robust import rho, smoothed
from teacher.optimise.tracks import Tracks
from teacher.optimise.variables import State, Unknowns

LONG_SIDE: Final = 512.0
"""Pixel residuals of the background are measured in an image whose longer side is this, as in JOSH."""
SPHERES: Final = {
    SMPL_JOINTS.index(name): radius
    for name, radius in (
        ("pelvis", 0.13), ("spine3", 0.14), ("head", 0.11), ("left_knee", 0.06), ("right_knee", 0.06),
        ("left_elbow", 0.045), ("right_elbow", 0.045), ("left_wrist", 0.035), ("right_wrist", 0.035),
    )
}  # fmt: skip
"""Joint -> radius of the body about it, metres: what two people cannot share."""
STEADINESS: Final = [0.6 if name.endswith(("elbow", "wrist", "hand")) else 1.0 for name in SMPL_JOINTS]
"""[24] weight of each joint in `smooth`: arms may be quick."""
Weighted = tuple[Tensor, Tensor]
"""Residuals [..., D] and weights [...]."""


@dataclass(kw_only=True)
class Situation:
    """What the terms see at one step."""

    state: State
    blocks: dict[str, Tensor]
    evidence: Evidence
    config: OptimiseConfig


@dataclass(kw_only=True, frozen=True)
class Term:
    """One term of the objective; its name is also the name of its weight in `TermWeights`."""

    name: str
    gamma: float
    make: Callable[[Situation], Weighted | None]
    """None where the term does not apply to this clip."""
    stages: tuple[int, ...] = (1, 2)
    reads: tuple[str, ...] = ()
    """Fields of the state with the people's points that the term reads, such as "cam.sites". Row (t, p, i) of such a
    term depends on points of person p alone, in the frames t to t + span - 1, and on what all frames share."""
    span: int = 1
    """Frames that one row depends on."""
    local: bool = True
    """Whether row i depends on no other point than the field's point i."""
    mutual: bool = False
    """Whether each row has a twin that moves the other person: solvers that move all at once count it twice."""
    width: float = 1.0
    """Length up to which residuals count as noise, in their own unit: rho is round there, so that noise is averaged
    and not followed; beyond it rho is what it was. JOSH has no such width: its rho pulls at the least residual."""


def observed_world(state: State, tracks: Tracks) -> Tensor:
    """[M, 3] observations of the background, back-projected with their scaled depth into the world, metres."""
    depth = state.depth_scale[tracks.frame] * tracks.depth
    in_camera = unproject(tracks.px, depth, state.K)
    return torch.einsum("nij,nj->ni", state.rotation[tracks.frame], in_camera) + state.centre[tracks.frame]


def background_px(state: State, tracks: Tracks) -> Tensor:
    """[2 N, 2] residuals of L_2D in pixels of the clip."""
    camera = state.rotation[tracks.frame], state.centre[tracks.frame]
    return terms.scene_2d(observed_world(state, tracks), tracks.px, camera, state.K, (tracks.a, tracks.b))


def certainty(prob: Tensor) -> Tensor:
    """Weight of a contact: 0 up to `TOUCHING`, then rising to 1 with its probability."""
    return ((prob - TOUCHING) / (1 - TOUCHING)).clamp(min=0)


def _scene_3d(s: Situation) -> Weighted | None:
    tracks = s.evidence.tracks
    if len(tracks) == 0:
        return None
    world = observed_world(s.state, tracks)
    return terms.scene_3d(world, tracks.a, tracks.b, s.state.scale), tracks.confidence


def _scene_2d(s: Situation) -> Weighted | None:
    tracks = s.evidence.tracks
    if len(tracks) == 0:
        return None
    residual = background_px(s.state, tracks) * (LONG_SIDE / max(s.evidence.size))
    return residual, residual.new_ones(len(residual))


def _contact_align(s: Situation) -> Weighted | None:
    partners = s.evidence.partners
    if partners is None:
        return None
    depth = s.state.depth_scale[:, None, None] * partners.depth
    residual = terms.contact_align(s.state.cam.sites, partners.px, depth, s.state.K)
    weight = certainty(s.evidence.contact_prob) * partners.weight
    return residual / s.evidence.align_sd, weight * s.evidence.person_weight[..., None]


def _contact_still(s: Situation) -> Weighted:
    weight = certainty(s.evidence.contact_prob) * s.evidence.person_weight[..., None]
    return terms.contact_still(s.state.world.sites, s.evidence.dt), weight[1:] * weight[:-1]


def _ground_plane(s: Situation) -> Weighted | None:
    if s.evidence.ground is None:
        return None
    feet = s.state.world.sites[..., :FEET, :]
    weight = certainty(s.evidence.contact_prob[..., :FEET]) * s.evidence.person_weight[..., None]
    return terms.ground_plane(feet, s.state.normal, s.state.offset), weight


def _ground_up(s: Situation) -> Weighted | None:
    if s.evidence.ground is None:
        return None
    residual = terms.ground_up(s.state.normal, s.evidence.up)[None]
    return residual, residual.new_ones(1)


def _penetration(s: Situation) -> Weighted | None:
    e, partners = s.evidence, s.evidence.partners
    present = (e.person_weight > 0).to(e.person_weight)[..., None]
    if partners is not None:
        depth = s.state.depth_scale[:, None, None] * partners.depth
        residual = terms.penetration(s.state.cam.sites, (partners.px, depth), partners.normal, s.state.K)
        return residual, partners.weight * present
    if e.ground is not None:
        residual = terms.plane_penetration(s.state.world.sites, s.state.normal, s.state.offset)
        return residual, present.expand(residual.shape[:-1])
    return None


def _flat_feet(s: Situation) -> Weighted | None:
    e = s.evidence
    touching = certainty(e.contact_prob[..., :FEET]) * e.person_weight[..., None]
    both = touching[..., 0::2] * touching[..., 1::2]
    if e.partners is not None:
        normal = e.partners.normal[..., :FEET, :]
        normal = torch.nn.functional.normalize(normal[..., 0::2, :] + normal[..., 1::2, :], dim=-1)
        seen = (e.partners.weight[..., :FEET] > 0).to(both)
        feet, both = s.state.cam.sites[..., :FEET, :], both * seen[..., 0::2] * seen[..., 1::2]
    elif e.ground is not None:
        feet, normal = s.state.world.sites[..., :FEET, :], s.state.normal
    else:
        return None
    return terms.flat_feet(feet[..., 0::2, :], feet[..., 1::2, :], normal), both


def _people_apart(s: Situation) -> Weighted | None:
    present = (s.evidence.person_weight > 0).to(s.evidence.person_weight)
    people = present.shape[1]
    if people < 2 or not s.evidence.people_near:
        return None
    names, radius = zip(*SPHERES.items(), strict=True)
    joints = s.state.world.joints[..., list(names), :]
    residual = terms.people_apart(joints, joints.new_tensor(radius))
    others = 1 - torch.eye(people).to(present)
    pairs = present[:, :, None] * present[:, None] * others
    return residual, pairs[..., None].expand(*pairs.shape, len(names) ** 2).flatten(2)


def _prior_root_rot(s: Situation) -> Weighted:
    return terms.prior_rotation(s.blocks["root_rot"]), s.evidence.person_weight


def _prior_root_pos(s: Situation) -> Weighted:
    return terms.prior_position(s.state.root, s.evidence.root), s.evidence.person_weight


def _prior_pose(s: Situation) -> Weighted:
    return terms.prior_pose(s.blocks["pose"]), s.evidence.person_weight


def _prior_shape(s: Situation) -> Weighted:
    # JOSH weights people by the number of their frames.
    return terms.prior_shape(s.state.betas, s.evidence.betas), s.evidence.person_weight.sum(0)


def _stature(s: Situation) -> Weighted:
    stature = s.evidence.body.model.stature(s.state.betas)
    residual = terms.stature_prior(stature, s.config.stature_mean, s.config.stature_sd)
    return residual, s.evidence.person_weight.sum(0)


def _smooth(s: Situation) -> Weighted:
    present = (s.evidence.person_weight > 0).to(s.evidence.person_weight)
    weight = present[2:] * present[1:-1] * present[:-2]
    residual = terms.smooth(s.state.world.joints, s.evidence.dt)
    return residual, weight[..., None] * residual.new_tensor(STEADINESS)


def _camera_smooth(s: Situation) -> Weighted | None:
    if s.evidence.camera_fixed:
        return None
    residual = terms.camera_smooth(s.state.rotation, s.state.centre, s.evidence.dt, s.evidence.pivot)
    return residual, residual.new_ones(len(residual))


def _keypoints_2d(s: Situation) -> Weighted:
    e = s.evidence
    return terms.keypoints_2d(s.state.cam.keypoints, s.state.K, e.keypoints_px, e.metres_per_px), e.keypoint_weight


def _scale_tie(s: Situation) -> Weighted:
    residual = terms.scale_tie(s.blocks["log_drift"], s.config.drift_sd, s.config.drift_step_sd)
    return residual, residual.new_ones(len(residual))


def _scale_prior(s: Situation) -> Weighted | None:
    if s.evidence.unit_from != "metric":
        return None
    return terms.log_prior(s.blocks["log_scale"], s.config.scale_sd), s.state.scale.new_ones(1)


def _focal_prior(s: Situation) -> Weighted:
    return terms.log_prior(s.blocks["log_focal"], s.config.focal_sd), s.state.scale.new_ones(1)


TERMS: Final = (
    Term(name="scene_3d", gamma=1.1, make=_scene_3d, width=0.03, stages=(1,)),
    Term(name="scene_2d", gamma=0.4, make=_scene_2d, width=0.5, stages=(2,)),
    Term(name="contact_align", gamma=1.1, make=_contact_align, width=0.1, reads=("cam.sites",)),
    Term(name="contact_still", gamma=1.1, make=_contact_still, width=0.01, reads=("world.sites",), span=2),
    Term(name="ground_plane", gamma=1.1, make=_ground_plane, width=0.03, reads=("world.sites",)),
    Term(name="ground_up", gamma=1.1, make=_ground_up, width=0.1),
    Term(name="penetration", gamma=1.1, make=_penetration, width=0.03, reads=("cam.sites", "world.sites")),
    Term(name="flat_feet", gamma=1.1, make=_flat_feet, width=0.01, reads=("cam.sites", "world.sites"), local=False),
    Term(
        name="people_apart",
        gamma=1.1,
        make=_people_apart,
        width=0.02,
        reads=("world.joints",),
        local=False,
        mutual=True,
    ),
    Term(name="prior_root_rot", gamma=1.1, make=_prior_root_rot, width=0.1),
    Term(name="prior_root_pos", gamma=1.1, make=_prior_root_pos, width=0.05),
    Term(name="prior_pose", gamma=1.1, make=_prior_pose, width=0.3),
    Term(name="prior_shape", gamma=1.1, make=_prior_shape, width=1.0),
    Term(name="stature", gamma=1.1, make=_stature, width=1.0),
    Term(name="smooth", gamma=0.4, make=_smooth, width=0.05, reads=("world.joints",), span=3),
    Term(name="camera_smooth", gamma=1.1, make=_camera_smooth, width=0.01),
    Term(name="keypoints_2d", gamma=0.4, make=_keypoints_2d, width=0.015, reads=("cam.keypoints",)),
    Term(name="scale_tie", gamma=1.1, make=_scale_tie, width=1.0),
    Term(name="scale_prior", gamma=1.1, make=_scale_prior, width=1.0),
    Term(name="focal_prior", gamma=1.1, make=_focal_prior, width=1.0),
)
"""All terms, in the order of the paper, then ours."""


def reduce(residual: Tensor, weight: Tensor, gamma: float, width: float) -> Tensor:
    """Weighted mean of rho_gamma(sqrt(|r|^2 + width^2)), residuals [..., D], weights [...]; 0 if nothing has weight."""
    total = weight.sum()
    if total <= 0:
        return residual.sum() * 0
    return (weight * rho(smoothed(residual, width), gamma)).sum() / total


def objective(unknowns: Unknowns, config: OptimiseConfig, stage: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective of a stage, and the weighted value of each term in it."""
    situation = Situation(state=unknowns.decode(), blocks=unknowns.blocks, evidence=unknowns.evidence, config=config)
    values: dict[str, Tensor] = {}
    for term in TERMS:
        factor = getattr(config.weights, term.name)
        if stage not in term.stages or factor == 0:
            continue
        weighted = term.make(situation)
        if weighted is not None:
            values[term.name] = factor * reduce(*weighted, term.gamma, term.width)
    return torch.stack(list(values.values())).sum(), values
