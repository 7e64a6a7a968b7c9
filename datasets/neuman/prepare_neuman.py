"""Turn NeuMan's clips into clip folders, evaluation targets and a manifest for `footfall label`.

python datasets/neuman/prepare_neuman.py --raw NEUMAN/data --smpl SMPL_NEUTRAL.npz --out data/neuman

The folder after --raw holds bike, citron, jogging, ... as unpacked. Without --smpl the result in `given/` has cameras
and points, but nobody.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from distill.body import BodyModel, load_body_model
from distill.errors import FootfallError
from distill.files import write_text
from distill.geometry.conventions import CONTACT_SITES
from distill.geometry.rotations import matrix_from_quat, matrix_from_rotvec
from distill.image_targets import PARTS, write_image_target
from distill.metrics.renders import neuman_split
from distill.results import Cameras, Motion, Result, save_result
from teacher.readers.outside import array_of
from teacher.readers.pickled import load_pickled

Array = NDArray[Any]
FPS = 3.0
"""Nominal: NeuMan keeps every tenth frame of a phone's video, taken to have 30 a second; there are no time stamps."""
LICENCE = "NeuMan: Apple's sample-code licence"
LENSES = {
    "PINHOLE": (0, 1, 2, 3),
    "SIMPLE_PINHOLE": (0, 0, 1, 2),
    "SIMPLE_RADIAL": (0, 0, 1, 2),
    "OPENCV": (0, 1, 2, 3),
}
"""COLMAP's models -> places of fx, fy, cx, cy among the parameters; what follows is distortion."""


@dataclass(kw_only=True)
class Sparse:
    """A COLMAP model in text form, images sorted by name as NeuMan sorts them."""

    names: list[str]
    K: Array
    """[3, 3] pixels, centres at (0.5, 0.5)."""
    size: tuple[int, int]
    cam_from_world: Array
    """[T, 4, 4] in COLMAP's units."""
    points: Array
    """[N, 3] in COLMAP's units."""
    rgb: Array
    """[N, 3] uint8."""


def read_sparse(folder: Path) -> Sparse:
    """Read cameras.txt, images.txt and points3D.txt.

    Raises:
        FootfallError: missing or damaged, several lenses, or one that distorts.
    """
    try:
        cameras, images, points = (_lines(folder / f"{name}.txt") for name in ("cameras", "images", "points3D"))
        (lens,) = {tuple(line.split()[1:]) for line in cameras if line}
        places = LENSES[lens[0]]
        values = [float(value) for value in lens[3:]]
        if any(values[max(places) + 1 :]):
            raise ValueError(f"a lens with distortion {values[max(places) + 1 :]}")
        # Every second line lists an image's points, and may be empty.
        rows = sorted((line.split() for line in images[::2] if line), key=lambda row: row[9])
        pose = np.array([[float(value) for value in row[1:8]] for row in rows])
        cloud = np.array([[float(value) for value in line.split()[1:7]] for line in points if line]).reshape(-1, 6)
    except (OSError, UnicodeDecodeError, ValueError, IndexError, KeyError) as error:
        raise FootfallError(
            str(folder), got=error, expected="one undistorted camera in COLMAP's text form", do="unpack the data again"
        ) from error
    fx, fy, cx, cy = (values[place] for place in places)
    cam_from_world = np.tile(np.eye(4), (len(rows), 1, 1))
    cam_from_world[:, :3, :3] = matrix_from_quat(torch.from_numpy(pose[:, :4])).numpy()
    cam_from_world[:, :3, 3] = pose[:, 4:]
    return Sparse(
        names=[row[9] for row in rows], K=np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]),
        size=(int(lens[1]), int(lens[2])), cam_from_world=cam_from_world, points=cloud[:, :3],
        rgb=cloud[:, 3:].astype(np.uint8),
    )  # fmt: skip


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]


def read_alignments(path: Path, names: list[str]) -> Array:
    """World from SMPL's axes [T, 4, 4]: a similarity, COLMAP's units from metres, from rows times [4, 3] matrices.

    Raises:
        FootfallError: missing, damaged, or an image has none.
    """
    stored = load_pickled(path)
    world_from_smpl = np.tile(np.eye(4), (len(names), 1, 1))
    for index, name in enumerate(names):
        world_from_smpl[index, :3] = array_of(str(path), stored, name, (4, 3)).T
    if (np.linalg.det(world_from_smpl[:, :3, :3]) <= 0).any():
        raise FootfallError(str(path), got="a mirrored body", expected="similarities", do="unpack the data again")
    return world_from_smpl


