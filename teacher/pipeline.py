"""Labelling a collection: inputs -> clips -> stages -> shards. `footfall label` is this module.

    OUT/
        config.yaml        the complete configuration
        clips/ID/...       one workspace per clip (`workspace`)
        shards/*.tar       labels of the accepted clips (`distill.shards`)
        manifest.json      what is in the shards and where it came from
        lock               held while a run works on the folder (`locks`)

A run that was stopped goes on where it was: stages whose records hold are skipped. Where the work is done is the
matter of `teacher.execution`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from distill.config import config_to_dict, load_config, read_yaml, save_config
from distill.errors import FootfallError, require
from distill.files import read_json
from teacher import locks
from teacher.execution.tasks import Task
from teacher.execution.tries import Tries
from teacher.manifest import read_inputs
from teacher.progress import Progress
from teacher.sources import sources_of
from teacher.storage import is_storage_error, require_writable, storage_error
from teacher.workspace import ClipSource

NEEDED_PACKAGES = ("cv2", "ai_edge_litert", "pycolmap")
"""What the embedded initialisers import; the extra [teacher] brings them."""


@dataclass(kw_only=True)
class LabelReport:
    """What a labelling run did."""

    clips: list[str]
    """Every clip of this run, in order."""
    failed: dict[str, str]
    """Clip -> the reason why it has no label."""
    manifest: dict[str, Any]
    """The shards' manifest; of an earlier run (or empty) after `only`, which packs nothing."""
    kept: list[str] = field(default_factory=list)
    """Clips among `failed` that an earlier run gave up and this one left alone."""


def label(
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
    ray: str | None = None,
    only: str | None = None,
    retry_failed: bool = False,
    since_config_change: bool = False,
) -> LabelReport:
    """Label videos: solve every clip and pack the accepted ones into shards.

    Args:
        inputs: video files, folders of videos or of numbered images, manifests (`teacher.manifest`); none: the
            sources that `out` knows from earlier runs.
        out: folder for clips, shards and manifest; an existing one is continued, with the config that it has.
        config: YAML file of `teacher.config.LabelConfig`; None for that of `out`, or the defaults.
        overrides: dotted assignments such as "optimise.steps=200".
        ray: "auto" or the address of a Ray cluster; None for worker processes of this machine.
        only: run this stage, after those that it needs, and pack nothing.
        retry_failed: try clips again that failed or were set aside.
        since_config_change: make finished stages again that another config has made stale; without, they are
            protected by an error.

    Raises:
        FootfallError: bad input, config or folder, or another run on the folder; nothing has been started then. Or
            nothing can be written any more. A clip that fails does not stop the others: see `LabelReport.failed`.
    """
    for package in NEEDED_PACKAGES:
        require(package, extra="teacher")
    out = Path(out).resolve()
    settings, stored = _settings(out, config, overrides)
    parts_of = _check_stages(settings, only)
    sources = read_inputs(inputs) if inputs else _known_sources(out)
    require_writable(out)
    with locks.hold(out) as mine:
        if not mine:
            raise FootfallError(
                f"folder {out}", got=f"{locks.read_owner(out) or 'another process'} is labelling into it",
                expected="one run at a time", do="wait for it or stop it, or choose another --out",
            )  # fmt: skip
        try:
            _sweep(out)
            _accept_config(out, stored, settings, asked=since_config_change)
            return _run(sources, out, settings, parts_of, ray=ray, only=only, retry_failed=retry_failed)
        except OSError as error:
            if not is_storage_error(error):
                raise
            raise storage_error(out, error.strerror or str(error)) from error


def _settings(out: Path, config: str | Path | None, overrides: Sequence[str]) -> tuple[Any, Any]:
    """The settings of this run, and those that the folder was made with, as they lie there (None for a new one)."""
    from teacher.config import LabelConfig

    saved = out / "config.yaml"
    base = Path(config) if config else saved if saved.is_file() else None
    settings = load_config(LabelConfig, base, overrides)
    return settings, read_yaml(saved) if saved.is_file() else None


def _check_stages(settings: Any, only: str | None) -> list[str]:
    """The stages of this run; every initialiser that the settings name exists."""
    from teacher.stages import STAGES, needs_of

    needs = {stage.name: needs_of(stage, settings) for stage in STAGES}
    if only is None:
        return list(needs)
    if only not in needs:
        raise FootfallError("--only", got=repr(only), expected=f"one of {', '.join(needs)}", do="correct the name")
    wanted = {only}
    for name in reversed(needs):
        wanted.update(needs[name] if name in wanted else ())
    return [name for name in needs if name in wanted]


def _known_sources(out: Path) -> list[ClipSource]:
    sources = list(sources_of(out))
    if not sources:
        raise FootfallError(
            "inputs", got=f"none, and no clips in {out}", expected="videos, folders or manifests",
            do="name what is to be labelled",
        )  # fmt: skip
    return sources


def _sweep(out: Path) -> None:
    """Remove temporary files of a run that was killed."""
    for name in ("config", "manifest"):
        for stale in out.glob(f".{name}-*"):
            stale.unlink(missing_ok=True)


def _accept_config(out: Path, stored: Any, settings: Any, *, asked: bool) -> None:
    """Say what a change of the config means; it is saved once it is accepted."""
    changed = stored is not None and stored != config_to_dict(settings)
    if changed:
        from teacher.changes import describe, plan_changes, refuse_unasked

        plan = plan_changes(out, stored, settings)
        if not asked:
            refuse_unasked(out, plan)
        elif plan:
            print(describe(plan), flush=True)
    if asked and not changed:
        print("the config has not changed: only what is unfinished is made", flush=True)
    save_config(out / "config.yaml", settings)


def _run(
    sources: list[ClipSource], out: Path, settings: Any, stages: list[str], *, ray: str | None, only: str | None,
    retry_failed: bool,
) -> LabelReport:  # fmt: skip
    from teacher.execution import make_executor
    from teacher.execution.devices import split_by_lane
    from teacher.execution.schedule import Rules, Schedule
    from teacher.pack import pack

    progress = Progress(len(sources), title="label")
    executor = make_executor(settings, ray, progress.update)
    config = work_hash(settings)

    def keeps(tries: Tries) -> bool:
        return bool(tries.verdict) and not retry_failed and tries.config == config

    rules = Rules(
        parts=split_by_lane(stages, settings, has_gpu=executor.has_gpu), cap=settings.limits.tries, config=config,
        keeps=keeps,
    )  # fmt: skip
    try:
        done = Schedule(executor, rules, progress).run(_tasks(sources, out))
    finally:
        executor.close()
    manifest = pack(out, settings.pack) if only is None else _earlier_manifest(out)
    return LabelReport(clips=done.clips, failed=done.failed, manifest=manifest, kept=done.kept)


def _tasks(sources: Sequence[ClipSource], out: Path) -> Iterator[Task]:
    for source in sources:
        yield Task(name=source.id, out=str(out), source=asdict(source))


def _earlier_manifest(out: Path) -> dict[str, Any]:
    path = out / "manifest.json"
    return read_json(path) if path.is_file() else {}


def work_hash(settings: Any) -> str:
    """Hash of the settings that decide what becomes of a clip; where and how fast it is done does not matter."""
    values = config_to_dict(settings)
    decisive = {
        name: value for name, value in values.items() if name not in ("workers", "in_process", "limits", "pack")
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]
