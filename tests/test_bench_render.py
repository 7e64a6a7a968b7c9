"""`footfall bench render`: rows that are real, mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from distill.render import render
from teacher.benchmark.render_speed import Bench, bench_lines, draw_scene, run_bench
from teacher.cli import main


def test_a_row_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "row.json"
    words = ["backends=[reference]", "gaussians=[50,2000]", "sizes=[64x48]", "cameras=2", "repeats=2", f"out={out}"]
    assert main(["bench", "render", *words]) == 0
    row = json.loads(out.read_text())
    assert "| reference | cpu | 64x48 | 50 | 2 |" in capsys.readouterr().out
    few, many = row["rows"]
    assert 0 < few["processor_ms"] < many["processor_ms"]
    assert many["forward_ms"] > 0 and many["backward_ms"] > 0 and many["peak_memory_mb"] > 50
    assert len(bench_lines(row)) == 6


def test_the_scene_fills_the_picture() -> None:
    size = (64, 48)
    gaussians, cam_from_world, K = draw_scene(500, size, 2)
    drawn = render(gaussians, cam_from_world, K, size)
    assert float(drawn.alpha.mean()) > 0.5
    seen = drawn.depth[drawn.alpha > 0.5]
    assert float(seen.min()) > 2 and float(seen.max()) < 6


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("backends=[inria]", "reference"), ("gaussians=[0]", "at least 1"), ("sizes=[big]", "WIDTHxHEIGHT"),
        ("cameras=0", "at least 1"), ("repeats=0", "at least 1"), ("sizes=[]", "sizes"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(word: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "render", word]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gsplat_without_a_gpu_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "render", "backends=[gsplat]"]) == 2
    assert "no CUDA device" in capsys.readouterr().err


@pytest.mark.gpu
def test_both_backends_on_a_gpu() -> None:
    row = run_bench(Bench(gaussians=[2000], sizes=["224x128"], repeats=3))
    assert [found["backend"] for found in row["rows"]] == ["reference", "gsplat"]
    assert all(found["peak_memory_mb"] > 0 for found in row["rows"])
