"""From a solution to a result: the z-up world, the people, and the scene's points in metres."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from distill.geometry.conventions import SMPL_JOINTS
from distill.results import Cameras, Motion, Result
from teacher.optimise.bridging import bridged_confidence, bridges
from teacher.optimise.config import OptimiseConfig
from teacher.optimise.contacts import FEET
from teacher.optimise.evidence import TOUCHING
from teacher.optimise.gravity import Gravity, find_gravity, world_from_solved
from teacher.optimise.measure import Measures
from teacher.optimise.objective import observed_world
from teacher.optimise.problem import Problem
from teacher.optimise.size import scale_report
from teacher.optimise.solver import Solution
from teacher.stagefiles import Array, Frames, read_image

GOOD_KEYPOINTS = 0.03
"""Reprojection error, in heights of the person, at which a body's confidence halves."""
SCENE_FRAMES = 12
"""Frames whose dense depth gives points to the scene."""


def assemble_result(problem: Problem, solution: Solution, measures: Measures, config: OptimiseConfig) -> Result:
    """The result of a clip, in the z-up world if gravity was found.

    Args:
        problem: what was solved. solution: of `solve`. measures: of the solution, for the confidences.
        config: for the number of scene points and the seed.
    """
    state, evidence = solution.after, solution.evidence
    world_from_cam = state.world_from_cam.double().numpy()
    points, rgb = _scene_points(problem, solution, config)
    gravity = _gravity(problem, solution, points)
    target_from_solved = (
        world_from_solved(gravity, world_from_cam[0]) if gravity.found else np.linalg.inv(world_from_cam[0])
    )
    seen, present = evidence.seen.numpy(), (evidence.person_weight > 0).numpy()
    return Result(
        cameras=Cameras(
            K=state.K.double().numpy(),
            size=problem.size,
            timestamps=problem.timestamps,
            world_from_cam=target_from_solved @ world_from_cam,
            valid=problem.cameras.registered,
        ),
        motion=Motion(
            ids=np.arange(present.shape[1]),
            present=present,
            body_model=problem.bodies.body_model,
            betas=state.betas.numpy(),
            body_rot=state.body_rot.numpy(),
            cam_from_body=state.cam_from_body.double().numpy(),
            joints_cam=state.cam.joints.numpy(),
            contact_prob=evidence.contact_prob.numpy(),
            stature=measures.stature,
            confidence=bridged_confidence(_confidence(problem, measures), seen, present, problem.timestamps),
        ),
        scene_points=(points @ target_from_solved[:3, :3].T + target_from_solved[:3, 3]).astype(np.float32),
        scene_rgb=rgb,
        meta={
            "world": "z_up_ground" if gravity.found else "first_camera",
            "source": "teacher",
            "clip": problem.clip_id,
            "gravity": {
                "sd_deg": round(gravity.sd_deg, 2), "reason": gravity.reason, "witnesses": gravity.witnesses,
            },
            "scale": scale_report(problem, solution, config),
            "focal_px": {"initial": float(problem.cameras.K[0, 0]), "solved": float(state.K[0, 0])},
            "camera": problem.cameras.kind,
            "bridged": bridges(seen, present, problem.timestamps),
        },
    )  # fmt: skip


def metres_per_unit(solution: Solution) -> Array:
    """[T] metres per unit of the depth stage's maps, for each frame."""
    return solution.evidence.unit * solution.after.depth_scale.double().numpy()


def stances(prob: Array, sites_world: Array) -> Iterator[tuple[int, int, Array]]:
    """Every time that a foot site stands: (person, first frame, mean place [3]), in order of time.

    Args:
        prob: [T, P, 6]. sites_world: [T, P, 6, 3] metres.
    """
    found = []
    for person, site in itertools.product(range(prob.shape[1]), range(FEET)):
        touching = np.flatnonzero(prob[:, person, site] > TOUCHING)
        for run in np.split(touching, np.flatnonzero(np.diff(touching) > 1) + 1):
            if len(run) >= 2:
                found.append((person, int(run[0]), sites_world[run, person, site].mean(axis=0)))
    yield from sorted(found, key=lambda stance: (stance[1], stance[0]))


