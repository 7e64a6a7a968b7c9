"""Footsteps: when and where each foot stands, and how it travels in between.

A stance has two parts. First the foot is flat: heel and toes stand still. Then the heel rises while
the toes stay flat and still: the foot turns about the ball. During swing the ankle flies from the pose
at toe-off to the next plant; its height is the least at which no part of the sole is below the ground,
plus a clearance, so that the heel comes down first and the foot then rolls flat.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

from distill.synthetic.axes import Array, rot_x, smooth_step, turn, world_from_heading
from distill.synthetic.paths import GroundPath

TOE_OFF_PITCH = np.radians(48.0)
"""Pitch of the foot (toes down) when it leaves the ground."""
STRIKE_PITCH = np.radians(-16.0)
"""Pitch of the foot (toes up) before it lands."""
CLEARANCE = 0.025
"""Greatest height of the lowest point of the sole during swing, metres (people's: 0.01 to 0.03)."""


@dataclass(kw_only=True, frozen=True)
class Foot:
    """One foot of a shaped body in the rest pose; body axes, metres, relative to the ankle."""

    ball: Array
    """[3] joint about which the toes bend."""
    sole_back: Array
    """[N, 3] points of the underside that move with the ankle."""
    sole_toes: Array
    """[M, 3] points of the underside that move with the toes."""

    @property
    def flat_height(self) -> float:
        """Height of the ankle above the ground when the foot is flat."""
        return float(-min(self.sole_back[:, 1].min(), self.sole_toes[:, 1].min()))

    def least_height(self, pitch: Array, bend: Array) -> Array:
        """Height of the ankle [T] at which the lowest point of the sole touches the ground."""
        back = (rot_x(pitch)[:, 1] @ self.sole_back.T).min(axis=-1)
        ball = turn(rot_x(pitch), self.ball)[:, 1]
        toes = ball + (rot_x(pitch + bend)[:, 1] @ (self.sole_toes - self.ball).T).min(axis=-1)
        return -np.minimum(back, toes)


@dataclass(kw_only=True, frozen=True)
class Plant:
    """One stance of one foot."""

    flat: float
    """Seconds: heel and toes begin to stand."""
    heel_off: float
    """Seconds: the heel leaves the ground."""
    toe_off: float
    """Seconds: the toes leave the ground."""
    ankle_xy: Array
    """[2] metres, while the foot is flat."""
    heading: float
    """Direction of the foot, radians."""
    height: float = 0.0
    """Of the ground below the ankle, metres."""
    slope: float = 0.0
    """Of the ground along the foot, radians, rising forwards."""


@dataclass(kw_only=True)
class FootTrack:
    """What one foot does in T frames."""

    ankle: Array
    """[T, 3] metres, world."""
    heading: Array
    """[T] radians."""
    pitch: Array
    """[T] radians, toes down positive."""
    bend: Array
    """[T] radians: the toes relative to the foot; -pitch keeps them flat."""
    heel: Array
    """[T] bool: the heel stands."""
    toe: Array
    """[T] bool: the toes stand."""

    @staticmethod
    def empty(frames: int) -> FootTrack:
        """A foot at the origin that never stands."""
        return FootTrack(
            ankle=np.zeros((frames, 3)), heading=np.zeros(frames), pitch=np.zeros(frames), bend=np.zeros(frames),
            heel=np.zeros(frames, bool), toe=np.zeros(frames, bool),
        )  # fmt: skip


@dataclass(kw_only=True, frozen=True)
class Rhythm:
    """The timing of a walk."""

    stride_s: float
    """Seconds from one plant of a foot to its next."""
    phase: float
    """Left strides done at time 0; the right foot is half a stride later."""
    duty: float = 0.60
    """Part of the stride from flat to toe-off."""
    flat: float = 0.31
    """Part of the stride in which the foot is flat."""

    @staticmethod
    def of_speed(speed: float, stature: float, phase: float) -> Rhythm:
        """Natural rhythm: step length near 0.385 statures at 1.35 m/s, growing with the root of the speed."""
        step = 0.385 * stature * np.sqrt(speed / 1.35)
        return Rhythm(stride_s=float(2 * step / max(speed, 0.3)), phase=phase)

    def left_phase(self, times: Array) -> Array:
        """Left strides since its plant number 0, [T]."""
        return np.asarray(times) / self.stride_s + self.phase


def plan_plants(path: GroundPath, rhythm: Rhythm, *, side: int, width: float, toe_out: float) -> list[Plant]:
    """Plants of one foot along a path.

    Args:
        path: of the pelvis.
        rhythm: of the walk.
        side: +1 left, -1 right.
        width: metres between the tracks of the two ankles.
        toe_out: radians that the foot points outwards.
    """
    offset = rhythm.phase if side > 0 else rhythm.phase + 0.5
    begin, end = path.times[0], path.times[-1]
    plants = []
    for stride in range(int(np.ceil(begin / rhythm.stride_s + offset)), int(end / rhythm.stride_s + offset)):
        flat = (stride - offset) * rhythm.stride_s
        # The pelvis passes over the ankle early in stance, because the leg behind is lengthened by the raised heel.
        xy, heading = path.at(np.array([flat + 0.31 * rhythm.duty * rhythm.stride_s]))
        left = np.array([-np.sin(heading[0]), np.cos(heading[0])])
        plants.append(
            Plant(
                flat=flat,
                heel_off=flat + rhythm.flat * rhythm.stride_s,
                toe_off=flat + rhythm.duty * rhythm.stride_s,
                ankle_xy=xy[0] + side * width / 2 * left,
                heading=float(heading[0] + side * toe_out),
            )
        )
    return plants


def standing_track(foot: Foot, xy: Array, heading: float, frames: int) -> FootTrack:
    """A foot that stands flat all the time."""
    track = FootTrack.empty(frames)
    track.ankle[:] = *xy, foot.flat_height
    track.heading[:] = heading
    track.heel[:] = track.toe[:] = True
    return track


def follow_plants(foot: Foot, plants: list[Plant], times: Array) -> FootTrack:
    """The foot's motion at `times` [T], which must lie between the first plant and the last."""
    track = FootTrack.empty(len(times))
    for plant, following in itertools.pairwise(plants):
        stance = (times >= plant.flat) & (times <= plant.toe_off)
        track.pitch[stance] = heel_rise(plant, times[stance])
        track.bend[stance] = -track.pitch[stance]
        track.heading[stance] = plant.heading
        track.ankle[stance] = ankle_in_stance(foot, plant, track.pitch[stance])
        track.heel[stance] = times[stance] <= plant.heel_off
        track.toe[stance] = True
        swing = (times > plant.toe_off) & (times < following.flat)
        _fill_swing(foot, plant, following, times, swing, track)
    return track


def heel_rise(plant: Plant, times: Array) -> Array:
    """Pitch during stance: zero until heel-off, then rising with zero slope at its start."""
    u = np.clip((times - plant.heel_off) / (plant.toe_off - plant.heel_off), 0.0, 1.0)
    return TOE_OFF_PITCH * u**1.6


def ankle_in_stance(foot: Foot, plant: Plant, pitch: Array) -> Array:
    """Ankle [T, 3] when the foot is raised by `pitch` [T] about the ball, which stands still."""
    turned = foot.ball - turn(rot_x(pitch), foot.ball)
    world_from_sole = world_from_heading(np.array(plant.heading)) @ rot_x(np.array(-plant.slope))
    ground = np.array([*plant.ankle_xy, plant.height])
    return ground + (turned + [0, foot.flat_height, 0]) @ world_from_sole.T


def _fill_swing(foot: Foot, plant: Plant, following: Plant, times: Array, swing: Array, track: FootTrack) -> None:
    """Write the frames `swing` between two plants into `track`."""
    duration = following.flat - plant.toe_off
    u = (times[swing] - plant.toe_off) / duration
    rate = 1.6 * TOE_OFF_PITCH / (plant.toe_off - plant.heel_off) * duration  # slope of heel_rise at its end, per u
    knots = np.array([-0.01, 0.0, 0.10, 0.45, 0.84, 1.0, 1.01])
    pitches = np.array(
        [TOE_OFF_PITCH - 0.01 * rate, TOE_OFF_PITCH, 1.12 * TOE_OFF_PITCH, 0.3 * TOE_OFF_PITCH, STRIKE_PITCH, 0, 0]
    )
    pitch = PchipInterpolator(knots, pitches)(u)
    bend = -TOE_OFF_PITCH * (1 - smooth_step(u / 0.35))
    start = ankle_in_stance(foot, plant, np.array([TOE_OFF_PITCH - 0.01 * rate, TOE_OFF_PITCH]))
    slope = (start[1] - start[0])[:2] / 0.01
    # Cubic Hermite from toe-off, with the speed it has there, to rest at the next plant.
    a, b = start[1][:2], following.ankle_xy
    v = u[:, None]
    xy = (2 * v**3 - 3 * v**2 + 1) * a + (v**3 - 2 * v**2 + v) * slope + (3 * v**2 - 2 * v**3) * b
    least = foot.least_height(pitch, bend)
    # Soles are not perfectly even: carry the small step between the two ways of standing out over the swing.
    step = start[1][2] - foot.least_height(np.array([TOE_OFF_PITCH]), np.array([-TOE_OFF_PITCH]))[0]
    height = least + CLEARANCE * (4 * u * (1 - u)) ** 1.5 + max(step, 0.0) * (1 - u) ** 3
    track.ankle[swing] = np.column_stack((xy, height))
    track.heading[swing] = plant.heading + (following.heading - plant.heading) * smooth_step(u)
    track.pitch[swing], track.bend[swing] = pitch, bend
