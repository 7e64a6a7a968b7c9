"""Turn BEDLAM's rendered sequences into clip folders, a manifest for `footfall label` and exact truth.

python datasets/bedlam/prepare_bedlam.py --raw IMAGES --labels processed_labels --bodies SMPLX --out data/bedlam

IMAGES holds the scenes (20221010_3_1000_batch01hand, ...) with png/ and ground_truth/camera/ as unpacked,
processed_labels one SCENE.npz each, as BEDLAM's own data_processing/df_full_body.py writes them (with _smpl.py for
--kind smpl). Without --labels and --bodies there is no truth, only frames and cameras.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.transform import Rotation

from distill.body import BodyModel
from distill.errors import FootfallError
from distill.files import write_text
from distill.results import Result, save_result
from teacher.readers.outside import array_of
from teacher.readers.pickled import load_npz
from teacher.targets import (
    TruePerson,
    check_projection,
    link_frames,
    load_gendered,
    manifest_row,
    true_person,
    true_result,
)

Array = NDArray[Any]
FPS = 30.0
LICENCE = "BEDLAM: non-commercial research only, not to be passed on"
WORST = 0.003
"""Largest median distance of projected joints from the labels' own, as a share of the diagonal."""
ZOOM = 0.005
"""A sequence whose focal length changes by more than this share has no single K, and is left out."""
COMPARED = 22
"""Joints that SMPL and SMPL-X have in common, which are compared with `gtkps`."""
LABELS = ("imgname", "pose_cam", "shape", "trans_cam", "cam_ext", "cam_int", "gtkps", "sub")


@dataclass(kw_only=True)
class Path3D:
    """The camera of one sequence."""

    images: list[str]
    """Name of each frame's image."""
    cam_from_world: Array
    """[T, 4, 4] metres; the world is Unreal's, in OpenCV's axes."""
    focal: Array
    """[T] pixels of an image as rendered, of `rendered`."""


