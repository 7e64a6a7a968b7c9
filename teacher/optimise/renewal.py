"""Contacts follow the world: partners are searched again and probabilities re-estimated as things move."""

from __future__ import annotations

import torch
from torch import Tensor

from distill.geometry.cameras import unproject
from teacher.optimise.config import OptimiseConfig
from teacher.optimise.contact_chain import reestimate, speeds
from teacher.optimise.evidence import NEAR_M, Evidence
from teacher.optimise.variables import State


def renew_contacts(evidence: Evidence, state: State, config: OptimiseConfig, stage: int) -> None:
    """Search the partners again, in place; from stage 2 on, let motion and scene speak on what touches."""
    evidence.renew(state.cam.sites, state.K, state.depth_scale, config)
    evidence.people_near = _near(state.world.joints[:, :, 0], evidence.person_weight > 0)
    if stage < 2:
        return
    gap = seen = None
    if (partners := evidence.partners) is not None:
        surface = unproject(partners.px, state.depth_scale[:, None, None] * partners.depth, state.K)
        gap = ((state.cam.sites - surface) * partners.normal).sum(-1)
        seen = partners.weight > 0
    elif evidence.ground is not None:
        gap = state.world.sites @ state.normal - state.offset
        seen = torch.ones_like(gap, dtype=torch.bool)
    motion = speeds(state.world.sites, evidence.dt)
    present = (evidence.person_weight > 0)[..., None]
    evidence.contact_prob = present * reestimate(evidence.given_contact, evidence.dt, speed=motion, gap=gap, seen=seen)


def _near(pelvis: Tensor, present: Tensor) -> bool:
    """Whether two people ever come close: pelvis [T, P, 3], present [T, P]."""
    distance = (pelvis[:, :, None] - pelvis[:, None]).norm(dim=-1)
    together = present[:, :, None] & present[:, None] & ~torch.eye(present.shape[1], dtype=torch.bool)
    return bool((distance[together] < NEAR_M).any())