def read_bodies(folder: Path, names: list[str]) -> tuple[Array, Array]:
    """SMPL's pose [T, 24, 3] (rotation vectors, the root first) and shape [T, 10] of each image.

    Raises:
        FootfallError: missing, damaged, or not one person.
    """
    files = [folder / f"smpl_output_{kind}.pkl" for kind in ("optimized", "romp")]
    path = next((file for file in files if file.is_file()), files[0])
    people = load_pickled(path)
    if not isinstance(people, Mapping) or len(people) != 1:
        raise FootfallError(str(path), got="not one person", expected="{person: {pose, betas}}", do="unpack it again")
    (person,) = people.values()
    rows = [int(Path(name).stem) for name in names]
    pose, betas = (array_of(str(path), person, key, (None, width)) for key, width in (("pose", 72), ("betas", 10)))
    if max(rows) >= min(len(pose), len(betas)):
        raise FootfallError(
            str(path), got=f"{len(pose)} frames", expected=f"frame {max(rows)} as well", do="unpack the data again"
        )
    return pose[rows].reshape(-1, 24, 3), betas[rows]


def given_of(sparse: Sparse, folder: Path, body: BodyModel | None) -> Result:
    """The data's own cameras and bodies, in metres and the axes of the first camera.

    Raises:
        FootfallError: a file is missing or damaged.
    """
    alignments = read_alignments(folder / "alignments.npy", sparse.names)
    scales = np.cbrt(np.linalg.det(alignments[:, :3, :3]))
    scale = float(np.median(scales))
    cam_from_world = sparse.cam_from_world.copy()
    cam_from_world[:, :3, 3] /= scale
    count, first = len(sparse.names), cam_from_world[0]
    cameras = Cameras(
        K=sparse.K, size=sparse.size, timestamps=np.arange(count) / FPS,
        world_from_cam=first @ np.linalg.inv(cam_from_world), valid=np.ones(count, bool),
    )  # fmt: skip
    if body is None:
        motion = _nobody(count)
    else:
        pose, betas = read_bodies(folder, sparse.names)
        motion = _motion(body.double(), pose, betas.mean(0), alignments, scale, cam_from_world)
    return Result(
        cameras=cameras, motion=motion, scene_rgb=sparse.rgb,
        scene_points=sparse.points / scale @ first[:3, :3].T + first[:3, 3],
        meta={
            "world": "first_camera", "clip": folder.name, "source": "NeuMan: COLMAP and ROMP, not truth",
            "units_per_metre": scale, "units_per_metre_spread": float(scales.std() / scale),
            "fps": "nominal: every tenth frame of 30 a second",
        },
    )  # fmt: skip


def _motion(
    body: BodyModel, pose: Array, betas: Array, alignments: Array, scale: float, cam_from_world: Array
) -> Motion:
    """One person with the mean shape; the pelvis stands where the frame's own alignment puts it."""
    count = len(pose)
    shape = torch.from_numpy(betas.astype(np.float64))
    rotations = matrix_from_rotvec(torch.from_numpy(pose.astype(np.float64)))
    turn = alignments[:, :3, :3] / np.cbrt(np.linalg.det(alignments[:, :3, :3]))[:, None, None]
    world_from_body = np.tile(np.eye(4), (count, 1, 1))
    world_from_body[:, :3, :3] = turn @ rotations[:, 0].numpy()
    world_from_body[:, :3, 3] = (
        alignments[:, :3, :3] @ body.pelvis_offset(shape).numpy() + alignments[:, :3, 3]
    ) / scale
    cam_from_body = cam_from_world @ world_from_body
    joints = body(shape.expand(count, -1), rotations[:, 1:], torch.from_numpy(cam_from_body)).joints
    return Motion(
        ids=np.zeros(1, np.int64), present=np.ones((count, 1), bool), body_model="smpl", betas=betas[None],
        body_rot=rotations[:, None, 1:].numpy(), cam_from_body=cam_from_body[:, None],
        joints_cam=joints[:, None].numpy(), contact_prob=np.zeros((count, 1, len(CONTACT_SITES))),
        stature=np.array([float(body.stature(shape))]), confidence=np.ones((count, 1)),
    )  # fmt: skip


