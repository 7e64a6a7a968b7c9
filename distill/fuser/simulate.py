"""Predictions as a network might make them, drawn around the truth of a clip, to study the fuser without pixels.

Errors are correlated in time (first-order autoregressive) and between gaps, since neighbouring pairs see the same
pixels; scale is off and drifts; some frames are outliers; contacts flicker; people are lost for a while; and the
log variances know how errors come and go but may be wrong by a constant factor. Everything follows from the seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from distill.body import BodyModel
from distill.fuser.observation import FEET, VARIANCE_PER_AXIS, FrameObservation, Motions, PersonObservation
from distill.fuser.so3 import Array, exp, inverse, rigid
from distill.results import Result


@dataclass(kw_only=True)
class NoiseConfig:
    """How wrong a simulated network is. Motions: [rotation (rad), translation (m)] per axis, for each gap."""

    gaps: dict[int, tuple[float, float, float, float]] = field(
        default_factory=lambda: {
            1: (0.004, 0.008, 0.016, 0.010), 3: (0.006, 0.015, 0.024, 0.020), 10: (0.012, 0.035, 0.045, 0.050),
        }
    )  # fmt: skip
    """Gap -> camera rotation, camera translation, body rotation, body translation, one standard deviation per axis."""
    root: tuple[float, float, float] = (0.08, 0.006, 0.05)
    """Root: orientation (rad), ray (rad), log depth."""
    foot_m: float = 0.025
    """Feet in the body, m per axis."""
    motion_memory: float = 0.8
    """Correlation of motion errors from frame to frame."""
    root_memory: float = 0.95
    """Correlation of root and foot errors from frame to frame."""
    shared: float = 0.5
    """Part of the variance of motion errors that all gaps share."""
    scale_sigma: float = 0.1
    """Standard deviation of the clip's log scale."""
    scale_drift: float = 0.03
    """Standard deviation of the log scale's slow change."""
    outliers: float = 0.02
    """Share of frames of which a term is ten times as wrong."""
    contact_flips: float = 0.08
    """Share of frames in which a contact is reported the wrong way."""
    lost: float = 0.02
    """Share of (frame, person) that is missing, in runs of about five frames."""
    dishonest: float = 2.0
    """Standard deviations are over- or understated by up to this factor, one factor per clip and term."""


