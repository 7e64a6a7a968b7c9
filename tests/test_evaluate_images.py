"""Rendered frames and Gaussians of results against clips: which frames, sizes, masks and labels; the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from distill.avatar import make_avatar, save_avatar
from distill.body import BodyModel, load_body_model
from distill.errors import FootfallError
from distill.evaluate_images import ImagesConfig, draw_and_evaluate, evaluate_renders, images_table
from distill.files import read_json, write_json
from distill.image_targets import find_image_targets, write_image_target
from distill.metrics.renders import neuman_split
from distill.render import Gaussians
from distill.render.packed import save_packed
from distill.render.ply import write_gaussians
from distill.renders import draw_result, find_renders, has_gaussians, how_made, write_renders
from distill.results import Cameras, Motion, Result, save_result
from teacher.cli import main

COUNT, SIZE = 12, (48, 36)
STATED = ImagesConfig()


def make_clip(folder: Path, *, masks: bool = True) -> np.ndarray:
    """A clip of noise with a square person; returns its frames [T, H, W, 3] as they are on disk."""
    frames = np.random.default_rng(2).integers(0, 200, (COUNT, SIZE[1], SIZE[0], 3)).astype(np.uint8)
    for index, picture in enumerate(frames):
        for kind, content in (("frames", picture), ("masks", np.zeros(picture.shape[:2], np.uint8))):
            if kind == "frames" or masks:
                (folder / kind).mkdir(parents=True, exist_ok=True)
                if kind == "masks":
                    content[10:25, 12:30] = 1
                Image.fromarray(content).save(folder / kind / f"{index:06d}.png")
    return frames / 255


def off_by(frames: np.ndarray, error: float) -> Any:
    return [(index, frame + error, None) for index, frame in enumerate(frames)]


def test_known_errors_come_out(tmp_path: Path) -> None:
    frames = make_clip(tmp_path / "data" / "a")
    make_clip(tmp_path / "data" / "b")
    alone = [(k, frame + 0.2, np.where(np.ones_like(frame) > 0, frame + 0.1, 0)) for k, frame in enumerate(frames)]
    write_renders(tmp_path / "renders" / "a", alone, clip="a", poses="fitted", made_by="a test")
    report = evaluate_renders(tmp_path / "renders", tmp_path / "data", STATED)
    a, b = report["clips"]
    assert (a["status"], b["status"]) == ("evaluated", "missed")
    assert (a["split"], a["frames"], a["frames_missing"]) == ("test", 1, 0)
    assert (a["poses"], a["made_by"], a["mask_source"]) == ("fitted", "a test", "not stated")
    assert a["size"] == a["frame_size"] == list(SIZE)
    assert a["person_alone"] == "1 of 1 frames"
    share = 15 * 18 / (36 * 48)
    assert a["values"]["full"]["psnr"] == pytest.approx(-20 * np.log10(0.2), abs=0.05)  # 8 bits
    assert a["values"]["crop"]["psnr"] == pytest.approx(-20 * np.log10(0.2), abs=0.05)
    assert a["values"]["white"]["psnr"] == pytest.approx(-10 * np.log10(0.01 * share), abs=0.1)
    assert report["overall"]["clips_evaluated"] == 1
    assert report["overall"]["full"]["ssim"] == a["values"]["full"]["ssim"]
    assert "missing" in report["lpips"]
    assert a["values"]["full"]["lpips"] is None
    assert "missing" in a["undefined"]["full.lpips"]


@pytest.mark.parametrize(("split", "frames"), [("test", 1), ("val", 1), ("held_out", 2), ("train", 10), ("all", 12)])
def test_only_the_frames_of_the_split_count(tmp_path: Path, split: str, frames: int) -> None:
    real = make_clip(tmp_path / "a")
    chosen = neuman_split(COUNT)
    numbers = {"held_out": sorted(chosen["val"] + chosen["test"]), "all": list(range(COUNT))}.get(split) or chosen[
        split
    ]
    rendered = [(k, frame + (0.098 if k in numbers else 0.5), None) for k, frame in enumerate(real)]
    write_renders(tmp_path / "r", rendered, clip="a", poses="given", made_by="a test", unseen=chosen["test"])
    report = evaluate_renders(tmp_path / "r", tmp_path / "a", ImagesConfig(split=split))
    assert report["clips"][0]["frames"] == frames
    assert report["overall"]["full"]["psnr"] == pytest.approx(20.17, abs=0.1)
    unseen = {"val": 0, "train": 0}.get(split, 1)  # of the one frame of the test set
    line = f"| a | {split} | {frames} of {frames} | {unseen} of {frames} | 48 x 36 | not stated | given | full | 20."
    assert line in images_table(report)


def test_frames_that_were_not_rendered_are_counted(tmp_path: Path) -> None:
    real = make_clip(tmp_path / "a")
    write_renders(tmp_path / "a-renders", off_by(real, 0.1)[:7], clip="a", poses="given", made_by="x")
    row = evaluate_renders(tmp_path / "a-renders", tmp_path / "a", ImagesConfig(split="all"))["clips"][0]
    assert row["frames_missing"] == 5
    with pytest.raises(FootfallError, match="no frame of the split val is rendered"):
        evaluate_renders(tmp_path / "a-renders", tmp_path / "a", ImagesConfig(split="val"))


def test_smaller_renderings_are_compared_at_their_own_size(tmp_path: Path) -> None:
    real = make_clip(tmp_path / "a")
    halved = real.reshape(COUNT, 18, 2, 24, 2, 3).mean((2, 4))
    write_renders(tmp_path / "r", off_by(halved, 0.1), clip="a", poses="given", made_by="x")
    row = evaluate_renders(tmp_path / "r", tmp_path / "a", STATED)["clips"][0]
    assert row["values"]["full"]["psnr"] == pytest.approx(20, abs=0.2)  # 8 bits
    assert (row["size"], row["frame_size"]) == ([24, 18], [48, 36])


def test_pictures_of_no_clip_in_particular(tmp_path: Path) -> None:
    """A bare folder of numbered pictures, without a renders.json."""
    real = make_clip(tmp_path / "a", masks=False)
    (tmp_path / "mine").mkdir()
    for index, frame in enumerate(real):
        Image.fromarray((255 * frame).astype(np.uint8)).save(tmp_path / "mine" / f"{index:06d}.png")
    assert find_renders(tmp_path / "mine", ["a"]) == {"a": tmp_path / "mine"}
    row = evaluate_renders(tmp_path / "mine", tmp_path / "a", ImagesConfig(poses="given"))["clips"][0]
    assert (row["poses"], row["made_by"], row["mask_source"]) == ("given", "not stated", "none")
    assert row["values"]["full"]["ssim"] > 0.99
    assert row["values"]["crop"]["psnr"] is None
    assert row["undefined"]["crop"] == "no mask (1 of 1 frames)"


def test_a_recipes_split_and_masks_are_named(tmp_path: Path) -> None:
    real = make_clip(tmp_path / "a")
    parts = {"train": [0], "val": [1], "test": [4, 5]}
    write_image_target(tmp_path / "a", parts=parts, rule="mine", mask_source="SAM")
    write_renders(tmp_path / "r", off_by(real, 0.1), clip="a", poses="given", made_by="x")
    row = evaluate_renders(tmp_path / "r", tmp_path / "a", STATED)["clips"][0]
    assert (row["frames"], row["rule"], row["mask_source"]) == (2, "mine", "SAM")


@pytest.mark.parametrize(
    "kind", ["other shape", "two sizes", "no mask", "bad renders.json", "bad images.json", "other id"]
)
def test_what_does_not_fit_is_one_clear_error(tmp_path: Path, kind: str) -> None:
    real = make_clip(tmp_path / "data" / "a")
    write_renders(tmp_path / "r" / "a", off_by(real, 0.1), clip="a", poses="given", made_by="x")
    some = tmp_path / "r" / "a" / "000003.png"
    if kind == "other shape":
        Image.new("RGB", (48, 48)).save(some)
    elif kind == "two sizes":
        Image.new("RGB", (24, 18)).save(some)
    elif kind == "no mask":
        (tmp_path / "data" / "a" / "masks" / "000003.png").unlink()
    elif kind == "bad renders.json":
        write_json(tmp_path / "r" / "a" / "renders.json", {"format": "footfall-renders/1", "poses": "guessed"})
    elif kind == "bad images.json":
        write_json(tmp_path / "data" / "a" / "images.json", {"format": "footfall-images/1", "parts": {"test": [1]}})
    else:
        (tmp_path / "r" / "a").rename(tmp_path / "r" / "elsewhere")
        make_clip(tmp_path / "data" / "b")
    with pytest.raises(FootfallError):
        evaluate_renders(tmp_path / "r", tmp_path / "data", ImagesConfig(split="held_out"))


@pytest.mark.parametrize("wrong", [{"split": "tests"}, {"poses": "guessed"}])
def test_settings_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="images"):
        ImagesConfig(**wrong)


def test_no_clips_to_compare_with(tmp_path: Path) -> None:
    with pytest.raises(FootfallError, match="no such folder"):
        find_image_targets(tmp_path / "nothing")


# Gaussians of results


def drawn_result(body: BodyModel) -> tuple[Result, Gaussians]:
    """A person 4 m ahead of cameras that move sideways, and a wall 6 m ahead."""
    poses = np.tile(np.eye(4), (COUNT, 1, 1))
    poses[:, 0, 3] = 0.02 * np.arange(COUNT)
    root = np.eye(4)
    root[:3, :3], root[:3, 3] = np.diag([-1.0, -1.0, 1.0]), [0, 0, 4]  # upright where y is down
    world_from_body = np.tile(root, (COUNT, 1, 1, 1))
    betas = np.zeros((1, body.num_betas))
    present = np.ones((COUNT, 1), bool)
    present[5] = False
    result = Result(
        cameras=Cameras(
            K=np.array([[60.0, 0, SIZE[0]], [0, 60, SIZE[1]], [0, 0, 1]]), size=(2 * SIZE[0], 2 * SIZE[1]),
            timestamps=np.arange(COUNT) / 10, world_from_cam=poses, valid=np.ones(COUNT, bool),
        ),
        motion=Motion(
            ids=np.array([7]), present=present, body_model="anny", betas=betas,
            body_rot=np.tile(np.eye(3), (COUNT, 1, 23, 1, 1)),
            cam_from_body=np.linalg.inv(poses)[:, None] @ world_from_body,
            joints_cam=np.zeros((COUNT, 1, 24, 3)), contact_prob=np.zeros((COUNT, 1, 6)),
            stature=np.array([1.7]), confidence=np.ones((COUNT, 1)),
        ),
        meta={"world": "first_camera"},
    )  # fmt: skip
    across = torch.linspace(-5, 5, 20)
    means = torch.stack((*torch.meshgrid(across, across, indexing="xy"), torch.full((20, 20), 6.0)), -1).reshape(-1, 3)
    wall = Gaussians(
        means=means, quats=torch.tensor([1.0, 0, 0, 0]).expand(400, 4), scales=torch.full((400, 3), 0.3),
        opacities=torch.full((400,), 0.95), colors=torch.rand(400, 3),
    )  # fmt: skip
    return result, wall


def student_folder(root: Path, body: BodyModel) -> Path:
    result, wall = drawn_result(body)
    avatar = make_avatar(body, torch.zeros(body.num_betas), anchors=250)
    avatar.colors[:] = torch.tensor([1.0, 0.0, 0.0])
    (root / "avatars").mkdir(parents=True)
    write_gaussians(root / "gaussians.ply", wall)
    save_avatar(root / "avatars" / "person-7.npz", avatar)
    save_result(root, result)
    return root


def teacher_folder(root: Path, body: BodyModel, *, refined: bool) -> Path:
    """The teacher's layout; the first result is wrong where it keeps a refined one."""
    result, wall = drawn_result(body)
    stage = root / "gaussians"
    avatar = make_avatar(body, torch.zeros(body.num_betas), anchors=250)
    avatar.colors[:] = torch.tensor([1.0, 0.0, 0.0])
    save_packed(stage / "scene.npz", wall)
    save_avatar(stage / "person0.npz", avatar)
    save_result(stage / "refined", result)
    write_json(stage / "verdict.json", {"decision": "refined" if refined else "geometry", "held_out": [2, 7]})
    if refined:
        result.motion.cam_from_body[:, :, 0, 3] += 10
    save_result(root / "joint", result)
    return root / "joint"


