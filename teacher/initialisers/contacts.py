"""Contacts from motion: a foot that stands is still in the world and is the lowest part of its body.

The world here is that of `cameras`, in metres: if the cameras' scale is arbitrary it is found first, as the one
under which the stiller foot of every frame moves least. Speeds and heights become probabilities by a model with
two states per site, standing and not, that change a few times a second (forward-backward over the clip).

Hands get 0: a hanging hand of a standing person is as still as one that leans on a wall, and nothing in this
stage's inputs tells them apart. Feet of people who ride or are carried are missed for the same reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from distill.body import load_body_model
from distill.errors import FootfallError
from distill.geometry.conventions import CONTACT_SITES, SMPL_JOINTS
from teacher.initialisers.registry import Outcome, Report, register
from teacher.stagefiles import BodyInit, CameraInit, Contacts, Frames
from teacher.workspace import ClipFolder

Array = NDArray[Any]

FEET: Final = 4
"""The first four of `CONTACT_SITES` are heels and toes."""
REFERENCE_STATURE: Final = 1.7
"""Metres; lengths below are for a person of this height and scale with the person."""
SCALE_SPEEDS: Final = (0.02, 12.0)
"""Slowest and fastest plausible typical speed of a moving camera, m/s."""


@dataclass(kw_only=True)
class ContactsConfig:
    """Two states per foot site; standard deviations are of half-normal distributions."""

    use: str = "kinematic"
    """Registered initialiser, files:FOLDER, or FORMAT:PATH of another system (docs/initialisers.md)."""
    body_model: str = "anny"
    """The body that `bodies` were fitted with: anny, smpl:FILE or smplx:FILE."""
    still_speed: float = 0.1
    """Speed of a standing site, m/s; more where the stiller foot of the clip is noisier than that."""
    swing_speed: float = 0.8
    """Speed of a site that does not stand, m/s."""
    still_height: float = 0.04
    """Height of a standing site above the person's lowest one, metres."""
    swing_height: float = 0.09
    """That height of a site that does not stand, metres."""
    depth_trust: float = 0.35
    """Weight of motion along the viewing ray against motion across it: depth is the noisier."""
    window_s: float = 0.05
    """Time over which a speed is taken, seconds, forwards and backwards; at least one frame."""
    changes_per_s: float = 4.0
    """How often a site changes its state, per second."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, str) and not value > 0:
                raise ValueError(f"contacts.{name}: got {value}, expected more than 0")


@register("contacts", "kinematic", needs=("frames", "people", "cameras", "bodies"), licence="Apache-2.0")
def run(clip: ClipFolder, config: ContactsConfig, report: Report) -> Outcome:
    """Write `contacts.npz`."""
    frames = Frames.load(clip.require("frames"))
    cameras = CameraInit.load(clip.require("cameras"))
    bodies = BodyInit.load(clip.require("bodies"))
    report(0.1, "feet")
    prob, scale = find_contacts(bodies, cameras, frames.timestamps, config)
    Contacts(prob=prob).save(clip.stage_dir("contacts"))
    feet = prob[bodies.present][:, :FEET]
    return Outcome(
        summary={
            "camera_scale": round(float(scale), 5),
            "standing_share": round(float((feet > 0.5).mean()), 3),
            "frames_without_contact": int((feet.max(1) < 0.5).sum()),
        }
    )


@dataclass(kw_only=True)
class Feet:
    """Foot sites in world axes, with what is needed to judge their motion. Lengths in metres."""

    from_camera: Array
    """[T, P, 4, 3] sites relative to the camera's centre, world axes."""
    camera: Array
    """[T, 3] the camera's centre, in the cameras' own unit."""
    present: Array
    """[T, P] bool."""
    size: Array
    """[P] stature over `REFERENCE_STATURE`."""
    up: Array
    """[3] unit vector, world axes: the people's mean trunk direction."""


