"""`footfall doctor`: what it says about what is there and what is not."""

import shutil
import sys
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
    assert doctor.packages_of("people") | {"pycolmap", "psutil"} == doctor.packages_of("teacher")
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
    assert titles == ["machine", "programs", "extras", "weights", "licensed files (never required)"]
    for extra in PROJECT["optional-dependencies"]:
        assert f"\n  {extra:<12} " in shown


def test_full_disk_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The cache's folder need not be there yet."""
    monkeypatch.setenv("FOOTFALL_CACHE", str(tmp_path / "not" / "yet"))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=int(1.2e9)))
    rows = [text for _, text in doctor.disk_rows()]
    assert len(rows) == 3
    assert all(row.startswith("1.2 GB free") and "less than 5 GB" in row for row in rows)
    assert str(tmp_path / "not" / "yet") in rows[1]


def test_missing_programs_are_said_with_what_they_are_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    rows = dict(doctor.program_rows())
    assert "ssh -L" in rows["browser"] and "apt-get install chromium" in rows["browser"]
    assert "--to blender" in rows["Blender"]
    assert "commit" in rows["git"]


def test_decoder_that_does_not_load_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.decoder_found().startswith("decord 3")
    monkeypatch.setitem(sys.modules, "decord", None)  # what an import then raises is ImportError
    assert "no video can be read" in doctor.decoder_found()
    assert "pip install 'decord2" in doctor.decoder_found()


def test_networks_of_others_come_with_the_setting_and_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "hub_has", lambda hub_id, revision: False)
    rows = dict(doctor.network_rows())
    assert "depth.use=transformers" in rows["depth"] and "hf download depth-anything/" in rows["depth"]
    assert "people.masks.use=sam" in rows["masks"] and "hf download facebook/" in rows["masks"]
    assert "--checkpoint josh3r:FILE" in rows["JOSH3R"]
