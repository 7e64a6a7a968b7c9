"""A student on a backbone of patch 14: trained by the trainer, streamed, exported. Nothing may assume 16."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from distill.data_config import PIXEL_AUGMENTATION, DataConfig
from distill.export import example_input, export_student
from distill.models.da3.config import config_from_words
from distill.models.student import Student, StudentConfig
from distill.models.trunk import HeadConfig
from distill.stream import Stream, StreamConfig
from distill.train_config import OptimConfig, TrainConfig
from distill.trainer import Trainer
from tests.da3_parity import drawn_weights, small_words
from tests.shard_support import make_shards
from tests.student_support import one_thread  # noqa: F401 (a fixture)
from tests.test_da3 import on_meta

NETWORK_SIZE = (84, 56)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a small Depth Anything 3 whose images are of `NETWORK_SIZE`, by its own words."""
    folder = tmp_path_factory.mktemp("da3")
    (folder / "config.json").write_text(json.dumps(small_words()))
    model = on_meta(config_from_words(small_words()))
    weights = drawn_weights({name: tensor.shape for name, tensor in model.state_dict().items()})
    save_file(weights, folder / "model.safetensors")
    return str(folder)


@pytest.fixture(scope="module")
def trained(backbone: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps on one window: computed, then taken from the cache of frozen features."""
    out = tmp_path_factory.mktemp("run")
    make_shards(out / "labels", samples=1, per_shard=1, frames=2)
    still: dict[str, Any] = dict.fromkeys(PIXEL_AUGMENTATION, 0.0)
    config = TrainConfig(
        name="da3", out=str(out), steps=3, log_every=1, save_every=3,
        data=DataConfig(
            shards=str(out / "labels"), batch_size=1, windows_per_sample=1, window_frames=2, workers=0,
            feature_cache=str(out / "cache"), feature_cache_gb=1.0, feature_cache_windows=1,
            **still,
        ),
        optim=OptimConfig(lr=1e-3, final_lr=1e-4, warmup_steps=1),
        student=StudentConfig(backbone=backbone, head=HeadConfig(width=48, layers=1, attention_heads=2)),
    )  # fmt: skip
    Trainer(config).train()
    assert any((out / "cache").rglob("*.features"))
    return out / "da3"


@pytest.fixture(scope="module")
def student(trained: Path) -> Student:
    """Loaded again: the checkpoint names the folder, revision and hash of its backbone."""
    return Student.from_pretrained(trained / "pretrained")


def test_trains_through_data_cache_and_losses(trained: Path) -> None:
    rows = [json.loads(line) for line in (trained / "log" / "log.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and all(np.isfinite(row["loss"]) for row in rows)
    assert rows[0]["loss/scene_scale"] > 0  # points are there, and of another scale than the people


def test_checkpoint_names_the_backbone_and_holds_none_of_it(student: Student, backbone: str, trained: Path) -> None:
    stored = json.loads((trained / "pretrained" / "config.json").read_text())["backbone"]
    assert stored["id"] == backbone and stored["sha256"] == student.backbone.module.provenance.sha256
    assert not any("pretrained" in name or "cam_dec" in name for name in student.state_dict())


def test_streams(student: Student) -> None:
    rng = np.random.default_rng(0)
    stream = Stream(student, (96, 64), StreamConfig(gaps=[1, 3]))
    assert stream.network_size == NETWORK_SIZE
    boxes = {1: np.array([10.0, 5, 40, 60]), 2: np.array([50.0, 8, 80, 62])}
    for k in range(5):
        frame = rng.integers(0, 255, (64, 96, 3), dtype=np.uint8)
        found = stream.step(frame, k / 25, boxes)
        assert [person.id for person in found.people] == [1, 2]
        assert all(torch.isfinite(person.joints_cam).all() for person in found.people)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("file_format", ["pt2", "onnx"])
def test_exports(student: Student, tmp_path: Path, file_format: str) -> None:
    if file_format == "onnx":
        pytest.importorskip("onnxruntime")
    images, people = example_input(NETWORK_SIZE)
    differences = export_student(student, tmp_path, file_format=file_format, images=images, people=people, runs=1)
    assert max(differences.values()) <= 1e-4
