"""`footfall demo --video FILE`: the loop on the user's own file, without truth."""

import json
from pathlib import Path

import pytest

from distill.errors import FootfallError
from distill.files import read_json, write_json
from distill.synthetic import ClipSpec, write_collection
from teacher.cli import main
from teacher.demo import _require_labels, _steps, _video_manifests
from teacher.workspace import ClipFolder, StageRecord


def test_a_missing_video_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--video", str(tmp_path / "none.mp4"), "--out", str(tmp_path / "out")]) == 2
    assert "none.mp4" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_steps_of_a_video(tmp_path: Path) -> None:
    """Nothing is scored without truth, the video that is labelled is streamed, settings reach the training."""
    video = tmp_path / "my clip.mp4"
    train, test = _video_manifests(tmp_path / "out", video)
    assert train == test and json.loads(train.read_text())["path"] == str(video)
    steps = {step.name: step.command for step in _steps(tmp_path / "out", train, test, ["steps=7"], has_truth=False)}
    assert list(steps) == ["label", "train", "export", "stream video"]
    assert steps["train"][-1] == "steps=7" and str(video) in steps["stream video"]


def test_a_video_that_was_rejected_cannot_be_trained_on(tmp_path: Path) -> None:
    clip = ClipFolder(tmp_path / "clips" / "video")
    clip.begin("quality")
    verdict = {"decision": "reject", "weight": 0.0, "reasons": ["slip_mps is 3, more than 0.8"], "numbers": {}}
    write_json(clip.stage_dir("quality") / "quality.json", verdict)
    clip.finish(StageRecord(stage="quality", status="done", implementation="", config_hash="", inputs={}))
    write_json(clip.root / "clip.json", {"id": "video", "path": "v.mp4", "sha256": ""})
    write_json(tmp_path / "manifest.json", {"totals": {"samples": 0}})
    with pytest.raises(FootfallError, match="slip_mps is 3"):
        _require_labels(tmp_path)
    write_json(tmp_path / "manifest.json", {"totals": {"samples": 2}})
    _require_labels(tmp_path)


@pytest.mark.slow
def test_the_loop_on_a_video_ends_in_a_page(tmp_path: Path) -> None:
    write_collection(
        tmp_path, [ClipSpec(id="walk", seed=3, frames=36, fps=20.0, people=1, camera="walk", supersample=1)]
    )
    out = tmp_path / "demo"
    command = ["demo", "--video", str(tmp_path / "walk" / "video.mp4"), "--out", str(out)]
    settings = ["steps=4", "log_every=2", "save_every=4", "data.batch_size=2"]
    assert main([*command, *settings]) == 0
    page = (out / "index.html").read_text(encoding="utf-8")
    for told in ("the solved bodies over the frames", "trained on this very clip", "No truth is known", "scene-video"):
        assert told in page
    assert "never saw" not in page
    for picture in ("video.mp4", "video-above.png", "video-summary.jpg", "loss.png"):
        assert (out / "pictures" / picture).stat().st_size > 1000
    assert read_json(out / "steps" / "train.json")["command"].endswith(" ".join(settings))
    # A second demo finds every step done and writes the same page again.
    begun = {path.name: path.stat().st_mtime_ns for path in (out / "runs" / "demo" / "pretrained").iterdir()}
    assert main([*command, *settings]) == 0
    assert {path.name: path.stat().st_mtime_ns for path in (out / "runs" / "demo" / "pretrained").iterdir()} == begun
