"""Numbers that say how well a solved world agrees with the images, the scene and itself.

NaN stands where a number has no meaning (nobody present, nothing touching, no scene).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from distill.files import load_arrays, save_arrays
from distill.geometry.cameras import project, unproject
from distill.geometry.rotations import rotation_angle
from teacher.optimise.config import OptimiseConfig
from teacher.optimise.contacts import FEET
from teacher.optimise.evidence import TOUCHING, Evidence
from teacher.optimise.objective import background_px, certainty
from teacher.optimise.scale import depth_witness, still_witness
from teacher.optimise.tracks import Tracks
from teacher.optimise.variables import State
from teacher.stagefiles import Array

FILE = "measures.npz"
SEEN = 0.3
"""Score from which a keypoint counts as seen."""


@dataclass(kw_only=True)
class Measures:
    """T frames, P people."""

    keypoint_px: Array
    """[T, P] median distance between the body's keypoints and the landmarks seen, pixels."""
    keypoint_rel: Array
    """[T, P] the same as part of the person's height in the image."""
    slip: Array
    """[T, P] mean speed of the touching sites, m/s."""
    gap: Array
    """[T, P] mean distance of the touching sites from the scene's surface (or the common ground), metres."""
    penetration: Array
    """[T, P] deepest site below that surface, metres."""
    scale_ratio: Array
    """[T, P] median over touching sites of log (depth of the site / depth of the scene behind it)."""
    background_px: Array
    """[T] median reprojection error of the background in each frame, pixels."""
    held_out_px: Array
    """[] the same over correspondences that the solve never saw."""
    witness_log: Array
    """[2] log of the scale that depth and stillness of the contacts still ask for; 0 is agreement."""
    contact_kept: Array
    """[] part of the given contacts that still touch in the solved motion."""
    stature: Array
    """[P] metres."""
    pose_change: Array = field(default_factory=lambda: np.full((0, 0), np.nan))
    """[T, P] how far the solve turned the joints from their initial values, root mean square, radians."""
    root_change: Array = field(default_factory=lambda: np.full((0, 0), np.nan))
    """[T, P] how far it turned the body as a whole, radians."""
    depth_change: Array = field(default_factory=lambda: np.full((0, 0), np.nan))
    """[T, P] how far it moved the pelvis along the ray, natural logarithm of the ratio."""

    def save(self, folder: Path) -> None:
        """Write `measures.npz`."""
        save_arrays(folder / FILE, {f.name: np.asarray(getattr(self, f.name)) for f in fields(self)})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read `measures.npz`; raises `FootfallError` if it is missing or damaged."""
        return cls(**load_arrays(folder / FILE)[0])

    def summary(self) -> dict[str, Any]:
        """Medians over frames and people, JSON-able; None where there is none."""
        numbers = {
            "keypoint_px": self.keypoint_px, "keypoint_rel": self.keypoint_rel, "background_px": self.background_px,
            "held_out_px": self.held_out_px, "slip_mps": self.slip, "foot_gap_m": self.gap,
            "penetration_m": self.penetration, "contact_kept": self.contact_kept,
        }  # fmt: skip
        return {name: number(np.nanmedian(v)) if np.isfinite(v).any() else None for name, v in numbers.items()}


def number(value: Any) -> float:
    """Rounded for tables."""
    return round(float(value), 4)


@torch.no_grad()
def measure(state: State, evidence: Evidence, config: OptimiseConfig) -> Measures:
    """Measure a state of the solve; touching sites are those of `evidence.contact_prob`."""
    e = evidence
    present = e.person_weight > 0
    touching = (e.contact_prob > TOUCHING) & present[..., None]
    px = project(state.cam.keypoints.flatten(1, 2), state.K).unflatten(1, state.cam.keypoints.shape[1:3])
    off = _masked_median((px - e.keypoints_px).norm(dim=-1), e.keypoint_weight > SEEN)
    speed = (state.world.sites[1:] - state.world.sites[:-1]).norm(dim=-1) / e.dt[:, None, None]
    slip = _masked_mean(torch.cat((speed[:1], speed)), touching & torch.cat((touching[:1], touching[:-1])))
    height, ratio, valid = _against_scene(state, e, config)
    deepest = torch.where(valid, -height, -torch.inf).amax(-1).clamp(min=0)
    return Measures(
        keypoint_px=off.numpy(),
        keypoint_rel=(off / e.person_px).numpy(),
        slip=slip.numpy(),
        gap=_masked_mean(height.abs(), touching & valid).numpy(),
        penetration=torch.where(valid.any(-1) & present, deepest, torch.nan).numpy(),
        scale_ratio=_masked_median(ratio, touching & valid & (e.scene is not None)).numpy(),
        background_px=_per_frame(state, e.tracks, len(e.rotation)),
        held_out_px=np.asarray(_median_px(state, e.held_out)),
        witness_log=_witness_log(state, e, ratio, valid),
        contact_kept=_kept(e),
        stature=e.body.model.stature(state.betas).numpy(),
        **_changes(state, e),
    )


def _changes(state: State, e: Evidence) -> dict[str, Array]:
    """What the solve did to the bodies. Large changes mean bad initial values, which are never mended whole."""
    pose = rotation_angle(e.body_rot, state.body_rot).square().mean(-1).sqrt()
    root = rotation_angle(e.root_rot, state.cam_from_body[..., :3, :3])
    depth = (state.root[..., 2].clamp(min=0.05) / e.root[..., 2].clamp(min=0.05)).log().abs()
    changes = {"pose_change": pose, "root_change": root, "depth_change": depth}
    return {name: torch.where(e.seen, values, torch.nan).numpy() for name, values in changes.items()}


def _against_scene(state: State, e: Evidence, config: OptimiseConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Height of each site above the surface (m), log depth ratio, and whether there is a surface. [T, P, 6]."""
    partners = e.search(state.cam.sites, state.K, config)
    if partners is None:
        height = state.world.sites @ state.normal - state.offset
        feet = torch.arange(height.shape[-1]) < FEET
        return height, torch.zeros_like(height), feet.expand(height.shape)
    depth = state.depth_scale[:, None, None] * partners.depth
    offset = state.cam.sites - unproject(partners.px, depth, state.K)
    ratio = (state.cam.sites[..., 2].clamp(min=0.05) / depth.clamp(min=0.05)).log()
    return (offset * partners.normal).sum(-1), ratio, partners.weight > 0