def read_camera(path: Path, width: int, *, upright: bool) -> Path3D:
    """Read ground_truth/camera/SEQUENCE_camera.csv.

    Unreal has x forward, y right, z up, centimetres; yaw is left-handed, then pitch, then roll (BEDLAM's
    unreal_coordinate_system.md). In OpenCV's axes this is R = Rz(-roll) Rx(-pitch) Ry(-yaw), as df_full_body.py has it.

    Args:
        path: the file.
        width: of the images as rendered, pixels.
        upright: False for close-ups, which are rendered lying and have to be turned by 90 degrees.

    Raises:
        FootfallError: missing or damaged.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        column = {key: np.array([float(row[key]) for row in rows]) for key in ("x", "y", "z", "yaw", "pitch", "roll")}
        focal = np.array([float(row["focal_length"]) / float(row["sensor_width"]) * width for row in rows])
        names = [row["name"] for row in rows]
        if not rows:
            raise ValueError("no frames")
    except (OSError, KeyError, TypeError, ValueError, UnicodeDecodeError) as error:
        raise FootfallError(
            str(path), got=error, expected="name, x, y, z, yaw, pitch, roll, focal_length, sensor_width",
            do="unpack the ground truth again",
        ) from error  # fmt: skip
    angles = np.stack((-column["roll"] + (0 if upright else 90), -column["pitch"], -column["yaw"]), 1)
    cam_from_world = np.tile(np.eye(4), (len(rows), 1, 1))
    cam_from_world[:, :3, :3] = Rotation.from_euler("ZXY", angles, degrees=True).as_matrix()
    centre = np.stack((column["y"], -column["z"], column["x"]), 1) / 100
    cam_from_world[:, :3, 3] = -(cam_from_world[:, :3, :3] @ centre[..., None])[..., 0]
    return Path3D(images=names, cam_from_world=cam_from_world, focal=focal)


def read_labels(path: Path) -> dict[str, Array]:
    """The rows of a scene's labels.

    Raises:
        FootfallError: missing, damaged, or an array is not there.
    """
    content = load_npz(path, LABELS)
    where = str(path)
    count = len(content["imgname"])
    rows = {
        "imgname": np.asarray(content["imgname"]).astype(str), "sub": np.asarray(content["sub"]).astype(str),
        "pose_cam": array_of(where, content, "pose_cam", (count, None)),
        "shape": array_of(where, content, "shape", (count, None)),
        "trans_cam": array_of(where, content, "trans_cam", (count, 3)),
        "cam_ext": array_of(where, content, "cam_ext", (count, 4, 4)),
        "gtkps": array_of(where, content, "gtkps", (count, None, None)),
    }  # fmt: skip
    return {key: value if value.dtype.kind == "U" else value.astype(np.float64) for key, value in rows.items()}


def people_of(
    labels: Mapping[str, Array], sequence: str, camera: Path3D, body: BodyModel
) -> Iterator[tuple[TruePerson, Array, Array]]:
    """Everybody of a sequence, with the labels' own keypoints [T, 22, 2] and where these are [T] bool.

    A body in the camera has SMPL's transl at trans_cam + cam_ext[:3, 3] (df_full_body.py).
    """
    frame_of = {f"{sequence}/{name}": index for index, name in enumerate(camera.images)}
    world_from_cam = np.linalg.inv(camera.cam_from_world)
    mine = np.array([name in frame_of for name in labels["imgname"]])
    count = len(camera.images)
    for subject in np.unique(labels["sub"][mine]):
        rows = np.nonzero(mine & (labels["sub"] == subject))[0]
        at = np.array([frame_of[labels["imgname"][row]] for row in rows])
        pose, transl, pixels = np.zeros((count, 66)), np.zeros((count, 3)), np.zeros((count, COMPARED, 2))
        pose[at] = labels["pose_cam"][rows, :66]
        transl[at] = labels["trans_cam"][rows] + labels["cam_ext"][rows, :3, 3]
        pixels[at] = labels["gtkps"][rows, :COMPARED, :2]
        present = np.zeros(count, bool)
        present[at] = True
        betas = labels["shape"][rows].mean(0)[: body.num_betas]
        person = true_person(
            body, betas=betas, root=pose[:, :3], pose=pose[:, 3:], transl=transl, present=present
        )  # in the camera as yet
        person.world_from_body = world_from_cam @ person.world_from_body
        yield person, pixels, present


def truth_of(
    labels: Mapping[str, Array], sequence: str, camera: Path3D, body: BodyModel, kind: str, K: Array,
    size: tuple[int, int],
) -> Result | None:  # fmt: skip
    """A sequence as a result, in the world of its first camera; None where nobody is labelled.

    Raises:
        FootfallError: the joints do not project onto the labels' own.
    """
    found = list(people_of(labels, sequence, camera, body))
    if not found:
        return None
    truth = true_result(
        [person for person, _, _ in found], body_model=kind, K=K, size=size,
        timestamps=np.arange(len(camera.images)) / FPS, cam_from_world=camera.cam_from_world,
        meta={"clip": sequence, "source": "BEDLAM"},
    )  # fmt: skip
    for index, (_, pixels, present) in enumerate(found):
        check_projection(
            truth.motion.joints_cam[:, index, :COMPARED], K, pixels - 0.5, present, most=WORST * float(np.hypot(*size)),
            where=f"{sequence}, person {index}", do="check that --bodies, --kind and --gender are those of the labels",
        )  # fmt: skip
    return truth


def write_frames(out: Path, folder: Path, camera: Path3D, *, upright: bool) -> tuple[int, int]:
    """Link the images, or write them turned; returns width and height.

    Raises:
        FootfallError: an image is missing.
    """
    images = [folder / name for name in camera.images]
    if upright:
        return link_frames(out, images)
    out.mkdir(parents=True, exist_ok=True)
    size = (0, 0)
    for index, path in enumerate(images):
        if not path.is_file():
            raise FootfallError(str(path), got="no such image", expected=f"{len(images)} of them", do="unpack it again")
        with Image.open(path) as image:
            turned = image.convert("RGB").transpose(Image.Transpose.ROTATE_270)  # clockwise
        turned.save(out / f"{index:06d}.png")
        size = turned.size
    return size


def prepare_scene(scene: Path, args: argparse.Namespace, body: BodyModel | None) -> Iterator[dict[str, Any]]:
    """Write the sequences of a scene; yields their rows of the manifest."""
    upright = "closeup" not in scene.name
    labels = read_labels(args.labels / f"{scene.name}.npz") if body is not None else None
    cameras = sorted((scene / "ground_truth" / "camera").glob("seq_*_camera.csv"))
    for file in cameras[: args.sequences]:
        sequence = file.name.removesuffix("_camera.csv")
        name = f"{scene.name}-{sequence}"
        first = next((scene / "png" / sequence).glob("*.png"), None)
        if first is None:
            raise FootfallError(str(scene / "png" / sequence), got="no images", expected="*.png", do="unpack them")
        with Image.open(first) as image:
            rendered = image.width
        camera = read_camera(file, rendered, upright=upright)
        if np.ptp(camera.focal) > ZOOM * camera.focal.mean():
            print(f"{name}: the lens zooms: left out")
            continue
        size = write_frames(args.out / name / "frames", scene / "png" / sequence, camera, upright=upright)
        focal = float(camera.focal.mean())
        K = np.array([[focal, 0, size[0] / 2], [0, focal, size[1] / 2], [0, 0, 1]])
        truth = None if labels is None or body is None else truth_of(labels, sequence, camera, body, args.kind, K, size)
        if truth is not None:
            save_result(args.out / name / "truth", truth)
        print(f"{name}: {len(camera.images)} frames, {len(truth.motion.ids) if truth else 0} people")
        poses = np.linalg.inv(camera.cam_from_world).tolist()
        row = manifest_row(name, K, licence=LICENCE, source="BEDLAM", fps=FPS)
        yield {**row, "world_from_cam": poses} if args.known_cameras else row


def prepare(args: argparse.Namespace) -> int:
    """Write all wanted clips and the manifest; returns how many."""
    if (args.labels is None) != (args.bodies is None):
        raise FootfallError("--labels, --bodies", got="one of them", expected="both or none", do="give the other one")
    scenes = sorted(path.parent.parent for path in args.raw.glob("*/ground_truth/camera"))
    if not scenes:
        raise FootfallError(
            f"--raw {args.raw}", got="no scene", expected="SCENE/ground_truth/camera and SCENE/png", do="check it"
        )
    body = load_gendered(args.bodies, args.kind, args.gender) if args.bodies is not None else None
    rows = [row for scene in scenes for row in prepare_scene(scene, args, body)]
    write_text(args.out / "manifest.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return len(rows)


def main(arguments: list[str] | None = None) -> int:
    """Write the clips; 0 when all are written, 2 when the user has something to mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True, help="folder with the scenes")
    parser.add_argument("--out", type=Path, required=True, help="folder for clips and manifest.jsonl")
    parser.add_argument("--labels", type=Path, help="folder with SCENE.npz, for the truth")
    parser.add_argument("--bodies", type=Path, help="folder with SMPLX_NEUTRAL.npz or SMPL_NEUTRAL.npz")
    parser.add_argument("--kind", choices=("smplx", "smpl"), default="smplx", help="which body the labels are of")
    parser.add_argument("--gender", default="neutral", help="which file; BEDLAM's bodies are the neutral one")
    parser.add_argument("--sequences", type=int, help="only the first so many of each scene")
    parser.add_argument("--known-cameras", action="store_true", help="put the true camera path into the manifest")
    args = parser.parse_args(arguments)
    try:
        print(f"{prepare(args)} clips: {args.out / 'manifest.jsonl'}")
    except FootfallError as error:
        print(f"prepare_bedlam: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
