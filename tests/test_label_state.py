"""State of a labelling folder: another config, one stage alone, a disk that fills, a folder that is read-only."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from distill.config import load_config, read_yaml
from distill.errors import FootfallError
from distill.files import sha256_of
from teacher import locks
from teacher.changes import changed_settings, describe, plan_changes
from teacher.config import LabelConfig
from teacher.pipeline import label
from teacher.status import read_status
from teacher.workspace import ClipFolder
from tests.execution_support import write_tiny

HERE = ["pictures.frames=1", "in_process=true"]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny"), "one")


@pytest.fixture(scope="module")
def out(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labels")
    assert label([manifest], folder, overrides=HERE).manifest["totals"]["clips"] == 1
    return folder


def written(out: Path) -> dict[str, int]:
    """Stage -> when its record was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in (out / "clips" / "one").glob("*/record.json")}


def test_the_plan_names_what_another_config_makes_stale_and_why(out: Path) -> None:
    old = read_yaml(out / "config.yaml")
    new = load_config(LabelConfig, out / "config.yaml", ["optimise.depth_ratio=1.3", "workers=7", "limits.tries=9"])
    assert changed_settings(old, new) == {"joint": "optimise.depth_ratio 1.1 -> 1.3"}
    plan = plan_changes(out, old, new)
    assert [change.stage for change in plan] == ["joint", "quality", "gaussians", "pictures"]
    assert all(change.clips == ["one"] for change in plan)
    assert "recompute joint: 1 clips (optimise.depth_ratio 1.1 -> 1.3)" in describe(plan)
    assert "recompute pictures: 1 clips (reads joint)" in describe(plan)
    assert plan_changes(out, old, load_config(LabelConfig, None, ["pack.chunk_frames=8", *HERE])) == []
    del old["optimise"]["depth_ratio"]  # as an earlier version would have left it
    assert changed_settings(old, new) == {"joint": "optimise.depth_ratio None -> 1.3"}


def test_finished_work_is_not_thrown_away_unasked(out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before, config = written(out), (out / "config.yaml").read_text()
    with pytest.raises(FootfallError, match=r"pictures.frames 1 -> 2.*--since config-change"):
        label([], out, overrides=["pictures.frames=2"])
    assert written(out) == before and (out / "config.yaml").read_text() == config
    label([], out, overrides=["pictures.frames=2"], since_config_change=True)
    after = written(out)
    assert {stage for stage in after if after[stage] != before[stage]} == {"pictures"}
    assert "recompute pictures: 1 clips (pictures.frames 1 -> 2)" in capfd.readouterr().out
    label([], out, since_config_change=True)  # the folder keeps its config
    assert written(out) == after


def test_one_stage_alone(manifest: Path, tmp_path: Path) -> None:
    report = label([manifest], tmp_path, overrides=HERE, only="people")
    assert set(written(tmp_path)) == {"frames", "people"} and report.manifest == {}
    assert not (tmp_path / "shards").exists()
    (row,) = read_status(tmp_path)
    assert row.decision == "unfinished" and row.tries == 1
    with pytest.raises(FootfallError, match="--only: got 'peeple'"):
        label([manifest], tmp_path, overrides=HERE, only="peeple")


def test_a_label_whose_inputs_were_made_again_is_stale_and_not_packed(out: Path) -> None:
    clip = ClipFolder(out / "clips" / "one")
    assert clip.is_current("quality")
    record = clip.record("people")
    assert record is not None
    record.config_hash = "another"
    path = clip.stage_dir("people") / "record.json"
    before = path.read_bytes()
    clip.finish(record)
    try:
        assert not clip.is_current("quality")
        (row,) = read_status(out)
        assert row.decision == "stale"
    finally:
        path.write_bytes(before)
    assert clip.is_current("quality")


def test_one_run_at_a_time(manifest: Path, tmp_path: Path) -> None:
    with locks.hold(tmp_path) as mine:
        assert mine
        with pytest.raises(FootfallError, match="is labelling into it"):
            label([manifest], tmp_path, overrides=HERE)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    try:
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("needs the right to mount a file system")
    except FileNotFoundError:
        pytest.skip("needs mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_fills_stops_the_run_with_one_line_and_it_goes_on(small_disk: Path, tmp_path: Path) -> None:
    manifest = write_tiny(tmp_path / "clips", "fills")
    out = small_disk / "out"
    settings = [*HERE, "people.use=misbehaving"]
    with pytest.raises(FootfallError, match=r"folder .*: got No space left on device; expected room"):
        label([manifest], out, overrides=settings, only="people")
    clip = ClipFolder(out / "clips" / "fills")
    frames = clip.record("frames")
    assert frames is not None and clip.record("people") is None  # the fault is the disk's, not the clip's
    assert all(sha256_of(clip.stage_dir("frames") / name) == digest for name, digest in frames.outputs.items())
    assert not (clip.root / "tries.json").exists() and not clip.stage_dir("people").exists()
    assert label([], out, only="people").failed == {}
    assert clip.is_done("people")


def test_a_disk_that_is_read_only_is_one_line(small_disk: Path, manifest: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(FootfallError, match=r"output folder .*: got Read-only file system"):
        label([manifest], small_disk / "out", overrides=HERE)