def _nobody(count: int) -> Motion:
    return Motion(
        ids=np.zeros(0, np.int64), present=np.zeros((count, 0), bool), body_model="smpl", betas=np.zeros((0, 10)),
        body_rot=np.zeros((count, 0, 23, 3, 3)), cam_from_body=np.zeros((count, 0, 4, 4)),
        joints_cam=np.zeros((count, 0, 24, 3)), contact_prob=np.zeros((count, 0, len(CONTACT_SITES))),
        stature=np.zeros(0), confidence=np.zeros((count, 0)),
    )  # fmt: skip


def read_mask(folder: Path, name: str, size: tuple[int, int]) -> Array:
    """Identity map [H, W] of an image: 1 where the file has 0, 0 where it has 255.

    Raises:
        FootfallError: missing, of another size, or with other values.
    """
    path = folder / f"{name}.npy" if (folder / f"{name}.npy").is_file() else folder / name
    try:
        if path.suffix == ".npy":
            mask = np.load(path, allow_pickle=False)
        else:
            with Image.open(path) as image:
                mask = np.asarray(image.convert("L"))
        if mask.shape != (size[1], size[0]) or not np.isin(mask, (0, 255)).all():
            raise ValueError(f"{mask.shape} with values {np.unique(mask)[:4]}")
    except (OSError, ValueError) as error:
        raise FootfallError(
            str(path),
            got=error,
            expected=f"a mask of {size[0]} x {size[1]} of 0 (person) and 255",
            do="unpack it again",
        ) from error
    return (mask == 0).astype(np.uint8)


def read_split(folder: Path, names: list[str]) -> tuple[dict[str, list[int]], str]:
    """Frames of train, val and test, and where they come from.

    Raises:
        FootfallError: a file names an image that is not there, or there are too few images for the rule.
    """
    files = {part: folder / f"{part}_split.txt" for part in PARTS}
    try:
        if not all(file.is_file() for file in files.values()):
            return neuman_split(len(names)), "NeuMan's, of all frames"
        listed = {part: file.read_text(encoding="utf-8").split() for part, file in files.items()}
        return {part: [names.index(name) for name in listed[part]] for part in PARTS}, "the files of the data"
    except ValueError as error:
        raise FootfallError(
            f"splits of {folder.name}", got=error, expected="names of images in *_split.txt", do="unpack it again"
        ) from error


def prepare_clip(folder: Path, out: Path, body: BodyModel | None) -> dict[str, Any]:
    """Write one clip; returns its row of the manifest.

    Raises:
        FootfallError: a file is missing or damaged.
    """
    sparse = read_sparse(folder / "sparse")
    parts, rule = read_split(folder, sparse.names)
    for kind in ("frames", "masks"):
        (out / kind).mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(sparse.names):
        image = folder / "images" / name
        if not image.is_file():
            raise FootfallError(str(image), got="no such image", expected="every image of the model", do="unpack it")
        link = out / "frames" / f"{index:06d}{image.suffix}"
        link.unlink(missing_ok=True)
        link.symlink_to(image.resolve())
        mask = read_mask(folder / "segmentations", name, sparse.size)
        Image.fromarray(mask).save(out / "masks" / f"{index:06d}.png")
    save_result(out / "given", given_of(sparse, folder, body))
    write_image_target(out, parts=parts, rule=rule, mask_source="NeuMan's segmentations (Detectron2)")
    fx, fy, cx, cy = (float(sparse.K[place]) for place in ((0, 0), (1, 1), (0, 2), (1, 2)))
    return {
        "id": folder.name, "path": f"{folder.name}/frames", "licence": LICENCE, "source": "NeuMan", "fps": FPS,
        "intrinsics": {"fx": fx, "fy": fy, "cx": cx, "cy": cy},
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Write the clips; 0 when all are written, 2 when the user has something to mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True, help="folder with bike, citron, ...")
    parser.add_argument("--out", type=Path, required=True, help="folder for clips and manifest.jsonl")
    parser.add_argument("--smpl", type=Path, help="SMPL's neutral body (.npz or .pkl), for the bodies in given/")
    args = parser.parse_args(arguments)
    try:
        folders = sorted(path.parent for path in args.raw.glob("*/sparse"))
        if not folders:
            raise FootfallError(f"--raw {args.raw}", got="no clip in it", expected="bike, citron, ...", do="check it")
        body = load_body_model(f"smpl:{args.smpl}") if args.smpl is not None else None
        rows = [prepare_clip(folder, args.out / folder.name, body) for folder in folders]
        write_text(args.out / "manifest.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    except FootfallError as error:
        print(f"prepare_neuman: {error}", file=sys.stderr)
        return 2
    print(f"{len(rows)} clips: {args.out / 'manifest.jsonl'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
