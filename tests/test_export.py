"""Exported graphs agree with eager execution on a real picture, for any number of people, without our configs."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distill.errors import FootfallError
from distill.export import (
    PAIR_OUTPUTS,
    TOLERANCES,
    ExportConfig,
    ExportedStudent,
    example_input,
    example_prompts,
    export_student,
    load_exported,
    read_frames,
    read_parity_input,
    record_parity,
)
from distill.export.config import Precision
from distill.export.files import open_graph, write_graph
from distill.export.onnx_weights import quantise
from distill.export.parts import cut_student, without_unused
from distill.export.precision import in_precision
from distill.export.write import compare
from distill.files import read_json, write_json
from distill.models.student import Student, StudentConfig
from distill.models.trunk import HeadConfig
from distill.runner.body import Body
from distill.runner.network import OnnxNetwork
from distill.runner.stream import ArrayStream
from distill.stream import Stream, StreamConfig
from teacher.commands import export
from tests.conftest import SHARED
from tests.student_support import SIZE, make_prompts, one_thread, wake  # noqa: F401 (a fixture)

ROOT = Path(__file__).resolve().parent.parent
GRAPHS = ("encoder", "detect", "identify", "look", "pair", "points")


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
def onnx_folder(student: Student, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One export to ONNX for all tests."""
    pytest.importorskip("onnxruntime")
    out, (images, people) = tmp_path_factory.mktemp("onnx"), example_input(SIZE)
    export_student(student, out, file_format="onnx", images=images, people=people, runs=2)
    return out


@pytest.fixture(scope="module")
def exported(request: pytest.FixtureRequest) -> ExportedStudent:
    """Graphs in one of the formats; pt2 unless asked otherwise."""
    return load_exported(request.getfixturevalue("onnx_folder" if _asked(request) == "onnx" else "folder"))


def _asked(request: pytest.FixtureRequest) -> str:
    return getattr(request, "param", "pt2")


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


@pytest.mark.parametrize("exported", ["pt2", "onnx"], indirect=True)
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
        *(f"{graph}.pt2" for graph in GRAPHS), "body.npz", "export.json", "parity.json", "latency.json",
    }  # fmt: skip
    parity, latency, record = (read_json(folder / f"{name}.json") for name in ("parity", "latency", "export"))
    outputs = {"features", "logit", "candidates", "vectors", "looks", "points", "confidence", *PAIR_OUTPUTS}
    assert parity["max_difference"].keys() == outputs
    assert max(parity["max_difference"].values()) <= parity["tolerance"] == 1e-4
    assert latency["ms"].keys() == {f"{graph}{kind}" for graph in GRAPHS for kind in ("", "_eager")}
    assert all(0 < ms["p50"] <= ms["p95"] <= ms["p99"] for ms in latency["ms"].values())
    assert latency["hardware"]["cpu"] and latency["versions"]["torch"] and latency["threads"] and latency["commit"]
    assert record["graphs"] == list(GRAPHS) and record["precision"] == "float32"
    assert record["backbone"]["licence"] == "Apache-2.0"


def test_each_graph_holds_only_its_own_weights(student: Student, folder: Path) -> None:
    """Four bytes a weight, and less than a quarter more for the graph itself and its records."""
    backbone = student.backbone.module
    parts = [sum(p.numel() for p in part.parameters()) for part in (backbone.enc_blocks, backbone.dec_blocks, student)]
    look, detect, identify = (
        sum(p.numel() for p in part.parameters()) for part in (student.closeup, student.detection, student.identity)
    )
    assert parts[0] < (folder / "encoder.pt2").stat().st_size / 4 < 1.25 * parts[0]
    assert look < (folder / "look.pt2").stat().st_size / 4 < 1.25 * look
    assert (folder / "identify.pt2").stat().st_size < 4 * 1.25 * parts[0]
    own = 2 * parts[1] + parts[2] - look - detect - identify
    assert own < (folder / "pair.pt2").stat().st_size / 4 < 1.6 * own  # its graph has some thousand nodes


