"""How wrong initial values are, in the words of the knobs of `Degradation`: measured against truth.

The same numbers are taken of real initialisers on rendered frames and of degraded problems, so that the track can be
held against what it stands for.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from distill.geometry.alignment import align_points
from teacher.optimise.exact import ExactView, project_px
from teacher.optimise.problem import Problem
from teacher.stagefiles import Array

SEEN = 0.3
"""Score from which a keypoint counts."""
MEDIAN_OF_TWO = 1.1774
"""Median length of a vector of two unit normal numbers."""
FAR_PX = 5.0
"""An observation this far from its point belongs to another one."""
Errors = dict[str, float | None]


def initial_errors(problem: Problem, view: ExactView) -> Errors:
    """Errors of the initial values of one clip; None where there is nothing to measure."""
    pairs = _same_people(problem, view)
    per_person = [_person_errors(problem, view, person, true) for person, true in pairs]
    merged: Errors = {}
    for name in sorted({name for errors in per_person for name in errors}):
        known = [value for errors in per_person if (value := errors.get(name)) is not None]
        merged[name] = float(np.median(known)) if known else None
    focal = float(problem.cameras.K[0, 0] / view.clip.truth.cameras.K[0, 0])
    found: Errors = {"focal": focal, "people_found": len(pairs) / view.clip.spec.people}
    return found | _camera_errors(problem, view) | _track_errors(problem, view) | merged


def _same_people(problem: Problem, view: ExactView) -> list[tuple[int, int]]:
    """(person of the problem, true person) by the nearest keypoints; nobody twice."""
    people = problem.people
    visible = people.visible[:, :, None]
    apart = np.linalg.norm(people.keypoints_px[:, :, None] - view.keypoints_px[:, None], axis=-1).mean(-1)
    seen = np.where(np.broadcast_to(visible, apart.shape), apart, np.nan)
    distance = np.stack([np.nanmedian(seen[:, p], axis=0) for p in range(seen.shape[1]) if visible[:, p].any()])
    pairs: list[tuple[int, int]] = []
    for person in np.argsort(distance.min(1)):
        true = int(distance[person].argmin())
        if true not in [taken for _, taken in pairs]:
            pairs.append((int(person), true))
    return pairs


def _camera_errors(problem: Problem, view: ExactView) -> Errors:
    """Centres after the best similarity, in % of the way; turns from frame to frame; registration."""
    true, found = view.clip.truth.cameras.world_from_cam, problem.cameras.world_from_cam
    way = float(np.linalg.norm(np.diff(true[:, :3, 3], axis=0), axis=-1).sum())
    if problem.cameras.kind != "sfm" or way < 0.1:
        return {}
    centres = [torch.from_numpy(np.asarray(poses[:, :3, 3], np.float64)) for poses in (true, found)]
    scale, rotation, translation = align_points(*centres, with_scale=True)
    placed = scale * centres[1] @ rotation.T + translation
    turned = rotation.numpy() @ found[:, :3, :3]
    turn = Rotation.from_matrix(np.swapaxes(true[:, :3, :3], -1, -2) @ turned).as_rotvec()
    return {
        "camera_path_percent": 100 * float((placed - centres[0]).norm(dim=-1).mean()) / way,
        "camera_turn_deg": float(np.degrees((turn - turn.mean(0)).std())),
        "registered": float(problem.cameras.registered.mean()),
    } | _depth_errors(problem, view, float(scale))


def _depth_errors(problem: Problem, view: ExactView, scale: float) -> Errors:
    """Dense depth against truth at the cameras' own scale; scale: metres per unit of the cameras."""
    if problem.depth is None:
        return {}
    found = problem.depth.depth.astype(np.float64)
    height, width = found.shape[1:]
    rows = ((np.arange(height) + 0.5) * view.depth.shape[1] / height).astype(int)
    cols = ((np.arange(width) + 0.5) * view.depth.shape[2] / width).astype(int)
    true = view.depth[:, rows[:, None], cols]
    both = (found > 0) & (true > 0)
    focal = problem.cameras.K[0, 0] / view.clip.truth.cameras.K[0, 0]
    error = np.log(found[both] * scale / focal / true[both])
    centre = float(np.median(error))
    steps = np.where(both, np.log(np.where(both, found, 1) / np.where(both, true, 1)), np.nan)
    return {
        "depth_known": float(both.sum() / (true > 0).sum()),
        "depth_bias": float(np.exp(centre)),
        "depth_sd": float(1.4826 * np.median(np.abs(error - centre))),
        "depth_far": float((np.abs(error - centre) > 0.1).mean()),
        "depth_pixel_sd": float(np.nanmedian(np.abs(np.diff(steps, axis=2))) / 0.954),  # median of |N(0, 2 sd^2)|
    }


