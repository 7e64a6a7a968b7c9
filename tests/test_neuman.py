"""The recipe for NeuMan, on a made-up clip in the true layout: other units, transposed alignments, inverted masks."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from distill.errors import FootfallError
from distill.image_targets import find_image_targets
from distill.results import load_result
from teacher.manifest import read_inputs
from tests.readers_support import made_up, write_model
from tests.target_support import chain_joints, load_recipe

COUNT, SIZE, UNITS = 12, (64, 48), 2.5
"""Frames, pixels, and COLMAP's units per metre."""


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    return load_recipe("neuman")


class Clip:
    """A clip named bike, frame 5 left out, its images listed out of order."""

    def __init__(self, root: Path) -> None:
        rng = np.random.default_rng(8)
        self.folder = root / "raw" / "bike"
        self.numbers = [k for k in range(COUNT + 1) if k != 5]
        self.names = [f"{k:05d}.png" for k in self.numbers]
        turns = [Rotation.from_rotvec([0.02 * k, 0.05 * k, -0.01 * k]) for k in range(COUNT)]
        self.cam_from_world = np.tile(np.eye(4), (COUNT, 1, 1))
        self.cam_from_world[:, :3, :3] = [turn.as_matrix() for turn in turns]
        self.cam_from_world[:, :3, 3] = rng.normal(size=(COUNT, 3))
        self.betas = rng.normal(size=10) * 0.5
        self.pose = rng.normal(size=(COUNT + 1, 24, 3)) * 0.3
        self.world_from_smpl = np.tile(np.eye(4), (COUNT, 1, 1))
        self.world_from_smpl[:, :3, :3] = UNITS * Rotation.from_rotvec(rng.normal(size=(COUNT, 3))).as_matrix()
        self.world_from_smpl[:, :3, 3] = rng.normal(size=(COUNT, 3)) * 5
        self.points = rng.normal(size=(7, 3))
        self._write_pictures()
        self._write_model([turn.as_quat()[[3, 0, 1, 2]] for turn in turns])
        alignments: Any = {name: T[:3].T for name, T in zip(self.names, self.world_from_smpl, strict=True)}
        np.save(self.folder / "alignments.npy", alignments)
        people = {1: {"pose": self.pose.reshape(-1, 72), "betas": np.tile(self.betas, (COUNT + 1, 1))}}
        (self.folder / "smpl_output_romp.pkl").write_bytes(pickle.dumps(people))

    def _write_pictures(self) -> None:
        for kind in ("images", "segmentations", "sparse"):
            (self.folder / kind).mkdir(parents=True)
        for number, name in zip(self.numbers, self.names, strict=True):
            Image.new("RGB", SIZE, (number, 50, 90)).save(self.folder / "images" / name)
            mask = np.full((SIZE[1], SIZE[0]), 255, np.uint8)
            mask[10:30, number : number + 8] = 0
            Image.fromarray(mask).save(self.folder / "segmentations" / name)

    def _write_model(self, quats: list[Any]) -> None:
        sparse = self.folder / "sparse"
        camera = f"1 SIMPLE_RADIAL {SIZE[0]} {SIZE[1]} 70.5 32 24 0"
        (sparse / "cameras.txt").write_text(f"# Camera list\n# ID\n# Number of cameras: 1\n{camera}\n")
        rows = []
        for index in reversed(range(COUNT)):
            numbers = " ".join(f"{value:.17g}" for value in (*quats[index], *self.cam_from_world[index, :3, 3]))
            rows += [f"{index + 3} {numbers} 1 {self.names[index]}", "1.5 2.5 -1 3 4 2" if index % 2 else ""]
        (sparse / "images.txt").write_text("# a\n# b\n# c\n# d\n" + "\n".join(rows) + "\n")
        lines = [f"{k} {x:.17g} {y:.17g} {z:.17g} 10 20 {k} 0.5 3 1" for k, (x, y, z) in enumerate(self.points)]
        (sparse / "points3D.txt").write_text("# a\n# b\n# c\n" + "\n".join(lines) + "\n")


@pytest.fixture
def clip(tmp_path: Path) -> Clip:
    return Clip(tmp_path)


def run(recipe: ModuleType, clip: Clip, *more: str) -> Path | None:
    """Folder of the prepared clips, or None if the recipe found something wrong."""
    out = clip.folder.parent.parent / "out"
    return out if recipe.main(["--raw", str(clip.folder.parent), "--out", str(out), *more]) == 0 else None


def test_bodies_and_cameras_come_out_in_metres(recipe: ModuleType, clip: Clip, tmp_path: Path) -> None:
    out = run(recipe, clip, "--smpl", str(write_model(tmp_path / "SMPL_NEUTRAL.npz")))
    assert out is not None
    given = load_result(out / "bike" / "given")
    for index, number in enumerate(clip.numbers):  # NeuMan takes the body of the number in the image's name
        in_smpl = chain_joints(clip.betas, clip.pose[number], np.zeros(3))
        in_world = in_smpl @ clip.world_from_smpl[index, :3, :3].T + clip.world_from_smpl[index, :3, 3]
        in_camera = in_world @ clip.cam_from_world[index, :3, :3].T + clip.cam_from_world[index, :3, 3]
        np.testing.assert_allclose(given.motion.joints_cam[index, 0], in_camera / UNITS, atol=2e-4)
    centre = np.linalg.inv(clip.cam_from_world)[:, :3, 3]
    steps = np.linalg.norm(np.diff(given.cameras.world_from_cam[:, :3, 3], axis=0), axis=1)
    np.testing.assert_allclose(steps, np.linalg.norm(np.diff(centre, axis=0), axis=1) / UNITS, rtol=1e-4)
    in_first = clip.points @ clip.cam_from_world[0, :3, :3].T + clip.cam_from_world[0, :3, 3]
    np.testing.assert_allclose(given.scene_points, in_first / UNITS, atol=1e-5)
    assert given.meta["units_per_metre"] == pytest.approx(UNITS)
    assert given.cameras.K[0].tolist() == [70.5, 0, 32]
    assert not (out / "bike" / "truth").exists()  # ROMP's poses are no truth