def test_folder_runs_without_the_package(folder: Path, tmp_path: Path) -> None:
    """A graph is a program of its own: plain torch is enough."""
    code = (
        f"import sys, torch; graph = torch.export.load({str(folder / 'encoder.pt2')!r}).module(); "
        "assert graph(torch.rand(1, 3, 64, 96)).shape == (1, 24, 144); assert 'distill' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=300)


def test_folder_loads_without_configs_and_training_code(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules |= dict.fromkeys(('omegaconf', 'distill.config', 'distill.trainer', 'teacher', 'accelerate'))\n"
        "import torch; from pathlib import Path; from distill.export.loaded import load_exported\n"
        f"exported = load_exported(Path({str(folder)!r}))\n"
        "tokens = exported.encode(torch.rand(1, 3, 64, 96))\n"
        "assert exported.detect(tokens).boxes.shape == (1, 4, 6, 4)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=300)


@pytest.mark.parametrize("exported", ["pt2", "onnx"], indirect=True)
def test_exported_equals_eager_on_real_frames(student: Student, exported: ExportedStudent, tmp_path: Path) -> None:
    """Every graph, in float32, on frames of real clips where there are any, else of a drawn one."""
    for clip in real_clips() or [draw_clip(tmp_path / "drawn")]:
        images, prompts = read_frames(clip, SIZE), example_prompts(SIZE)
        assert images.std() > 0.05
        with torch.no_grad():
            tokens = student.encode(images)
            a, b, boxes = tokens[:1], tokens[1:], prompts.boxes[:, :, 0]
            close(exported.encode(images[:1]).features, a.features)
            close(exported.look(images[:1], boxes), student.look(images[:1], boxes))
            close(exported.identify(a, boxes), student.identify(a, boxes))
            for name, value in vars(exported.detect(a)).items():
                close(value, getattr(student.detect(a), name))
            for found, wanted in zip(exported.points(a, b), student.points(a, b), strict=True):
                close(found, wanted)
            eager, graph = student.pair(a, b, prompts), exported.pair(a, b, prompts)
        for name in PAIR_OUTPUTS:
            close(getattr(graph, name), getattr(eager, name))


def real_clips() -> list[Path]:
    """Two of the clips that lie beside a developer's checkout."""
    folder = SHARED / "videos"
    return sorted(folder.glob("*.mp4"))[:2] if folder.is_dir() else []


def draw_clip(folder: Path) -> Path:
    """Pictures of a room with somebody in it, from elsewhere each time."""
    folder.mkdir()
    images, _ = example_input((192, 128))
    for k in range(11):
        picture = (images[0].roll(3 * k, -1).permute(1, 2, 0) * 255).byte().numpy()
        Image.fromarray(picture).save(folder / f"{k:02d}.png")
    return folder


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert float(((found - wanted).abs() / wanted.abs().clamp(min=1)).max()) <= TOLERANCES["float32"] == 1e-4


@pytest.mark.parametrize("exported", ["onnx"], indirect=True)
def test_a_stream_of_graphs_is_the_stream_of_the_student(
    student: Student, exported: ExportedStudent, onnx_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so the batch on the causal window (tests/test_stream.py): through tensors, and through arrays alone."""
    config = StreamConfig(gaps=[1, 3])
    config.fuser.lag = 4
    monkeypatch.setattr(student, "network_size", exported.network_size)  # theirs is fixed
    eager, graphs = Stream(student, SIZE, config), Stream(exported, SIZE, config)
    arrays = ArrayStream(OnnxNetwork(onnx_folder), SIZE, Body(onnx_folder / "body.npz"), config)
    rng = np.random.default_rng(0)
    for k in range(6):
        image = rng.integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
        boxes = {3: np.array([50.0, 8, 80, 62]), 7: np.array([10.0, 5, 40, 60])}
        wanted, found, found_arrays = (stream.step(image, k / 25, boxes) for stream in (eager, graphs, arrays))
        for result in (found, found_arrays):
            np.testing.assert_allclose(result.world_from_cam, wanted.world_from_cam, atol=1e-3)
            assert [person.id for person in result.people] == [3, 7]
            for mine, other in zip(result.people, wanted.people, strict=True):
                np.testing.assert_allclose(mine.joints_cam, other.joints_cam, atol=1e-3)
                np.testing.assert_allclose(mine.contact_prob, other.contact_prob, atol=1e-3)


@pytest.mark.parametrize(("file_format", "precision"), [("onnx", "float16"), ("pt2", "bfloat16"), ("pt2", "float16")])
def test_smaller_encoders_agree_with_eager_in_the_same_precision(
    student: Student, onnx_folder: Path, tmp_path: Path, file_format: str, precision: Precision
) -> None:
    smaller = in_precision(student, precision, file_format)
    images, people = example_input(SIZE)
    path = tmp_path / f"encoder.{file_format}"
    with torch.no_grad():
        part = cut_student(smaller, images, people)["encoder"]
        part.module = without_unused(part.module, part.inputs)
        write_graph(part, path, file_format, precision)
        graph = open_graph(path)
        assert compare(part, graph)["features"] <= TOLERANCES[precision] <= 1e-3
        features, reference = graph(images[:1]), student.encode(images[:1]).features
    assert features.dtype == torch.float32
    assert (features - reference).abs().max() < 0.1  # another precision, the same network
    if file_format != "onnx":  # there weights are rounded alone, and those that ship are of float16 already
        assert (features - reference).abs().max() > 1e-5
    assert next(student.backbone.module.enc_blocks.parameters()).dtype == torch.float32  # the student is left alone
    assert path.stat().st_size < 0.7 * (onnx_folder / "encoder.onnx").stat().st_size


def test_int8_is_smaller_and_near(student: Student, onnx_folder: Path, tmp_path: Path) -> None:
    """The backbone alone: not one product of the heads."""
    path = tmp_path / "encoder.onnx"
    path.write_bytes((onnx_folder / "encoder.onnx").read_bytes())
    quantise(path)
    assert path.stat().st_size < 0.4 * (onnx_folder / "encoder.onnx").stat().st_size
    image = example_input(SIZE)[0][:1]
    difference = (open_graph(path)(image) - student.encode(image).features).abs().max()
    assert 1e-4 < difference < 0.5
    before = (onnx_folder / "look.onnx").read_bytes()
    (tmp_path / "look.onnx").write_bytes(before)
    quantise(tmp_path / "look.onnx")
    assert (tmp_path / "look.onnx").read_bytes() == before


def test_int8_that_moves_answers_is_refused_with_the_number(tmp_path: Path) -> None:
    record_parity(tmp_path, {"features": 0.7, "betas": 0.01}, "int8")
    assert read_json(tmp_path / "parity.json")["against"] == "eager in float32"
    with pytest.raises(FootfallError, match=r"betas off by 0\.03; expected at most 0\.02"):
        record_parity(tmp_path, {"features": 0.7, "betas": 0.03}, "int8")


def test_graphs_are_traced_on_memory_without_gaps(student: Student) -> None:
    """AOTInductor takes the strides of its example for those of all inputs, and never looks."""
    with torch.no_grad():
        parts = cut_student(student, *example_input(SIZE))
    assert all(x.is_contiguous() for part in parts.values() for x in part.example())


@pytest.mark.slow
@pytest.mark.timeout(3600)  # a C++ compiler at work: 3 minutes on a quiet core, 25 on a busy one
@pytest.mark.parametrize(("file_format", "precision"), [("aoti", "float32"), ("pt2", "bfloat16"), ("onnx", "float16")])
def test_whole_students_in_other_formats_and_precisions(
    student: Student, tmp_path: Path, file_format: str, precision: Precision
) -> None:
    images, people = example_input(SIZE)
    differences = export_student(
        student, tmp_path, file_format=file_format, images=images, people=people, runs=1, precision=precision
    )
    assert len(differences) == len(PAIR_OUTPUTS) + 7
    assert max(differences.values()) <= TOLERANCES[precision]
    assert load_exported(tmp_path).encode(images[:1]).features.dtype == torch.float32


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
    with pytest.raises(FootfallError, match="unknown"):
        export_student(student, tmp_path, file_format="tflite", images=images, people=people)
    with pytest.raises(FootfallError, match="precision=int8; expected one of float32"):
        export_student(student, tmp_path, file_format="pt2", images=images, people=people, precision="int8")
    assert not list(tmp_path.iterdir())
    write_json(tmp_path / "export.json", {**read_json(folder / "export.json"), "format": "footfall-export/9"})
    with pytest.raises(FootfallError, match="footfall-export/9"):
        load_exported(tmp_path)
    with pytest.raises(FootfallError, match="multiples of 16"):
        read_parity_input(student, ExportConfig(size=[100, 64]))
    with pytest.raises(FootfallError, match="video"):
        read_parity_input(student, ExportConfig(video=str(tmp_path / "missing.mp4")))
    with pytest.raises(ValueError, match="runs"):
        ExportConfig(runs=0)
    with pytest.raises(ValueError, match="precision is 'half'"):
        ExportConfig(precision="half")  # type: ignore[arg-type]
