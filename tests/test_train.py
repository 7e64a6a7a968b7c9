"""Training: exact resume, honest stops, the same result on one process and on two."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from torch import nn

from distill import checkpoint
from distill.body import BodyModel
from distill.config import config_to_dict, load_config, save_config
from distill.data import DataConfig
from distill.errors import FootfallError
from distill.files import read_json, write_json
from distill.models.student import Student, StudentConfig
from distill.models.trunk import HeadConfig
from distill.task import LossConfig, StudentTask
from distill.train_config import OptimConfig, TrainConfig
from distill.average import Average
from distill.trainer import Trainer, learning_rate
from tests.shard_support import make_shards
from tests.student_support import make_batch, one_thread  # noqa: F401 (a fixture)
from tests.test_launch import launch

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six samples; with two windows each and batches of two, an epoch has six batches."""
    out = tmp_path_factory.mktemp("labels")
    make_shards(out, samples=6, per_shard=2)
    return out


def settings(labels: Path, out: Path, name: str = "run", **changes: Any) -> TrainConfig:
    data = {"batch_size": 2, "windows_per_sample": 2, "window_frames": 2, "workers": 0, **changes.pop("data", {})}
    optim = {"lr": 1e-3, "final_lr": 1e-4, "warmup_steps": 2, "ema": 0.9, **changes.pop("optim", {})}
    return TrainConfig(
        name=name, out=str(out), data=DataConfig(shards=str(labels), **data), optim=OptimConfig(**optim),
        student=StudentConfig(head=HeadConfig(width=48, layers=1, attention_heads=2)),
        **{"steps": 9, "log_every": 1, "save_every": 4, **changes},
    )  # fmt: skip


def read_log(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log" / "log.jsonl").read_text().splitlines()]


def same_state(a: Path, b: Path) -> None:
    """Every file of the two checkpoints has the same bytes; times aside."""
    names = sorted(path.name for path in (a / "state").iterdir())
    assert names == sorted(path.name for path in (b / "state").iterdir())
    assert {Path(name).suffix for name in names} == {".json", ".safetensors"}
    for name in names:
        if name != "training.json":
            assert (a / "state" / name).read_bytes() == (b / "state" / name).read_bytes(), name
    weights = [run / "pretrained" / "model.safetensors" for run in (a, b)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


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
    [{"save_every": 5}, {"save_every": 7, "data": {"workers": 2}}, {"save_every": 5, "optim": {"accumulate": 2}}],
    ids=["mid-epoch", "second epoch, two workers", "accumulated"],
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
    Trainer(settings(labels, tmp_path, "whole", steps=8)).train()
    config = settings(labels, tmp_path, "killed", steps=8)
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
        [*command, "resume=true"], env=environment, capture_output=True, text=True, check=False, timeout=500
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


def test_two_processes_make_the_losses_of_one_with_the_same_batch(tmp_path: Path) -> None:
    """An epoch is one step: four windows on one process, two on each of two."""
    make_shards(tmp_path / "labels", samples=2, per_shard=1)
    labels = tmp_path / "labels"
    loss = LossConfig(scene_scale=0)  # it averages over joints that fall into the picture, not over people
    one = settings(labels, tmp_path, "one", steps=4, data={"batch_size": 4}, loss=loss)
    Trainer(one).train()
    save_config(tmp_path / "two.yaml", settings(labels, tmp_path, "two", steps=4, loss=loss))
    done = launch([str(ROOT / "train_student.py"), "--config", str(tmp_path / "two.yaml")], tmp_path, 2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 per process x 2 processes x 1 accumulated = 4" in done.stderr
    rows = [read_log(tmp_path / name) for name in ("one", "two")]
    assert len(rows[0]) == len(rows[1]) == 4
    for a, b in zip(*rows, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
    weights = [checkpoint.read_weights(tmp_path / name / "state" / "model.safetensors") for name in ("one", "two")]
    fresh = Student(one.student).state_dict()
    moved = max((weights[0][k] - fresh[k]).abs().max().item() for k in fresh)
    assert max((weights[0][k] - weights[1][k]).abs().max().item() for k in fresh) < 0.05 * moved
    assert (tmp_path / "two" / "state" / "position-1.json").is_file()


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
    config = settings(labels, tmp_path, steps=2, evaluate_every=1, data={"held_out_shards": str(labels)})
    Trainer(config).train()
    rows = [row for row in read_log(tmp_path / "run") if "held_out/loss/joints_3d" in row]
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[0]["held_out/joints_mm"] != rows[1]["held_out/joints_mm"]


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


def test_bfloat16_does_not_reach_the_labels(body: BodyModel) -> None:
    """A fresh student answers the same whatever it reads, so only the losses' own precision could differ."""
    torch.manual_seed(0)
    student = Student(StudentConfig(head=HeadConfig(width=48, layers=1, attention_heads=2)))
    task, batch = StudentTask(student, LossConfig(scene_scale=0), body), make_batch(body, frames=3)
    wanted, _ = task(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = task(batch)
    for name in (name for name in wanted if not name.endswith("_nll")):  # log variances leave a bfloat16 layer
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


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_deepspeed_by_launch_config_makes_the_same_losses(labels: Path, tmp_path: Path) -> None:
    """ZeRO stage 2 on two CPU processes against plain ones; then its own state goes on."""
    pytest.importorskip("deepspeed")
    configs = {}
    for name in ("plain", "zero"):
        save_config(tmp_path / f"{name}.yaml", settings(labels, tmp_path, name, steps=4, save_every=2))
        configs[name] = [str(ROOT / "train_student.py"), "--config", str(tmp_path / f"{name}.yaml")]
    done = launch(configs["plain"], tmp_path, 2)
    assert done.returncode == 0, done.stderr
    command = [str(Path(sys.executable).parent / "accelerate-launch"), "--config_file"]
    command += [str(ROOT / "configs" / "accelerate" / "zero2.yaml"), "--mixed_precision", "no"]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    for words in ([], ["resume=true", "steps=5"]):
        done = subprocess.run(
            [*command, *configs["zero"], *words], env=environment, cwd=tmp_path, capture_output=True, text=True,
            check=False, timeout=550,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    plain, zero = (read_log(tmp_path / name) for name in ("plain", "zero"))
    assert [row["step"] for row in zero] == [1, 2, 3, 4, 5]
    for a, b in zip(plain, zero, strict=False):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-3)
    Student.from_pretrained(tmp_path / "zero" / "pretrained")
