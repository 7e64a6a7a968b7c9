"""Stage files from a student's pass: `cameras.use=student`, `depth.use=student`, `bodies.use=student`, ...

Each may be mixed with embedded initialisers, since all of them read and write the same files.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from distill.errors import FootfallError, require
from distill.metrics.inputs import DegenerateError
from teacher.initialisers.background import FrameReader
from teacher.initialisers.bodies import fill
from teacher.initialisers.body_fit import Pose
from teacher.initialisers.body_prior import usual_pose
from teacher.initialisers.registry import Outcome, Report, StageMissingError, get_initialiser, register
from teacher.initialisers.student.refine import refine_cameras
from teacher.initialisers.student.streaming import StudentPass
from teacher.initialisers.student.tracks import PointTracks, follow_points, image_motion
from teacher.stagefiles import BodyInit, CameraInit, Contacts, DepthInit
from teacher.workspace import ClipFolder

Array = NDArray[Any]
LICENCE: Final = "as the student's weights"
STANDS: Final = 0.5
"""Probability above which the student's word that the camera stands is taken ..."""
STILL: Final = 0.004
"""... if followed points of the background stay within this share of the image's longer side."""
DEPTH_DOUBT: Final = 0.1
"""Relative standard deviation of a pelvis's depth at which a body's confidence is one half."""


@register("cameras", "student", needs=("frames", "people", "student"), licence=LICENCE)
def run_cameras(clip: ClipFolder, config: Any, report: Report) -> Outcome:
    """The student's path, made exact on the background; given cameras go before it.

    Where the two cannot be brought together (a camera that only turns, a path that is wrong), the embedded
    initialiser takes over, and the summary says why.
    """
    reader = FrameReader(clip)
    if reader.frames.world_from_cam is not None and reader.frames.K is not None:
        return get_initialiser("cameras", "known").run(clip, config, report)
    found = StudentPass.load(clip.require("student"))
    tracks = follow_points(reader, lambda part, text: report(0.7 * part, text))
    moves = image_motion(tracks) / max(reader.size)
    if float(np.median(found.static_prob)) > STANDS and moves < STILL:
        poses = np.tile(np.eye(4), (len(reader), 1, 1))
        _camera_file("static", found, found.K, poses, np.ones(len(reader), bool)).save(clip.stage_dir("cameras"))
        return Outcome(summary={"kind": "static", "image_motion": round(moves, 5)}, weights=found.weights)
    try:
        refined = refine_cameras(tracks, found.K, found.world_from_cam, reader.size, K_known=found.K_known)
    except (FootfallError, DegenerateError) as error:
        outcome = get_initialiser("cameras", "auto").run(clip, config, report)
        outcome.summary["instead_of_student"] = str(error)
        outcome.weights |= found.weights
        return outcome
    init = _camera_file("sfm", found, refined.K, refined.world_from_cam, refined.registered)
    init.points, init.points_rgb = refined.points.astype(np.float32), _colours(reader, refined.tracks)
    init.obs_frame, init.obs_point = refined.tracks.frame, refined.tracks.point
    init.obs_px = refined.tracks.px
    init.save(clip.stage_dir("cameras"))
    return Outcome(
        summary={
            "kind": "sfm", "registered": int(init.registered.sum()), "points": len(init.points),
            "focal_px": round(float(init.K[0, 0]), 2), "focal": "given" if found.K_known else "found",
            "reprojection_px": round(refined.error_px, 3), "image_motion": round(moves, 5),
        },
        weights=found.weights,
    )  # fmt: skip


def _camera_file(kind: str, found: StudentPass, K: Array, poses: Array, registered: Array) -> CameraInit:
    """Cameras without points, in the student's metres, whose scale the joint solve finds anew."""
    return CameraInit(
        kind=kind, metric=False, focal_known=found.K_known, K=K, world_from_cam=poses, registered=registered,
        points=np.zeros((0, 3), np.float32), points_rgb=np.zeros((0, 3), np.uint8), obs_frame=np.zeros(0, np.int32),
        obs_point=np.zeros(0, np.int32), obs_px=np.zeros((0, 2), np.float32),
    )  # fmt: skip


def _colours(reader: FrameReader, tracks: PointTracks) -> Array:
    """[N, 3] uint8: each point's colour where it was first seen."""
    rgb = np.zeros((int(tracks.point.max()) + 1, 3), np.uint8)
    first = np.unique(tracks.point, return_index=True)[1]
    for frame in np.unique(tracks.frame[first]):
        mine = first[tracks.frame[first] == frame]
        column, row = np.clip(tracks.px[mine].astype(int), 0, np.array(reader.size) - 1).T
        rgb[tracks.point[mine]] = reader.rgb(int(frame))[row, column]
    return rgb


