"""From a source to its clips: cuts are remembered, a crash between two clips loses none, moved cuts leave nothing."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distill.errors import FootfallError
from distill.files import read_json
from teacher.config import LabelConfig
from teacher.sources import prepare, sources_of
from teacher.video import VideoConfig
from teacher.workspace import ClipFolder, ClipSource
from tests.test_video import sliding_noise, write_video


@pytest.fixture
def source(tmp_path: Path) -> ClipSource:
    """Three shots of twelve frames, whose colours have nothing in common."""
    shots = [sliding_noise(12, seed=k) // 4 + np.array([40 + 60 * k, 180 - 60 * k, 90], np.uint8) for k in range(3)]
    write_video(tmp_path / "v.mp4", np.concatenate(shots).astype(np.uint8))
    return ClipSource(id="v", path=str(tmp_path / "v.mp4"), sha256="")


def test_a_crash_between_clips_loses_none(source: ClipSource, tmp_path: Path) -> None:
    settings, clips = LabelConfig(), tmp_path / "clips"
    names = prepare(source, clips, settings)
    assert names == ["v", "v-shot001", "v-shot002"]
    before = {name: read_json(clips / name / "clip.json") for name in names}
    (clips / "v" / "shots.json").unlink()  # as if it had died before the last file
    (clips / "v" / "clip.json").unlink()
    (clips / "v-shot001" / "clip.json").unlink()
    assert prepare(source, clips, settings) == names
    assert {name: read_json(clips / name / "clip.json") for name in names} == before


def test_known_cuts_are_not_looked_for_again(
    source: ClipSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, clips = LabelConfig(), tmp_path / "clips"
    names = prepare(source, clips, settings)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the video was read again")

    monkeypatch.setattr("teacher.video.split_shots", never)
    monkeypatch.setattr("teacher.sources.fingerprint", never)
    assert prepare(source, clips, settings) == names
    assert prepare(replace(source, licence="CC0-1.0"), clips, settings) == names
    assert ClipFolder(clips / "v-shot001").source.licence == "CC0-1.0"  # what the manifest says reaches every shot
    stat = Path(source.path).stat()
    os.utime(source.path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    with pytest.raises(AssertionError, match="read again"):
        prepare(source, clips, settings)


def test_clips_of_cuts_that_moved_are_removed(source: ClipSource, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    prepare(source, clips, LabelConfig())
    whole = LabelConfig(video=VideoConfig(cut_correlation=-1.0))  # nothing is a cut
    assert prepare(source, clips, whole) == ["v"]
    assert [path.name for path in clips.iterdir()] == ["v"]


def test_a_folder_knows_its_sources(source: ClipSource, tmp_path: Path) -> None:
    prepare(source, tmp_path / "clips", LabelConfig())
    (known,) = sources_of(tmp_path)
    assert known == source


def test_a_source_that_cannot_be_decoded_is_one_clip(tmp_path: Path) -> None:
    path = tmp_path / "text.mp4"
    path.write_text("no video\n" * 50)
    source = ClipSource(id="text", path=str(path), sha256="")
    assert prepare(source, tmp_path / "clips", LabelConfig()) == ["text"]
    with pytest.raises(OSError, match="gone"):
        prepare(replace(source, path=str(tmp_path / "gone.mp4")), tmp_path / "clips", LabelConfig())


def test_no_inputs_and_no_clips_is_said(tmp_path: Path) -> None:
    from teacher.pipeline import label

    with pytest.raises(FootfallError, match="inputs: got none"):
        label([], tmp_path)