def find_contacts(
    bodies: BodyInit, cameras: CameraInit, timestamps: Array, config: ContactsConfig
) -> tuple[Array, float]:
    """Contact probabilities [T, P, 6] float32, and the metres per unit of the cameras.

    Raises:
        FootfallError: `bodies` were made with another body model than the config names.
    """
    feet = pose_feet(bodies, cameras, config)
    scale = find_scale(feet, timestamps, config) if cameras.kind == "sfm" and not cameras.metric else 1.0
    speed = site_speeds(feet, scale, timestamps, config)
    height = (feet.from_camera @ feet.up) / feet.size[:, None]
    height = height - height.min(-1, keepdims=True)
    still = _still_speeds(speed, feet.present, config)
    evidence = _log_ratio(speed, still, np.maximum(config.swing_speed, 2 * still))
    evidence += _log_ratio(height, config.still_height, config.swing_height)
    evidence *= np.where(feet.present, bodies.confidence, 0)[..., None]
    prob = np.zeros((*feet.present.shape, len(CONTACT_SITES)), np.float32)
    prob[..., :FEET] = smooth_states(evidence, timestamps, config.changes_per_s)
    prob[~feet.present] = 0
    return prob, scale


def _still_speeds(speed: Array, present: Array, config: ContactsConfig) -> Array:
    """Speed [P, 1] of each person's standing sites: the stiller foot shows how noisy this person's speeds are."""
    stiller = np.where(present, speed.min(-1), np.nan)
    typical = [np.median(s[p]) if p.any() else 0.0 for s, p in zip(stiller.T, present.T, strict=True)]
    return np.maximum(config.still_speed, 1.5 * np.array(typical))[:, None]


def pose_feet(bodies: BodyInit, cameras: CameraInit, config: ContactsConfig) -> Feet:
    """Pose the foot sites of every person."""
    body = load_body_model(config.body_model)
    if body.name != bodies.body_model:
        raise FootfallError(
            "contacts.body_model", got=config.body_model, expected=f"the bodies' own model, {bodies.body_model}",
            do="set contacts.body_model to what bodies.body_model is",
        )  # fmt: skip
    shapes = torch.from_numpy(bodies.betas).expand(len(bodies.present), -1, -1)
    rotations, roots = torch.from_numpy(bodies.body_rot), torch.from_numpy(bodies.cam_from_body)
    with torch.inference_mode():
        sites = body.sites(shapes, rotations, roots).double().numpy()[..., :FEET, :]
        joints = body(shapes, rotations, roots).joints.double().numpy()
        stature = body.stature(torch.from_numpy(bodies.betas)).double().numpy()
    turn = cameras.world_from_cam[:, None, :3, :3]
    trunk = joints[:, :, SMPL_JOINTS.index("neck")] - joints[:, :, SMPL_JOINTS.index("pelvis")]
    trunk = (turn @ trunk[..., None])[..., 0][bodies.present]
    up = np.median(trunk, axis=0) if len(trunk) else np.array([0.0, -1.0, 0.0])
    return Feet(
        from_camera=(turn[:, :, None] @ sites[..., None])[..., 0],
        camera=cameras.world_from_cam[:, :3, 3],
        present=bodies.present,
        size=stature / REFERENCE_STATURE,
        up=up / np.linalg.norm(up),
    )


def site_speeds(feet: Feet, scale: float, timestamps: Array, config: ContactsConfig) -> Array:
    """Speed [T, P, 4] of each foot site in the world, m/s of a person of reference stature.

    The smaller of the speeds before and after a frame counts, so that a step's first and last frame stand too.
    """
    return _speeds(_velocities(feet, timestamps, config), scale, feet, config)


def _velocities(feet: Feet, timestamps: Array, config: ContactsConfig) -> tuple[Array, Array, Array]:
    """Velocities relative to the camera [2, T, P, 4, 3], of the camera [2, T, 3], and validity [2, T, P].

    The first axis is backwards and forwards in time.
    """
    count = len(timestamps)
    step = float(np.median(np.diff(timestamps))) if count > 1 else 1.0
    reach = max(1, round(config.window_s / max(step, 1e-3)))
    frame = np.arange(count)
    ends = np.stack((np.clip(frame - reach, 0, None), np.clip(frame + reach, None, count - 1)))
    apart = timestamps[ends] - timestamps
    apart = np.where(apart == 0, np.inf, apart)
    of_site = (feet.from_camera[ends] - feet.from_camera) / apart[..., None, None, None]
    of_camera = (feet.camera[ends] - feet.camera) / apart[..., None]
    valid = feet.present[ends] & feet.present & np.isfinite(apart)[..., None]
    return of_site, of_camera, valid


