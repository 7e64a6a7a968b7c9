"""Lost tracks: people who are not seen for a while between two sightings stay in the joint solve.

Behind a pole, or behind another person, a track has no body for some frames. The bodies stage has no evidence there,
but the joint solve has: who walked before and after did not stop existing. Short gaps are filled from the two
sightings, in the world's axes, and solved with everything else; nothing but smoothness, weak priors and the scene
speak there. What comes out is marked: `doubt_m` says how far off the body may be, and confidence and frame weight
follow from it. Long gaps stay gaps. Not in JOSH, whose tracks are cut at every gap.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np
import torch

from distill.geometry.rotations import slerp
from teacher.optimise.problem import Problem
from teacher.stagefiles import Array, BodyInit

CONFIDENCE: Final = 0.05
"""Confidence of a bridged body in the solve: as low as that of the worst body that was seen."""
NEAREST_M: Final = 0.3
"""A gap in which the body would come nearer to the camera's plane than this is not bridged, metres."""
DRIFT_MPS: Final = 0.5
"""How fast the mean error of a bridged body's joints grows, metres for each second to the nearest sighting: measured
on synthetic people who walk, jog and turn (docs/teacher.md)."""
GOOD_M: Final = 0.05
"""Doubt at which the confidence of a bridged body has halved, metres."""


@dataclass(kw_only=True, frozen=True)
class Gap:
    """Frames in which a person is not seen, between two in which it is."""

    person: int
    """Index of the person."""
    before: int
    """Last frame before the gap that shows the person."""
    after: int
    """First frame after the gap that does."""

    @property
    def inside(self) -> slice:
        """The frames of the gap."""
        return slice(self.before + 1, self.after)


def find_gaps(present: Array, timestamps: Array, longest_s: float) -> list[Gap]:
    """Gaps that last at most `longest_s`, from the first frame without the person to the next one with it.

    Args:
        present: [T, P] bool. timestamps: [T] seconds. longest_s: seconds; 0 finds none.
    """
    gaps = []
    for person in range(present.shape[1]):
        frames = np.flatnonzero(present[:, person])
        for before, after in pairwise(frames):
            lasts = timestamps[after] - timestamps[before + 1]
            if after > before + 1 and lasts <= longest_s + 1e-6:
                gaps.append(Gap(person=person, before=int(before), after=int(after)))
    return gaps


def bridged_bodies(problem: Problem, longest_s: float) -> BodyInit:
    """The bodies of a problem with short gaps filled: present there, with `CONFIDENCE`.

    Orientation and the way from camera to pelvis run straight in the world's axes from one sighting to the other, so
    that a turn of the camera does not swing the person. (The camera's own way is left to the solve: its unit is not
    known to be the metre.) Joints turn the shortest way. All of it is where the solve starts, not what it finds.
    """
    bodies, times = problem.bodies, problem.timestamps
    gaps = find_gaps(bodies.present, times, longest_s)
    if not gaps:
        return bodies
    present, confidence = bodies.present.copy(), bodies.confidence.copy()
    body_rot, cam_from_body = bodies.body_rot.copy(), bodies.cam_from_body.astype(np.float64)
    world_from_cam = problem.cameras.world_from_cam[:, :3, :3]
    for gap in gaps:
        own, ends = (gap.inside, gap.person), ([gap.before, gap.after], gap.person)
        done = (times[gap.inside] - times[gap.before]) / (times[gap.after] - times[gap.before])
        turned = world_from_cam[[gap.before, gap.after]] @ cam_from_body[ends][:, :3]
        cam_from_world = world_from_cam[gap.inside].transpose(0, 2, 1)
        place = (1 - done)[:, None] * turned[0, :, 3] + done[:, None] * turned[1, :, 3]
        place = np.einsum("nij,nj->ni", cam_from_world, place)
        if place[:, 2].min() < NEAREST_M:
            continue
        cam_from_body[*own, :3, :3] = cam_from_world @ _between(turned[:, :, :3], done)
        cam_from_body[*own, :3, 3] = place
        body_rot[own] = _between(body_rot[ends], done)
        present[own], confidence[own] = True, CONFIDENCE
    return replace(
        bodies, present=present, confidence=confidence, body_rot=body_rot, cam_from_body=cam_from_body
    )  # fmt: skip


def doubt_m(seen: Array, present: Array, timestamps: Array) -> Array:
    """[T, P] standard deviation of a bridged body's joints, metres; 0 where it is seen (or absent).

    Grows with the time to the nearest sighting: `DRIFT_MPS`.

    Args:
        seen, present: [T, P] bool. timestamps: [T] seconds.
    """
    doubt = np.zeros(present.shape)
    for person in range(present.shape[1]):
        known, guessed = np.flatnonzero(seen[:, person]), np.flatnonzero(present[:, person] & ~seen[:, person])
        if len(guessed):
            away = np.abs(timestamps[guessed][:, None] - timestamps[known]).min(-1)
            doubt[guessed, person] = DRIFT_MPS * away
    return doubt


def bridged_confidence(confidence: Array, seen: Array, present: Array, timestamps: Array) -> Array:
    """Confidences [T, P] with those of bridged bodies filled in.

    They run straight from one sighting to the other and are divided by `1 + (doubt / GOOD_M)^2`.
    """
    filled, doubt = confidence.copy(), doubt_m(seen, present, timestamps)
    for person in np.flatnonzero((doubt > 0).any(0)):
        known, guessed = seen[:, person], doubt[:, person] > 0
        ends = np.interp(timestamps[guessed], timestamps[known], confidence[known, person])
        filled[guessed, person] = ends / (1 + (doubt[guessed, person] / GOOD_M) ** 2)
    return filled


def bridges(seen: Array, present: Array, timestamps: Array) -> list[dict[str, float]]:
    """What was bridged, for people to read: person, first frame, frames, and the largest doubt in metres."""
    doubt, found = doubt_m(seen, present, timestamps), []
    for gap in find_gaps(seen, timestamps, np.inf):
        if present[gap.inside, gap.person].all():
            found.append({
                "person": gap.person, "first_frame": gap.before + 1, "frames": gap.after - gap.before - 1,
                "doubt_m": round(float(doubt[gap.inside, gap.person].max()), 3),
            })  # fmt: skip
    return found


def _between(ends: Array, done: Array) -> Array:
    """Rotations [N, ..., 3, 3] on the geodesic between two, ends [2, ..., 3, 3]; done [N] in [0, 1]."""
    first, last = torch.from_numpy(np.asarray(ends, np.float64))
    weight = torch.from_numpy(done).reshape(-1, *(1,) * (first.ndim - 2))
    return slerp(first.expand(len(done), *first.shape), last.expand(len(done), *last.shape),
                 weight.expand(len(done), *first.shape[:-2])).numpy()  # fmt: skip
