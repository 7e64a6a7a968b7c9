"""Evaluation targets from data of others: bodies in SMPL's own terms and true cameras become a result folder.

The recipes in `datasets/` share this: SMPL and SMPL-X turn a body about its pelvis, which stands at J0(beta) + transl;
the world of a target is that of its first camera; contacts are derived from motion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from distill.body import BodyModel, load_body_model
from distill.errors import FootfallError
from distill.geometry.rotations import matrix_from_rotvec
from distill.metrics.feet import contacts_from_motion
from distill.results import Cameras, Motion, Result

Array = NDArray[Any]
MOVING_JOINTS: Final = 23
"""SMPL's joints without the root; SMPL-X has 21 of them, and its hands stay flat here."""


@dataclass(kw_only=True)
class TruePerson:
    """One person over T frames."""

    body: BodyModel
    betas: Array
    """[B]."""
    body_rot: Array
    """[T, 23, 3, 3]."""
    world_from_body: Array
    """[T, 4, 4] orientation and pelvis position, metres, in the world of the cameras."""
    present: Array
    """[T] bool. Elsewhere the other entries are finite and meaningless."""


def true_person(
    body: BodyModel, *, betas: Array, root: Array, pose: Array, transl: Array, present: Array | None = None
) -> TruePerson:
    """A person from the parameters of SMPL (or SMPL-X) in the world.

    Args:
        body: of the person's gender.
        betas: [B].
        root: [T, 3] axis times angle.
        pose: [T, 69] or, for SMPL-X, [T, 63], axis times angle.
        transl: [T, 3] metres, the model's own `transl`.
        present: [T] bool; None: everywhere.
    """
    count = len(root)
    shape = torch.from_numpy(np.asarray(betas, np.float64))
    world_from_body = np.tile(np.eye(4), (count, 1, 1))
    world_from_body[:, :3, :3] = _matrices(root[:, None])[:, 0]
    world_from_body[:, :3, 3] = transl + body.double().pelvis_offset(shape).numpy()
    body_rot = np.tile(np.eye(3), (count, MOVING_JOINTS, 1, 1))
    vectors = np.asarray(pose, np.float64).reshape(count, -1, 3)
    body_rot[:, : vectors.shape[1]] = _matrices(vectors)
    here = np.ones(count, bool) if present is None else present
    return TruePerson(body=body, betas=betas, body_rot=body_rot, world_from_body=world_from_body, present=here)


def _matrices(vectors: Array) -> Array:
    return matrix_from_rotvec(torch.from_numpy(np.ascontiguousarray(vectors, np.float64))).numpy()


def true_result(
    people: Sequence[TruePerson], *, body_model: str, K: Array, size: tuple[int, int], timestamps: Array,
    cam_from_world: Array, meta: dict[str, Any],
) -> Result:  # fmt: skip
    """People and cameras as a result in the world of the first camera.

    Args:
        people: of one kind of body each.
        body_model: "smpl" or "smplx".
        K: [3, 3] pixels, the centre of the top-left pixel at (0.5, 0.5).
        size: width and height, pixels.
        timestamps: [T] seconds.
        cam_from_world: [T, 4, 4] metres.
        meta: clip and source; what is said of world and contacts is added.
    """
    first_from_cam = cam_from_world[0] @ np.linalg.inv(cam_from_world)
    motions = [_motion_of(person, cam_from_world) for person in people]

    def stack(index: int) -> Array:
        return np.stack([motion[index] for motion in motions], 1)

    return Result(
        cameras=Cameras(
            K=K, size=size, timestamps=timestamps, world_from_cam=first_from_cam, valid=np.ones(len(timestamps), bool)
        ),
        motion=Motion(
            ids=np.arange(len(people)), present=np.stack([person.present for person in people], 1),
            body_model=body_model, betas=np.stack([person.betas for person in people]),
            body_rot=np.stack([person.body_rot for person in people], 1), cam_from_body=stack(0), joints_cam=stack(1),
            contact_prob=stack(2), confidence=np.ones((len(timestamps), len(people))),
            stature=np.array([float(p.body.double().stature(torch.from_numpy(p.betas).double())) for p in people]),
        ),
        meta={"world": "first_camera", "contacts": "sites slower than 1 cm per frame", **meta},
    )  # fmt: skip