class _Draw:
    """Random sequences over the frames of one clip."""

    def __init__(self, seed: int, frames: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.frames = frames

    def smooth(self, memory: float, *shape: int) -> Array:
        """[T, *shape] unit variance, correlated in time."""
        noise = self.rng.standard_normal((self.frames, *shape))
        out = noise.copy()
        for k in range(1, self.frames):
            out[k] = memory * out[k - 1] + math.sqrt(1 - memory**2) * noise[k]
        return out

    def spread(self, config: NoiseConfig) -> tuple[Array, Array]:
        """[T] by how much errors are larger than usual: truly (with outliers), and as the network knows."""
        known = np.exp(0.35 * self.smooth(0.95))
        true = known * np.where(self.rng.random(self.frames) < config.outliers, 10.0, 1.0)
        return true, known * config.dishonest ** self.rng.uniform(-1, 1)

    def runs(self, share: float, length: int = 5) -> Array:
        """[T] bool: marked in runs that cover about `share` of the frames."""
        marked = np.zeros(self.frames, bool)
        for start in np.flatnonzero(self.rng.random(self.frames) < share / length):
            marked[start : start + length] = True
        return marked


def log_variance(sigma: Array, dims: int) -> Array:
    """What an honest student would say of errors of `sigma` per axis."""
    return np.log(sigma**2 * VARIANCE_PER_AXIS[dims])


def simulate(truth: Result, body: BodyModel, seed: int, noise: NoiseConfig | None = None) -> list[FrameObservation]:
    """Observations of all frames of a true clip."""
    settings = noise or NoiseConfig()
    cameras, motion = truth.cameras, truth.motion
    frames, people = motion.present.shape
    draw = _Draw(seed, frames)
    log_scale = settings.scale_sigma * draw.rng.standard_normal() + settings.scale_drift * draw.smooth(0.995)
    grown = np.exp(log_scale)
    camera = _motions(cameras.world_from_cam, draw, settings, grown, 0)
    observations = [
        FrameObservation(timestamp=float(time), camera=camera[k]) for k, time in enumerate(cameras.timestamps)
    ]
    for person in range(people):
        seen = motion.present[:, person] & np.logical_not(draw.runs(settings.lost))
        moved = _motions(truth.world_from_body[:, person], draw, settings, grown, 2)
        rows = _person(truth, person, body, draw, settings, grown)
        for k in np.flatnonzero(seen):
            back = moved[k]
            both = np.array([seen[k - gap] for gap in back.gaps], bool)
            rows[k].motions = Motions(
                gaps=back.gaps[both], past_from_now=back.past_from_now[both], log_var=back.log_var[both]
            )
            observations[k].people[int(motion.ids[person])] = rows[k]
    return observations


def _motions(world_from_x: Array, draw: _Draw, settings: NoiseConfig, grown: Array, first: int) -> list[Motions]:
    """Noisy motions of one thing for every frame; `first`: which two of `NoiseConfig.gaps`' numbers."""
    common = draw.smooth(settings.motion_memory, 6)
    error, known = {}, {}
    for gap, sigmas in settings.gaps.items():
        own = draw.smooth(settings.motion_memory, 6)
        unit = math.sqrt(settings.shared) * common + math.sqrt(1 - settings.shared) * own
        (true_r, said_r), (true_t, said_t) = draw.spread(settings), draw.spread(settings)
        sigma = sigmas[first], sigmas[first + 1]
        error[gap] = np.concatenate(
            (unit[:, :3] * (sigma[0] * true_r)[:, None], unit[:, 3:] * (sigma[1] * true_t)[:, None]), 1
        )
        known[gap] = np.stack((log_variance(sigma[0] * said_r, 3), log_variance(sigma[1] * said_t, 3)), axis=1)
    found = []
    for k in range(draw.frames):
        gaps = [gap for gap in settings.gaps if gap <= k]
        moves = np.zeros((len(gaps), 4, 4))
        for row, gap in enumerate(gaps):
            true = inverse(world_from_x[k - gap]) @ world_from_x[k]
            wrong = error[gap][k]
            moves[row] = rigid(true[:3, :3] @ exp(wrong[:3]), grown[k] * true[:3, 3] + wrong[3:])
        said = np.array([known[gap][k] for gap in gaps]).reshape(-1, 2)
        found.append(Motions(gaps=np.array(gaps, np.int64), past_from_now=moves, log_var=said))
    return found


def _person(
    truth: Result, person: int, body: BodyModel, draw: _Draw, settings: NoiseConfig, grown: Array
) -> list[PersonObservation]:
    """Root, contacts and feet of one person in every frame, without motions."""
    motion = truth.motion
    root = motion.cam_from_body[:, person].astype(np.float64)
    turned, aside, deep = (draw.smooth(settings.root_memory, n) for n in (3, 2, 1))
    spreads = [draw.spread(settings) for _ in range(3)]
    sigma = [settings.root[k] * spreads[k][0] for k in range(3)]
    said = [log_variance(settings.root[k] * spreads[k][1], dims) for k, dims in enumerate((3, 2, 1))]
    place = root[:, :3, 3].copy()
    place[:, :2] += aside * (sigma[1] * place[:, 2])[:, None]
    place *= (grown * np.exp(sigma[2] * deep[:, 0]))[:, None]
    rotation = root[:, :3, :3] @ exp(turned * sigma[0][:, None])
    feet = feet_of(truth, person, body) + settings.foot_m * draw.smooth(settings.root_memory, FEET, 3)
    touching = motion.contact_prob[:, person] > 0.5
    flipped = touching ^ (draw.rng.random(touching.shape) < settings.contact_flips)
    said_prob = np.where(flipped, 0.9, 0.1)
    return [
        PersonObservation(
            cam_from_body=rigid(rotation[k], place[k]), root_log_var=np.array([part[k] for part in said]),
            contact_prob=said_prob[k], feet=feet[k],
        )
        for k in range(draw.frames)
    ]  # fmt: skip


def feet_of(truth: Result, person: int, body: BodyModel) -> Array:
    """[T, 4, 3] heels and toes of a person in their own body frame, metres."""
    motion = truth.motion
    frames = len(motion.present)
    betas = torch.from_numpy(motion.betas[person]).float().expand(frames, -1)
    body_rot = torch.from_numpy(motion.body_rot[:, person]).float()
    sites = body.sites(betas, body_rot, torch.eye(4).expand(frames, 4, 4))
    return sites[:, :FEET].double().numpy()
