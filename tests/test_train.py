"""Training: exact resume, honest stops, the same result on one process and on two."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.state import AcceleratorState
from torch import nn

from distill import checkpoint
from distill.average import Average, stretch_scalars
from distill.body import BodyModel
from distill.config import config_to_dict, load_config, save_config
from distill.errors import FootfallError
from distill.files import read_json, write_json
from distill.geometry.rotations import matrix_from_quat
from distill.geometry.transforms import from_quat_trans, invert
from distill.held_out import stream_sample, world_errors
from distill.metrics import wa_mpjpe
from distill.models.backbones import Tokens
from distill.models.prediction import PairPrediction, Prompts
from distill.models.student import Student, StudentConfig
from distill.models.trunk import HeadConfig
from distill.shards.reader import find_shards
from distill.shards.schema import Sample
from distill.task import LossConfig, StudentTask
from distill.train_config import OptimConfig, TrainConfig
from distill.trainer import Trainer, learning_rate
from tests.shard_support import make_sample, make_shards
from tests.student_support import make_batch, one_thread  # noqa: F401 (a fixture)
from tests.train_support import ROOT, read_log, same_state, settings


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six samples; with two windows each and batches of two, an epoch has six batches."""
    out = tmp_path_factory.mktemp("labels")
    make_shards(out, samples=6, per_shard=2)
    return out


class StopError(Exception):
    """Stands for a power cut."""