def _motion_of(person: TruePerson, cam_from_world: Array) -> tuple[Array, Array, Array]:
    """Pose in the camera [T, 4, 4], joints in the camera [T, 24, 3] and contacts [T, 6] of a person."""
    exact = person.body.double()
    shape = torch.from_numpy(np.asarray(person.betas, np.float64)).expand(len(cam_from_world), -1)
    rotations = torch.from_numpy(person.body_rot)
    cam_from_body = cam_from_world @ person.world_from_body
    joints = exact(shape, rotations, torch.from_numpy(cam_from_body)).joints.numpy()
    sites = exact.sites(shape, rotations, torch.from_numpy(person.world_from_body)).numpy()
    touching = contacts_from_motion(sites)
    contact = np.concatenate((touching, touching[-1:])).astype(np.float32)
    return cam_from_body, joints, contact * person.present[:, None]


def check_projection(
    joints_cam: Array, K: Array, pixels: Array, seen: Array, *, most: float, where: str, do: str
) -> None:
    """Compare projected joints with the data's own: axes, direction of the extrinsics and body must be right.

    Args:
        joints_cam: [..., J, 3] metres.
        K: [3, 3] of pixels whose first centre is at (0.5, 0.5).
        pixels: [..., J, 2] of the data, the centre of the first pixel at (0, 0).
        seen: [...] or [..., J] bool: what counts.
        most: largest median distance, pixels.
        where: the file, for the message.
        do: what the user can do.

    Raises:
        FootfallError: they are further apart.
    """
    projected = joints_cam @ K.T
    error = np.linalg.norm(projected[..., :2] / projected[..., 2:] - 0.5 - pixels, axis=-1)[seen]
    median = float(np.median(error)) if error.size else 0.0
    if not median <= most:
        raise FootfallError(
            where, got=f"joints {median:.1f} px (median) from the file's own", expected=f"at most {most:.1f} px", do=do
        )


def load_gendered(folder: Path, kind: str, gender: str) -> BodyModel:
    """The user's SMPL or SMPL-X of a gender: FOLDER/SMPL_FEMALE.npz and so on.

    Raises:
        FootfallError: it is not in the folder, or is no such model.
    """
    endings = ("npz", "pkl") if kind == "smpl" else ("npz",)
    files = [folder / f"{kind.upper()}_{gender.upper()}.{ending}" for ending in endings]
    there = [file for file in files if file.is_file()]
    if not there:
        raise FootfallError(
            f"--{kind} {folder}", got=f"no {files[0].name}", expected=f"{kind.upper()}'s files", do="put it there"
        )
    return load_body_model(f"{kind}:{there[0]}")


def link_frames(folder: Path, images: Sequence[Path]) -> tuple[int, int]:
    """Link images as %06d in the order given; returns width and height.

    Raises:
        FootfallError: an image is missing, or there is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if old.is_symlink():
            old.unlink()
    for index, source in enumerate(images):
        if not source.is_file():
            raise FootfallError(
                str(source), got="no such image", expected=f"{len(images)} of them", do="unpack it again"
            )
        (folder / f"{index:06d}{source.suffix}").symlink_to(source.resolve())
    if not images:
        raise FootfallError(str(folder), got="no images", expected="a sequence", do="unpack the data again")
    with Image.open(images[0]) as image:
        return image.size


def manifest_row(name: str, K: Array, *, licence: str, source: str, fps: float) -> dict[str, Any]:
    """A line of the manifest for a folder of frames with a known lens."""
    lens = {"fx": K[0, 0], "fy": K[1, 1], "cx": K[0, 2], "cy": K[1, 2]}
    return {
        "id": name, "path": f"{name}/frames", "licence": licence, "source": source, "source_id": name, "fps": fps,
        "intrinsics": {key: float(value) for key, value in lens.items()},
    }  # fmt: skip
