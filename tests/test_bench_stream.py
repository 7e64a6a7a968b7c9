"""`footfall bench stream`: rows that are real, and mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from teacher.benchmark.stream_speed import Bench, bench_lines, run_bench
from teacher.cli import main


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for k in range(6):
        Image.fromarray(rng.integers(0, 255, (64, 112, 3), dtype=np.uint8)).save(folder / f"{k}.png")
    return folder


def test_a_row_is_measured_from_file_to_result(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads, out = torch.get_num_threads(), tmp_path / "row.json"
    words = [f"video={pictures}", "ways=[eager]", "repeats=1", "devices=[cpu]", f"out={out}"]
    assert main(["bench", "stream", *words]) == 0
    torch.set_num_threads(threads)
    row = json.loads(out.read_text())
    assert "| cpu | eager | 224x128 |" in capsys.readouterr().out
    timed, skipped = row["rows"]
    assert timed["frames"] == 6 and timed["frames_per_second"] > 0 and timed["processor_ms_per_frame"] > 1
    parts = {"decode", "shrink", "prepare", "encode", "people", "look", "pair", "fuse", "record", "write", "latency"}
    assert parts <= set(timed["parts_ms"])
    for ms in timed["parts_ms"].values():
        assert ms["p50"] <= ms["p95"] <= ms["p99"]
    assert timed["parts_ms"]["latency"]["p50"] >= timed["parts_ms"]["pair"]["p50"]
    assert skipped["device"] == "cuda" and skipped["skipped"]
    assert row["peers_fps"] == {"JOSH3R, claimed": 15.4, "JOSH3R, measured by others": 6.1}
    assert row["targets_fps"] == {"cpu": 30.0, "cuda": 150.0}
    assert any("JOSH3R" in line for line in bench_lines(row))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("ways=[fast]", "ways of"), ("ways=[]", "ways of"), ("devices=[tpu]", "devices of"),
        ("repeats=0", "at least 1"), ("gpu_size=512", "WIDTHxHEIGHT"), ("video=nowhere.mp4", "nowhere.mp4"),
        ("out=row.txt", ".json file"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(word: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "stream", "ways=[eager]", word]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0]


@pytest.mark.gpu
def test_a_student_of_full_size_on_a_gpu(pictures: Path) -> None:
    row = run_bench(Bench(devices=["cuda"], video=str(pictures), repeats=1))
    (timed,) = row["rows"]
    assert timed["size"] == [512, 288] and timed["frames"] == 6 and timed["frames_per_second"] > 0