def _speeds(velocities: tuple[Array, Array, Array], scale: float, feet: Feet, config: ContactsConfig) -> Array:
    of_site, of_camera, valid = velocities
    velocity = of_site + scale * of_camera[:, :, None, None]
    ray = feet.from_camera / np.maximum(np.linalg.norm(feet.from_camera, axis=-1, keepdims=True), 1e-6)
    along = (velocity * ray).sum(-1)
    squared = (velocity**2).sum(-1) - (1 - config.depth_trust**2) * along**2
    speed = np.where(valid[..., None], np.sqrt(np.maximum(squared, 0)), np.inf).min(0)
    speed = np.where(np.isfinite(speed), speed, 0) / feet.size[:, None]
    return speed


def find_scale(feet: Feet, timestamps: Array, config: ContactsConfig) -> float:
    """Metres per unit of the cameras: the scale under which the stiller foot of every frame moves least.

    A search over the whole plausible range, because the cost has local minima (any scale stops some foot in some
    frame). 1.0 if the camera stands still, where the scale does not matter.
    """
    velocities = _velocities(feet, timestamps, config)
    camera_speed = float(np.median(np.linalg.norm(velocities[1], axis=-1)))
    if camera_speed < 1e-9 or not feet.present.any():
        return 1.0
    low, high = np.log(np.array(SCALE_SPEEDS) / camera_speed)
    for count in (160, 21):
        grid = np.linspace(low, high, count)
        moving = [_motion_left(velocities, value, feet, config)[feet.present].mean() for value in np.exp(grid)]
        best = grid[int(np.argmin(moving))]
        low, high = best - (grid[1] - grid[0]), best + (grid[1] - grid[0])
    return float(np.exp(best))


def _motion_left(velocities: tuple[Array, Array, Array], scale: float, feet: Feet, config: ContactsConfig) -> Array:
    """Speed [T, P] of the stiller foot; beyond four standing speeds it is no foot that stands, and counts as that."""
    return np.minimum(_speeds(velocities, scale, feet, config).min(-1), 4 * config.still_speed)


def _log_ratio(value: Array, still: float | Array, moving: float | Array, limit: float = 6.0) -> Array:
    """Log likelihood ratio of two half-normal distributions, standing over not, bounded."""
    ratio = np.log(moving / still) - value**2 / 2 * (1 / still**2 - 1 / moving**2)
    return np.clip(ratio, -limit, limit)


def smooth_states(evidence: Array, timestamps: Array, changes_per_s: float) -> Array:
    """Probability of the first of two states by the forward-backward algorithm (Rabiner 1989, eqs. 19-27).

    Args:
        evidence: [T, ...] log likelihood ratio of the first state over the second, independent over time.
        timestamps: [T] seconds.
        changes_per_s: rate at which either state ends.

    Returns:
        [T, ...] probabilities.
    """
    likelihood = np.stack((1 / (1 + np.exp(-evidence)), 1 / (1 + np.exp(evidence))))
    change = 0.5 * (1 - np.exp(-2 * changes_per_s * np.diff(timestamps)))
    forward, backward = likelihood.copy(), np.ones_like(likelihood)
    for t in range(1, len(evidence)):
        forward[:, t] *= _mixed(forward[:, t - 1], change[t - 1])
        forward[:, t] /= forward[:, t].sum(0)
    for t in range(len(evidence) - 2, -1, -1):
        backward[:, t] = _mixed(backward[:, t + 1] * likelihood[:, t + 1], change[t])
        backward[:, t] /= backward[:, t].sum(0)
    joint = forward * backward
    return joint[0] / joint.sum(0)


def _mixed(states: Array, change: float) -> Array:
    """States [2, ...] after one step in which each becomes the other with probability `change`."""
    return (1 - change) * states + change * states[::-1]
