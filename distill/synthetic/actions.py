"""What people do on the spot: sit down on a bench and get up, clap, kick.

Clap and kick are fast on purpose: a smoother that takes their peak away destroys what was done.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy.interpolate import PchipInterpolator

from distill.synthetic.axes import Array, rot_x, smooth_step
from distill.synthetic.gait import FootTrack
from distill.synthetic.motion import JOINT, SIDES, Arm, BodyMotion, Build, finish, place_pelvis, set_arm, set_joint
from distill.synthetic.paths import GroundPath
from distill.synthetic.standing import plant_both, sway_over

SEAT: Final = 0.45
"""Height of a bench, metres."""
SEAT_BACK: Final = 0.40
"""How far behind the standing pelvis a person sits, metres."""
BUTTOCKS: Final = 0.085
"""Height of the pelvis joint above the seat, metres."""


def sit(build: Build, path: GroundPath, times: Array, *, fps: float, rng: np.random.Generator) -> BodyMotion:
    """Stand before a bench, sit down, sit, and get up again; the feet stay where they are."""
    frames = len(times)
    xy, heading = path.at(times)
    feet = plant_both(build, xy[0], float(heading[0]), frames, rng)
    pose, pelvis = sway_over(build, xy, heading, times, rng)
    end = times[-1]
    down, up = end * rng.uniform(0.14, 0.2), end * rng.uniform(0.68, 0.76)
    move = max(min(1.3, 0.2 * end), 0.7)
    low = smooth_step((times - down) / move) - smooth_step((times - up) / move)
    lean = 0.65 * (_bump(times, down + 0.5 * move, move) + _bump(times, up + 0.35 * move, move))
    # Backwards first, then down: the pelvis goes round the knees.
    back = smooth_step((times - down) / (0.8 * move)) - smooth_step((times - up - 0.2 * move) / (0.8 * move))
    pelvis.xy -= SEAT_BACK * back[:, None] * np.stack((np.cos(heading), np.sin(heading)), axis=-1)
    pelvis.rotation = pelvis.rotation @ rot_x(0.5 * lean - 0.08 * low)
    position = place_pelvis(build, pelvis, feet, fps=fps)
    position[:, 2] += low * (SEAT + BUTTOCKS - position[:, 2])
    for joint in ("spine1", "spine2"):
        set_joint(pose, joint, pose[:, JOINT[joint] - 1] @ rot_x(0.35 * lean))
    for side in SIDES:
        hang, bent = np.full(frames, np.radians(77)), 0.25 + 0.75 * low
        set_arm(pose, side, Arm(lower=hang, swing=0.05 + 0.5 * low, elbow=bent, twist=np.zeros(frames)))
    return finish(build, pose, position, pelvis.rotation, feet)


def clap(build: Build, path: GroundPath, times: Array, *, fps: float, rng: np.random.Generator) -> BodyMotion:
    """Stand and clap: the hands come together within a tenth of a second, some times in a row."""
    frames = len(times)
    xy, heading = path.at(times)
    feet = plant_both(build, xy[0], float(heading[0]), frames, rng)
    pose, pelvis = sway_over(build, xy, heading, times, rng)
    begin = times[-1] * rng.uniform(0.25, 0.35)
    raised = smooth_step((times - begin + 0.8) / 0.7) - smooth_step((times - begin - 1.9) / 0.7)
    closed = sum(_pulse(times, begin + 0.45 * k, 0.10, 0.22) for k in range(4))
    for side in SIDES:
        lower = np.radians(77) - np.radians(25) * raised
        swing = 0.05 + np.radians(50) * raised
        elbow = 0.25 + raised * (0.55 + 0.75 * closed)
        set_arm(pose, side, Arm(lower=lower, swing=swing, elbow=elbow, twist=np.zeros(frames)))
    return finish(build, pose, place_pelvis(build, pelvis, feet, fps=fps), pelvis.rotation, feet)


def kick(build: Build, path: GroundPath, times: Array, *, fps: float, rng: np.random.Generator) -> BodyMotion:
    """Stand, draw the right leg back, kick forwards within a fifth of a second, and stand again."""
    frames = len(times)
    xy, heading = path.at(times)
    feet = plant_both(build, xy[0], float(heading[0]), frames, rng)
    pose, pelvis = sway_over(build, xy, heading, times, rng)
    begin = times[-1] * rng.uniform(0.4, 0.5)
    feet["right"] = _kicking(feet["right"], times, begin)
    shift = (smooth_step((times - begin + 0.9) / 0.7) - smooth_step((times - begin - 1.1) / 0.7))[:, None]
    pelvis.xy += 0.06 * shift * np.stack((-np.sin(heading), np.cos(heading)), axis=-1)  # over the left foot
    for side, sign in SIDES.items():
        away = shift[:, 0] * 0.5
        arm = Arm(
            lower=np.full(frames, np.radians(77)) - away, swing=0.05 + 0.3 * sign * shift[:, 0],
            elbow=np.full(frames, 0.3) + 0.3 * shift[:, 0], twist=np.zeros(frames),
        )  # fmt: skip
        set_arm(pose, side, arm)
    return finish(build, pose, place_pelvis(build, pelvis, feet, fps=fps), pelvis.rotation, feet)


def _kicking(standing: FootTrack, times: Array, begin: float) -> FootTrack:
    """A standing foot's track with one kick: seconds from `begin`, metres forwards and up, pitch in radians."""
    knots = np.array([-0.60, -0.45, -0.20, -0.05, 0.10, 0.25, 0.55, 0.80])
    forwards = np.array([0.0, -0.05, -0.32, -0.22, 0.45, 0.58, 0.20, 0.0])
    up = np.array([0.0, 0.05, 0.24, 0.16, 0.22, 0.42, 0.12, 0.0])
    pitch = np.array([0.0, 0.25, 0.75, 0.55, 0.10, -0.25, 0.05, 0.0])
    now = times - begin
    moving = (now > knots[0]) & (now < knots[-1])
    track = FootTrack.empty(len(times))
    track.heading, track.pitch, track.bend = standing.heading, standing.pitch.copy(), standing.bend.copy()
    front = np.stack((np.cos(standing.heading), np.sin(standing.heading)), axis=-1)
    inside = now.clip(knots[0], knots[-1])
    track.ankle = standing.ankle.copy()
    track.ankle[:, :2] += PchipInterpolator(knots, forwards)(inside)[:, None] * front
    track.ankle[:, 2] += PchipInterpolator(knots, up)(inside)
    track.pitch = PchipInterpolator(knots, pitch)(inside)
    track.heel = ~moving
    track.toe = ~moving
    return track


def _bump(times: Array, middle: float, width: float) -> Array:
    """A smooth hill of height 1 from middle - width to middle + width."""
    return smooth_step(1 - np.abs(times - middle) / width)


def _pulse(times: Array, begin: float, rise: float, fall: float) -> Array:
    """From 0 to 1 within `rise` seconds and back within `fall`."""
    return smooth_step((times - begin) / rise) - smooth_step((times - begin - rise) / fall)