def test_frames_masks_splits_and_manifest(recipe: ModuleType, clip: Clip) -> None:
    out = run(recipe, clip)
    assert out is not None
    (source,) = read_inputs([out / "manifest.jsonl"])
    assert source.intrinsics == {"fx": 70.5, "fy": 70.5, "cx": 32.0, "cy": 24.0}
    (target,) = find_image_targets(out).values()
    assert target.id == "bike"
    assert "Detectron2" in target.mask_source
    assert target.masks is not None
    with Image.open(out / "bike" / "frames" / "000005.png") as image:
        assert image.getpixel((0, 0)) == (6, 50, 90)  # frame 5 is not in the model
    with Image.open(target.masks / "000005.png") as image:
        mask = np.asarray(image)
    assert mask.sum() == 20 * 8
    assert mask[15, 6] == 1
    # 12 frames: 2 parts of 6, held out from the third frame on.
    assert target.parts == {"train": [k for k in range(12) if k not in (3, 9)], "val": [9], "test": [3]}
    assert load_result(out / "bike" / "given").motion.ids.shape == (0,)


def test_the_datas_own_split_wins(recipe: ModuleType, clip: Clip) -> None:
    chosen = {"train": clip.names[2:], "val": clip.names[:1], "test": clip.names[1:2]}
    for part, names in chosen.items():
        (clip.folder / f"{part}_split.txt").write_text("".join(f"{name}\n" for name in names))
    out = run(recipe, clip)
    assert out is not None
    (target,) = find_image_targets(out).values()
    assert target.rule == "the files of the data"
    assert target.split(COUNT)["test"] == [1]
    with pytest.raises(FootfallError, match="0 to 4"):
        target.split(5)


def test_masks_as_arrays(recipe: ModuleType, clip: Clip) -> None:
    for path in (clip.folder / "segmentations").iterdir():
        with Image.open(path) as image:
            np.save(path.with_name(path.name + ".npy"), 255 - np.asarray(image) * 0)
    mask = recipe.read_mask(clip.folder / "segmentations", clip.names[0], SIZE)
    assert not mask.any()  # the arrays come first, and hold nobody


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("no clip", "no clip in it"),
        ("distorted", "distortion"),
        ("two lenses", "one undistorted camera"),
        ("no images.txt", "images.txt"),
        ("no alignment", "00007.png"),
        ("mirrored", "mirrored"),
        ("grey mask", "0 (person) and 255"),
        ("no image", "no such image"),
        ("two people", "not one person"),
        ("few bodies", "frame 12 as well"),
        ("split", "00099.png"),
    ],
)
def test_what_is_wrong_is_said(
    recipe: ModuleType, clip: Clip, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, word: str
) -> None:
    sparse, folder = clip.folder / "sparse", clip.folder
    lens = (sparse / "cameras.txt").read_text()
    alignments: Any = {name: T[:3].T for name, T in zip(clip.names, clip.world_from_smpl, strict=True)}
    person = {"pose": clip.pose.reshape(-1, 72), "betas": np.tile(clip.betas, (COUNT + 1, 1))}
    if kind == "no clip":
        clip.folder = tmp_path / "nothing" / "here"
    elif kind == "distorted":
        (sparse / "cameras.txt").write_text(lens.replace("24 0\n", "24 0.1\n"))
    elif kind == "two lenses":
        (sparse / "cameras.txt").write_text(lens + f"2 PINHOLE {SIZE[0]} {SIZE[1]} 70 70 32 24\n")
    elif kind == "no images.txt":
        (sparse / "images.txt").unlink()
    elif kind == "no alignment":
        del alignments["00007.png"]
        np.save(folder / "alignments.npy", alignments)
    elif kind == "mirrored":
        np.save(folder / "alignments.npy", {name: -T for name, T in alignments.items()})  # type: ignore[arg-type]
    elif kind == "grey mask":
        Image.new("L", SIZE, 128).save(folder / "segmentations" / clip.names[3])
    elif kind == "no image":
        (folder / "images" / clip.names[2]).unlink()
    elif kind == "split":
        for part in ("train", "val", "test"):
            (folder / f"{part}_split.txt").write_text("00099.png\n")
    else:
        people = {1: person, 2: person} if kind == "two people" else {1: {k: v[:9] for k, v in person.items()}}
        (folder / "smpl_output_optimized.pkl").write_bytes(pickle.dumps(people))
    assert run(recipe, clip, "--smpl", str(write_model(tmp_path / "SMPL_NEUTRAL.npz"))) is None
    assert word in capsys.readouterr().err


def test_the_pelvis_of_the_made_up_body_is_off_the_origin() -> None:
    """Else the tests above could not tell SMPL's origin from the pelvis."""
    model = made_up(24)
    assert np.linalg.norm(model["J_regressor"][0] @ model["v_template"]) > 0.1
