"""Settings, logs and comparisons of small training runs, for several test files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distill.data import DataConfig
from distill.models.student import StudentConfig
from distill.models.trunk import HeadConfig
from distill.train_config import OptimConfig, TrainConfig

ROOT = Path(__file__).resolve().parent.parent


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
