"""What `--offline` brings on recorded predictions with truth: world errors, jitter, foot slip, fast motion.

    python benchmarks/offline.py --recordings work/fuser/recordings --clips work/footsteps-v1 --out work/offline.json

Recordings are made by `benchmarks/fuser_calibration.py --checkpoint` (true boxes, a known lens). Every clip is fused,
then solved as a whole (`distill.fuser.whole`); both are scored as that benchmark scores. Motion is compared with the
truth's: the pelvis's jerk (km/s^3), its and all joints' energy of speeds above `FAST_HZ` (root of the sum of the
spectrum), and how far standing feet slip (mm per frame).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from distill.files import write_json
from distill.fuser import Fuser, FuserConfig
from distill.fuser.baselines import Paths
from distill.fuser.record import load_observations
from distill.fuser.scale import in_one_scale, smooth_log_scale
from distill.fuser.smoother import FusedFrame
from distill.fuser.so3 import inverse, turn
from distill.fuser.whole import WholePaths, smooth_clip
from distill.provenance import code_commit, hardware, versions
from distill.results import load_result

sys.path.insert(0, str(Path(__file__).resolve().parent))
from fuser_calibration import Case, score  # a script beside this one

FAST_HZ = 3.0
FEET = ((0, 7), (1, 10), (2, 8), (3, 11))
"""Contact site and joint: heels by ankles, toes by feet."""
SHORTEST = 40
"""Frames of a person whose motion is looked at."""


def fused(case: Case, config: FuserConfig) -> list[FusedFrame]:
    """Settled frames."""
    fuser, settled = Fuser(config), []
    for observation in case.observations:
        fuser.step(observation)
        settled += fuser.settled()
    return settled + fuser.finish()


def first_paths(frames: list[FusedFrame]) -> WholePaths:
    """What the pass over the whole clip begins with."""
    people = {}
    for person in sorted({person for frame in frames for person in frame.people}):
        seen = [k for k, frame in enumerate(frames) if person in frame.people]
        people[person] = np.array(seen), np.stack([frames[k].people[person].world_from_body for k in seen])
    return WholePaths(
        world_from_cam=np.stack([frame.world_from_cam for frame in frames]),
        log_scale=np.array([frame.log_scale for frame in frames]),
        static_prob=np.array([frame.static_prob for frame in frames]), world_from_body=people,
    )  # fmt: skip


def in_world(paths: WholePaths, frames: list[FusedFrame], config: FuserConfig) -> Paths:
    """Paths in one scale for the whole clip, as `distill.recorder` writes them."""
    sigma, times = np.array([(frame.log_scale_sigma, frame.timestamp) for frame in frames]).T
    wanted = smooth_log_scale(paths.log_scale, sigma, times, config.scale_seconds)
    cameras, bodies = paths.world_from_cam, {}
    for person, (seen, poses) in paths.world_from_body.items():
        path = np.tile(np.eye(4), (len(frames), 1, 1))
        path[seen] = poses
        local = inverse(cameras) @ path
        moved, local[:, :3, 3] = in_one_scale(cameras, local[:, :3, 3], paths.log_scale, wanted)
        bodies[person] = moved @ local
    moved, _ = in_one_scale(cameras, np.zeros((len(frames), 3)), paths.log_scale, wanted)
    return Paths(world_from_cam=moved, world_from_body=bodies)


def motion_of(case: Case, paths: Paths | None) -> dict[str, float]:
    """Jerk, fast motion and foot slip, means over people; `paths` None: of the truth."""
    rows = []
    for column, person in enumerate(case.truth.motion.ids.tolist()):
        seen = np.array([person in frame.people for frame in case.observations])
        if seen.sum() < SHORTEST:
            continue
        world = case.truth.joints_world[:, column]
        if paths is not None:
            local = np.stack([rows_of.get(person, np.zeros((24, 3))) for rows_of in case.joints])
            path = paths.world_from_body[person]
            world = turn(path[:, None, :3, :3], local) + path[:, None, :3, 3]
        world, contact = world[seen], case.truth.motion.contact_prob[seen, column] > 0.5
        speed = 30 * np.diff(world, axis=0)
        spectrum = np.abs(np.fft.rfft((speed - speed.mean(0)) * np.hanning(len(speed))[:, None, None], axis=0)) ** 2
        fast = spectrum[np.fft.rfftfreq(len(speed), 1 / 30) > FAST_HZ]
        slips = [
            np.linalg.norm(np.diff(world[:, joint], axis=0), axis=-1)[contact[1:, site] & contact[:-1, site]]
            for site, joint in FEET
        ]
        jerk = np.linalg.norm(np.diff(world[:, 0], 3, axis=0), axis=-1).mean() * 30**3 / 1000
        slip = np.concatenate(slips).mean() * 1000 if sum(map(len, slips)) else np.nan
        rows.append((jerk, np.sqrt(fast[:, 0].sum()), np.sqrt(fast.sum()), slip))
    names = ("pelvis_jerk", "pelvis_fast", "joints_fast", "foot_slip_mm")
    return dict(zip(names, np.nanmean(rows, axis=0).round(4).tolist(), strict=True)) if rows else {}


def main() -> None:
    """All recordings."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--recordings", "--clips", "--out"):
        parser.add_argument(name, required=True, type=Path)
    args = parser.parse_args()
    config, rows = FuserConfig(), []
    for path in sorted(args.recordings.glob("*.npz")):
        observations, joints = load_observations(path)
        case = Case(name=path.stem, observations=observations, joints=joints,
                    truth=load_result(args.clips / path.stem / "truth"))  # fmt: skip
        frames = fused(case, config)
        first = first_paths(frames)
        start = time.process_time()
        whole = smooth_clip(observations, first, config)
        spent = time.process_time() - start
        row: dict[str, Any] = {"clip": case.name, "frames": len(frames), "people": len(case.truth.motion.ids)}
        row |= {"cpu_s": round(spent, 2), "truth": motion_of(case, None)}
        for name, paths in (("settled", first), ("offline", whole)):
            placed = in_world(paths, frames, config)
            scores = dict(zip(("w_mpjpe_mm", "wa_mpjpe_mm", "ate_mm"), score(case, placed), strict=True))
            row[name] = {key: round(value, 1) for key, value in scores.items()} | motion_of(case, placed)
        rows.append(row)
        print(json.dumps(row), flush=True)
    mean = {
        name: {key: round(float(np.nanmean([row[name].get(key, np.nan) for row in rows])), 3) for key in rows[0][name]}
        for name in ("settled", "offline", "truth")
    }
    write_json(args.out, {
        "command": "python benchmarks/offline.py", "hardware": hardware(), "versions": versions("numpy", "scipy"),
        "commit": code_commit(), "mean": mean, "clips": rows,
    })  # fmt: skip
    print(json.dumps(mean, indent=1))


if __name__ == "__main__":
    main()
