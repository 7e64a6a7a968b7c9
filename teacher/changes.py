"""What another config would make of a labelling folder, said before any work is done."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from distill.config import config_hash, config_to_dict
from distill.errors import FootfallError
from teacher.config import LabelConfig
from teacher.hints import with_hints
from teacher.stages import STAGES, needs_of
from teacher.workspace import ClipFolder

SHOWN: Final = 4
"""Settings named in one line; more are counted."""


@dataclass(kw_only=True)
class StageChange:
    """A stage that another config makes stale."""

    stage: str
    why: str
    """The settings that changed, or the stage whose new result it reads."""
    clips: list[str] = field(default_factory=list)
    """Clips with a result of this stage that would be made again."""


def changed_settings(old: Mapping[str, Any], new: LabelConfig) -> dict[str, str]:
    """Stage -> its settings that differ: "optimise.depth_ratio 1.1 -> 1.2".

    Args:
        old: `config.yaml` as it lies in the folder: settings that were not there yet count as None.
        new: the settings of this run.
    """
    after = config_to_dict(new)
    found = {}
    for stage in STAGES:
        rows = _differences(stage.field, old.get(stage.field, {}), after[stage.field])
        if rows:
            more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
            found[stage.name] = ", ".join(rows[:SHOWN]) + more
    return found


def _differences(name: str, old: Any, new: Any) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [row for key in keys for row in _differences(f"{name}.{key}", old.get(key), new.get(key))]
    return [] if old == new else [f"{name} {old} -> {new}"]


def plan_changes(out: Path, old: Mapping[str, Any], new: LabelConfig) -> list[StageChange]:
    """The stages that `new` makes stale, in order, with the clips that have results of them.

    Raises:
        FootfallError: `new` names an initialiser that does not exist.
    """
    reasons = dict(changed_settings(old, new))
    for stage in STAGES:
        read = [name for name in needs_of(stage, new) if name in reasons]
        if read and stage.name not in reasons:
            reasons[stage.name] = f"reads {' and '.join(read)}"
    order = [stage.name for stage in STAGES if stage.name in reasons]
    plan = {name: StageChange(stage=name, why=reasons[name]) for name in order}
    for path in sorted((out / "clips").glob("*/clip.json")) if plan else ():
        for name in stale_stages(ClipFolder(path.parent), new):
            if name in plan:
                plan[name].clips.append(path.parent.name)
    return [change for change in plan.values() if change.clips]


def stale_stages(clip: ClipFolder, config: LabelConfig) -> set[str]:
    """Stages of a clip with a result that the config, or a stage that they read, has made stale.

    Only records are read; a file that was changed by hand is found when the clip's turn comes.
    """
    settings = with_hints(config, clip.source)
    stale: set[str] = set()
    for stage in STAGES:
        record = clip.record(stage.name)
        if record is None or record.status == "failed":
            continue
        own = getattr(settings, stage.field)
        if not record.config_hash.startswith(config_hash(own)) or stale & set(needs_of(stage, settings)):
            stale.add(stage.name)
    return stale


def refuse_unasked(out: Path, plan: Collection[StageChange]) -> None:
    """Finished work is not thrown away by a setting that was changed in passing.

    Raises:
        FootfallError: something finished would be made again.
    """
    if not plan:
        return
    direct = [change.why for change in plan if not change.why.startswith("reads ")]
    clips = {clip for change in plan for clip in change.clips}
    stages = ", ".join(change.stage for change in plan)
    raise FootfallError(
        f"the config of {out}", got=f"{'; '.join(direct)}, by which {stages} of {len(clips)} clips become stale",
        expected="the config that the folder was made with (config.yaml)",
        do="add --since config-change to make just these again, or choose another --out",
    )  # fmt: skip


def describe(plan: Collection[StageChange]) -> str:
    """The plan as lines for the terminal."""
    if not plan:
        return "no finished stage is touched by a config change"
    return "\n".join(f"recompute {c.stage}: {len(c.clips)} clips ({c.why})" for c in plan)
