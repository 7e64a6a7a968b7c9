"""From a video, WHAM's file and a trajectory to a packed label, by the command's own way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distill.results import load_result
from distill.synthetic import ClipSpec, write_clip
from teacher.pipeline import label
from tests.readers_support import FRAMES, write_model, write_wham
from tests.test_readers_cameras import write_tum


@pytest.mark.slow
def test_a_video_is_labelled_from_results_of_others(tmp_path: Path) -> None:
    write_clip(tmp_path / "drawn", ClipSpec(frames=FRAMES, people=2, seed=4, camera="walk", objects=4))
    video = tmp_path / "street.mp4"
    (tmp_path / "drawn" / "video.mp4").rename(video)
    model = write_model(tmp_path / "SMPL.npz")
    write_wham(tmp_path / "wham_street.pkl")
    overrides = [
        f"bodies.use=wham:{tmp_path}/wham_{{video}}.pkl", f"cameras.use=tum:{write_tum(tmp_path / 't.txt')}",
        f"bodies.body_model=smpl:{model}", f"contacts.body_model=smpl:{model}", f"optimise.body_file={model}",
    ]  # fmt: skip
    report = label([video], tmp_path / "out", overrides=overrides)
    assert report.failed == {}
    clip = tmp_path / "out" / "clips" / "street"
    record = json.loads((clip / "bodies" / "record.json").read_text())
    assert record["implementation"].startswith("wham:") and max(record["summary"]["present_frames"]) > FRAMES // 2
    assert load_result(clip / "joint").motion.body_model == "smpl"
    assert (clip / "pictures" / "overlay.jpg").is_file()
    assert report.manifest["totals"]["samples"] == 1
