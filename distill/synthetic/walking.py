"""A walk along a path: planted steps, swaying pelvis, counter-turning chest, swinging arms."""

from __future__ import annotations

import numpy as np

from distill.synthetic.axes import Array, rot_x, rot_z, smooth_noise, world_from_heading
from distill.synthetic.gait import Rhythm, follow_plants, plan_plants
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


def walk(build: Build, path: GroundPath, times: Array, *, fps: float, rng: np.random.Generator) -> BodyMotion:
    """Walk along `path` at `times` [T] seconds, in a manner drawn from `rng`."""
    rhythm = Rhythm.of_speed(path.speed, build.stature, phase=rng.uniform())
    width, toe_out = rng.uniform(0.09, 0.14) * build.stature / 1.7, np.radians(rng.uniform(3, 9))
    feet = {
        side: follow_plants(build.feet[side], plan_plants(path, rhythm, side=sign, width=width, toe_out=toe_out), times)
        for side, sign in SIDES.items()
    }
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
