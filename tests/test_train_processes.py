"""Training by several real processes: the curve of one, however weights are divided, and through kill and resume.

One process with two reading workers reads batch by batch what two processes read with one worker each, so the same
windows are in every step, over several steps and epochs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from distill import checkpoint
from distill.config import save_config
from distill.files import read_json
from distill.models.student import Student
from distill.train_config import TrainConfig
from distill.trainer import Trainer
from tests.shard_support import make_shards
from tests.student_support import one_thread  # noqa: F401 (a fixture)
from tests.train_support import ROOT, read_log, same_state, settings

pytestmark = pytest.mark.timeout(1800)
SCRIPT = str(ROOT / "train_student.py")
BIN = Path(sys.executable).parent
TORCHRUN = [str(BIN / "torchrun"), "--standalone", "--nproc_per_node", "2"]
ACCELERATE = [str(BIN / "accelerate"), "launch", "--config_file"]
CONFIGS = ROOT / "configs" / "accelerate"


def by_config(name: str, *words: str) -> list[str]:
    """`accelerate launch` with one of the shipped configs on two CPU processes."""
    two = ["--num_processes", "2", "--mixed_precision", "no", "--main_process_port", "0"]
    return [*ACCELERATE, str(CONFIGS / f"{name}.yaml"), *two, *words]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def run(command: list[str], folder: Path, **more: str) -> str:
    """Output of a command that must succeed."""
    done = subprocess.run(
        command, cwd=folder, env=environment(**more), capture_output=True, text=True, check=False, timeout=1500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight windows in four shards: two steps of four windows are an epoch."""
    out = tmp_path_factory.mktemp("labels")
    make_shards(out, samples=8, per_shard=2)
    return out


