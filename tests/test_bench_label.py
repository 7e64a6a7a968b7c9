"""What labelling costs: sums over stages and clips, the bill, the settings that are refused, the plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from distill.config import load_config
from distill.errors import FootfallError
from teacher.benchmark.label_speed import Bench, bench_lines, cost, draw, run_bench, summarise


def clip(name: str, video: float, people: float, joint: float) -> dict[str, Any]:
    def stage(spent: float, memory: float) -> dict[str, Any]:
        return {"status": "done", "seconds": 2 * spent, "processor_seconds": spent, "peak_memory_mb": memory}

    return {
        "clip": name, "frames": round(30 * video), "video_seconds": video,
        "stages": {"people": stage(people, 300.0), "joint": stage(joint, 200.0 + joint)},
    }  # fmt: skip


def test_an_hour_of_video_by_hand() -> None:
    """12 + 4 s of video; people 20 + 12 s, joint 6 + 2 s."""
    stages, totals = summarise([clip("a", 12, 20, 6), clip("b", 4, 12, 2)])
    assert stages["people"]["processor_seconds_per_video_hour"] == pytest.approx(3600 * 32 / 16)
    assert stages["joint"]["processor_seconds_per_video_hour"] == pytest.approx(3600 * 8 / 16)
    assert (stages["people"]["share"], stages["joint"]["share"]) == (0.8, 0.2)
    assert stages["joint"]["peak_memory_mb"] == 206.0 and totals["peak_memory_mb"] == 300.0
    assert totals["processor_seconds_per_video_hour"] == pytest.approx(9000)
    assert totals["seconds_per_video_hour"] == pytest.approx(18000)
    assert totals["frames"] == 480 and totals["video_seconds"] == 16


def test_the_bill_by_hand() -> None:
    """9000 s for an hour: 2.5 core-hours; 1000 hours: 2500, on 10 cores for each GPU 250 GPU-hours."""
    config = Bench(core_hour_price=0.04, gpu_hour_prices={"A": 2.0, "B": 3.0}, cores_per_gpu=10)
    bill = cost(9000.0, config)
    assert bill["core_hours"] == 2500 and bill["cores"]["cost"] == 100
    assert bill["gpu_hours"] == 250 and [entry["cost"] for entry in bill["gpus"].values()] == [500, 750]


def test_lines_and_plot(tmp_path: Path) -> None:
    stages, totals = summarise([clip("a", 12, 20, 6)])
    row = {"stages": stages, "totals": totals, "cost": cost(totals["processor_seconds_per_video_hour"], Bench())}
    text = "\n".join(bench_lines(row))
    assert "| people | 12000 | 6000 | 76.9 % | 300 |" in text and "1000 hours of video" in text
    draw(tmp_path / "p.png", row)
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.width > 400


@pytest.mark.parametrize("setting", ["video_hours=0", "cores_per_gpu=0", "gpu_hour_prices={A: -1}", "clips=[]"])
def test_settings_that_make_no_sense(setting: str) -> None:
    with pytest.raises(FootfallError, match="config"):
        load_config(Bench, None, [setting])


def test_an_unknown_clip_is_named() -> None:
    with pytest.raises(FootfallError, match=r"clips=nobody.*no such clip"):
        run_bench(Bench(clips=["nobody"]))


@pytest.mark.slow
def test_a_drawn_clip_is_measured_stage_by_stage(tmp_path: Path) -> None:
    row = run_bench(Bench(data="tiny:1", clips=["tiny-000"], out=str(tmp_path / "b.json")))
    assert row["stages"]["joint"]["processor_seconds_per_video_hour"] > 0
    assert {stage["status"] for stage in row["clips"][0]["stages"].values()} <= {"done", "missing"}
    assert sum(stage["share"] for stage in row["stages"].values()) == pytest.approx(1, abs=0.01)
    assert (tmp_path / "b.png").is_file()
