"""Steps over terrain: feet land on the middle of a stair, before an edge or behind it, never across it.

On flat ground (`gait.plan_plants`) steps follow the path of the pelvis. Here the steps come first: one stair a
step, shorter ones before an edge, and the pelvis passes over them.
"""

from __future__ import annotations

import itertools
from typing import Final

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter1d, maximum_filter1d

from distill.synthetic.axes import Array, rot_x, smooth_step, turn, world_from_heading
from distill.synthetic.gait import (
    CLEARANCE,
    STRIKE_PITCH,
    TOE_OFF_PITCH,
    Foot,
    FootTrack,
    Plant,
    Rhythm,
    ankle_in_stance,
    heel_rise,
)
from distill.synthetic.paths import GroundPath
from distill.synthetic.terrain import Terrain

BEHIND: Final = 0.08
"""Least distance of an ankle behind an edge that the foot has passed, metres: room for the heel."""
BEFORE: Final = 0.21
"""Least distance of an ankle before an edge: room for the toes."""
_OVER: Final = 0.31
"""Part of the stance at which the pelvis passes over the ankle (as `gait.plan_plants`)."""
_FINE: Final = 96
"""Samples of a swing at which its height is worked out."""


def plan_steps(terrain: Terrain, step: float, count: int, middle: int) -> Array:
    """[count] places u along the terrain of the steps of both feet in turn; number `middle` is nearest to u = 0."""
    ahead, behind = [0.0], [0.0]
    ahead[0] = behind[0] = _settle(terrain, 0.0)
    for _ in range(count - middle - 1):
        ahead.append(_next(terrain, ahead[-1], step))
    mirrored = Terrain(heading=terrain.heading, pieces=tuple(
        type(p)(begin=-p.end, end=-p.begin, low=p.high, high=p.low) for p in reversed(terrain.pieces)
    ))  # fmt: skip
    for _ in range(middle):
        behind.append(-_next(mirrored, -behind[-1], step, before=BEHIND, after=BEFORE))
    return np.array(behind[:0:-1] + ahead)


def _settle(terrain: Terrain, u: float) -> float:
    """The allowed place nearest to u."""
    edges = terrain.edges()
    for edge in edges:
        if edge - BEFORE < u < edge + BEHIND:
            follow = edges[edges > edge]
            room = (follow[0] if len(follow) else np.inf) - edge
            return float(edge + min(BEHIND + 0.02, (room + BEHIND - BEFORE) / 2))
    return u


def _next(terrain: Terrain, u: float, step: float, *, before: float = BEFORE, after: float = BEHIND) -> float:
    """The next step: over at most one edge, onto the middle of what lies behind it if that is narrow."""
    edges = terrain.edges()
    met = edges[edges > u]
    if not len(met) or u + step <= met[0] - before:
        return u + step
    if met[0] - before - u > 0.3 * step:
        return float(met[0] - before)  # up to the edge first
    room = (met[1] if len(met) > 1 else np.inf) - met[0]
    if room < before + after + 0.3:
        return float(met[0] + (room + after - before) / 2)  # the middle of a stair
    return float(met[0] + max(after, min(0.7 * step - (met[0] - u), 0.3)))


def pelvis_path(
    terrain: Terrain, places: Array, rhythm: Rhythm, first: int, lateral: float, times: Array
) -> GroundPath:
    """The way of the pelvis over steps at `places` [K]; step k belongs to the left foot where first + k is even."""
    over = (0.5 * (first + np.arange(len(places))) - rhythm.phase + _OVER * rhythm.duty) * rhythm.stride_s
    u = PchipInterpolator(over, places, extrapolate=True)(times)
    step = float(times[1] - times[0])
    u = gaussian_filter1d(u, 0.12 / step, mode="nearest")
    along, across = terrain.axes
    return GroundPath(
        times=times, xy=u[:, None] * along + lateral * across, heading=np.full(len(times), terrain.heading)
    )