@pytest.mark.parametrize("kind", ["student", "teacher", "refined"])
def test_a_result_draws_its_people_and_scene(tmp_path: Path, body: BodyModel, kind: str) -> None:
    torch.manual_seed(0)
    made = student_folder(tmp_path / "r", body) if kind == "student" else None
    folder = made or teacher_folder(tmp_path / "r", body, refined=kind == "refined")
    assert has_gaussians(folder)
    frames = {k: (picture, person) for k, picture, person in draw_result(folder, SIZE, [4, 5, 40])}
    assert list(frames) == [4, 5]  # 40 is not in the result
    picture, person = frames[4]
    assert picture.shape == (SIZE[1], SIZE[0], 3)
    assert person is not None
    # The belly is 4 m ahead; the camera of frame 4 stands 0.08 m to the right, so it is 0.6 px left of the middle.
    belly = person[SIZE[1] // 2, SIZE[0] // 2 - 1]
    assert belly[0] > 0.9
    assert belly[1:].max() < 0.2
    np.testing.assert_allclose(person[2, 2], 1, atol=1e-3)
    assert picture[2, 2].max() > 0.05  # the wall
    assert frames[5][1] is None  # nobody is present
    expected = {"student": ("given", []), "teacher": ("given", [2, 7]), "refined": ("fitted", [2, 7])}[kind]
    assert (how_made(folder)["poses"], how_made(folder)["unseen"]) == expected


def test_a_result_drawn_is_scored(tmp_path: Path, body: BodyModel) -> None:
    folder = student_folder(tmp_path / "result", body)
    make_clip(tmp_path / "data" / "a")
    for index, picture, _ in draw_result(folder, SIZE, [3, 9]):  # held out of 12
        pixels = np.rint(255 * picture.clip(0, 1)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / "a" / "frames" / f"{index:06d}.png")
    config = ImagesConfig(split="held_out")
    report = draw_and_evaluate({"a": folder}, tmp_path / "data", config, tmp_path / "drawn")
    row = report["clips"][0]
    assert row["values"]["full"]["ssim"] > 0.9999  # it drew what the clip shows
    assert row["values"]["full"]["psnr"] is None
    assert row["frames_missing"] == 0
    assert "Gaussians" in row["made_by"]
    assert (row["poses"], row["unseen"]) == ("given", "0 of 2")  # a student's Gaussians saw every frame


def test_a_result_without_gaussians(tmp_path: Path, body: BodyModel) -> None:
    save_result(tmp_path / "joint", drawn_result(body)[0])
    assert not has_gaussians(tmp_path / "joint")
    with pytest.raises(FootfallError, match="no Gaussians with it"):
        next(draw_result(tmp_path / "joint", SIZE, [0]))


# The command


def test_the_command_scores_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real = make_clip(tmp_path / "data" / "a")
    write_renders(tmp_path / "r" / "a", off_by(real, 0.1), clip="a", poses="given", made_by="x")
    out = tmp_path / "report.json"
    words = [
        "evaluate",
        str(tmp_path / "r"),
        "--data",
        str(tmp_path / "data"),
        "--out",
        str(out),
        "images.split=held_out",
    ]
    assert main(words) == 0
    report = read_json(out)
    assert report["format"] == "footfall-image-report/1"
    assert report["settings"]["split"] == "held_out"
    assert report["provenance"]["torch"] == torch.__version__
    shown = capsys.readouterr().out
    assert "missing: images.lpips_weights names no weights" in shown
    assert "| **all** | | | | | | | white |" in out.with_suffix(".md").read_text()
    assert main([*words, "images.lpips_weights=" + str(tmp_path)]) == 2
    assert "LPIPS weights" in capsys.readouterr().err


def test_the_command_draws_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = load_body_model("anny")
    folder = student_folder(tmp_path / "results" / "a", body)
    make_clip(tmp_path / "data" / "a")
    save_result(tmp_path / "data" / "a" / "truth", drawn_result(body)[0])
    out = tmp_path / "report.json"
    words = ["evaluate", str(folder.parent), "--data", str(tmp_path / "data"), "--out", str(out), "images.render=true"]
    assert main(words) == 0
    assert read_json(out)["format"] == "footfall-report/1"
    assert "images" not in read_json(out)["protocol"]
    images = read_json(tmp_path / "report-images.json")
    assert images["clips"][0]["mask_source"] == "truth"
    assert images["clips"][0]["values"]["full"]["psnr"] > 0
    assert (tmp_path / "report-renders" / "a" / "000003.png").is_file()
