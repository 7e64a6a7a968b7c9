"""`footfall bench data`: the row is complete, its ratio is that of its rates, and it reads what it is given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distill.config import load_config
from distill.data import DataConfig
from distill.errors import FootfallError
from distill.models.student import StudentConfig
from distill.models.trunk import HeadConfig
from teacher.benchmark.data_speed import Bench, bench_lines, run_bench
from tests.shard_support import make_shards
from tests.student_support import one_thread  # noqa: F401 (a fixture)

SMALL = StudentConfig(head=HeadConfig(width=48, layers=1, attention_heads=2))


def test_drawn_shards() -> None:
    data = DataConfig(batch_size=2, window_frames=2, mix=2)
    row = run_bench(Bench(workers=[0, 1], samples=2, batches=2, steps=1, width=96, data=data, student=SMALL))
    assert json.loads(json.dumps(row)) == row
    for workers in ("0", "1"):
        assert row["ratio"][workers] == pytest.approx(row["windows_read_per_s"][workers] / row["windows_used_per_s"])
        assert row["ratio"][workers] > 0
    assert row["provenance"]["hardware"] and row["provenance"]["commit"]
    assert sum("times" in line for line in bench_lines(row)) == 2


def test_given_shards_and_too_few_of_them(tmp_path: Path) -> None:
    make_shards(tmp_path, samples=2)
    overrides = [f"data.shards={tmp_path}", "workers=[0]", "batches=1", "steps=1", "data.batch_size=2"]
    small = ["student.head.width=48", "student.head.layers=1", "student.head.attention_heads=2"]
    row = run_bench(load_config(Bench, None, overrides + small))
    assert list(row["windows_read_per_s"]) == ["0"]
    with pytest.raises(FootfallError, match="less than one batch"):
        run_bench(load_config(Bench, None, [*overrides, *small, "data.batch_size=50"]))
    with pytest.raises(FootfallError, match=r"no \.tar file"):
        run_bench(load_config(Bench, None, ["data.shards=/nowhere"]))
    with pytest.raises(ValueError, match="feature_cache"):
        Bench(data=DataConfig(feature_cache="x", zoom=0, colour=0, blur=0, compression=0))
