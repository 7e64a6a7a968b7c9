"""Contacts follow the world: partners are searched again and probabilities re-estimated as things move."""

from __future__ import annotations

from teacher.optimise.config import OptimiseConfig
from teacher.optimise.contacts import follow_motion
from teacher.optimise.evidence import Evidence
from teacher.optimise.variables import State


def renew_contacts(evidence: Evidence, state: State, config: OptimiseConfig, stage: int) -> Evidence:
    """Search the partners again, in place; from stage 2 on, let the motion speak on what touches."""
    evidence.renew(state.cam.sites, state.K, state.depth_scale, config)
    if stage == 2:
        evidence.contact_prob = follow_motion(evidence.given_contact, state.world.sites, evidence.dt)
    return evidence
