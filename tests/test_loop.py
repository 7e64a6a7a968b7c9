"""The whole loop on one small made-up clip, by the commands that a user types."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from distill.files import read_json, sha256_of
from distill.results import load_result
from distill.synthetic import ClipSpec, write_collection
from teacher.cli import main
from teacher.status import read_status

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A walking person filmed by a walking camera."""
    folder = tmp_path_factory.mktemp("clips")
    write_collection(folder, [ClipSpec(id="walk", seed=3, frames=36, fps=20.0, people=1, camera="walk", supersample=1)])
    return folder


@pytest.fixture(scope="module")
def labels(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("labels")
    assert main(["label", str(clips / "manifest.jsonl"), "--out", str(out)]) == 0
    return out


def test_label_solves_in_metres_and_packs(clips: Path, labels: Path) -> None:
    (status,) = read_status(labels)
    assert status.decision in ("accept", "weight"), status.why
    assert status.stages.pop("gaussians") == status.stages.pop("student") == "missing"  # asked for, or not made
    assert set(status.stages.values()) == {"done"}
    truth = load_result(clips / "walk" / "truth")
    solved = load_result(labels / "clips" / "walk" / "joint")
    travelled = [float(np.linalg.norm(r.cameras.world_from_cam[-1, :3, 3] - r.cameras.world_from_cam[0, :3, 3]))
                 for r in (truth, solved)]  # fmt: skip
    assert travelled[1] == pytest.approx(travelled[0], rel=0.15)  # the scale came from feet, not from truth
    manifest = read_json(labels / "manifest.json")
    assert manifest["totals"]["clips"] == 1
    assert manifest["clips"]["walk"]["licence"] == "CC0-1.0"
    assert (labels / "clips" / "walk" / "pictures" / "overlay.jpg").is_file()


def test_second_run_repeats_nothing(clips: Path, labels: Path) -> None:
    records = sorted((labels / "clips").rglob("record.json"))
    before = [path.stat().st_mtime_ns for path in records]
    shards = {path.name: sha256_of(path) for path in (labels / "shards").glob("*.tar")}
    assert main(["label", str(clips / "manifest.jsonl"), "--out", str(labels)]) == 0
    assert [path.stat().st_mtime_ns for path in records] == before
    assert {path.name: sha256_of(path) for path in (labels / "shards").glob("*.tar")} == shards


def test_train_run_and_evaluate(clips: Path, labels: Path, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--config_file",
              str(ROOT / "configs" / "accelerate" / "cpu.yaml"), str(ROOT / "train_student.py"), "--config",
              str(ROOT / "configs" / "student" / "debug.yaml")]  # fmt: skip
    settings = [f"data.shards={labels}", f"out={tmp_path}", "steps=6", "save_every=6", "log_every=2"]
    subprocess.run([*launch, *settings], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)
    rows = [json.loads(line) for line in (tmp_path / "debug" / "log" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6]
    checkpoint, streamed = tmp_path / "debug" / "pretrained", tmp_path / "stream" / "walk"
    video = clips / "walk" / "video.mp4"
    assert main(["run", str(video), "--checkpoint", str(checkpoint), "people=landmarks", "--out", str(streamed)]) == 0
    assert len(load_result(streamed).cameras.timestamps) == 36
    assert read_json(streamed / "latency.json")["encode"]["p50_ms"] > 0
    report = tmp_path / "report.json"
    assert main(["evaluate", str(tmp_path / "stream"), "--data", str(clips), "--out", str(report)]) == 0
    assert np.isfinite(read_json(report)["overall"]["w_mpjpe_mm"])
