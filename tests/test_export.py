"""Exported graphs agree with eager execution on a real picture, for any number of people, without our configs."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distill.errors import FootfallError
from distill.export import (
    PAIR_OUTPUTS,
    ExportConfig,
    ExportedStudent,
    example_input,
    export_student,
    load_exported,
    read_parity_input,
    record_parity,
)
from distill.files import read_json, write_json
from distill.models.student import Student, StudentConfig
from distill.models.trunk import HeadConfig
from teacher.commands import export
from tests.student_support import SIZE, make_prompts, one_thread, wake  # noqa: F401 (a fixture)


@pytest.fixture(scope="module")
def student() -> Student:
    torch.manual_seed(2)
    return wake(Student(StudentConfig(head=HeadConfig(width=48, layers=1, attention_heads=2))))


@pytest.fixture(scope="module")
def folder(student: Student, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One export for all tests, made by the command."""
    out = tmp_path_factory.mktemp("export")
    student.save_pretrained(out / "checkpoint")
    parser = argparse.ArgumentParser()
    export.add_arguments(parser)
    words = [str(out / "checkpoint"), "size=[96,64]", "runs=2", "--out", str(out / "graphs")]
    assert export.run(parser.parse_args(words)) == 0
    return out / "graphs"


@pytest.fixture(scope="module")
def exported(folder: Path) -> ExportedStudent:
    return load_exported(folder)


def _agree(student: Student, exported: ExportedStudent, *, pairs: int, people: int) -> None:
    """On new images: one encoded alone as a stream does, then any number of pairs and people."""
    images, prompts = torch.rand(pairs + 1, 3, 64, 96), make_prompts(people, batch=pairs, seed=people)
    prompts = replace(prompts, seconds=torch.rand(pairs), K_known=torch.rand(pairs) > 0.5)
    with torch.no_grad():
        tokens = student.encode(images)
        alone = exported.encode(images[:1])
        torch.testing.assert_close(alone.features, tokens.features[:1], rtol=1e-4, atol=1e-4)
        eager = student.pair(tokens[:-1], tokens[1:], prompts)
        graph = exported.pair(tokens[:-1], tokens[1:], prompts)
    for name in PAIR_OUTPUTS:
        torch.testing.assert_close(getattr(graph, name), getattr(eager, name), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("pairs", "people"), [(1, 1), (1, 3), (4, 1), (2, 5)])
def test_graphs_agree_for_any_number_of_pairs_and_people(
    student: Student, exported: ExportedStudent, pairs: int, people: int
) -> None:
    assert exported.network_size((1920, 1080)) == SIZE and exported.num_betas == 10
    _agree(student, exported, pairs=pairs, people=people)


def test_graphs_ask_for_what_they_were_trained_with(exported: ExportedStudent) -> None:
    tokens, prompts = exported.encode(torch.rand(1, 3, 64, 96)), make_prompts(2)
    with pytest.raises(FootfallError, match="no seconds"):
        exported.pair(tokens, tokens, prompts)
    with pytest.raises(FootfallError, match="masks"):
        exported.pair(tokens, tokens, replace(prompts, seconds=torch.ones(1), masks=torch.ones(1, 2, 2, 4, 6)))
    soon, late = (exported.pair(tokens, tokens, replace(prompts, seconds=torch.tensor([s]))) for s in (0.03, 0.5))
    assert (soon.cam_a_from_cam_b - late.cam_a_from_cam_b).abs().max() > 1e-5
    guess = exported.pair(tokens, tokens, replace(prompts, seconds=torch.tensor([0.03]), K_known=torch.tensor([False])))
    assert (soon.cam_from_body_a - guess.cam_from_body_a).abs().max() > 1e-6


def test_records_name_what_was_measured(folder: Path) -> None:
    assert {p.name for p in folder.iterdir()} == {
        "encoder.pt2", "look.pt2", "pair.pt2", "export.json", "parity.json", "latency.json",
    }  # fmt: skip
    parity, latency, record = (read_json(folder / f"{name}.json") for name in ("parity", "latency", "export"))
    assert parity["max_difference"].keys() == {"features", "looks", *PAIR_OUTPUTS}
    assert max(parity["max_difference"].values()) <= parity["tolerance"]
    assert latency["median_ms"].keys() == {
        f"{graph}{kind}" for graph in ("encoder", "look", "pair") for kind in ("", "_eager")
    }
    assert all(latency[name] for name in ("processor", "threads", "torch", "python"))
    assert record["backbone"]["licence"] == "Apache-2.0"


def test_each_graph_holds_only_its_own_weights(student: Student, folder: Path) -> None:
    """Four bytes a weight, and less than a quarter more for the graph itself and its records."""
    backbone = student.backbone.module
    parts = [sum(p.numel() for p in part.parameters()) for part in (backbone.enc_blocks, backbone.dec_blocks, student)]
    assert parts[0] < (folder / "encoder.pt2").stat().st_size / 4 < 1.25 * parts[0]
    look = sum(p.numel() for p in student.closeup.parameters())
    assert look < (folder / "look.pt2").stat().st_size / 4 < 1.25 * look
    own = 2 * parts[1] + parts[2] - look
    assert own < (folder / "pair.pt2").stat().st_size / 4 < 1.6 * own  # its graph has some thousand nodes


def test_folder_runs_without_the_package(folder: Path, tmp_path: Path) -> None:
    """A graph is a program of its own: plain torch is enough."""
    code = (
        f"import sys, torch; graph = torch.export.load({str(folder / 'encoder.pt2')!r}).module(); "
        "assert graph(torch.rand(1, 3, 64, 96)).shape == (1, 24, 144); assert 'distill' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=120)


def test_onnx_agrees_too(student: Student, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    images, people = example_input(SIZE)
    export_student(student, tmp_path, file_format="onnx", images=images, people=people, runs=2)
    _agree(student, load_exported(tmp_path), pairs=3, people=3)


@pytest.mark.parametrize("difference", [1e-3, float("nan"), float("inf")])
def test_disagreement_is_recorded_and_an_error(tmp_path: Path, difference: float) -> None:
    record_parity(tmp_path, {"betas": 1e-6})
    with pytest.raises(FootfallError, match="features off by"):
        record_parity(tmp_path, {"betas": 1e-6, "features": difference})
    assert float(read_json(tmp_path / "parity.json")["max_difference"]["features"]) == pytest.approx(
        difference, nan_ok=True
    )
    with pytest.raises(FootfallError, match=r"export\.json"):
        load_exported(tmp_path)


def test_bad_requests_say_what_to_do(student: Student, folder: Path, tmp_path: Path) -> None:
    images, people = example_input(SIZE)
    with pytest.raises(FootfallError, match="not built yet"):
        export_student(student, tmp_path, file_format="aoti", images=images, people=people)
    write_json(tmp_path / "export.json", {**read_json(folder / "export.json"), "format": "footfall-export/9"})
    with pytest.raises(FootfallError, match="footfall-export/9"):
        load_exported(tmp_path)
    with pytest.raises(FootfallError, match="multiples of 16"):
        read_parity_input(student, ExportConfig(size=[100, 64]))
    with pytest.raises(FootfallError, match="video"):
        read_parity_input(student, ExportConfig(video=str(tmp_path / "missing.mp4")))
    with pytest.raises(ValueError, match="runs"):
        ExportConfig(runs=0)