def _gravity(problem: Problem, solution: Solution, points: Array) -> Gravity:
    prob = solution.evidence.contact_prob.numpy()
    joints = solution.after.world.joints.double().numpy()
    found = list(stances(prob, solution.after.world.sites.double().numpy()))
    standing = problem.bodies.present & (prob[..., :FEET] > TOUCHING).any(-1)
    chosen = standing if standing.any() else problem.bodies.present
    ankles = joints[..., [SMPL_JOINTS.index("left_ankle"), SMPL_JOINTS.index("right_ankle")], :].mean(-2)
    axis = (joints[..., SMPL_JOINTS.index("neck"), :] - ankles)[chosen]
    world_from_body = solution.after.rotation[:, None] @ solution.after.cam_from_body[..., :3, :3]
    front = world_from_body[..., 2].double().numpy()  # a body's z axis (`conventions`)
    return find_gravity(
        axis / np.linalg.norm(axis, axis=-1, keepdims=True),
        front[chosen],
        np.array([place for _, _, place in found]).reshape(-1, 3),
        next((place for person, _, place in found if person == 0), None),
        points,
        bodies=int(chosen.any(0).sum()),
    )


def _confidence(problem: Problem, measures: Measures) -> Array:
    """[T, P] confidence of the bodies stage, lowered where the solved body does not meet its keypoints."""
    error = np.nan_to_num(measures.keypoint_rel, nan=np.inf)
    return problem.bodies.confidence / (1 + (error / GOOD_KEYPOINTS) ** 2)


def _scene_points(problem: Problem, solution: Solution, config: OptimiseConfig) -> tuple[Array, Array]:
    """Points [N, 3] in the solved world, metres, and colours [N, 3]: the tracks, then dense depth if there is any."""
    parts = [_track_points(problem, solution)]
    if problem.depth is not None:
        parts.append(_dense_points(problem, solution, config))
    points, rgb = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    if len(points) > config.max_scene_points:
        kept = np.random.default_rng(config.seed).choice(len(points), config.max_scene_points, replace=False)
        points, rgb = points[np.sort(kept)], rgb[np.sort(kept)]
    return points, rgb


def _track_points(problem: Problem, solution: Solution) -> tuple[Array, Array]:
    """Each scene point as the mean of its back-projected observations."""
    total = np.zeros((len(problem.cameras.points), 3))
    count = np.zeros(len(total))
    for tracks in (solution.evidence.tracks, solution.evidence.held_out):
        if len(tracks):
            np.add.at(total, tracks.point.numpy(), observed_world(solution.after, tracks).double().numpy())
            np.add.at(count, tracks.point.numpy(), 1)
    seen = count > 0
    return total[seen] / count[seen, None], problem.cameras.points_rgb[seen]


def _dense_points(problem: Problem, solution: Solution, config: OptimiseConfig) -> tuple[Array, Array]:
    """Back-projected dense depth of some frames, coloured from their images (grey without images)."""
    assert problem.depth is not None
    state = solution.after
    depth = problem.depth.depth
    frames = np.unique(np.linspace(0, len(depth) - 1, SCENE_FRAMES).astype(int))
    height, width = depth.shape[1:]
    step = max(1, int(np.ceil(np.sqrt(len(frames) * height * width / max(config.max_scene_points, 1)))))
    rows, cols = np.meshgrid(np.arange(step // 2, height, step), np.arange(step // 2, width, step), indexing="ij")
    px = np.stack(((cols + 0.5) * problem.size[0] / width, (rows + 0.5) * problem.size[1] / height), axis=-1)
    K_inverse = np.linalg.inv(state.K.double().numpy())
    scale, world_from_cam = metres_per_unit(solution), state.world_from_cam.double().numpy()
    points, colours = [np.zeros((0, 3))], [np.zeros((0, 3), np.uint8)]
    for frame in frames:
        z = depth[frame, rows, cols].astype(np.float64) * scale[frame]
        known = z > 0
        rays = np.concatenate((px[known], np.ones((known.sum(), 1))), axis=-1) @ K_inverse.T
        in_camera = rays * z[known][:, None]
        points.append(in_camera @ world_from_cam[frame, :3, :3].T + world_from_cam[frame, :3, 3])
        colours.append(_colours(problem, int(frame), px[known]))
    return np.concatenate(points), np.concatenate(colours)


def _colours(problem: Problem, frame: int, px: Array) -> Array:
    if problem.frames_dir is None:
        return np.full((len(px), 3), 128, np.uint8)
    col, row = px.astype(int).T
    return read_image(Frames.image_path(problem.frames_dir, frame))[row, col]
