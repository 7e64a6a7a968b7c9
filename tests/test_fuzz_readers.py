"""Results of other systems, damaged and hostile: every one is read or refused in one line, and nothing in it runs."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.body import BodyModel, load_body_model
from distill.synthetic.bvh import read_bvh
from teacher.readers.attach import make_bodies, match, place
from teacher.readers.camera_files import (
    read_camera_dict,
    read_droid,
    read_human3r_cameras,
    read_josh_cameras,
    read_poses,
    read_tum,
    read_tum_frames,
)
from teacher.readers.cameras import make_cameras
from teacher.readers.clip_frames import ClipFrames
from teacher.readers.colmap_model import read_colmap
from teacher.readers.people_sam3d import read_sam3d
from teacher.readers.pickled import load_npz, load_pickled
from teacher.readers.registry import BODIES, reading
from teacher.readers.vertex_contacts import read_deco, read_vertex_labels
from tests.fuzz_support import Case, fuzz
from tests.readers_support import (
    FRAMES,
    truth_problem,
    world,
    write_gvhmr,
    write_human3r,
    write_model,
    write_phalp,
    write_prompthmr,
    write_tram,
    write_wham,
)
from tests.test_readers_cameras import write_colmap, write_droid, write_josh, write_poses, write_tum
from tests.test_readers_contacts_people import VERTICES, write_sam3d

SIZE = (480, 270)


@functools.cache
def clip_frames() -> ClipFrames:
    return ClipFrames(
        numbers=np.arange(FRAMES), total=FRAMES, timestamps=world().truth.cameras.timestamps, size=SIZE,
        source_size=(960, 540),
    )  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BodyModel]:
    folder = tmp_path_factory.mktemp("models")
    files = {"smpl": write_model(folder / "SMPL.npz"), "smplx": write_model(folder / "SMPLX.npz", 55)}
    loaded = {name: load_body_model(f"{name}:{path}") for name, path in files.items()}
    MODELS.update(loaded)
    return loaded


MODELS: dict[str, BodyModel] = {}


def read_bodies(kind: str, path: Path) -> None:
    problem = truth_problem()
    with reading(path, kind):
        outside = BODIES[kind](path, SIZE)
        body = MODELS[outside.body_model]
        placed, focal = place(outside, body, np.arange(FRAMES), SIZE, problem.cameras.K.astype(np.float64))
        match(placed, problem.people, outside.where)
        make_bodies(placed, problem.people, body, focal)


def bodies(kind: str, write: Any, name: str, *codecs: str) -> Case:
    return Case(
        name=kind, write=lambda root: write(root / name), read=functools.partial(read_bodies, kind), codecs=codecs
    )


def cameras(name: str, write: Any, read: Any, *codecs: str) -> Case:
    def run(path: Path) -> None:
        with reading(path, name):
            make_cameras(read(path, clip_frames()), clip_frames(), focal_guess=0.8)

    return Case(name=name, write=write, codecs=codecs, read=run)


def others(name: str, write: Any, read: Any, *codecs: str) -> Case:
    def run(path: Path) -> None:
        with reading(path, name):
            read(path)

    return Case(name=name, write=write, codecs=codecs, read=run)


def write_labels(root: Path) -> Path:
    np.savez(root / "labels.npz", contact=np.zeros((FRAMES, 2, VERTICES), np.uint8))
    return root / "labels.npz"


def write_deco(root: Path) -> Path:
    folder = write_tram(root / "josh", camera=False, layout="tram")
    (folder / "deco").mkdir()
    for k, count in enumerate((9, FRAMES, 12)):
        np.save(folder / "deco" / f"hps_track_{k}.npy", np.zeros((count, VERTICES), np.float32))
    return folder


def read_labels(path: Path) -> None:
    read_vertex_labels(path, MODELS["smpl"], clip_frames(), truth_problem().people)


def read_deco_labels(path: Path) -> None:
    problem = truth_problem()
    read_deco(path, MODELS["smpl"], clip_frames(), problem.people, problem.cameras)


def read_colmap_model(path: Path) -> None:
    outside, sparse = read_colmap(path, clip_frames())
    make_cameras(outside, clip_frames(), focal_guess=0.8, sparse=sparse)


def write_motion(root: Path) -> Path:
    """Two joints and three frames."""
    channels = "Zrotation Xrotation Yrotation"
    (root / "m.bvh").write_text(
        "HIERARCHY\nROOT Hips\n{\n OFFSET 0 0 0\n CHANNELS 6 Xposition Yposition Zposition " + channels + "\n"
        " JOINT Leg\n {\n  OFFSET 0 -9 0\n  CHANNELS 3 " + channels + "\n"
        "  End Site\n  {\n   OFFSET 0 -9 0\n  }\n }\n}\n"
        "MOTION\nFrames: 3\nFrame Time: 0.033\n" + "\n".join(" ".join(["0.5"] * 9) for _ in range(3)) + "\n"
    )
    return root / "m.bvh"


def load_model(path: Path) -> BodyModel:
    return load_body_model(f"smpl:{path}")


def write_sam(root: Path) -> Path:
    write_sam3d(root / "s")
    return root / "s"


def from_colmap(root: Path, *, binary: bool) -> Path:
    return write_colmap(root / "sparse", binary=binary)


CASES = [
    bodies("wham", write_wham, "wham_output.pkl", "pkl"),
    bodies("tram", write_tram, "tram", "npy"),
    bodies("phalp", write_phalp, "phalp.pkl", "pkl"),
    bodies("gvhmr", write_gvhmr, "hmr4d_results.pt"),
    bodies("prompthmr", write_prompthmr, "results.pkl", "pkl"),
    bodies("human3r", write_human3r, "human3r", "npz"),
    cameras("tum", lambda root: write_tum(root / "p.txt"), read_tum),
    cameras("tum-frames", lambda root: write_tum(root / "p.txt", numbers=True), read_tum_frames),
    cameras("poses-text", lambda root: write_poses(root / "poses.txt", "12"), read_poses),
    cameras("poses-npy", lambda root: write_poses(root / "poses.npy", "7"), read_poses, "npy"),
    cameras("poses-npz", lambda root: write_poses(root / "poses.npz", "3x4"), read_poses, "npz"),
    cameras("droid", lambda root: write_droid(root / "d"), read_droid, "npy"),
    cameras("camera-dictionary", lambda root: write_tram(root / "t"), read_camera_dict, "npy"),
    cameras("human3r-cameras", lambda root: write_human3r(root / "h"), read_human3r_cameras, "npz"),
    cameras("josh", lambda root: write_josh(root / "j"), read_josh_cameras, "pkl"),
    others("colmap-binary", functools.partial(from_colmap, binary=True), read_colmap_model),
    others("colmap-text", functools.partial(from_colmap, binary=False), read_colmap_model),
    others("vertex-labels", write_labels, read_labels, "npz"),
    others("deco", write_deco, read_deco_labels, "npy"),
    others("sam3d", write_sam, lambda path: read_sam3d(path, clip_frames(), min_frames=4, max_people=4), "npz"),
    Case(name="bvh", write=write_motion, read=read_bvh),
    Case(name="pickle", write=lambda root: write_wham(root / "w.pkl"), read=load_pickled, codecs=("pkl",)),
    Case(name="torch-file", write=lambda root: write_gvhmr(root / "g.pt"), read=load_pickled),
    Case(name="npz", write=write_labels, read=lambda path: load_npz(path, ("contact",)), codecs=("npz",)),
    Case(name="smpl-file", write=lambda root: write_model(root / "SMPL.npz"), read=load_model, codecs=("npz",)),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.usefixtures("models")
def test_a_damaged_file_is_refused_in_one_line(case: Case, tmp_path: Path) -> None:
    fuzz(case, tmp_path)
