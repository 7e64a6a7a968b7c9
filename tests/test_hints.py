"""What a manifest knows of a clip reaches the stages that it concerns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from teacher import stages
from teacher.config import LabelConfig
from teacher.hints import with_hints
from teacher.initialisers.cameras import CamerasConfig
from teacher.workspace import ClipFolder, ClipSource


def settings_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: LabelConfig, **source: Any) -> dict[str, Any]:
    """Stage -> the settings with which `run_clip` would run it, and the frames' context."""
    clip = ClipFolder(tmp_path / "clip")
    clip.write_source(ClipSource(id="clip", path="a.mp4", sha256="0", **source))
    seen: dict[str, Any] = {}

    def record(clip: ClipFolder, stage: stages.Stage, settings: Any, context: str, report: Any) -> None:
        seen[stage.name] = settings
        seen[f"{stage.name} context"] = context

    monkeypatch.setattr(stages, "_run_stage", record)
    stages.run_clip(clip, config, lambda fraction, text: None)
    return seen


@pytest.mark.parametrize(
    ("hint", "use"), [("auto", "auto"), ("static", "static"), ("moving", "colmap"), ("known", "known")]
)
def test_the_camera_hint_chooses_the_initialiser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hint: str, use: str
) -> None:
    seen = settings_of(tmp_path, monkeypatch, LabelConfig(), camera=hint)
    assert seen["cameras"].use == use


def test_the_users_own_choice_of_cameras_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = LabelConfig(cameras=CamerasConfig(use="mast3r"))
    assert settings_of(tmp_path, monkeypatch, config, camera="static")["cameras"].use == "mast3r"


def test_the_people_hint_bounds_who_is_kept_and_widens_who_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = settings_of(tmp_path, monkeypatch, LabelConfig(), people=1)["people"]
    assert (one.max_people, one.tracker.max_people) == (1, LabelConfig().people.tracker.max_people)
    crowd = settings_of(tmp_path, monkeypatch, LabelConfig(), people=12)["people"]
    assert (crowd.max_people, crowd.tracker.max_people) == (12, 12)


def test_notes_do_not_decode_a_clip_anew_and_windows_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def context(**source: Any) -> str:
        return str(settings_of(tmp_path, monkeypatch, LabelConfig(), **source)["frames context"])

    assert context(licence="CC0", consent="signed", camera="static", people=2, source_id="x") == context()
    assert context(start_s=1.0) != context()


def test_hints_leave_the_config_alone() -> None:
    config = LabelConfig()
    with_hints(config, ClipSource(id="c", path="a", sha256="", camera="static", people=1))
    assert config == LabelConfig()