def train_until(config: TrainConfig, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train, and die before the step after `step`."""
    with monkeypatch.context() as patch:
        whole_step = Trainer._one_step

        def one_step(self: Trainer, batches: Any) -> Any:
            if self.step == step:
                raise StopError
            return whole_step(self, batches)

        patch.setattr(Trainer, "_one_step", one_step)
        with pytest.raises(StopError):
            Trainer(config).train()


@pytest.mark.parametrize(
    "changes",
    [
        {"save_every": 5},
        {"save_every": 7, "data": {"workers": 2}},
        {"save_every": 5, "data": {"workers": 1}, "optim": {"accumulate": 2}},
    ],
    ids=["mid-epoch", "second epoch, two workers", "accumulated, one worker"],
)
def test_a_resumed_run_makes_the_same_weights_bit_for_bit(
    changes: dict[str, Any], labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Trainer(settings(labels, tmp_path, "whole", **changes)).train()
    train_until(settings(labels, tmp_path, "cut", **changes), 8, monkeypatch)
    assert read_json(tmp_path / "cut" / "state" / "training.json")["step"] == changes["save_every"]
    assert read_log(tmp_path / "cut")[-1]["step"] == 8
    torch.manual_seed(99)  # what the state does not restore would show
    Trainer(settings(labels, tmp_path, "cut", resume=True, **changes)).train()
    same_state(tmp_path / "whole", tmp_path / "cut")
    whole, cut = read_log(tmp_path / "whole"), read_log(tmp_path / "cut")
    assert [row["step"] for row in cut] == list(range(1, 10))  # each step once
    assert [row["loss"] for row in cut] == [row["loss"] for row in whole]


def test_a_killed_process_leaves_a_checkpoint_that_goes_on_exactly(labels: Path, tmp_path: Path) -> None:
    """Killed with a reading worker alive, between two steps of two accumulated batches each."""
    changes: dict[str, Any] = {"steps": 6, "data": {"workers": 1}, "optim": {"accumulate": 2}}
    Trainer(settings(labels, tmp_path, "whole", **changes)).train()
    config = settings(labels, tmp_path, "killed", **changes)
    save_config(tmp_path / "config.yaml", config)
    command = [sys.executable, str(ROOT / "train_student.py"), "--config", str(tmp_path / "config.yaml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    state, deadline = tmp_path / "killed" / "state" / "training.json", time.monotonic() + 300
    while not state.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert state.is_file(), errors
    done = subprocess.run(
        [*command, "--resume"], env=environment, capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, done.stderr
    same_state(tmp_path / "whole", tmp_path / "killed")


def test_loss_falls_on_two_windows(tmp_path: Path) -> None:
    make_shards(tmp_path / "labels", samples=2, per_shard=1, frames=2)
    data = {"windows_per_sample": 1, "flip": 0, "reverse": 0, "colour": 0}
    config = settings(tmp_path / "labels", tmp_path, steps=40, save_every=40, data=data, optim={"lr": 4e-3})
    Trainer(config).train()
    losses = [row["loss"] for row in read_log(tmp_path / "run")]
    assert sum(losses[-3:]) < 0.6 * sum(losses[:3])
    Student.from_pretrained(tmp_path / "run" / "pretrained")


def test_a_loss_that_is_not_finite_stops_before_the_step(labels: Path, tmp_path: Path) -> None:
    trainer = Trainer(settings(labels, tmp_path))
    with torch.no_grad():
        next(trainer.student.body.parameters()).fill_(torch.nan)
    others = {k: v.clone() for k, v in trainer.student.state_dict().items()}
    with pytest.raises(
        FootfallError, match=r"step 0: got a loss that is not finite \(.*body_pose.* on clip0\d-000000:"
    ):
        trainer.train()
    for name, value in trainer.student.state_dict().items():
        torch.testing.assert_close(value, others[name], rtol=0, atol=0, equal_nan=True)
    assert checkpoint.find_state(tmp_path / "run") is None


def test_held_out_samples_are_evaluated_in_the_loop(labels: Path, tmp_path: Path) -> None:
    data = {"held_out_shards": str(labels)}
    config = settings(labels, tmp_path, steps=2, evaluate_every=1, evaluate_clips=1, data=data)
    Trainer(config).train()
    rows = [row for row in read_log(tmp_path / "run") if "held_out/loss/joints_3d" in row]
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[0]["held_out/joints_mm"] != rows[1]["held_out/joints_mm"]
    for row in rows:  # streamed: aligning all frames leaves less than aligning two
        assert 0 < row["held_out/wa_mpjpe_mm"] < row["held_out/w_mpjpe_mm"] < 1e5


def test_world_errors_are_divided_between_processes_and_lost_by_none(labels: Path) -> None:
    student = Student(StudentConfig(head=HeadConfig(width=48, layers=1, attention_heads=2))).eval()
    urls = find_shards(str(labels)).urls

    def sums(rank: int, world: int) -> torch.Tensor:
        return world_errors(student, urls, samples=2, rank=rank, world=world)

    whole = sums(0, 1)
    assert whole[2] == 2 * 2 * 12  # samples, people, frames
    torch.testing.assert_close(sums(0, 2) + sums(1, 2), whole)


class LabelNetwork:
    """Answers what the labels say of frames given in order."""

    look_width = 4

    def __init__(self, sample: Sample) -> None:
        self.sample, self.now = sample, -1

    def look(self, images: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*boxes.shape[:2], self.look_width)

    def network_size(self, size: tuple[int, int]) -> tuple[int, int]:
        return size

    def encode(self, images: torch.Tensor) -> Tokens:
        self.now += 1  # the frame's number travels as its feature
        features = torch.full((1, 24, 1), float(self.now))
        return Tokens(features=features, grid=(4, 6), size=(images.shape[-1], images.shape[-2]))

    def pair(self, a: Tokens, b: Tokens, people: Prompts) -> PairPrediction:
        arrays = {name: torch.from_numpy(array).float() for name, array in self.sample.arrays.items()}
        first, second = a.features[:, 0, 0].long(), b.features[:, 0, 0].long()
        world_from_cam = from_quat_trans(arrays["world_from_cam_quat"], arrays["world_from_cam_trans"])
        root = from_quat_trans(arrays["cam_from_body_quat"], arrays["cam_from_body_trans"])
        rot = matrix_from_quat(arrays["body_quat"])
        count, persons = len(first), people.boxes.shape[1]
        motion = invert(world_from_cam[first]) @ world_from_cam[second]
        both = [root[i] for i in (first, second)]
        in_world = [world_from_cam[i][:, None] @ root[i] for i in (first, second)]
        sure = torch.tensor(-9.0)
        return PairPrediction(
            cam_from_body_a=both[0], cam_from_body_b=both[1], body_rot_a=rot[first], body_rot_b=rot[second],
            betas=arrays["betas"].expand(count, -1, -1), cam_a_from_cam_b=motion,
            body_a_from_body_b=invert(in_world[0]) @ in_world[1],
            contact_logit_a=sure.expand(count, persons, 6), contact_logit_b=sure.expand(count, persons, 6),
            log_scene_scale=torch.zeros(count), camera_log_var=sure.expand(count, 2),
            body_log_var=sure.expand(count, persons, 2), root_log_var_a=sure.expand(count, persons, 3),
            root_log_var_b=sure.expand(count, persons, 3),
        )  # fmt: skip


def test_a_network_that_knows_the_labels_has_no_error_in_the_world(body: BodyModel) -> None:
    sample = make_sample("clip00-000000", people=2)
    found = list(stream_sample(LabelNetwork(sample), sample, body))
    assert len(found) == 2
    for truth, streamed in found:
        assert truth.shape == streamed.shape == (12, 24, 3)
        assert wa_mpjpe(truth, streamed).mean() < 30  # mm; the fuser smooths what was drawn without smoothness
        assert wa_mpjpe(truth, streamed[::-1]).mean() > 60


def test_too_few_windows_are_an_error_not_a_hang(labels: Path, tmp_path: Path) -> None:
    with pytest.raises(FootfallError, match="fewer windows than one batch"):
        Trainer(settings(labels, tmp_path, data={"batch_size": 13})).train()
    held_out = {"batch_size": 13, "held_out_shards": str(labels)}
    with pytest.raises(FootfallError, match="held_out_shards"):
        Trainer(settings(labels, tmp_path, "held", data=held_out))


def test_an_old_run_is_neither_overwritten_nor_misread(
    labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Trainer(settings(labels, tmp_path, steps=2)).train()
    with pytest.raises(FootfallError, match="add --resume"):
        Trainer(settings(labels, tmp_path, steps=2))
    Trainer(settings(labels, tmp_path, steps=3, resume=True, optim={"lr": 2e-3}))
    said = capsys.readouterr().err
    assert "optim.lr: 0.001 -> 0.002 (the learning rate from here on is another)" in said
    assert "steps: 2 -> 3" in said
    other = settings(labels, tmp_path, resume=True)
    other.student.head.width = 96
    with pytest.raises(FootfallError, match="another student"):
        Trainer(other)
    training = tmp_path / "run" / "state" / "training.json"
    write_json(training, {**read_json(training), "format": "footfall-training/999"})
    save_config(tmp_path / "c.yaml", settings(labels, tmp_path, resume=True))
    assert run_script(["--config", str(tmp_path / "c.yaml")], monkeypatch) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("train_student: ")
    assert "footfall-training/999" in lines[-1]


def run_script(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """`train_student.main()` without a process of its own."""
    spec = importlib.util.spec_from_file_location("train_student", ROOT / "train_student.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["train_student.py", *arguments])
    return int(module.main())


def test_two_batches_of_four_are_one_of_eight(tmp_path: Path) -> None:
    """Terms that average over what differs between windows (points in the picture, matches, people) are left out."""
    make_shards(tmp_path / "labels", samples=4, per_shard=2)
    loss = LossConfig(scene_scale=0, match=0, detection=0, detection_box=0, identity=0)
    for name, batch, accumulate in (("whole", 8, 1), ("halves", 4, 2)):
        changes = {"data": {"batch_size": batch}, "optim": {"accumulate": accumulate}}
        Trainer(settings(tmp_path / "labels", tmp_path, name, steps=2, save_every=2, loss=loss, **changes)).train()
    whole, halves = (read_log(tmp_path / name) for name in ("whole", "halves"))
    for a, b in zip(whole, halves, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
        assert b["gradient_norm"] == pytest.approx(a["gradient_norm"], rel=1e-3)


@pytest.fixture
def launched_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `accelerate launch --mixed_precision bf16` sets."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_bfloat16_by_launcher_trains_float32_weights(labels: Path, tmp_path: Path, launched_in_bfloat16: None) -> None:
    trainer = Trainer(settings(labels, tmp_path, "half", steps=2, save_every=2))
    assert trainer.accelerator.mixed_precision == "bf16"
    seen: list[torch.dtype] = []
    trainer.student.trunk.layers[0].mlp.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    trainer.train()
    assert set(seen) == {torch.bfloat16}
    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ["ACCELERATE_MIXED_PRECISION"] = "no"  # the fixture puts it back
    Trainer(settings(labels, tmp_path, "full", steps=2, save_every=2)).train()
    half, full = (read_log(tmp_path / name) for name in ("half", "full"))
    for a, b in zip(half, full, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=0.05)
        assert a["loss"] != b["loss"]
    weights = checkpoint.read_weights(tmp_path / "half" / "state" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_a_gradient_that_is_not_finite_stops_before_the_step(labels: Path, tmp_path: Path) -> None:
    trainer = Trainer(settings(labels, tmp_path))
    parameter = next(trainer.student.body.parameters())
    parameter.register_hook(lambda gradient: gradient * torch.inf)
    before = parameter.detach().clone()
    with pytest.raises(FootfallError, match=r"step 0: got a gradient that is not finite on clip0\d-000000:"):
        trainer.train()
    assert torch.equal(parameter, before)


def test_the_log_goes_to_tensorboard_too(labels: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    Trainer(settings(labels, tmp_path, steps=2, tracker="tensorboard")).train()
    files = list((tmp_path / "run" / "log").rglob("events.out.tfevents.*"))
    assert len(files) == 1
    events = accumulator.EventAccumulator(str(files[0])).Reload()
    found = [event.value for event in events.Scalars("loss")]
    assert found == pytest.approx([row["loss"] for row in read_log(tmp_path / "run")])


def test_a_tracker_that_is_missing_is_named(
    labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("distill.launch.is_installed", lambda package: False)
    with pytest.raises(FootfallError, match="pip install wandb"):
        Trainer(settings(labels, tmp_path, tracker="wandb"))
    assert run_script(["tracker=sticks"], monkeypatch) == 2
    assert "sticks" in capsys.readouterr().err.splitlines()[-1]


def test_shards_of_another_schema_are_named_from_a_reading_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("tests.shard_support.SCHEMA_VERSION", 99)
        make_shards(tmp_path / "labels", samples=2)
    (tmp_path / "labels" / "manifest.json").unlink()  # else it says so earlier
    with pytest.raises(FootfallError, match=r"^shard sample .*: got schema version 99; expected version 1 to \d+"):
        Trainer(settings(tmp_path / "labels", tmp_path, data={"workers": 1}))


def test_more_readers_than_shards_work_and_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_shards(tmp_path / "labels", samples=4, per_shard=4)
    data = {"workers": 2, "windows_per_sample": 1}
    Trainer(settings(tmp_path / "labels", tmp_path, steps=2, data=data)).train()
    assert "1 shards for 2 readers" in capsys.readouterr().err


def test_folders_that_cannot_be_a_run(labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FootfallError, match=r"no \.tar file"):
        Trainer(settings(tmp_path / "nothing", tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(FootfallError, match="is a file"):
        Trainer(settings(labels, tmp_path / "file"))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("")
    with pytest.raises(FootfallError, match=r"a folder that holds thesis\.tex"):
        Trainer(settings(labels, tmp_path, "taken"))
    Trainer(settings(labels, tmp_path, "new", resume=True))
    assert "resume: no checkpoint in" in capsys.readouterr().err


def test_the_frozen_backbone_is_in_no_file_of_a_run(labels: Path, tmp_path: Path) -> None:
    Trainer(settings(labels, tmp_path, steps=1)).train()
    student = Student.from_pretrained(tmp_path / "run" / "pretrained")
    frozen = {tuple(p.shape) for p in student.backbone.module.parameters() if p.ndim > 1}
    files = list((tmp_path / "run").rglob("*.safetensors"))
    assert len(files) == 5  # pretrained, model, average, optimiser, random state
    for path in files:
        assert not {name for name in checkpoint.read_weights(path) if "backbone" in name}, path
    heads = {tuple(p.shape) for p in student.parameters() if p.ndim > 1}
    stored = {
        tuple(t.shape) for t in checkpoint.read_weights(tmp_path / "run" / "state" / "model.safetensors").values()
    }
    assert not (frozen - heads) & stored
    written = read_json(tmp_path / "run" / "pretrained" / "config.json")
    assert written["backbone"]["sha256"] == student.backbone.module.provenance.sha256


def test_bfloat16_does_not_reach_the_labels(body: BodyModel) -> None:
    """A fresh student says the same of people and cameras whatever it reads: only the losses' own precision could
    differ. What is said of single tokens depends on them from the start, and log variances leave a bfloat16 layer."""
    torch.manual_seed(0)
    student = Student(StudentConfig(head=HeadConfig(width=48, layers=1, attention_heads=2)))
    task, batch = StudentTask(student, LossConfig(scene_scale=0), body), make_batch(body, frames=3)
    wanted, _ = task(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = task(batch)
    of_tokens = {"match", "identity", "detection", "detection_box"}
    for name in (name for name in wanted if not name.endswith("_nll") and name not in of_tokens):
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-5, atol=1e-6)


def test_learning_rate_by_hand() -> None:
    config = OptimConfig(lr=1.0, final_lr=0.2, warmup_steps=4)
    rates = [learning_rate(step, 12, config) for step in (0, 1, 3, 4, 8, 12)]
    assert rates == pytest.approx([0.25, 0.5, 1.0, 1.0, 0.6, 0.2])


def test_average_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = Average(model, 0.9)
    nn.init.ones_(model.weight)
    average.update(model, 0)  # decay (1 + 0) / (10 + 0)
    assert average.weights["weight"].item() == pytest.approx(0.9)
    average.update(model, 1000)  # decay 0.9
    assert average.weights["weight"].item() == pytest.approx(0.9 * 0.9 + 0.1)


def test_scalars_are_stretched_for_dividing_and_come_back(tmp_path: Path) -> None:
    """FSDP2 and DeepSpeed refuse parameters without an axis; files hold them as they are."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))
            self.inner = nn.Linear(2, 2)

    plain, divided = Scaled(), Scaled()
    stretch_scalars(divided)
    assert divided.scale.shape == (1,) and divided.scale.item() == 2.0
    assert divided.inner.weight.ndim == 2
    optimiser = torch.optim.AdamW(divided.parameters())
    divided.scale.grad = torch.ones(1)
    optimiser.step()
    checkpoint.write_optimiser(tmp_path, *checkpoint.optimiser_state(optimiser))
    restored = torch.optim.AdamW(plain.parameters())
    checkpoint.read_optimiser(tmp_path, restored)
    assert restored.state[plain.scale]["exp_avg"].shape == ()
    average = Average(divided, 0.9)
    average.load_state(Average(plain, 0.9).state())
    assert average.weights["scale"].shape == (1,)


def test_optimiser_comes_back_bit_for_bit(tmp_path: Path) -> None:
    def build() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        return model, torch.optim.AdamW([{"params": [model.weight]}, {"params": [model.bias], "weight_decay": 0.0}])

    def step(model: nn.Module, optimiser: torch.optim.Optimizer, seed: int) -> None:
        torch.manual_seed(seed)
        model(torch.randn(5, 3)).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()

    (model, optimiser), (copy, restored) = build(), build()
    step(model, optimiser, 1)
    checkpoint.write_optimiser(tmp_path, *checkpoint.optimiser_state(optimiser))
    copy.load_state_dict(model.state_dict())
    checkpoint.read_optimiser(tmp_path, restored)
    step(model, optimiser, 2)
    step(copy, restored, 2)
    assert torch.equal(copy.weight, model.weight)  # type: ignore[arg-type]
    assert torch.equal(copy.bias, model.bias)  # type: ignore[arg-type]


def test_there_is_a_complete_state_whenever_the_power_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(step: int) -> Path:
        new = tmp_path / "state.new"
        new.mkdir()
        write_json(new / "training.json", {"step": step})
        return new

    checkpoint.put_in_place(make(1), tmp_path)
    renames: list[Path] = []
    rename = Path.rename

    def fail_second(self: Path, target: Path) -> Path:
        renames.append(self)
        if len(renames) == 2:
            raise StopError
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail_second)
        with pytest.raises(StopError):
            checkpoint.put_in_place(make(2), tmp_path)
    found = checkpoint.find_state(tmp_path)
    assert found is not None
    assert read_json(found / "training.json")["step"] == 1
    (tmp_path / "state.new" / "training.json").unlink()
    (tmp_path / "state.new").rmdir()
    checkpoint.put_in_place(make(3), tmp_path)
    assert read_json(tmp_path / "state" / "training.json")["step"] == 3
    assert not (tmp_path / "state.old").exists()


