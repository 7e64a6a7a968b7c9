"""Turn EMDB's sequences into clip folders, a manifest for `footfall label` and truth for `footfall evaluate`.

python datasets/emdb/prepare_emdb.py --raw EMDB --smpl SMPL --out data/emdb --subset emdb2

EMDB holds P0 ... P9 as unpacked, SMPL the body files SMPL_{FEMALE,MALE,NEUTRAL}.{npz,pkl}. Without --smpl there is no
truth, only frames and splits.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from distill.body import BodyModel, load_body_model
from distill.errors import FootfallError
from distill.files import write_text
from distill.geometry.rotations import matrix_from_rotvec
from distill.image_targets import write_image_target
from distill.metrics.feet import contacts_from_motion
from distill.metrics.renders import neuman_split
from distill.results import Cameras, Motion, Result, save_result
from teacher.readers.outside import array_of
from teacher.readers.pickled import load_pickled

Array = NDArray[Any]
FPS = 30.0
LICENCE = "EMDB: research only, not to be passed on"
LEAST_FRAMES = 10
"""Fewer cannot be split."""
WORST = 0.002
"""Largest median distance of projected joints from the file's own, as a share of the diagonal (4.8 px of 1440 x 1920),
before the conventions are doubted."""
JOINTGS = (
    "P0_08_outdoor_remove_jacket", "P1_16_outdoor_warmup", "P2_23_outdoor_hug_tree", "P3_31_outdoor_workout",
    "P4_34_mvs_a", "P5_39_mvs_b", "P6_48_outdoor_walk_downhill", "P7_61_outdoor_sit_lie_walk", "P8_62_mvs_a",
    "P9_72_outdoor_jump",
)  # fmt: skip
"""The sequences of JOintGS (arXiv 2602.04317, launch script); the paper takes the first 200 frames of each."""
SUBSETS = ("all", "emdb1", "emdb2", "jointgs")


def find_sequences(raw: Path, subset: str) -> list[tuple[Path, dict[str, Any]]]:
    """Folder and content of the pickle of every sequence in a subset.

    Raises:
        FootfallError: there is none, or a file is not what dataset.md of EMDB describes.
    """
    found = []
    for file in sorted(raw.glob("P[0-9]/*/*_data.pkl")):
        data = load_pickled(file)
        if not isinstance(data, Mapping) or not {"name", "emdb1", "emdb2", "camera", "smpl"} <= set(data):
            raise FootfallError(str(file), got="other content", expected="an annotation of EMDB", do="unpack it again")
        if subset == "all" or (data["name"] in JOINTGS if subset == "jointgs" else bool(data[subset])):
            found.append((file.parent, dict(data)))
    if not found:
        raise FootfallError(
            f"--raw {raw}", got=f"no sequence of the subset {subset}", expected="P0 ... P9 with *_data.pkl",
            do="check the folder",
        )  # fmt: skip
    return found


def read_sequence(data: Mapping[str, Any], where: str, limit: int | None) -> dict[str, Array]:
    """The arrays of one annotation, checked, for the first `limit` frames.

    Raises:
        FootfallError: one is missing or has another shape.
    """
    total = int(data["n_frames"])
    smpl, camera = data["smpl"], data["camera"]
    arrays = {
        "extrinsics": array_of(where, camera, "extrinsics", (total, 4, 4)),
        "root": array_of(where, smpl, "poses_root", (total, 3)),
        "body": array_of(where, smpl, "poses_body", (total, 69)),
        "trans": array_of(where, smpl, "trans", (total, 3)),
        "good": array_of(where, data, "good_frames_mask", (total,)),
        "kp2d": array_of(where, data, "kp2d", (total, 24, 2)),
    }
    count = total if limit is None else min(limit, total)
    if count < LEAST_FRAMES:
        raise FootfallError(where, got=f"{count} frames", expected=f"{LEAST_FRAMES} or more", do="leave it out")
    arrays = {name: array[:count] for name, array in arrays.items()}
    arrays["betas"] = array_of(where, smpl, "betas", (10,))
    arrays["K"] = array_of(where, camera, "intrinsics", (3, 3)) + np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    return arrays


def truth_of(arrays: Mapping[str, Array], body: BodyModel, size: tuple[int, int], where: str) -> Result:
    """The sequence as a result, in the world of its first camera.

    SMPL turns about its pelvis, which lies at J0(beta) + trans.

    Raises:
        FootfallError: the joints do not project onto the file's own.
    """
    exact = body.double()
    betas = torch.from_numpy(arrays["betas"].astype(np.float64))
    count = len(arrays["trans"])
    rotations = {
        name: matrix_from_rotvec(torch.from_numpy(arrays[name].astype(np.float64)).reshape(count, -1, 3))
        for name in ("root", "body")
    }
    world_from_body = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    world_from_body[:, :3, :3] = rotations["root"][:, 0]
    world_from_body[:, :3, 3] = torch.from_numpy(arrays["trans"].astype(np.float64)) + exact.pelvis_offset(betas)
    cam_from_world = torch.from_numpy(arrays["extrinsics"].astype(np.float64))
    cam_from_body = cam_from_world @ world_from_body
    shared = betas.expand(count, -1)
    joints = exact(shared, rotations["body"], cam_from_body).joints
    check_projection(joints.numpy(), arrays, float(np.hypot(*size)), where)
    world_from_cam = torch.linalg.inv(cam_from_world)
    sites = exact.sites(shared, rotations["body"], world_from_body).numpy()
    touching = contacts_from_motion(sites)
    return Result(
        cameras=Cameras(
            K=arrays["K"], size=size, timestamps=np.arange(count) / FPS,
            world_from_cam=(cam_from_world[0] @ world_from_cam).numpy(), valid=np.ones(count, bool),
        ),
        motion=Motion(
            ids=np.zeros(1, np.int64), present=arrays["good"].astype(bool)[:, None], body_model="smpl",
            betas=arrays["betas"][None], body_rot=rotations["body"][:, None].numpy(),
            cam_from_body=cam_from_body[:, None].numpy(), joints_cam=joints[:, None].numpy(),
            contact_prob=np.concatenate((touching, touching[-1:]))[:, None].astype(np.float32),
            stature=np.array([float(exact.stature(betas))]), confidence=np.ones((count, 1)),
        ),
        meta={"world": "first_camera", "clip": where, "source": "EMDB", "contacts": "sites slower than 1 cm per frame"},
    )  # fmt: skip


def check_projection(joints_cam: Array, arrays: Mapping[str, Array], diagonal: float, where: str) -> None:
    """Compare projected joints [T, 24, 3] with `kp2d`: axes, direction of the extrinsics and body must be right.

    Raises:
        FootfallError: they are further apart than `WORST` of the image's `diagonal` (pixels).
    """
    good = arrays["good"].astype(bool)
    pixels = joints_cam @ arrays["K"].T
    error = pixels[..., :2] / pixels[..., 2:] - 0.5 - arrays["kp2d"]
    median = float(np.median(np.linalg.norm(error[good], axis=-1))) if good.any() else 0.0
    if not median <= WORST * diagonal:
        raise FootfallError(
            where, got=f"joints {median:.1f} px (median) from the file's kp2d",
            expected=f"at most {WORST * diagonal:.1f} px",
            do="check that --smpl holds the files of this gender; if it does, EMDB's conventions have changed",
        )  # fmt: skip


def load_gendered(folder: Path, gender: str) -> BodyModel:
    """The user's SMPL of a gender.

    Raises:
        FootfallError: it is not in the folder, or is no SMPL.
    """
    files = [folder / f"SMPL_{gender.upper()}.{ending}" for ending in ("npz", "pkl")]
    there = [file for file in files if file.is_file()]
    if not there:
        raise FootfallError(f"--smpl {folder}", got=f"no {files[0].name}", expected="SMPL's files", do="put it there")
    return load_body_model(f"smpl:{there[0]}")


def link_frames(folder: Path, images: Path, count: int) -> tuple[int, int]:
    """Link the first `count` images as %06d.jpg; returns width and height.

    Raises:
        FootfallError: an image is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        source, link = images / f"{index:05d}.jpg", folder / f"{index:06d}.jpg"
        if not source.is_file():
            raise FootfallError(str(source), got="no such image", expected=f"{count} of them", do="unpack it again")
        link.unlink(missing_ok=True)
        link.symlink_to(source.resolve())
    with Image.open(images / "00000.jpg") as image:
        return image.size