def _witness_log(state: State, e: Evidence, ratio: Tensor, valid: Tensor) -> Array:
    """[2] what the witnesses of `scale` say about the solved world, by the contacts that were given."""
    given = certainty(e.given_contact) * (e.person_weight > 0)[..., None]
    depth = depth_witness(ratio.exp(), torch.ones_like(ratio), given * valid * (e.scene is not None))
    still = None if e.camera_fixed else still_witness(state.cam.sites, state.rotation, state.centre, given, e.dt)
    return np.array([np.nan if witness is None else witness.log_scale for witness in (depth, still)])


def _kept(e: Evidence) -> Array:
    given = (e.given_contact > TOUCHING) & (e.person_weight > 0)[..., None]
    return np.asarray(float((e.contact_prob > TOUCHING)[given].float().mean()) if bool(given.any()) else np.nan)


def _masked_median(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values, torch.nan).nanmedian(dim=-1).values


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values, torch.nan).nanmean(dim=-1)


def _median_px(state: State, tracks: Tracks) -> float:
    return float(background_px(state, tracks).norm(dim=-1).median()) if len(tracks) else float("nan")


def _per_frame(state: State, tracks: Tracks, frames: int) -> Array:
    """[T] median over the pairs that end in each frame."""
    median = np.full(frames, np.nan)
    if len(tracks):
        off = background_px(state, tracks).norm(dim=-1).numpy()
        target = torch.cat((tracks.frame[tracks.b], tracks.frame[tracks.a])).numpy()
        for frame in np.unique(target):
            median[frame] = np.median(off[target == frame])
    return median
