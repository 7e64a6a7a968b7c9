"""Standing: feet planted, the body swaying over them, arms that gesture now and then."""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy.interpolate import PchipInterpolator

from distill.synthetic.axes import Array, rot_x, rot_z, smooth_noise, world_from_heading
from distill.synthetic.gait import FootTrack, standing_track
from distill.synthetic.motion import (
    SIDES,
    Arm,
    BodyMotion,
    Build,
    Pelvis,
    Trunk,
    finish,
    identity_pose,
    place_pelvis,
    set_arm,
    set_trunk,
)
from distill.synthetic.paths import GroundPath

GESTURES: Final = {
    "hang": (77, 2, 18, 0),
    "wave": (-15, 5, 70, 80),
    "point": (70, 75, 10, 0),
    "explain": (68, 15, 85, 20),
    "hip": (52, -15, 95, -35),
    "aside": (25, 5, 15, 0),
}
"""Arm poses in degrees: lower, swing, elbow, twist (`motion.Arm`)."""


def stand(build: Build, path: GroundPath, times: Array, *, fps: float, rng: np.random.Generator) -> BodyMotion:
    """Stand where `path` begins, in a manner drawn from `rng`."""
    frames = len(times)
    xy, heading = path.at(times)
    feet = plant_both(build, xy[0], float(heading[0]), frames, rng)
    pose, pelvis = sway_over(build, xy, heading, times, rng)
    for side in SIDES:
        set_arm(pose, side, _gesture(times, rng))
    return finish(build, pose, place_pelvis(build, pelvis, feet, fps=fps), pelvis.rotation, feet)


def plant_both(build: Build, xy: Array, facing: float, frames: int, rng: np.random.Generator) -> dict[str, FootTrack]:
    """Both feet beside each other below `xy` [2], standing all the time."""
    stance = rng.uniform(0.14, 0.24)
    left = np.array([-np.sin(facing), np.cos(facing)])
    front = np.array([np.cos(facing), np.sin(facing)])
    feet = {}
    for side, sign in SIDES.items():
        spot = xy + sign * stance / 2 * left + rng.uniform(-0.04, 0.04) * front
        feet[side] = standing_track(build.feet[side], spot, facing + sign * np.radians(rng.uniform(4, 14)), frames)
    return feet


def sway_over(build: Build, xy: Array, heading: Array, times: Array, rng: np.random.Generator) -> tuple[Array, Pelvis]:
    """A pose [T, 23, 3, 3] with a swaying trunk, and the pelvis that goes with it, above xy [T, 2]."""
    facing = float(heading[0])
    left = np.array([-np.sin(facing), np.cos(facing)])
    front = np.array([np.cos(facing), np.sin(facing)])
    sway = smooth_noise(rng, times, period=1.8, channels=6)
    pelvis = Pelvis(
        xy=xy + 0.022 * sway[:, :1] * left + (0.010 * sway[:, 1:2] + 0.01) * front,
        rotation=world_from_heading(heading + 0.06 * sway[:, 2])
        @ rot_x(np.full(len(times), 0.03))
        @ rot_z(0.025 * sway[:, 0]),
        standing=rng.uniform(0.996, 0.999),
    )
    pose = identity_pose(len(times))
    set_trunk(
        pose,
        Trunk(
            yaw=0.10 * sway[:, 3], roll=-0.03 * sway[:, 0], lean=0.05 + 0.04 * sway[:, 1],
            head_yaw=0.25 * sway[:, 4], head_nod=0.08 * sway[:, 5],
        ),
    )  # fmt: skip
    return pose, pelvis


def _gesture(times: Array, rng: np.random.Generator) -> Arm:
    """One arm that goes from pose to pose, each held for a while."""
    names = list(GESTURES)
    knots, poses = [times[0] - 1.0], [GESTURES["hang"]]
    while knots[-1] < times[-1] + 1.0:
        name = "hang" if rng.uniform() < 0.4 else names[rng.integers(len(names))]
        move, hold = rng.uniform(0.6, 1.1), rng.uniform(0.3, 1.2)
        knots += [knots[-1] + move, knots[-1] + move + hold]
        poses += [GESTURES[name]] * 2
    angles = np.radians(PchipInterpolator(knots, np.array(poses, np.float64))(times))
    angles += 0.03 * smooth_noise(rng, times, period=1.5, channels=4)
    return Arm(lower=angles[:, 0], swing=angles[:, 1], elbow=np.maximum(angles[:, 2], 0.02), twist=angles[:, 3])
