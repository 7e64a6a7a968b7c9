"""`footfall bench student`: counted operations against the published ones, rows that are real, mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from distill.models.mast3r import Mast3r, Mast3rConfig
from distill.models.student import Student, StudentConfig
from teacher.benchmark.memory import peak_megabytes, reset_peak
from teacher.benchmark.student_speed import Bench, bench_lines, count_operations, parse_size, peak_flops, run_bench
from teacher.cli import main


@pytest.mark.parametrize(
    ("size", "encode", "pair"), [((512, 288), 0.379e12, 0.314e12), ((512, 384), 0.521e12, 0.439e12)]
)
def test_operations_are_those_of_the_published_floor(size: tuple[int, int], encode: float, pair: float) -> None:
    """facts/mast3r.md section 5: encoder 0.48 and 0.66 ms at 790e12, with one pair decoded 0.693e12 and 0.960e12."""
    with torch.device("meta"):
        student = Student(StudentConfig(), Mast3r(Mast3rConfig()))
    counts = count_operations(student, size, Bench(gaps=[1]))
    assert counts["encode"] == pytest.approx(encode, rel=0.02)
    assert counts["pairs"] == pytest.approx(pair, rel=0.05)  # ours has the heads as well
    three = count_operations(student, size, Bench(gaps=[1, 3, 10]))
    assert three["encode"] == counts["encode"]  # each frame once
    assert three["pairs"] == pytest.approx(3 * counts["pairs"], rel=1e-3)


def test_a_row_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "row.json"
    words = ["sizes=[96x64]", "frames=4", "warm_ups=1", "gaps=[1,3]", f"out={out}"]
    assert main(["bench", "student", *words]) == 0
    row = json.loads(out.read_text())
    assert "| tiny | 96x64 | cpu | eager | float32 |" in capsys.readouterr().out
    (found,) = row["rows"]
    assert found["frames"] == 4
    assert found["latency_ms"]["p50"] <= found["latency_ms"]["p95"] <= found["latency_ms"]["p99"]
    assert found["times_floor"] > 1  # nothing is quicker than its arithmetic
    assert found["parameters_millions"]["backbone"] == pytest.approx(2.89, abs=0.1)
    assert found["peak_memory_mb"] > 50
    assert row["provenance"]["hardware"]["cpu"]
    assert len(bench_lines(row)) == 5


def test_peak_memory_sees_what_was_freed() -> None:
    cpu = torch.device("cpu")
    reset_peak(cpu)
    before = peak_megabytes(cpu)
    torch.ones(30_000_000).sum()  # 120 MB
    assert peak_megabytes(cpu) - before > 100


def test_a_rate_is_plausible() -> None:
    assert 1e8 < peak_flops(torch.device("cpu"), torch.float32) < 1e14


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("sizes=[512]", "expected WIDTHxHEIGHT"), ("devices=[tpu]", "devices of"), ("modes=[fast]", "modes of"),
        ("frames=0", "at least 1"), ("dtype=int8", "float32 or bfloat16"), ("gaps=[0]", "gaps of at least 1"),
        ("out=row.txt", ".json file"), ("backbones=[nobody]", "nobody"), ("sizes=[100x64]", "multiples of 16"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(word: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "student", word]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0]


def test_sizes_are_read() -> None:
    assert parse_size("512x288") == (512, 288)


@pytest.mark.gpu
def test_all_ways_of_running_on_a_gpu() -> None:
    row = run_bench(Bench(devices=["cuda"], sizes=["512x288"], frames=20))
    assert [found["mode"] for found in row["rows"]] == ["eager", "compile", "graphs", "compile+graphs"]
    assert all(found["dtype"] == "bfloat16" and found["times_floor"] > 1 for found in row["rows"])
