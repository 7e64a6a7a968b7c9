"""Numbers of a result that need no truth and no rendering: what the gate compares before and after."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distill.body import BodyModel
from distill.geometry.cameras import project
from distill.metrics.world import jitter
from distill.results import Result
from teacher.optimise.evidence import TOUCHING
from teacher.optimise.measure import SEEN
from teacher.stagefiles import CameraInit, People

Array = NDArray[Any]


def measure_result(result: Result, people: People, cameras: CameraInit, body: BodyModel) -> dict[str, float | None]:
    """Agreement of a result with images and itself; None where a number has no meaning.

    `keypoint_px`: median reprojection error of the keypoints; `person_px`: median height of people. `background_px`: of
    the scene's points, placed anew where the rays of the result's cameras meet. `slip_mps`: mean speed of touching
    sites. `jitter`: as `distill.metrics`.
    """
    return {
        "keypoint_px": _keypoint_px(result, people, body),
        "person_px": _person_px(result),
        "background_px": background_px(result, cameras),
        "slip_mps": slip_mps(result, body),
        "jitter": jitter_of(result),
    }


def _tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.asarray(array, np.float32))


def _keypoint_px(result: Result, people: People, body: BodyModel) -> float | None:
    motion = result.motion
    betas = _tensor(motion.betas).expand(len(motion.present), -1, -1)
    points = body.keypoints(betas, _tensor(motion.body_rot), _tensor(motion.cam_from_body))
    pixels = project(points.flatten(1, 2), _tensor(result.cameras.K), min_depth=0.05).numpy()
    off = np.linalg.norm(pixels.reshape(people.keypoints_px.shape) - people.keypoints_px, axis=-1)
    return _median(off[(people.keypoint_score > SEEN) & motion.present[..., None]])


def _person_px(result: Result) -> float | None:
    """Median extent of the joints in the image, the longer of width and height, px."""
    pixels = project(_tensor(result.motion.joints_cam).flatten(1, 2), _tensor(result.cameras.K), min_depth=0.05)
    pixels = pixels.unflatten(1, result.motion.joints_cam.shape[1:3])[torch.from_numpy(result.motion.present)]
    return _median((pixels.amax(-2) - pixels.amin(-2)).amax(-1).numpy())


def background_px(result: Result, cameras: CameraInit) -> float | None:
    """Median distance (px) of each observation from its point, which lies where the rays of all its observations meet.

    Of each point the place least far from its rays is taken (linear least squares); two rays at least, and in front.
    """
    frame, point = cameras.obs_frame, cameras.obs_point
    if len(frame) == 0:
        return None
    pose = result.cameras.world_from_cam[frame]
    rays = np.column_stack((cameras.obs_px, np.ones(len(frame)))) @ np.linalg.inv(result.cameras.K).T
    rays = np.einsum("mij,mj->mi", pose[:, :3, :3], rays / np.linalg.norm(rays, axis=1, keepdims=True))
    across = np.eye(3) - rays[:, :, None] * rays[:, None]
    left, right = np.zeros((len(cameras.points), 3, 3)), np.zeros((len(cameras.points), 3))
    np.add.at(left, point, across)
    np.add.at(right, point, np.einsum("mij,mj->mi", across, pose[:, :3, 3]))
    well = np.linalg.eigvalsh(left)[:, 0] > 1e-4  # parallel rays meet nowhere
    place = np.zeros_like(right)
    place[well] = np.linalg.solve(left[well], right[well][..., None])[..., 0]
    local = np.einsum("mji,mj->mi", pose[:, :3, :3], place[point] - pose[:, :3, 3])
    good = well[point] & (local[:, 2] > 0.05)
    pixels = local[good] @ result.cameras.K.T
    return _median(np.linalg.norm(pixels[:, :2] / pixels[:, 2:] - cameras.obs_px[good], axis=1))


def slip_mps(result: Result, body: BodyModel) -> float | None:
    """Mean speed of the sites that touch in two frames on end, m/s."""
    motion = result.motion
    betas = _tensor(motion.betas).expand(len(motion.present), -1, -1)
    sites = body.sites(betas, _tensor(motion.body_rot), _tensor(result.world_from_body)).double().numpy()
    touching = (motion.contact_prob > TOUCHING) & motion.present[..., None]
    speed = np.linalg.norm(np.diff(sites, axis=0), axis=-1) / np.diff(result.cameras.timestamps)[:, None, None]
    held = speed[touching[1:] & touching[:-1]]
    return float(held.mean()) if held.size else None


def jitter_of(result: Result) -> float | None:
    """Mean size of the third differences of the joints in the world, 10 m/s^3, over people."""
    rate = float(1 / np.median(np.diff(result.cameras.timestamps)))
    values = [
        jitter(result.joints_world[:, person], fps=rate, mask=result.motion.present[:, person])
        for person in range(result.motion.present.shape[1])
        if result.motion.present[:, person].sum() >= 8
    ]
    values = [value for value in values if len(value)]
    return float(np.concatenate(values).mean()) if values else None


def _median(values: Array) -> float | None:
    return float(np.median(values)) if values.size else None