def copy_masks(folder: Path, masks: Path, name: str, count: int) -> None:
    """Write identity maps from the user's masks `MASKS/NAME/%05d.png` (above 0: the person).

    Raises:
        FootfallError: a mask is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        source = masks / name / f"{index:05d}.png"
        if not source.is_file():
            raise FootfallError(str(source), got="no such mask", expected=f"{count} of them", do="check --masks")
        with Image.open(source) as image:
            Image.fromarray((np.asarray(image.convert("L")) > 0).astype(np.uint8)).save(folder / f"{index:06d}.png")


def prepare(args: argparse.Namespace) -> int:
    """Write all clips of the subset and the manifest; returns how many."""
    rows = []
    for folder, data in find_sequences(args.raw, args.subset):
        name = str(data["name"])
        arrays = read_sequence(data, name, args.frames)
        count, out = len(arrays["trans"]), args.out / name
        size = link_frames(out / "frames", folder / "images", count)
        if args.masks is not None:
            copy_masks(out / "masks", args.masks, name, count)
        write_image_target(
            out, parts=neuman_split(count), rule=f"NeuMan's, of the first {count} frames",
            mask_source="none" if args.masks is None else f"the user's ({args.masks})",
        )  # fmt: skip
        if args.smpl is not None:
            body = load_gendered(args.smpl, str(data["gender"]))
            save_result(out / "truth", truth_of(arrays, body, size, name))
        K = arrays["K"]
        lens = {"fx": K[0, 0], "fy": K[1, 1], "cx": K[0, 2], "cy": K[1, 2]}
        rows.append({
            "id": name, "path": f"{name}/frames", "licence": LICENCE, "source": "EMDB", "fps": FPS,
            "intrinsics": {key: float(value) for key, value in lens.items()},
        })  # fmt: skip
        print(f"{name}: {count} frames, {int(arrays['good'].sum())} good")
    write_text(args.out / "manifest.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return len(rows)


def main(arguments: list[str] | None = None) -> int:
    """Write the clips; 0 when all are written, 2 when the user has something to mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True, help="folder with P0 ... P9")
    parser.add_argument("--out", type=Path, required=True, help="folder for clips and manifest.jsonl")
    parser.add_argument("--smpl", type=Path, help="folder with SMPL_{FEMALE,MALE,NEUTRAL}.{npz,pkl}, for the truth")
    parser.add_argument("--masks", type=Path, help="your masks of the person: NAME/%%05d.png")
    parser.add_argument("--subset", choices=SUBSETS, default="all", help="which sequences")
    parser.add_argument("--frames", type=int, help="only the first so many of each")
    args = parser.parse_args(arguments)
    try:
        print(f"{prepare(args)} clips: {args.out / 'manifest.jsonl'}")
    except FootfallError as error:
        print(f"prepare_emdb: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