def plants_on(
    terrain: Terrain, places: Array, rhythm: Rhythm, first: int, *, side: int, lateral: float, toe_out: float
) -> list[Plant]:
    """Plants of one foot (side +1 left, -1 right); `lateral` is the ankle's own distance from the middle line."""
    along, across = terrain.axes
    plants = []
    for k, u in enumerate(places):
        if (first + k) % 2 != (0 if side > 0 else 1):
            continue
        flat = (0.5 * (first + k) - rhythm.phase) * rhythm.stride_s
        plants.append(Plant(
            flat=flat, heel_off=flat + rhythm.flat * rhythm.stride_s, toe_off=flat + rhythm.duty * rhythm.stride_s,
            ankle_xy=u * along + lateral * across, heading=terrain.heading + side * toe_out,
            height=float(terrain.along(u)), slope=float(np.arctan(terrain.slope(float(u)))),
        ))  # fmt: skip
    return plants


def follow_steps(foot: Foot, plants: list[Plant], terrain: Terrain, times: Array) -> FootTrack:
    """The foot's motion over terrain at `times` [T], which must lie between the first plant and the last."""
    frames = len(times)
    track = FootTrack.empty(frames)
    for plant, following in itertools.pairwise(plants):
        stance = (times >= plant.flat) & (times <= plant.toe_off)
        rise = heel_rise(plant, times[stance])
        track.pitch[stance] = rise - plant.slope
        track.bend[stance] = -rise
        track.heading[stance] = plant.heading
        track.ankle[stance] = ankle_in_stance(foot, plant, rise)
        track.heel[stance] = times[stance] <= plant.heel_off
        track.toe[stance] = True
        swing = (times > plant.toe_off) & (times < following.flat)
        _fill_swing(foot, plant, following, terrain, times, swing, track)
    return track


def _fill_swing(
    foot: Foot, plant: Plant, following: Plant, terrain: Terrain, times: Array, swing: Array, track: FootTrack
) -> None:
    """Write the frames `swing` between two plants into `track`."""
    u = np.linspace(0, 1, _FINE)
    climb = following.height - plant.height
    knots = np.array([-0.01, 0.0, 0.10, 0.45, 0.84, 1.0, 1.01])
    off, land = TOE_OFF_PITCH - plant.slope, -following.slope
    pitches = np.array([off, off, off, 0.3 * off, (STRIKE_PITCH if climb <= 0.05 else 0.0) + land, land, land])
    pitch = PchipInterpolator(knots, pitches)(u)
    bend = -TOE_OFF_PITCH * (1 - smooth_step(u / 0.35))
    # Up: lift first, then forwards; down: forwards first.
    late, early = (0.18, 1.0) if climb > 0.05 else (0.0, 0.82) if climb < -0.05 else (0.0, 1.0)
    start, end = (
        ankle_in_stance(foot, plant, np.array([TOE_OFF_PITCH]))[0],
        ankle_in_stance(foot, following, np.zeros(1))[0],
    )
    xy = start[:2] + smooth_step((u - late) / (early - late))[:, None] * (end - start)[:2]
    heading = plant.heading + (following.heading - plant.heading) * smooth_step(u)
    need = _least_height(foot, terrain, xy, heading, pitch, bend) + CLEARANCE * (4 * u * (1 - u)) ** 1.5
    height = gaussian_filter1d(maximum_filter1d(need, 9, mode="nearest"), 4, mode="nearest")
    height += (start[2] - height[0]) * (1 - u) ** 6 + (end[2] - height[-1]) * u**6
    v = (times[swing] - plant.toe_off) / (following.flat - plant.toe_off)
    path = np.column_stack((xy, np.maximum(height, need)))
    track.ankle[swing] = np.stack([np.interp(v, u, path[:, axis]) for axis in range(3)], axis=-1)
    track.heading[swing] = np.interp(v, u, heading)
    track.pitch[swing], track.bend[swing] = np.interp(v, u, pitch), np.interp(v, u, bend)


def _least_height(foot: Foot, terrain: Terrain, xy: Array, heading: Array, pitch: Array, bend: Array) -> Array:
    """Height of the ankle [N] at which no point of the sole is below the terrain."""
    frame = world_from_heading(heading)
    back = turn((frame @ rot_x(pitch))[:, None], foot.sole_back)
    ball = turn(frame @ rot_x(pitch), np.broadcast_to(foot.ball, (len(pitch), 3)))
    toes = ball[:, None] + turn((frame @ rot_x(pitch + bend))[:, None], foot.sole_toes - foot.ball)
    points = np.concatenate((back, toes), axis=1)
    return (terrain.height(xy[:, None] + points[..., :2]) - points[..., 2]).max(axis=1)
