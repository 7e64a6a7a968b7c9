"""Turn RICH's views into clip folders, a manifest for `footfall label` and truth for `footfall evaluate`.

python datasets/rich/prepare_rich.py --raw RICH --smplx SMPLX --out data/rich --set test --subset protocol

RICH holds bodies/, images/ and scan_calibration/ as its toolkit lays them out, SMPLX the body files
SMPLX_{FEMALE,MALE,NEUTRAL}.npz. Without --smplx there is no truth, only frames. Each view of a sequence is a clip.
"""

from __future__ import annotations

import argparse
import json
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf

from distill.errors import FootfallError
from distill.files import write_text
from distill.results import Result, save_result
from distill.video import IMAGE_SUFFIXES
from teacher.readers.outside import array_of
from teacher.readers.pickled import load_pickled
from teacher.targets import link_frames, load_gendered, manifest_row, true_person, true_result

Array = NDArray[Any]
FPS = 30.0
LICENCE = "RICH: research only, not to be passed on"
MALES = (0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 14, 15, 20)
"""Subjects whose gender is male in the toolkit's resource/gender.json; the others are female."""
SUFFIXES = (*IMAGE_SUFFIXES, ".bmp")
MAX_CALIBRATION = 1 << 20
"""Bytes of one calibration file, at most."""


@dataclass(kw_only=True)
class View:
    """One camera's video of one sequence."""

    sequence: str
    camera: int
    images: list[Path]
    """In order of their frame numbers."""

    @property
    def name(self) -> str:
        """The clip's id."""
        return f"{self.sequence}_cam{self.camera:02d}"

    @property
    def frames(self) -> list[int]:
        """Frame number of each image."""
        return [int(image.stem.split("_")[0]) for image in self.images]


def find_views(raw: Path, part: str, sequences: list[str] | None, cameras: list[int] | None) -> list[View]:
    """The views of a set, of the sequences and cameras that are wanted.

    Raises:
        FootfallError: there is none.
    """
    views = []
    for folder in sorted((raw / "images" / part).glob("*/cam_*")):
        number = folder.name.removeprefix("cam_")
        wanted = sequences is None or folder.parent.name in sequences
        if not number.isdecimal() or not wanted or (cameras is not None and int(number) not in cameras):
            continue
        images = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.stem[:5].isdecimal())
        views.append(View(sequence=folder.parent.name, camera=int(number), images=images))
    if not views:
        raise FootfallError(
            f"--raw {raw}", got=f"no wanted view in images/{part}", expected="images/SET/SEQUENCE/cam_XX",
            do="check the folder, --set and --subset",
        )  # fmt: skip
    return views


def read_calibration(path: Path) -> tuple[Array, Array]:
    """K [3, 3] (pixel centres at (0.5, 0.5)) and cam_from_world [4, 4], metres, of one camera.

    The toolkit projects without the file's distortion, and so do we.

    Raises:
        FootfallError: missing, damaged, or no rigid pose.
    """
    try:
        if path.stat().st_size > MAX_CALIBRATION:
            raise ValueError(f"{path.stat().st_size} bytes")
        tree = ElementTree.fromstring(path.read_text(encoding="utf-8"))
        pose = np.array((tree.findtext("./CameraMatrix/data") or "").split(), float).reshape(3, 4)
        K = np.array((tree.findtext("./Intrinsics/data") or "").split(), float).reshape(3, 3)
        if not np.allclose(pose[:, :3] @ pose[:, :3].T, np.eye(3), atol=1e-3):
            raise ValueError("CameraMatrix is no rigid pose")
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise FootfallError(
            str(path), got=error, expected="CameraMatrix, Intrinsics as OpenCV writes them", do="unpack it again"
        ) from error
    return K + np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]), np.concatenate((pose, [[0, 0, 0, 1.0]]))


