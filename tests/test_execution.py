"""Workers: limits, tries, clips set aside, workers that vanish; every way to run gives the same shards."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from distill.config import config_to_dict, load_config
from distill.errors import FootfallError
from distill.files import read_json, sha256_of
from teacher.config import LabelConfig
from teacher.execution.config import LimitsConfig
from teacher.execution.process import WorkerProcess
from teacher.execution.tasks import Ended, Task
from teacher.execution.worker import resident_bytes
from teacher.initialisers.people import PeopleConfig
from teacher.pipeline import LabelReport, label
from teacher.sources import prepare
from teacher.status import clip_status, print_status, read_status
from teacher.workspace import ClipFolder, ClipSource
from tests import execution_support
from tests.execution_support import write_tiny

FAST = ["pictures.frames=1"]
ENOUGH_S = 120.0


def shards_of(out: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted((out / "shards").iterdir())}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny"), "one", "two")


@pytest.fixture(scope="module")
def labelled(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LabelReport]:
    """Both clips, labelled in this process."""
    out = tmp_path_factory.mktemp("labels")
    return out, label([manifest], out, overrides=[*FAST, "in_process=true"])


def test_workers_make_the_shards_that_one_process_makes(
    manifest: Path, labelled: tuple[Path, LabelReport], tmp_path: Path
) -> None:
    out, report = labelled
    assert report.failed == {} and report.manifest["totals"]["clips"] == 2
    other = label([manifest], tmp_path, overrides=[*FAST, "workers=2"])
    assert other.clips == report.clips == ["one", "two"]
    assert shards_of(tmp_path) == shards_of(out) != {}
    assert read_json(tmp_path / "manifest.json")["clips"] == read_json(out / "manifest.json")["clips"]


@pytest.fixture
def worker() -> Iterator[WorkerProcess]:
    settings = LabelConfig(limits=LimitsConfig(clip_minutes=0.1), people=PeopleConfig(use="misbehaving"))
    process = WorkerProcess(config_to_dict(settings), [execution_support.__name__], 4_000_000_000, {})
    yield process
    process.close()


def quiet(*_: object) -> None:
    """Nobody looks at the progress."""


def test_a_clip_that_hangs_is_stopped_and_a_worker_that_vanishes_costs_one_try(
    worker: WorkerProcess, tmp_path: Path
) -> None:
    manifest = write_tiny(tmp_path / "drawn", "hangs")
    source = ClipSource(id="hangs", path=str(manifest.parent / "hangs" / "video.mp4"), sha256="")
    prepare(source, tmp_path / "clips", LabelConfig())
    hanging = Task(name="hangs", out=str(tmp_path), stages=("frames", "people"))
    worker.submit(hanging)
    ended = worker.wait(quiet)
    assert (ended.kind, ended.task) == ("fault", hanging)
    assert "limits.clip_minutes=0.1" in ended.reason
    assert "execution_support.py" in (tmp_path / "clips" / "hangs" / "log.txt").read_text()  # where it hung
    gone = replace(source, id="gone", path=str(tmp_path / "gone.mp4"))
    worker.submit(Task(name="gone", out=str(tmp_path), source=asdict(gone)))  # the same worker goes on
    ended = worker.wait(quiet)
    assert ended.kind == "fault" and "No such file" in ended.reason
    before = worker.pid
    assert before is not None
    worker.submit(hanging)
    os.kill(before, signal.SIGKILL)
    ended = worker.wait(quiet)
    assert (ended.kind, ended.task) == ("fault", hanging) and "signal 9" in ended.reason
    assert worker.pid is None and worker.task is None


def test_clips_that_cost_their_workers_are_set_aside_and_the_others_done(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    manifest = write_tiny(tmp_path / "clips", "eats", "stumbles", "vanishes")
    out = tmp_path / "out"
    settings = ["people.use=misbehaving", "limits.tries=2", "limits.clip_gb=1.5"]
    report = label([manifest], out, overrides=settings, only="people")
    assert report.clips == ["eats", "stumbles", "vanishes"] and set(report.failed) == {"eats", "vanishes"}
    assert "limits.clip_gb" in report.failed["eats"] and "2 tries" in report.failed["eats"]
    assert "signal 9" in report.failed["vanishes"]
    rows = {row.id: row for row in read_status(out)}
    assert [rows[name].decision for name in report.clips] == ["set aside", "unfinished", "set aside"]
    assert [rows[name].tries for name in report.clips] == [2, 2, 2]
    assert rows["stumbles"].stages["people"] == "done"
    assert "ZeroDivisionError: once" in (out / "clips" / "stumbles" / "log.txt").read_text()
    print_status(list(rows.values()), out)
    assert "2 set aside" in capfd.readouterr().out
    again = label([], out, overrides=["in_process=true"], only="people")  # they would end this very process
    assert set(again.kept) == set(again.failed) == {"eats", "vanishes"}


def test_a_clip_that_was_set_aside_is_tried_again_when_asked(tmp_path: Path) -> None:
    manifest = write_tiny(tmp_path / "clips", "stumbles")
    out = tmp_path / "out"
    settings = ["people.use=misbehaving", "limits.tries=1", "in_process=true"]
    assert "ZeroDivisionError" in label([manifest], out, overrides=settings, only="people").failed["stumbles"]
    assert label([manifest], out, only="people").kept == ["stumbles"]
    assert label([], out, only="people", retry_failed=True).failed == {}
    row = clip_status(ClipFolder(out / "clips" / "stumbles"))
    assert (row.decision, row.stages["people"], row.tries) == ("unfinished", "done", 1)


def test_a_task_and_its_end_survive_the_pipe(tmp_path: Path) -> None:
    task = Task(name="a", out=str(tmp_path), stages=("frames", "people"), lane="gpu")
    ended = Ended(task=task, kind="fault", reason='said "so"\n', clips=["a", "b"], seconds=1.5)
    assert Ended.from_json(ended.to_json()) == ended


def test_memory_of_descendants_counts() -> None:
    size = 200_000_000
    child = os.fork()
    if not child:
        block = bytearray(os.urandom(1000)) * (size // 1000)
        time.sleep(ENOUGH_S)
        os._exit(len(block) > size)
    try:
        before, deadline = resident_bytes(child), time.monotonic() + ENOUGH_S
        while resident_bytes(os.getpid()) < before + size and time.monotonic() < deadline:
            time.sleep(0.05)
        assert resident_bytes(os.getpid()) >= resident_bytes(child) >= size
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_the_memory_limit_is_a_share_of_the_machine_unless_it_is_given() -> None:
    assert LimitsConfig(clip_gb=2.5).clip_bytes(4) == 2_500_000_000
    assert LimitsConfig().clip_bytes(4) == pytest.approx(LimitsConfig().clip_bytes(1) / 4, abs=4)
    with pytest.raises(Exception, match="tries"):
        load_config(LabelConfig, None, ["limits.tries=0"])


def test_a_cluster_that_does_not_answer_is_one_line_at_once(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(FootfallError, match=rf"--ray {address}: got {address}: .*refused.*ray start --head"):
            label([manifest], tmp_path / "out", overrides=FAST, ray=address)
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(FootfallError, match=rf"--ray auto: got {address}: .*refused"):
            label([manifest], tmp_path / "out", overrides=FAST, ray="auto")
        assert time.monotonic() - began < ENOUGH_S
