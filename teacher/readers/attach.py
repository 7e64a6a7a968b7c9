"""Tie bodies from elsewhere to the people of a clip, in our conventions.

SMPL's `transl` moves the rest pose after the root has turned about the pelvis, so the pelvis stands at
J0(beta) + transl (SMPL, eq. 1 to 3 with the root at J0); Human3R gives the head joint instead. Each system
assumed a focal length of its own: a pelvis at (x, y, z) is seen where one at (x, y, z f'/f) is seen under f', and
that is how depths follow (JOSH, section 3). Systems know nothing of our tracks, so theirs are matched to ours by
the overlap of boxes around joints and keypoints; keypoints and masks stay those of our `people` stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from distill.body import BodyModel
from distill.errors import FootfallError
from distill.geometry.conventions import SMPL_JOINTS
from teacher.initialisers.bodies import fill
from teacher.initialisers.body_fit import Pose
from teacher.initialisers.body_prior import usual_pose
from teacher.readers.outside import OutsideBodies, OutsideTrack
from teacher.stagefiles import BodyInit, People

Array = NDArray[Any]
HEAD: Final = SMPL_JOINTS.index("head")
MIN_OVERLAP: Final = 0.3
"""Mean intersection over union of boxes from which a track of theirs is one of ours."""
MIN_SCORE: Final = 0.3
"""Keypoints below this score do not count for a person's box."""
SAME_ASPECT: Final = 0.02
"""Relative difference of aspect ratios up to which two images may be of one video (sides are rounded)."""


@dataclass(kw_only=True)
class Placed:
    """An outside track in the camera of the clip's images, for the frames of the clip only. N frames."""

    name: str
    rows: Array
    """[N] frames of the clip."""
    source_rows: Array
    """[N] rows of the outside file's own arrays."""
    cam_from_body: Array
    """[N, 4, 4] pelvis and orientation, metres."""
    body_rot: Array
    """[N, 23, 3, 3]."""
    betas: Array
    """[N, B]."""
    score: Array
    """[N]."""
    box_xyxy: Array
    """[N, 4] around the projected joints, pixels of the clip's images."""
    person: int | None = None
    """Person of the clip, once matched."""
    overlap: float = 0.0
    """Mean overlap with that person."""


def place(
    outside: OutsideBodies, body: BodyModel, numbers: Array, size: tuple[int, int], K: Array
) -> tuple[list[Placed], float]:
    """Outside tracks in the clip's frames, and the one focal length (pixels of the clip's images) for their depths.

    Args:
        outside: what the file says.
        body: the body model that the file's numbers belong to.
        numbers: [T] frame of the video at each frame of the clip.
        size: width and height of the clip's images.
        K: [3, 3] of the clip's cameras; only the principal point is used.

    Raises:
        FootfallError: another body model, images of another shape, or no frame in common.
    """
    _check_model(outside, body)
    scale = _scale(outside, size)
    every = [track for track in outside.tracks if len(np.intersect1d(track.frames, numbers))]
    if not every:
        last = max((int(track.frames.max()) for track in outside.tracks if len(track.frames)), default=-1)
        raise FootfallError(
            outside.where, got=f"frames up to {last}", expected=f"frames of {numbers.min()} to {numbers.max()}",
            do="give the results of this video, made from all of its frames",
        )  # fmt: skip
    focal = float(np.median(np.concatenate([track.focal for track in every]))) * scale
    return [_place_track(track, outside, body, numbers, size, K, scale, focal) for track in every], focal


def _check_model(outside: OutsideBodies, body: BodyModel) -> None:
    if body.name != outside.body_model:
        raise FootfallError(
            f"bodies of {outside.where}", got=f"bodies.body_model of the kind {body.name!r}",
            expected=f"{outside.body_model}:FILE, the model that the file's numbers belong to",
            do=f"set bodies.body_model and contacts.body_model to {outside.body_model}:FILE and optimise.body_file "
            "to FILE, your licensed file",
        )  # fmt: skip
    shapes = {track.betas.shape[1] for track in outside.tracks}
    if shapes - {body.num_betas}:
        raise FootfallError(
            f"bodies of {outside.where}", got=f"{sorted(shapes)} shape coefficients", expected=f"{body.num_betas}",
            do="use the file of the model with that number of coefficients",
        )  # fmt: skip


def _scale(outside: OutsideBodies, size: tuple[int, int]) -> float:
    """Pixels of the clip's images per pixel of the images that the file's focal length belongs to."""
    width, height = outside.size
    if min(width, height) <= 0 or abs(width * size[1] / (height * size[0]) - 1) > SAME_ASPECT:
        raise FootfallError(
            outside.where, got=f"images of {width:.0f} x {height:.0f}", expected=f"the shape of {size[0]} x {size[1]}",
            do="give the results of this video, uncropped and with the same rotation",
        )  # fmt: skip
    return size[0] / width


