"""Two real processes through accelerate's launcher, from a folder outside the repository.

With an importable `datasets` package of ours, `accelerator.prepare` would die here: it asks whether a loader's
data come from Hugging Face's `datasets`. One process, or a mocked launcher, would not show it.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = """
import gc
import importlib.util
import pathlib
import sys

sys.path.insert(0, {root!r})  # what a script in the repository's root has

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset


def main():
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2, accelerator.num_processes
    model = torch.nn.Linear(1, 1)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(torch.arange(8.0)[:, None]), batch_size=2)
    model, optimiser, loader = accelerator.prepare(model, optimiser, loader)
    seen = torch.cat([batch for (batch,) in loader])
    loss = model(seen).square().mean()
    accelerator.backward(loss)
    gradients = accelerator.gather(model.module.weight.grad)
    assert torch.equal(gradients[0], gradients[1]), gradients
    everything = sorted(accelerator.gather(seen).flatten().tolist())
    assert everything == list(range(8)), everything
    spec = importlib.util.find_spec("datasets")
    assert spec is None or spec.origin is None or not spec.origin.startswith({root!r} + "/datasets"), spec
    pathlib.Path(sys.argv[1], f"rank{{accelerator.process_index}}").touch()
    accelerator.end_training()


main()
gc.collect()  # see the end of train_student.main
"""


def launch(arguments: list[str], folder: Path, processes: int) -> subprocess.CompletedProcess[str]:
    """`accelerate launch` on CPU with as many processes; `--cpu` alone would start one (accelerate 1.15)."""
    launcher = shutil.which("accelerate-launch", path=str(Path(sys.executable).parent))
    assert launcher is not None
    command = [launcher, "--multi_gpu", "--num_processes", str(processes), "--num_machines", "1"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", *arguments]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=500
    )


def test_two_processes_from_another_folder(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(root=str(ROOT)))
    done = launch([str(script), str(tmp_path)], tmp_path, 2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in tmp_path.glob("rank*")} == {"rank0", "rank1"}


@pytest.mark.parametrize("override", ["stepz=3", "optim.lr=-1"])
def test_bad_setting_stops_training_before_it_starts(override: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "train_student.py"), f"out={tmp_path / 'runs'}", override]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 2
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("train_student: config")
    assert override.split("=")[0].split(".")[-1] in line
    assert not (tmp_path / "runs").exists()
