"""`footfall doctor`: what it says about what is there and what is not."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.people.weights import ALL_WEIGHTS
from distill.synthetic import render
from teacher.cli import main
from teacher.commands import doctor

PROJECT = tomllib.loads((Path(__file__).resolve().parent.parent / "pyproject.toml").read_text())["project"]


def test_every_extra_is_explained() -> None:
    assert set(doctor.ENABLES) == set(PROJECT["optional-dependencies"])


def test_extras_inside_extras_are_followed() -> None:
    assert {"ai-edge-litert", "opencv-python-headless"} == doctor.packages_of("people")
    assert doctor.packages_of("people") | {"pycolmap"} == doctor.packages_of("teacher")
    assert doctor.packages_of("teacher") | doctor.packages_of("synthetic") < doctor.packages_of("demo")


def test_what_is_missing_comes_with_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed_version", lambda package: None if package == "pycolmap" else "1.0")
    rows = dict(doctor.extra_rows())
    assert rows["people"].startswith("complete")
    assert rows["teacher"].startswith("no pycolmap: footfall label")
    assert rows["teacher"].endswith("run: pip install 'footfall[teacher]'")
    assert rows["demo"].startswith("no pycolmap")


def test_renderer_falls_back_to_rays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "gl_is_available", lambda: False)
    assert doctor.renderer_found().startswith("rays (Embree)")


def test_torch_without_and_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.torch_found().startswith(torch.__version__)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    assert doctor.torch_found() == f"{torch.__version__}, CUDA on GPU 0"


def test_empty_cache_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOOTFALL_CACHE", str(tmp_path))
    rows = [text for _, text in doctor.weight_rows()]
    for weight, row in zip(ALL_WEIGHTS, rows, strict=False):
        assert row.startswith(f"{weight.id} ({weight.licence}): not here")
    assert f"cache: {tmp_path}" in rows
    ((name, text),) = doctor.body_file_rows()
    assert name == "none"
    assert str(tmp_path / "bodies") in text


def test_body_files_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOOTFALL_CACHE", str(tmp_path))
    (tmp_path / "bodies").mkdir()
    np.savez(tmp_path / "bodies" / "SMPL_NEUTRAL.npz", nothing=np.zeros(3))
    ((name, text),) = doctor.body_file_rows()
    assert name == "smpl"
    assert "no array 'v_template'" in text


def test_whole_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    titles = [line for line in shown.splitlines() if line[0] != " "]
    assert titles == ["machine", "extras", "weights", "licensed files (never required)"]
