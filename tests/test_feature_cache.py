"""The cache of frozen features: the same losses, no backbone in later epochs, a budget, nothing trusted blindly."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distill.body import BodyModel
from distill.data import DataConfig, Windows, collate
from distill.feature_cache import FeatureCache, identity_of
from distill.models.backbones import Tokens
from distill.models.mast3r import Mast3r, Mast3rConfig, initialise
from distill.models.student import Student, StudentConfig
from distill.models.trunk import HeadConfig
from distill.shards.reader import ShardReader, find_shards
from distill.task import LossConfig, StudentTask
from distill.train_config import TrainConfig
from distill.trainer import Trainer
from tests.shard_support import make_shards
from tests.student_support import one_thread, wake  # noqa: F401 (a fixture)

NETWORK = (96, 64)
STILL = {"zoom": 0.0, "colour": 0.0, "blur": 0.0, "compression": 0.0}
SMALL = Mast3rConfig(
    enc_dim=48, enc_depth=2, enc_heads=3, dec_dim=48, dec_depth=2, dec_heads=3, hooks=(0, 1, 1, 2),
    dpt_dim=8, dpt_last_dim=8, dpt_layer_dims=(8, 8, 8, 8), descriptor_dim=0, long_side=96,
)  # fmt: skip


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("labels")
    make_shards(folder, samples=3)
    return str(folder)


class Counted(Mast3r):
    """Counts the images it encodes."""

    images = 0

    def encode(self, images: Tensor) -> Tokens:
        self.images += len(images)
        return super().encode(images)


def make_backbone(seed: int = 0) -> Counted:
    from distill.models.backbones import Provenance

    backbone = Counted(SMALL)
    initialise(backbone, seed)
    backbone.provenance = Provenance(id="small", revision=None, sha256=f"seed:{seed}", licence="CC0-1.0")
    return backbone


def make_task(body: BodyModel, backbone: Counted) -> StudentTask:
    torch.manual_seed(0)
    head = HeadConfig(width=48, layers=1, attention_heads=2)
    return StudentTask(wake(Student(StudentConfig(head=head), backbone)), LossConfig(), body)


def open_cache(folder: Path, backbone: Counted, gb: float = 1.0) -> FeatureCache:
    return FeatureCache(folder, gb, identity_of(backbone, precision="no", points=True))


def windows_of(labels: str, cache: FeatureCache | None, **settings: Any) -> Windows:
    config = DataConfig(
        windows_per_sample=2,
        feature_cache="x" if cache else "",
        feature_cache_windows=2,
        **STILL,
        box_jitter=0,
        mask_share=1,
        guessed_lens=0,
        **settings,  # else each epoch asks something else
    )
    reader = ShardReader(find_shards(labels).urls, seed=0, rank=0, world=1)
    return Windows(reader, config, lambda size: NETWORK, seed=0, training=True, cache=cache)


def epoch_of(task: StudentTask, windows: Windows, epoch: int, batch: int = 2) -> dict[str, float]:
    """Losses by window names, over batches."""
    task.cache = windows.cache
    windows.reader.set_epoch(epoch)
    rows, found = list(windows), {}
    for start in range(0, len(rows), batch):
        made = collate(rows[start : start + batch])
        losses, _ = task(made)
        found[" ".join(made["name"])] = {name: value.item() for name, value in losses.items()}
    return found


def test_same_losses_and_no_backbone_in_the_second_epoch(labels: str, tmp_path: Path, body: BodyModel) -> None:
    backbone = make_backbone()
    task, windows = make_task(body, backbone), windows_of(labels, open_cache(tmp_path, backbone))
    windows.reader.shuffle = False  # same batches in both epochs
    windows.config = replace(windows.config, mix=1)
    cold = epoch_of(task, windows, 0)
    assert backbone.images == 3 * 2 * 3  # samples, windows, frames
    warm = epoch_of(task, windows, 1)
    assert backbone.images == 3 * 2 * 3
    assert len(cold) == 3
    assert "scene_scale" in next(iter(cold.values()))
    without = epoch_of(task, replace_cache(windows), 0)
    for names, losses in cold.items():
        assert warm[names] == pytest.approx(losses, rel=5e-3, abs=1e-4)  # features are rounded to float16
        assert without[names] == pytest.approx(losses, rel=1e-6)
    assert any(warm[names] != cold[names] for names in cold)  # it was read, not computed again


def replace_cache(windows: Windows) -> Windows:
    """The same windows, nothing kept."""

    class Nothing(FeatureCache):
        def read(self, key: str) -> dict[str, Tensor] | None:
            return None

        def write(self, key: str, tensors: Any) -> None:
            return None

    assert windows.cache is not None
    windows.cache = Nothing(windows.cache.folder.parent, 1.0, {"points": True})
    return windows


def test_warm_windows_bring_features_and_pictures(labels: str, tmp_path: Path, body: BodyModel) -> None:
    backbone = make_backbone()
    windows = windows_of(labels, open_cache(tmp_path, backbone))
    epoch_of(make_task(body, backbone), windows, 0)
    batch = collate(list(windows)[:2])
    assert batch["images"].shape == (2, 3, 3, NETWORK[1], NETWORK[0])  # people are looked at in them
    assert batch["cached"] == [True, True]
    assert batch["features"].dtype == torch.float16


def test_a_batch_half_in_the_cache_equals_one_computed(labels: str, tmp_path: Path, body: BodyModel) -> None:
    backbone = make_backbone()
    task, windows = make_task(body, backbone), windows_of(labels, open_cache(tmp_path, backbone))
    cold = list(windows)[:2]
    whole, _ = task(collate(cold))
    task.cache = windows.cache
    task(collate(cold[1:]))  # stores the second window alone
    half = list(windows)[:2]
    assert ["features" in window for window in half] == [False, True]
    found, _ = task(collate(half))
    for name, value in whole.items():
        torch.testing.assert_close(found[name], value, rtol=5e-3, atol=1e-4)


def test_mirrored_frames_have_entries_of_their_own(labels: str, tmp_path: Path, body: BodyModel) -> None:
    backbone = make_backbone()
    task = make_task(body, backbone)
    epoch_of(task, windows_of(labels, open_cache(tmp_path, backbone), flip=0.0, reverse=0.0), 0)
    plain = backbone.images
    epoch_of(task, windows_of(labels, open_cache(tmp_path, backbone), flip=1.0, reverse=0.0), 0)
    assert backbone.images == 2 * plain
    epoch_of(task, windows_of(labels, open_cache(tmp_path, backbone), flip=1.0, reverse=0.0), 0)
    assert backbone.images == 2 * plain


def test_another_run_reads_and_another_backbone_does_not(labels: str, tmp_path: Path, body: BodyModel) -> None:
    first, same, other = make_backbone(0), make_backbone(0), make_backbone(1)
    for backbone, images in ((first, 18), (same, 0), (other, 18)):
        epoch_of(make_task(body, backbone), windows_of(labels, open_cache(tmp_path, backbone)), 0)
        assert backbone.images == images
    assert open_cache(tmp_path, first).folder != open_cache(tmp_path, other).folder


@pytest.mark.parametrize("damage", ["cut", "flipped bit", "empty"])
def test_damaged_entries_are_computed_again(labels: str, tmp_path: Path, body: BodyModel, damage: str) -> None:
    backbone = make_backbone()
    task = make_task(body, backbone)
    epoch_of(task, windows_of(labels, open_cache(tmp_path, backbone)), 0)
    entries = sorted(tmp_path.glob("*/*/*.features"))
    data = bytearray(entries[0].read_bytes())
    data[-3] ^= 4
    entries[0].write_bytes({"cut": data[:100], "flipped bit": data, "empty": b""}[damage])
    before = backbone.images
    epoch_of(task, windows_of(labels, open_cache(tmp_path, backbone)), 0)
    assert before < backbone.images <= before + 6
    before = backbone.images
    epoch_of(task, windows_of(labels, open_cache(tmp_path, backbone)), 0)
    assert backbone.images == before


def test_the_budget_is_kept_over_runs(labels: str, tmp_path: Path, body: BodyModel) -> None:
    backbone = make_backbone()
    task, budget = make_task(body, backbone), 1e-4
    for _ in range(2):
        cache = open_cache(tmp_path, backbone, budget)
        epoch_of(task, windows_of(labels, cache), 0)
        used = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
        assert 0.5 * budget * 1e9 < used <= budget * 1e9
        assert cache.full
    assert backbone.images > 18  # what did not fit is computed each time


def test_numbers_beyond_float16_are_not_stored(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, 1.0, {"points": False})
    cache.write("ab" * 32, {"features": torch.tensor([1e6])})
    assert cache.read("ab" * 32) is None
    cache.write("ab" * 32, {"features": torch.tensor([1.0])})
    assert cache.read("ab" * 32) is not None


def test_settings_that_a_cache_cannot_keep_are_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.zoom=0 data\.colour=0 data\.blur=0 data\.compression=0"):
        TrainConfig(data=DataConfig(feature_cache="x"))
    with pytest.raises(ValueError, match="feature_cache_gb"):
        DataConfig(feature_cache="x", feature_cache_gb=0, **STILL)
    with pytest.raises(ValueError, match="feature_cache_windows"):
        DataConfig(feature_cache="x", feature_cache_windows=1, windows_per_sample=2, **STILL)


def test_bytes_and_floats_are_the_same_images(labels: str, body: BodyModel) -> None:
    task, batch = make_task(body, make_backbone()), collate(list(windows_of(labels, None))[:2])
    assert batch["images"].dtype == torch.uint8
    losses, _ = task(batch)
    again, _ = task({**batch, "images": batch["images"].float() / 255})
    assert losses == again


def test_runs_fill_and_use_a_cache_and_log_what_was_damaged(labels: str, tmp_path: Path) -> None:
    """Through the training loop, with a reading worker: the second run never encodes."""
    shutil.copytree(labels, tmp_path / "labels")
    shard = sorted((tmp_path / "labels" / "shards").glob("*.tar"))[-1]
    shard.write_bytes(shard.read_bytes()[:3000])
    data = {"shards": str(tmp_path / "labels"), "feature_cache": str(tmp_path / "cache"), "feature_cache_windows": 2}
    settings = {"windows_per_sample": 2, "batch_size": 2, **STILL}
    losses = []
    for name in ("first", "second"):
        config = TrainConfig(
            name=name, out=str(tmp_path), steps=3, log_every=1, data=DataConfig(**data, **settings),
            student=StudentConfig(head=HeadConfig(width=48, layers=1, attention_heads=2)),
        )  # fmt: skip
        trainer = Trainer(config)
        backbone, encoded = trainer.student.backbone.module, []
        encode = backbone.encode
        backbone.encode = lambda images, e=encode, n=encoded: (n.append(len(images)), e(images))[1]
        trainer.train()
        rows = [json.loads(line) for line in (tmp_path / name / "log" / "log.jsonl").read_text().splitlines()]
        rows = [row for row in rows if "loss" in row]
        losses.append([row["loss"] for row in rows])
        assert rows[-1]["damaged"] >= 1
        assert bool(encoded) == (name == "first")
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)