def make_settings(labels: Path, out: Path, name: str, *, processes: int, **changes: Any) -> TrainConfig:
    """Four windows per step, however many processes share them."""
    data = {"batch_size": 1, "windows_per_sample": 1, "workers": 2 // processes}
    optim = {"accumulate": 4 // processes}
    return settings(labels, out, name, data=data, optim=optim, **{"steps": 4, "save_every": 1, **changes})


@pytest.fixture(scope="module")
def one(labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    out = tmp_path_factory.mktemp("one")
    Trainer(make_settings(labels, out, "run", processes=1)).train()
    return out / "run"


def start_two(labels: Path, out: Path, name: str, **changes: Any) -> list[str]:
    """The words after the launcher for a run of two processes."""
    save_config(out / f"{name}.yaml", make_settings(labels, out, name, processes=2, **changes))
    return [SCRIPT, "--config", str(out / f"{name}.yaml")]


def same_curve(run: Path, one: Path, rel: float) -> None:
    """The same losses at every step, and the same weights and averages at the end, up to rounding."""
    rows = [read_log(folder) for folder in (one, run)]
    assert [row["step"] for row in rows[1]] == [row["step"] for row in rows[0]] == [1, 2, 3, 4]
    for a, b in zip(*rows, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=rel)
    fresh = Student(make_settings(one, one, "fresh", processes=1).student).state_dict()
    for file in ("model.safetensors", "average.safetensors"):
        a, b = (checkpoint.read_weights(folder / "state" / file) for folder in (one, run))
        moved = max((a[name] - fresh[name]).abs().max().item() for name in fresh)
        assert max((a[name] - b[name]).abs().max().item() for name in fresh) < 0.05 * moved, file


@pytest.fixture(scope="module")
def two(labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two processes under torchrun."""
    out = tmp_path_factory.mktemp("two")
    said = run([*TORCHRUN, *start_two(labels, out, "run")], out)
    assert "1 per process x 2 processes x 2 accumulated = 4" in said
    return out / "run"


def test_torchrun_makes_the_curve_of_one_process(two: Path, one: Path) -> None:
    same_curve(two, one, rel=1e-4)
    assert (two / "state" / "position-1.json").is_file()


def test_accelerate_launch_makes_the_curve_of_one_process(labels: Path, one: Path, tmp_path: Path) -> None:
    run([*by_config("two_cpu_processes"), *start_two(labels, tmp_path, "run")], tmp_path, ACCELERATE_USE_CPU="true")
    same_curve(tmp_path / "run", one, rel=1e-4)


def test_one_process_goes_on_where_two_were(
    labels: Path, two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(two, tmp_path / "run")
    trainer = Trainer(make_settings(labels, tmp_path, "run", processes=1, steps=5, resume=True))
    assert "resume: 2 -> 1 processes (epoch 1 starts again" in capsys.readouterr().err
    for name, value in checkpoint.read_weights(two / "state" / "average.safetensors").items():
        assert trainer.average.weights[name].equal(value)
    trainer.train()
    assert [row["step"] for row in read_log(tmp_path / "run")] == [1, 2, 3, 4, 5]
    assert read_json(tmp_path / "run" / "state" / "training.json")["processes"] == 1


@pytest.mark.slow
def test_two_processes_go_on_where_one_was(labels: Path, one: Path, tmp_path: Path) -> None:
    shutil.copytree(one, tmp_path / "run")
    said = run([*TORCHRUN, *start_two(labels, tmp_path, "run", steps=5), "--resume"], tmp_path)
    assert "resume: 1 -> 2 processes (epoch 1 starts again" in said
    assert [row["step"] for row in read_log(tmp_path / "run")] == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_two_killed_processes_go_on_exactly(labels: Path, two: Path, tmp_path: Path) -> None:
    """SIGKILL for launcher, processes and readers in the middle of an epoch; averages and accumulation included."""
    words = [*TORCHRUN, *start_two(labels, tmp_path, "run")]
    started = subprocess.Popen(words, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True)
    state, deadline = tmp_path / "run" / "state" / "training.json", time.monotonic() + 900
    while not state.is_file() and started.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    family = [*psutil.Process(started.pid).children(recursive=True), psutil.Process(started.pid)]
    for process in family:
        process.kill()
    _, errors = started.communicate()
    assert state.is_file(), errors
    assert read_json(state)["step"] < 4
    run([*words, "--resume"], tmp_path)
    same_state(two, tmp_path / "run")


@pytest.mark.slow
def test_fsdp_makes_the_curve_of_one_process(labels: Path, one: Path, tmp_path: Path) -> None:
    """FSDP2 on two CPU processes over gloo; its checkpoint then goes on without FSDP on one."""
    run([*by_config("fsdp"), *start_two(labels, tmp_path, "run")], tmp_path, ACCELERATE_USE_CPU="true")
    assert read_json(tmp_path / "run" / "state" / "training.json")["sharding"] == "fsdp"
    same_curve(tmp_path / "run", one, rel=1e-4)
    Trainer(make_settings(labels, tmp_path, "run", processes=1, steps=5, resume=True)).train()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_deepspeed_makes_the_curve_of_one_process(stage: str, labels: Path, one: Path, tmp_path: Path) -> None:
    """By its launch config on two CPU processes; then its own state goes on."""
    pytest.importorskip("deepspeed")
    words = [*by_config(stage), *start_two(labels, tmp_path, "run")]
    run(words, tmp_path, DS_ACCELERATOR="cpu")
    assert read_json(tmp_path / "run" / "state" / "training.json")["sharding"] == stage
    same_curve(tmp_path / "run", one, rel=1e-3)
    said = run([*words, "--resume", "steps=5"], tmp_path, DS_ACCELERATOR="cpu")
    assert "start anew" not in said
    assert [row["step"] for row in read_log(tmp_path / "run")] == [1, 2, 3, 4, 5]
    Student.from_pretrained(tmp_path / "run" / "pretrained")


@pytest.mark.slow
def test_two_machines_make_the_curve_of_one_process(labels: Path, one: Path, tmp_path: Path) -> None:
    """`eight_nodes.yaml` cut to two machines of one process each, both on this one."""
    words = start_two(labels, tmp_path, "run")
    nodes = [
        subprocess.Popen(
            [
                *ACCELERATE, str(CONFIGS / "eight_nodes.yaml"), "--num_machines", "2", "--num_processes", "2",
                "--machine_rank", str(rank), "--main_process_ip", "127.0.0.1", "--main_process_port", "29537",
                "--mixed_precision", "no", *words,
            ],
            cwd=tmp_path, env=environment(ACCELERATE_USE_CPU="true"), stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    errors = [node.communicate(timeout=1500)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], errors
    same_curve(tmp_path / "run", one, rel=1e-4)


POISON = """
import os, sys
sys.path.insert(0, {root!r})
import torch
from pathlib import Path
from distill.config import load_config
from distill.errors import FootfallError
from distill.train_config import TrainConfig
from distill.trainer import Trainer

trainer = Trainer(load_config(TrainConfig, Path(sys.argv[1])))
if os.environ["RANK"] == "1":
    with torch.no_grad():
        next(trainer.student.body.parameters()).fill_(torch.nan)
try:
    trainer.train()
except FootfallError as error:
    Path(sys.argv[1]).with_name("said" + os.environ["RANK"]).write_text(str(error))
"""


@pytest.mark.slow
def test_one_process_with_a_bad_loss_stops_both(labels: Path, tmp_path: Path) -> None:
    save_config(tmp_path / "c.yaml", make_settings(labels, tmp_path, "run", processes=2))
    (tmp_path / "poison.py").write_text(POISON.format(root=str(ROOT)))
    run([*TORCHRUN, str(tmp_path / "poison.py"), str(tmp_path / "c.yaml")], tmp_path)
    said = [(tmp_path / f"said{rank}").read_text() for rank in range(2)]
    assert said[0] == said[1]
    assert "a loss that is not finite" in said[0] and "clip0" in said[0]
    assert checkpoint.find_state(tmp_path / "run") is None