def test_the_log_is_cut_where_the_state_ends(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    checkpoint.cut_log(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "student").glob("[bd]*.yaml")), ids=lambda p: p.stem)
def test_student_configs_load_and_load_again(path: Path, tmp_path: Path) -> None:
    config = load_config(TrainConfig, path)
    assert config.name == path.stem
    save_config(tmp_path / "c.yaml", config)
    assert config_to_dict(load_config(TrainConfig, tmp_path / "c.yaml")) == config_to_dict(config)


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "accelerate").glob("*.yaml")), ids=lambda p: p.stem)
def test_accelerate_configs_are_understood(path: Path) -> None:
    expected = {
        "cpu": 1, "two_cpu_processes": 2, "one_gpu": 1, "eight_gpu": 8, "eight_nodes": 64, "fsdp": 8, "zero2": 2,
        "zero3": 2,
    }  # fmt: skip
    assert load_config_from_file(str(path)).num_processes == expected[path.stem]


@pytest.mark.parametrize(
    "setting", [{"lr": 0.0}, {"final_lr": 1.0}, {"clip_norm": 0}, {"ema": 1.0}, {"accumulate": 0}, {"warmup_steps": -1}]
)
def test_bad_optimiser_settings(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="optim:"):
        OptimConfig(**setting)
