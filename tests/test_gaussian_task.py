"""The Gaussian head in training and in checkpoints: only the head learns, older checkpoints still load."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distill.body import BodyModel
from distill.config import load_config
from distill.errors import FootfallError
from distill.gaussian_task import GaussianLossConfig, GaussianTask, GaussianTrainConfig
from distill.gaussian_trainer import GaussianTrainer, add_gaussian_head
from distill.models.student import Student, StudentConfig
from distill.task import Batch
from distill.train_config import TrainConfig
from tests.gaussian_support import SMALL, small_student
from tests.shard_support import make_shards
from tests.student_support import SIZE, make_batch, one_thread  # noqa: F401 (a fixture)

CONFIGS = Path(__file__).parent.parent / "configs" / "student"


def dense_batch(body: BodyModel, *, people: int = 1) -> Batch:
    """Windows of three frames with masks and depth of every pixel, as the trainer reads them."""
    batch = make_batch(body, windows=2, people=people, frames=3)
    width, height = SIZE
    batch["masks"] = torch.zeros(2, people, 3, height, width)
    batch["masks"][:, :, :, 16:48, 36:60] = 1.0
    batch["depth"] = 4 + torch.rand(2, 3, height, width)
    return batch | {"prompt_masks": batch["masks"]}


@pytest.fixture(scope="module")
def task(body: BodyModel) -> GaussianTask:
    torch.manual_seed(0)
    return GaussianTask(small_student(), GaussianTrainConfig(head=SMALL, crop=32), body)


def test_gradients_reach_the_head_and_nothing_else(task: GaussianTask, body: BodyModel) -> None:
    task.train()
    losses, report = task(dense_batch(body))
    assert {"color", "structure", "silhouette", "depth", "human_color", "human_structure", "tight"} <= set(losses)
    assert all(torch.isfinite(value) for value in [*losses.values(), *report.values()])
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in task.student.named_parameters():
        assert (parameter.grad is not None) == name.startswith("gaussians."), name
    heads = {name for name, p in task.student.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {"gaussians.scene.out.weight", "gaussians.human.out.weight"} <= heads
    assert all(p.grad is None for p in task.student.backbone.module.parameters())


def test_a_window_without_people_trains_the_scene_and_touches_every_weight(task: GaussianTask, body: BodyModel) -> None:
    task.zero_grad()
    task.train()
    batch = dense_batch(body)
    batch["valid"][:], batch["masks"][:] = False, 0.0
    losses, _ = task(batch)
    assert "human_color" not in losses
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None for p in task.student.gaussians.parameters())  # type: ignore[union-attr]


def test_training_lowers_the_loss_of_one_batch(body: BodyModel) -> None:
    torch.manual_seed(0)
    task = GaussianTask(small_student(), GaussianTrainConfig(head=SMALL, crop=48), body).eval()  # eval: fixed roles
    batch = dense_batch(body)
    one = torch.nn.functional.avg_pool2d(torch.rand(1, 3, SIZE[1], SIZE[0]), 9, stride=1, padding=4)[0]
    batch["images"] = one.expand_as(batch["images"]).clone()  # the same picture in all frames of a standing camera
    batch["world_from_cam"] = torch.eye(4).expand_as(batch["world_from_cam"]).clone()
    optimiser = torch.optim.Adam(task.head.parameters(), lr=3e-3)
    totals = []
    for _ in range(5):
        losses, _ = task(batch)
        total = torch.stack(list(losses.values())).sum()
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        totals.append(total.item())
    assert totals[-1] < 0.95 * totals[0]


def test_whole_pictures_of_all_windows(task: GaussianTask, body: BodyModel) -> None:
    drawn = task.draw(dense_batch(body), (0, 2), 1)
    assert [picture.color.shape for picture in drawn] == [(1, SIZE[1], SIZE[0], 3)] * 2
    assert all(picture.person.max() > 0.5 for picture in drawn)  # people are in front of a wall of noise


def test_labels_without_depth_use_the_students_own_scale(task: GaussianTask, body: BodyModel) -> None:
    task.eval()
    batch = dense_batch(body)
    batch["depth"] = torch.zeros_like(batch["depth"])
    with torch.no_grad():
        losses, _ = task(batch)
    assert losses["depth"] == 0
    assert losses["color"] > 0


def test_a_checkpoint_keeps_its_head_and_an_older_one_has_none(tmp_path: Path) -> None:
    torch.manual_seed(3)
    plain = small_student(None)
    plain.save_pretrained(tmp_path / "plain")
    stored = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert stored["student"].pop("gaussians") is None
    (tmp_path / "plain" / "config.json").write_text(json.dumps(stored))  # as written before there were such heads
    older = Student.from_pretrained(tmp_path / "plain")
    assert older.gaussians is None
    with_head = add_gaussian_head(older, SMALL)
    assert with_head.gaussians is not None
    torch.nn.init.normal_(with_head.gaussians.human.out.weight)
    with_head.save_pretrained(tmp_path / "drawn")
    again = Student.from_pretrained(tmp_path / "drawn")
    assert again.config.gaussians == SMALL
    for name, tensor in with_head.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert add_gaussian_head(again, SMALL).gaussians is again.gaussians  # one that is there is kept


def test_a_checkpoint_whose_head_was_lost_is_refused(tmp_path: Path) -> None:
    small_student().save_pretrained(tmp_path / "drawn")
    small_student(None).save_pretrained(tmp_path / "plain")
    stored = json.loads((tmp_path / "drawn" / "config.json").read_text())
    other = json.loads((tmp_path / "plain" / "config.json").read_text())
    other["student"]["gaussians"] = stored["student"]["gaussians"]
    (tmp_path / "plain" / "config.json").write_text(json.dumps(other))
    with pytest.raises(FootfallError, match=r"missing, e\.g\. gaussians"):
        Student.from_pretrained(tmp_path / "plain")


def settings(folder: Path, *more: str) -> TrainConfig:
    head = [f"gaussians.head.{name}={getattr(SMALL, name)}" for name in ("stride", "scene_width", "anchors")]
    return load_config(TrainConfig, CONFIGS / "tiny_gaussians.yaml", [
        f"data.shards={folder / 'shards'}", f"out={folder / 'runs'}", f"init_from={folder / 'plain'}", "log_every=1",
        "gaussians.crop=24", "gaussians.head.human_width=16", *head, *more,
    ])  # fmt: skip


def test_the_loop_trains_the_head_saves_and_resumes(tmp_path: Path) -> None:
    make_shards(tmp_path, samples=3, frames=8)
    student = small_student(None)
    student.save_pretrained(tmp_path / "plain")
    GaussianTrainer(settings(tmp_path, "steps=2", "save_every=1")).train()
    run = tmp_path / "runs" / "tiny-gaussians"
    trained = Student.from_pretrained(run / "pretrained")
    assert trained.gaussians is not None
    for name, tensor in student.state_dict().items():
        assert torch.equal(trained.state_dict()[name], tensor), name
    assert trained.gaussians.human.out.weight.abs().sum() > 0
    again = GaussianTrainer(settings(tmp_path, "steps=3", "resume=true"))
    assert again.step == 2
    again.train()
    rows = [json.loads(line) for line in (run / "log" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    make_shards(tmp_path, samples=1, frames=8)
    small_student(None).save_pretrained(tmp_path / "plain")
    with pytest.raises(FootfallError, match="init_from"):
        GaussianTrainer(replace(settings(tmp_path), init_from=""))
    with pytest.raises(FootfallError, match="window_frames=2"):
        GaussianTrainer(settings(tmp_path, "data.window_frames=2"))
    with pytest.raises(FootfallError, match="divisor of the patch"):
        GaussianTrainer(settings(tmp_path, "gaussians.head.stride=3"))
    with pytest.raises(ValueError, match="crop"):
        GaussianTrainConfig(crop=8)
    with pytest.raises(ValueError, match="silhouette"):
        GaussianLossConfig(silhouette=-1.0)


def test_a_backbone_without_points_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    student = small_student(None)
    monkeypatch.setattr(student.backbone.module, "has_points", False)
    with pytest.raises(FootfallError, match="without points"):
        add_gaussian_head(student, SMALL)


def test_shipped_settings_load() -> None:
    for name in ("tiny_gaussians", "gaussians"):
        config = load_config(TrainConfig, CONFIGS / f"{name}.yaml")
        assert config.model == "gaussians"
        assert config.data.window_frames >= 3
    assert StudentConfig().gaussians is None
