"""JOSH3R trained by the project's loop on labels, and run on a video by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from distill.config import load_config
from distill.errors import FootfallError
from distill.josh3r_trainer import Josh3rTrainer
from distill.models import load_josh3r
from distill.models.backbones import load_backbone
from distill.people.blazepose import Pose, Region
from distill.people.tracker import Tracked
from distill.results import load_result
from distill.train_config import TrainConfig
from teacher.cli import main
from tests.josh3r_support import small_josh3r, write_folder
from tests.shard_support import make_shards
from tests.student_support import one_thread  # noqa: F401 (an automatic fixture)

CONFIG = Path(__file__).parent.parent / "configs" / "student" / "josh3r.yaml"


def _settings(shards: Path, out: Path, *more: str) -> TrainConfig:
    small = ("data.batch_size=2", "data.workers=0", "josh3r.roi_channels=4", "log_every=1", "optim.warmup_steps=1")
    return load_config(TrainConfig, CONFIG, [f"data.shards={shards / 'shards'}", f"out={out}", *small, *more])


def test_the_loop_trains_saves_and_resumes_it(tmp_path: Path) -> None:
    make_shards(tmp_path, samples=4, frames=8)
    before = {name: tensor.clone() for name, tensor in load_backbone("tiny").state_dict().items()}
    Josh3rTrainer(_settings(tmp_path, tmp_path / "runs", "steps=3", "optim.lr=1e-3", "save_every=2")).train()
    run = tmp_path / "runs" / "josh3r"
    rows = [json.loads(line) for line in (run / "log" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(np.isfinite(row["loss"]) and "motion_translation_mm" in row for row in rows)
    saved = load_file(run / "pretrained" / "model.safetensors")
    assert not any(name.startswith(("mast3r.", "backbone")) for name in saved)
    model = load_josh3r(run / "pretrained")
    loaded = model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in saved.items())
    assert all(torch.equal(loaded[f"mast3r.{name}"], tensor) for name, tensor in before.items())
    again = Josh3rTrainer(_settings(tmp_path, tmp_path / "runs", "steps=4", "resume=true"))
    assert again.step == 3
    again.train()
    assert json.loads((run / "state" / "training.json").read_text())["step"] == 4


def test_a_feature_cache_is_refused(tmp_path: Path) -> None:
    make_shards(tmp_path, samples=2, frames=8)
    plain = [f"data.{name}=0" for name in _pixel_settings()]
    with pytest.raises(FootfallError, match="feature_cache"):
        Josh3rTrainer(_settings(tmp_path, tmp_path / "runs", f"data.feature_cache={tmp_path / 'cache'}", *plain))


def _pixel_settings() -> tuple[str, ...]:
    from distill.data_config import PIXEL_AUGMENTATION

    return PIXEL_AUGMENTATION


def _walker(index: int) -> Pose:
    """A standing person, 3 m away, who moves to the right; keypoints as the tracker gives them."""
    from distill.body import load_body_model
    from distill.geometry.cameras import make_intrinsics, project
    from distill.geometry.transforms import make_transform
    from teacher.initialisers.body_points import KeypointPieces
    from teacher.initialisers.body_prior import usual_pose

    body = load_body_model("anny")
    root = make_transform(torch.diag(torch.tensor([1.0, -1, -1])), torch.tensor([-0.2 + 0.05 * index, 0, 3.0]))
    betas = torch.zeros(1, body.num_betas, dtype=torch.float64)
    points = KeypointPieces(body).points(betas[0], usual_pose(1), root.double()[None])[0]
    K = make_intrinsics(torch.tensor(0.8 * float(np.hypot(96, 64))), (96, 64)).double()
    pixels = project(points, K).numpy()
    region = Region(centre=pixels.mean(0), side=64.0, angle=0.0)
    hip = points[11:13].mean(0)
    return Pose(
        keypoints_px=pixels, keypoint_score=np.ones(23), keypoints_hip=(points - hip).numpy(), score=1.0,
        box_xyxy=np.concatenate((pixels.min(0) - 2, pixels.max(0) + 2)), next_region=region,
        mask_logit=np.zeros((256, 256), np.float32), region=region,
    )  # fmt: skip


class _Tracker:
    """Stands for the landmark networks, whose own tests see pictures of people. Frame 5 hides the person."""

    def __init__(self, _config: object) -> None:
        self.frame = -1

    def step(self, image: NDArray[np.uint8]) -> list[Tracked]:
        assert image.shape == (64, 96, 3)
        self.frame += 1
        return [] if self.frame == 5 else [Tracked(id=7, pose=_walker(self.frame))]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    folder = tmp_path / "clip"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for index in range(12):
        coarse = draw.integers(0, 255, (8, 12, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((96, 64)).save(folder / f"{index:03d}.png")
    return folder


def test_run_writes_the_same_folder_as_for_our_students(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("teacher.run_josh3r.PeopleTracker", _Tracker)
    checkpoint = write_folder(tmp_path / "josh3r", small_josh3r().state_dict()) / "model.safetensors"
    assert main(["run", str(clip), "--checkpoint", f"josh3r:{checkpoint}", "--out", str(tmp_path / "out")]) == 0
    result = load_result(tmp_path / "out")
    frames = [k for k in range(12) if k != 5]
    assert result.motion.present[:, 0].tolist() == [k in frames for k in range(12)]
    assert result.cameras.valid.tolist() == result.motion.present[:, 0].tolist()
    assert result.meta["method"] == "josh3r, chained" and "intrinsics" in result.meta["not_predicted"]
    assert len(result.scene_points) > 0
    latency = json.loads((tmp_path / "out" / "latency.json").read_text())
    assert latency["pairs"] == 4 and set(latency) >= {"people", "encode", "pair", "frames_per_s"}
    # World and camera are tied by the person: steps of the body in the result are the network's own, in any world.
    model = load_josh3r(checkpoint)
    from distill.models.josh3r_images import prepare_boxes, prepare_image

    images = [prepare_image(np.asarray(Image.open(clip / f"{k:03d}.png")), 96)[None] for k in (0, 3)]
    boxes = [prepare_boxes(torch.from_numpy(_walker(k).box_xyxy).float(), (96, 64), 96)[None] for k in (0, 3)]
    with torch.no_grad():
        answer = model(images[0], images[1], boxes[0], boxes[1])
    step = np.linalg.inv(result.world_from_body[0, 0]) @ result.world_from_body[3, 0]
    np.testing.assert_allclose(step[:3, 3], answer.rel_trans[0].numpy(), atol=1e-3)


def test_run_needs_somebody(tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: object) -> None:
    class Nobody(_Tracker):
        def step(self, image: NDArray[np.uint8]) -> list[Tracked]:
            return []

    monkeypatch.setattr("teacher.run_josh3r.PeopleTracker", Nobody)
    checkpoint = write_folder(tmp_path / "josh3r", small_josh3r().state_dict())
    assert main(["run", str(clip), "--checkpoint", f"josh3r:{checkpoint}", "--out", str(tmp_path / "out")]) == 2
    assert main(["run", str(clip), "--checkpoint", f"josh3r:{tmp_path / 'none'}", "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_run_on_a_real_clip(tmp_path: Path, shared_dir: Path) -> None:
    """With the landmark networks themselves: a man who climbs, filmed by hand."""
    (tmp_path / "clip").mkdir()
    for frame in sorted((shared_dir / "videos" / "02_davis_parkour_frames").iterdir())[:24]:
        (tmp_path / "clip" / frame.name).write_bytes(frame.read_bytes())
    checkpoint = write_folder(tmp_path / "josh3r", small_josh3r().state_dict())
    assert main(["run", str(tmp_path / "clip"), "--checkpoint", f"josh3r:{checkpoint}", "--out", str(tmp_path)]) == 0
    result = load_result(tmp_path)
    assert result.motion.present.sum() > 12 and result.meta["people_found"] >= 1