def _track_errors(problem: Problem, view: ExactView) -> Errors:
    """Observations against the true place of what the middle one of each point shows."""
    found, clip = problem.cameras, view.clip
    if len(found.obs_frame) == 0:
        return {}
    frame, K = found.obs_frame.astype(int), clip.truth.cameras.K
    order = np.lexsort((frame, found.obs_point))
    ids, begin, count = np.unique(found.obs_point[order], return_index=True, return_counts=True)
    middle = order[begin + count // 2]
    pose = clip.truth.cameras.world_from_cam
    rays = np.column_stack((found.obs_px[middle], np.ones(len(middle)))) @ np.linalg.inv(K).T
    rays = np.einsum("nij,nj->ni", pose[frame[middle], :3, :3], rays)
    distance = clip.scene.caster.cast(pose[frame[middle], :3, 3], rays).distance
    points = np.full((len(found.points), 3), np.nan)
    points[ids] = pose[frame[middle], :3, 3] + distance[:, None] * rays
    offset = points[found.obs_point] - pose[frame, :3, 3]
    px = project_px(np.einsum("nji,nj->ni", pose[frame, :3, :3], offset), K)
    others = np.ones(len(frame), bool)
    others[middle] = False
    error = np.linalg.norm(px - found.obs_px, axis=-1)[others]
    error = error[np.isfinite(error)]
    if len(error) == 0:
        return {}
    return {  # two noisy observations are compared, hence the root of two
        "track_px": float(np.median(error)) / MEDIAN_OF_TWO / 2**0.5,
        "track_far": float((error > FAR_PX).mean()),
    }


def _person_errors(problem: Problem, view: ExactView, person: int, true: int) -> Errors:
    truth = view.clip.truth.motion
    present = problem.bodies.present[:, person] & truth.present[:, true]
    if present.sum() < 3:
        return {}
    focal = problem.cameras.K[0, 0] / view.clip.truth.cameras.K[0, 0]
    depth = np.log(problem.bodies.cam_from_body[:, person, 2, 3] / focal / truth.cam_from_body[:, true, 2, 3])[present]
    root = _turn(truth.cam_from_body[:, true, :3, :3], problem.bodies.cam_from_body[:, person, :3, :3])[present]
    pose = _turn(truth.body_rot[:, true], problem.bodies.body_rot[:, person])[present]
    step_s = float(np.median(np.diff(problem.timestamps)))
    errors: Errors = {
        "present": float(present.sum() / truth.present[:, true].sum()),
        "root_depth": float(np.exp(np.median(depth))),
        "root_depth_sd": float(depth.std()),
        "root_rot_sd": float(np.sqrt(np.mean(root**2))),
        "root_rot_standing": _standing(root),
        "pose_sd": float(np.sqrt(np.mean(pose**2))),
        "pose_standing": _standing(pose),
        "memory_s": _memory(pose, step_s),
    }
    if problem.bodies.betas.shape[1] == truth.betas.shape[1]:
        errors["betas_sd"] = float(np.sqrt(np.mean((problem.bodies.betas[person] - truth.betas[true]) ** 2)))
    return errors | _keypoint_errors(problem, view, person, true) | _contact_errors(problem, view, person, true)


def _keypoint_errors(problem: Problem, view: ExactView, person: int, true: int) -> Errors:
    seen = problem.people.keypoint_score[:, person] > SEEN
    off = problem.people.keypoints_px[:, person] - view.keypoints_px[:, true]
    often = seen.sum(0) >= 3
    if not often.any():
        return {}
    off = np.where(seen[..., None], off, np.nan)[:, often]
    bias = np.nanmedian(off, axis=0)
    height = float(np.median(np.ptp(view.keypoints_px[:, true, :, 1], axis=-1)))
    return {
        "keypoint_bias": float(np.sqrt(np.mean(bias**2))) / height,
        "keypoint_px": float(1.4826 * np.nanmedian(np.abs(off - bias))),
        "keypoint_seen": float(seen.mean()),
        "person_px": height,
    }


def _contact_errors(problem: Problem, view: ExactView, person: int, true: int) -> Errors:
    """Foot labels: part of them that is wrong, how long a mistake lasts, and how sure right ones are."""
    prob = problem.contacts.prob[:, person, :4]
    touches = view.clip.truth.motion.contact_prob[:, true, :4] > 0.5
    wrong = (prob > 0.5) != touches
    starts = wrong & ~np.vstack((np.zeros((1, 4), bool), wrong[:-1]))
    right = ~wrong & touches
    step_s = float(np.median(np.diff(problem.timestamps)))
    return {
        "wrong_contacts": float(wrong.mean()),
        "wrong_contact_s": float(step_s * wrong.sum() / starts.sum()) if wrong.any() else None,
        "contact_doubt": float(2 * (1 - prob[right].mean())) if right.any() else None,
    }


def _turn(true: Array, found: Array) -> Array:
    """[..., 3] rotation vectors from the true rotations [..., 3, 3] to those found."""
    relative = np.swapaxes(true, -1, -2) @ found
    return np.asarray(Rotation.from_matrix(relative.reshape(-1, 3, 3)).as_rotvec().reshape(*relative.shape[:-2], 3))


def _standing(error: Array) -> float:
    """Part of the mean square of an error [T, ...] that stays for the whole clip."""
    return float(np.mean(error.mean(0) ** 2) / max(np.mean(error**2), 1e-12))


def _memory(error: Array, step_s: float) -> float | None:
    """Seconds in which the correlation of an error [T, ...] falls by e, from that of neighbouring frames."""
    moving = error - error.mean(0)
    near = float((moving[1:] * moving[:-1]).mean() / max((moving**2).mean(), 1e-12))
    return -step_s / float(np.log(near)) if 0 < near < 1 else None
