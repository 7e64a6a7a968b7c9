"""Stage records: a stage is skipped only when nothing that made it has changed."""

import multiprocessing as mp
from pathlib import Path

import numpy as np
import pytest

from distill.errors import FootfallError
from teacher.stagefiles import Contacts
from teacher.workspace import ClipFolder, ClipSource, StageRecord


@pytest.fixture
def clip(tmp_path: Path) -> ClipFolder:
    folder = ClipFolder(tmp_path / "clip")
    folder.write_source(ClipSource(id="clip", path="/x.mp4", sha256="0"))
    return folder


def finish(clip: ClipFolder, stage: str, *, needs: tuple[str, ...] = (), config: str = "c", text: str = "x") -> None:
    clip.begin(stage)
    (clip.stage_dir(stage) / "out.txt").write_text(text)
    record = StageRecord(
        stage=stage, status="done", implementation="i", config_hash=config, inputs=clip.inputs_of(needs)
    )
    clip.finish(record)


def holds(clip: ClipFolder, stage: str, *, needs: tuple[str, ...] = (), config: str = "c") -> bool:
    return clip.holds(stage, implementation="i", config_hash=config, needs=needs)


def test_record_holds_until_config_input_or_file_changes(clip: ClipFolder) -> None:
    finish(clip, "a")
    finish(clip, "b", needs=("a",))
    assert holds(clip, "b", needs=("a",))
    assert not holds(clip, "b", needs=("a",), config="other")
    (clip.stage_dir("b") / "out.txt").write_text("tampered")
    assert not holds(clip, "b", needs=("a",))
    finish(clip, "b", needs=("a",))
    finish(clip, "a", text="changed")
    assert not holds(clip, "b", needs=("a",))


def test_rerun_with_the_same_outcome_keeps_later_stages(clip: ClipFolder) -> None:
    finish(clip, "a")
    finish(clip, "b", needs=("a",))
    finish(clip, "a")
    assert holds(clip, "b", needs=("a",))


def test_begin_removes_the_claim_first(clip: ClipFolder) -> None:
    finish(clip, "a")
    clip.begin("a")
    assert clip.record("a") is None
    with pytest.raises(FootfallError, match="stage a: got not run"):
        clip.require("a")


def _try_lock(root: Path, answers: "mp.Queue[bool]") -> None:
    with ClipFolder(root).lock() as mine:
        answers.put(mine)


def test_lock_excludes_other_processes_and_dies_with_its_owner(clip: ClipFolder) -> None:
    context = mp.get_context("spawn")
    answers: mp.Queue[bool] = context.Queue()
    with clip.lock() as mine:
        assert mine
        process = context.Process(target=_try_lock, args=(clip.root, answers))
        process.start()
        process.join()
        assert answers.get(timeout=10) is False
    process = context.Process(target=_try_lock, args=(clip.root, answers))
    process.start()
    process.join()
    assert answers.get(timeout=10) is True


def test_stage_file_round_trip_and_damage(tmp_path: Path) -> None:
    contacts = Contacts(prob=np.random.default_rng(0).random((3, 2, 6), np.float32))
    contacts.save(tmp_path)
    np.testing.assert_array_equal(Contacts.load(tmp_path).prob, contacts.prob)
    path = tmp_path / Contacts.file
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(FootfallError, match="expected arrays"):
        Contacts.load(tmp_path)
