"""Walking and jogging: planted steps, swaying pelvis, counter-turning chest, swinging arms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from distill.synthetic.axes import Array, rot_x, rot_z, smooth_noise, world_from_heading
from distill.synthetic.gait import FootTrack, Rhythm, follow_plants, plan_plants
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
from distill.synthetic.stepping import follow_steps, pelvis_path, plan_steps, plants_on
from distill.synthetic.terrain import Terrain


@dataclass(kw_only=True, frozen=True)
class Steps:
    """What a walk is built on: the way of the pelvis, the feet, and the ground below."""

    path: GroundPath
    """Of the pelvis."""
    rhythm: Rhythm
    """Timing."""
    feet: dict[str, FootTrack]
    """By side."""
    ground: Array
    """[T] height of the ground below the pelvis, metres; smooth."""


def walk(build: Build, path: GroundPath, times: Array, *, fps: float, rng: np.random.Generator) -> BodyMotion:
    """Walk along `path` on flat ground at `times` [T] seconds, in a manner drawn from `rng`."""
    rhythm = Rhythm.of_speed(path.speed, build.stature, phase=rng.uniform())
    return _swing_along(build, _flat_steps(build, path, rhythm, times, rng), times, fps=fps, rng=rng)


def jog(build: Build, path: GroundPath, times: Array, *, fps: float, rng: np.random.Generator) -> BodyMotion:
    """Jog along `path`: less than half of each stride on the ground, so that both feet fly in between."""
    rhythm = Rhythm(stride_s=float(rng.uniform(0.68, 0.76)), phase=rng.uniform(), duty=0.36, flat=0.19)
    steps = _flat_steps(build, path, rhythm, times, rng, narrow=0.6)
    # Twice in a stride the pelvis sinks, in the middle of each stance.
    middle = 4 * np.pi * (rhythm.left_phase(times) - rhythm.duty / 2)
    steps.ground[:] = -0.03 * (1 + np.cos(middle))
    return _swing_along(build, steps, times, fps=fps, rng=rng)


def walk_over(
    build: Build, terrain: Terrain, lateral: float, times: Array, *, speed: float, fps: float, rng: np.random.Generator
) -> BodyMotion:
    """Walk straight over a terrain, `lateral` metres beside its middle line."""
    rhythm = Rhythm.of_speed(speed, build.stature, phase=rng.uniform())
    width, toe_out = _stance(build, rng)
    half = rhythm.stride_s / 2
    begin, end = times[0] - 2.5, times[-1] + 2.5
    count = int(np.ceil((end - begin) / half)) + 2
    first = int(np.floor(2 * (begin / rhythm.stride_s + rhythm.phase)))
    middle = round((times[0] + times[-1]) / 2 / half + 2 * rhythm.phase) - first
    places = plan_steps(terrain, speed * half, count, middle)
    feet = {}
    for side, sign in SIDES.items():
        ankle = lateral + sign * width / 2
        plants = plants_on(terrain, places, rhythm, first, side=sign, lateral=ankle, toe_out=toe_out)
        feet[side] = follow_steps(build.feet[side], plants, terrain, times)
    path = pelvis_path(terrain, places, rhythm, first, lateral, np.arange(begin, end, 1 / 240))
    u = path.at(times)[0] @ terrain.axes[0]
    spread = 0.25 * fps
    ground = gaussian_filter1d(terrain.along(u), spread, mode="nearest")
    steps = Steps(path=path, rhythm=rhythm, feet=feet, ground=ground)
    return _swing_along(build, steps, times, fps=fps, rng=rng)


def _stance(build: Build, rng: np.random.Generator) -> tuple[float, float]:
    """Metres between the tracks of the ankles, and radians that the feet point outwards."""
    return rng.uniform(0.09, 0.14) * build.stature / 1.7, np.radians(rng.uniform(3, 9))


def _flat_steps(
    build: Build, path: GroundPath, rhythm: Rhythm, times: Array, rng: np.random.Generator, *, narrow: float = 1.0
) -> Steps:
    width, toe_out = _stance(build, rng)
    plants = {
        side: plan_plants(path, rhythm, side=sign, width=narrow * width, toe_out=toe_out)
        for side, sign in SIDES.items()
    }
    feet = {side: follow_plants(build.feet[side], plants[side], times) for side in SIDES}
    return Steps(path=path, rhythm=rhythm, feet=feet, ground=np.zeros(len(times)))


def _swing_along(build: Build, steps: Steps, times: Array, *, fps: float, rng: np.random.Generator) -> BodyMotion:
    """Pelvis, trunk and arms that go with the steps."""
    path, rhythm, feet = steps.path, steps.rhythm, steps.feet
    cycle = 2 * np.pi * rhythm.left_phase(times)
    vigour = np.clip(path.speed / 1.35, 0.5, 1.5)
    yaw, roll = np.radians(5) * vigour * -np.cos(cycle), np.radians(3.5) * np.sin(cycle - 0.3)
    xy, heading = path.at(times)
    left = np.stack((-np.sin(heading), np.cos(heading)), axis=-1)
    lean = np.radians(rng.uniform(1, 5)) * vigour
    pelvis = Pelvis(
        xy=xy + (0.02 * np.sin(cycle - 0.3))[:, None] * left,
        rotation=world_from_heading(heading + yaw) @ rot_x(np.full(len(times), lean)) @ rot_z(roll),
        standing=0.995,
        ground=steps.ground,
    )
    position = place_pelvis(build, pelvis, feet, fps=fps)
    pose = identity_pose(len(times))
    gaze = smooth_noise(rng, times, period=2.5, channels=2)
    chest = np.radians(5) * vigour * np.cos(cycle)
    trunk = Trunk(
        yaw=chest - yaw, roll=-roll, lean=np.radians(2) + 0 * yaw,
        head_yaw=-chest + 0.12 * gaze[:, 0], head_nod=0.05 * gaze[:, 1] - lean,
    )  # fmt: skip
    set_trunk(pose, trunk)
    reach, hang, bent = np.radians(rng.uniform(16, 26)) * vigour, np.radians(rng.uniform(74, 80)), rng.uniform(0.2, 0.4)
    for side, sign in SIDES.items():
        forwards = -sign * np.cos(cycle)
        arm = Arm(
            lower=np.full(len(times), hang), swing=reach * forwards + 0.05,
            elbow=bent + 0.25 * vigour * (forwards + 1) / 2, twist=np.full(len(times), 0.0),
        )  # fmt: skip
        set_arm(pose, side, arm)
    return finish(build, pose, position, pelvis.rotation, feet)
