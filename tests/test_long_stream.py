"""Three hundred frames of two people who cross: memory flat, clock true, nobody mistaken (10,000 by the script)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distill.spool import Rows
from distill.synthetic import ClipSpec
from distill.synthetic.clips import write_clip
from teacher.run_video import RunConfig
from tests.student_support import one_thread  # noqa: F401 (a fixture)


def test_a_long_stream_keeps_memory_clock_and_identities(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    pytest.importorskip("matplotlib")
    pytest.importorskip("imageio_ffmpeg")
    from benchmarks.long_stream import BackAndForth, measure

    spec = ClipSpec(id="turn", seed=7009, frames=40, people=2, motion="turn", camera="pan", ground="grass", objects=17,
                    supersample=1)  # fmt: skip
    write_clip(tmp_path / "turn", spec)
    report = measure(tmp_path / "turn", tmp_path / "out", 300, "tiny", RunConfig(people="tokens"))
    assert report["frames"] == 300 and report["breaks"] == []
    assert report["clock_error_s"] == 0.0
    assert report["memory_growth"] < 0.05, report["memory_mb"]  # the first frames after warming up are few here
    followed = [person for person in report["identities"].values() if person["found"] > 0.2]
    assert followed, report["identities"]
    assert min(person["share"] for person in followed) > 0.95, report["identities"]
    assert len({person["taken_for"] for person in followed}) == len(followed)
    assert (tmp_path / "out" / "memory.png").stat().st_size > 1000
    source = BackAndForth(tmp_path / "turn" / "video.mp4", 100)
    assert [source.place(k) for k in (0, 1, 38, 39, 40, 77, 78, 79)] == [0, 1, 38, 39, 38, 1, 0, 1]


def test_rows_lie_on_disk_and_leave_nothing(tmp_path: Path) -> None:
    rows = Rows(np.dtype([("a", "i8"), ("b", "f4", (2,))]), tmp_path)
    assert len(rows.read()) == 0
    for k in range(1000):
        rows.add({"a": k, "b": [k, -k]})
    read = rows.read()
    assert len(rows) == len(read) == 1000
    assert read["a"].tolist() == list(range(1000)) and read["b"][7].tolist() == [7.0, -7.0]
    rows.add({"a": -1, "b": 0})
    assert rows.read()["a"][-1] == -1
    assert list(tmp_path.iterdir()) == []  # the file has no name