def read_subject(folder: Path, subject: str, frames: list[int]) -> dict[str, Array]:
    """SMPL-X of a subject over the frames: root [T, 3], pose [T, 63], transl [T, 3], betas [10], present [T] bool.

    Raises:
        FootfallError: a file is damaged, or there is none.
    """
    count = len(frames)
    rows = {"root": np.zeros((count, 3)), "pose": np.zeros((count, 63)), "transl": np.zeros((count, 3))}
    keys = {"root": "global_orient", "pose": "body_pose", "transl": "transl"}
    present, betas = np.zeros(count, bool), []
    for index, frame in enumerate(frames):
        file = folder / f"{frame:05d}" / f"{subject}.pkl"
        if not file.is_file():
            continue
        params = load_pickled(file)
        for name, key in keys.items():
            rows[name][index] = array_of(str(file), params, key, (1, rows[name].shape[1]))[0]
        betas.append(array_of(str(file), params, "betas", (1, None))[0, :10])
        present[index] = True
    if not betas:
        raise FootfallError(
            f"{folder}, subject {subject}", got="no body in any frame",
            expected="bodies/SET/SEQUENCE/FRAME/SUBJECT.pkl", do="unpack the bodies, or leave the sequence out",
        )  # fmt: skip
    return {**rows, "betas": np.mean(betas, 0), "present": present}


def truth_of(view: View, folder: Path, smplx: Path, camera: tuple[Array, Array], size: tuple[int, int]) -> Result:
    """A view as a result, in the world of its own (fixed) camera.

    Raises:
        FootfallError: bodies are missing or damaged, or stand behind the camera.
    """
    subjects = sorted({file.stem for file in folder.glob("*/*.pkl") if file.stem.isdecimal()})
    people = []
    for subject in subjects:
        params = read_subject(folder, subject, view.frames)
        body = load_gendered(smplx, "smplx", "male" if int(subject) in MALES else "female")
        people.append(true_person(body, **params))
    if not people:
        raise FootfallError(
            str(folder), got="no bodies", expected="FRAME/SUBJECT.pkl", do="unpack them, or drop --smplx"
        )
    K, cam_from_world = camera
    truth = true_result(
        people, body_model="smplx", K=K, size=size, timestamps=np.arange(len(view.images)) / FPS,
        cam_from_world=np.tile(cam_from_world, (len(view.images), 1, 1)),
        meta={"clip": view.name, "source": "RICH", "subjects": subjects, "distortion": "left out, as the toolkit does"},
    )  # fmt: skip
    depth = truth.motion.cam_from_body[..., 2, 3][truth.motion.present]
    if (depth <= 0).mean() > 0.5:
        raise FootfallError(
            view.name, got="most bodies behind the camera", expected="bodies and calibration of one scene",
            do="check scan_calibration",
        )  # fmt: skip
    return truth


def prepare(args: argparse.Namespace) -> int:
    """Write all wanted clips and the manifest; returns how many."""
    protocol = OmegaConf.load(Path(__file__).parent / "recipe.yaml").protocol
    sequences = [str(name) for name in protocol.sequences] if args.subset == "protocol" else None
    rows = []
    for view in find_views(args.raw, args.set, sequences, args.cameras):
        scene = view.sequence.split("_")[0]
        calibration = args.raw / "scan_calibration" / scene / "calibration" / f"{view.camera:03d}.xml"
        if not calibration.is_file():
            print(f"{view.name}: no calibration (the moving camera has none): left out")
            continue
        camera = read_calibration(calibration)
        size = link_frames(args.out / view.name / "frames", view.images)
        if args.smplx is not None:
            truth = truth_of(view, args.raw / "bodies" / args.set / view.sequence, args.smplx, camera, size)
            save_result(args.out / view.name / "truth", truth)
        row = manifest_row(view.name, camera[0], licence=LICENCE, source="RICH", fps=FPS)
        rows.append({**row, "source_id": view.sequence, "camera": "static"})
        print(f"{view.name}: {len(view.images)} frames")
    write_text(args.out / "manifest.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return len(rows)


def main(arguments: list[str] | None = None) -> int:
    """Write the clips; 0 when all are written, 2 when the user has something to mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True, help="folder with bodies/, images/ and scan_calibration/")
    parser.add_argument("--out", type=Path, required=True, help="folder for clips and manifest.jsonl")
    parser.add_argument("--smplx", type=Path, help="folder with SMPLX_{FEMALE,MALE}.npz, for the truth")
    parser.add_argument("--set", choices=("train", "val", "test"), default="test", help="which set")
    parser.add_argument("--subset", choices=("all", "protocol"), default="all", help="all, or the single-person list")
    parser.add_argument("--cameras", type=int, nargs="+", help="only these cameras")
    args = parser.parse_args(arguments)
    try:
        print(f"{prepare(args)} clips: {args.out / 'manifest.jsonl'}")
    except FootfallError as error:
        print(f"prepare_rich: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