def _place_track(
    track: OutsideTrack, outside: OutsideBodies, body: BodyModel, numbers: Array, size: tuple[int, int], K: Array,
    scale: float, focal: float,
) -> Placed:  # fmt: skip
    _, rows, source_rows = np.intersect1d(numbers, track.frames, return_indices=True)
    betas, rotation = track.betas[source_rows], track.root_rot[source_rows]
    body_rot = track.body_rot[source_rows]
    own_focal = track.focal[source_rows] * scale
    pelvis = track.position[source_rows].copy()
    shape = torch.from_numpy(betas).float()
    if outside.anchor == "transl":  # R_w = R, t_w = J0(beta) + transl
        pelvis += body.pelvis_offset(shape).double().numpy()
    elif outside.anchor == "head":
        turned = np.tile(np.eye(4), (len(rows), 1, 1))
        turned[:, :3, :3] = rotation
        pelvis -= _joints(body, betas, body_rot, turned)[:, HEAD]
    # Their principal point is the middle of the image; seen through ours the pelvis must keep its pixel.
    shift = np.array([size[0] / 2 - K[0, 2], size[1] / 2 - K[1, 2]])
    pelvis[:, :2] += shift * (pelvis[:, 2] / own_focal)[:, None]
    pelvis[:, 2] *= focal / own_focal  # t_z' = (f / f_frame) t_z
    transform = np.tile(np.eye(4), (len(rows), 1, 1))
    transform[:, :3, :3], transform[:, :3, 3] = rotation, pelvis
    if (pelvis[:, 2] <= 0).any():
        raise FootfallError(
            f"{outside.where}, person {track.name}", got="a pelvis behind the camera", expected="depths above 0",
            do="check that the file's bodies are in the camera, not in the world",
        )  # fmt: skip
    joints = _joints(body, betas, body_rot, transform)
    pixels = joints[..., :2] / np.maximum(joints[..., 2:], 0.1) * focal + K[:2, 2]
    box = np.concatenate((pixels.min(1), pixels.max(1)), axis=-1)
    return Placed(
        name=track.name, rows=rows, source_rows=source_rows, cam_from_body=transform, body_rot=body_rot, betas=betas,
        score=track.score[source_rows], box_xyxy=box,
    )  # fmt: skip


def _joints(body: BodyModel, betas: Array, body_rot: Array, transform: Array) -> Array:
    tensors = (torch.from_numpy(np.asarray(a)).float() for a in (betas, body_rot, transform))
    return body(*tensors).joints.double().numpy()


def match(placed: list[Placed], people: People, where: str) -> None:
    """Write into each placed track which person of the clip it is, if any; several pieces may be one person.

    Raises:
        FootfallError: no track is anybody of the clip.
    """
    boxes, seen = _keypoint_boxes(people)
    best = 0.0
    for track in placed:
        both = seen[track.rows]
        overlap = box_overlap(track.box_xyxy[:, None], boxes[track.rows]) * both
        mean = overlap.sum(0) / np.maximum(both.sum(0), 1)
        # Many frames of good overlap, rather than one of perfect overlap.
        person = int(np.argmax(overlap.sum(0) * (mean >= MIN_OVERLAP))) if len(mean) else 0
        best = max(best, float(mean.max(initial=0)))
        if len(mean) and mean[person] >= MIN_OVERLAP:
            track.person, track.overlap = person, float(mean[person])
    if all(track.person is None for track in placed):
        raise FootfallError(
            where, got=f"no body that overlaps a person of this clip (best {best:.2f})",
            expected=f"a mean overlap of boxes of {MIN_OVERLAP} or more",
            do="check that the results are of this video and its frames, counted from 0",
        )  # fmt: skip


def _keypoint_boxes(people: People) -> tuple[Array, Array]:
    """Boxes [T, P, 4] around clear keypoints, and whether there are enough of them [T, P]."""
    clear = (people.keypoint_score >= MIN_SCORE) & people.visible[..., None]
    low = np.where(clear[..., None], people.keypoints_px, np.inf).min(2)
    high = np.where(clear[..., None], people.keypoints_px, -np.inf).max(2)
    seen = clear.sum(-1) >= 2
    return np.where(seen[..., None], np.concatenate((low, high), -1), 0.0), seen


def box_overlap(a: Array, b: Array) -> Array:
    """Intersection over union of boxes [..., 4] (x0, y0, x1, y1)."""
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.maximum(sides, 0).prod(-1)
    areas = [np.maximum(box[..., 2:] - box[..., :2], 0).prod(-1) for box in (a, b)]
    return shared / np.maximum(areas[0] + areas[1] - shared, 1e-9)


def make_bodies(placed: list[Placed], people: People, body: BodyModel, focal_px: float) -> BodyInit:
    """The bodies stage's file from matched tracks; where two claim a frame, the one that overlaps more has it.

    One shape per person: the mean over its frames. Pelvis positions were found with each frame's own shape.
    """
    frames, count = people.visible.shape
    identity = np.broadcast_to(np.eye(4), (frames, count, 4, 4)).copy()
    init = BodyInit(
        body_model=body.name, focal_px=focal_px, present=np.zeros((frames, count), bool),
        betas=np.zeros((count, body.num_betas), np.float32),
        body_rot=np.broadcast_to(usual_pose(frames).numpy()[:, None], (frames, count, 23, 3, 3)).astype(np.float32),
        cam_from_body=identity.astype(np.float32), confidence=np.zeros((frames, count), np.float32),
    )  # fmt: skip
    for person in range(count):
        shapes: list[Array] = []
        transform, joints = identity[:, person].copy(), init.body_rot[:, person].astype(np.float64)
        for track in sorted((t for t in placed if t.person == person), key=lambda t: -t.overlap):
            new = ~init.present[track.rows, person]
            rows = track.rows[new]
            transform[rows], joints[rows] = track.cam_from_body[new], track.body_rot[new]
            init.present[rows, person], init.confidence[rows, person] = True, track.score[new]
            shapes.append(track.betas[new])
        if not shapes:
            continue
        present = torch.from_numpy(init.present[:, person])
        pose = Pose(
            betas=torch.from_numpy(np.concatenate(shapes).mean(0)), body_rot=torch.from_numpy(joints)[present],
            cam_from_body=torch.from_numpy(transform)[present],
        )  # fmt: skip
        filled = fill(pose, present)
        init.betas[person] = pose.betas.numpy()
        init.body_rot[:, person], init.cam_from_body[:, person] = filled.body_rot.numpy(), filled.cam_from_body.numpy()
    return init