@register("depth", "student", needs=("frames", "people", "cameras", "student"), licence=LICENCE)
def run_depth(clip: ClipFolder, config: Any, report: Report) -> Outcome:
    """The network's depth of the background, each frame at the scale of the cameras' points.

    Raises:
        StageMissingError: no points to hold it against, or a student whose backbone has no depth.
    """
    found, cameras = StudentPass.load(clip.require("student")), CameraInit.load(clip.require("cameras"))
    if found.depth is None:
        raise StageMissingError("the student's backbone has no points")
    if len(cameras.obs_frame) == 0:
        raise StageMissingError("the cameras have no points that the student's depth could be held against")
    cv2, reader = require("cv2", extra="teacher"), FrameReader(clip)
    maps = found.depth.astype(np.float32)
    height, width = maps.shape[1:]
    pose = cameras.world_from_cam[cameras.obs_frame]
    z = ((cameras.points[cameras.obs_point] - pose[:, :3, 3]) * pose[:, :3, 2]).sum(-1)
    column, row = (cameras.obs_px / reader.size * (width, height)).astype(int).clip(0, (width - 1, height - 1)).T
    seen = maps[cameras.obs_frame, row, column]
    usable = (z > 0) & (seen > 0)
    ratio = np.log(z[usable] / seen[usable])
    whole = float(np.median(ratio))
    spread = []
    for index in range(len(reader)):
        mine = ratio[cameras.obs_frame[usable] == index]
        scale = float(np.median(mine)) if len(mine) >= 8 else whole
        spread.append(float(np.median(np.abs(mine - scale))) if len(mine) else 0.0)
        background = cv2.resize(reader.background(index), (width, height), interpolation=cv2.INTER_NEAREST) > 0
        maps[index] = np.where(background, maps[index] * np.exp(scale), 0.0)
    DepthInit(depth=np.clip(maps, 0, 6e4).astype(np.float16)).save(clip.stage_dir("depth"))
    return Outcome(
        summary={
            "coverage": round(float((maps > 0).mean()), 3), "scale": round(float(np.exp(whole)), 3),
            "disagreement_with_points": round(float(np.median(spread)), 4),
        },
        weights=found.weights,
    )  # fmt: skip


@register("bodies", "student", needs=("frames", "people", "cameras", "student"), licence=LICENCE)
def run_bodies(clip: ClipFolder, config: Any, report: Report) -> Outcome:
    """The student's bodies; how far each holds in the solve follows from the student's own doubt of its depth.

    Raises:
        FootfallError: another body model than the config asks for.
    """
    found = StudentPass.load(clip.require("student"))
    if config.body_model.split(":")[0] != found.body_model:
        raise FootfallError(
            "bodies.body_model", got=repr(config.body_model), expected=f"the student's, {found.body_model}",
            do="leave bodies.body_model as it is, or take bodies.use=landmarks",
        )  # fmt: skip
    frames, count = found.present.shape
    init = BodyInit(
        body_model=found.body_model, focal_px=float(found.K[0, 0]), present=found.present,
        betas=found.betas.astype(np.float32),
        body_rot=np.tile(usual_pose(frames).numpy()[:, None], (1, count, 1, 1, 1)).astype(np.float32),
        cam_from_body=np.tile(np.eye(4, dtype=np.float32), (frames, count, 1, 1)),
        confidence=(found.present / (1 + (found.depth_sigma / DEPTH_DOUBT) ** 2)).astype(np.float32),
    )  # fmt: skip
    for person in range(count):
        present = torch.from_numpy(found.present[:, person])
        if present.any():
            part = found.present[:, person]
            pose = Pose(
                betas=torch.from_numpy(found.betas[person]).double(),
                body_rot=torch.from_numpy(found.body_rot[part, person]).double(),
                cam_from_body=torch.from_numpy(found.cam_from_body[part, person]).double(),
            )  # fmt: skip
            filled = fill(pose, present)
            init.body_rot[:, person] = filled.body_rot.numpy()
            init.cam_from_body[:, person] = filled.cam_from_body.numpy()
    init.save(clip.stage_dir("bodies"))
    confidence = init.confidence[init.present]
    return Outcome(
        summary={
            "present_frames": init.present.sum(0).tolist(), "confidence_mean": round(float(confidence.mean()), 3),
            "depth_m_median": [round(float(np.median(z)), 2) for z in init.cam_from_body[..., 2, 3].T],
        },
        weights=found.weights,
    )  # fmt: skip


@register("contacts", "student", needs=("frames", "people", "bodies", "student"), licence=LICENCE)
def run_contacts(clip: ClipFolder, config: Any, report: Report) -> Outcome:
    """The student's contact probabilities."""
    found = StudentPass.load(clip.require("student"))
    prob = (found.contact_prob * found.present[..., None]).astype(np.float32)
    Contacts(prob=prob).save(clip.stage_dir("contacts"))
    return Outcome(
        summary={"standing_share": round(float((prob[found.present] > 0.5).mean()), 3)}, weights=found.weights
    )
