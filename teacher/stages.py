"""The stages of a clip, in order. Reading `STAGES` is reading the data flow of the teacher."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

from distill.config import config_hash
from distill.errors import FootfallError
from distill.secrets import scrub
from teacher import pictures, video
from teacher.config import LabelConfig
from teacher.hints import with_hints
from teacher.initialisers.registry import Outcome, Report, StageMissingError, get_initialiser
from teacher.initialisers.student import streaming as student
from teacher.optimise import quality
from teacher.optimise import run as optimise
from teacher.scene import stage as gaussians
from teacher.storage import StorageFaultError, is_storage_error, storage_fault
from teacher.workspace import ClipFolder, StageRecord, decoded_part

Runner = Callable[[ClipFolder, Any, Report], Outcome]


@dataclass(kw_only=True, frozen=True)
class Stage:
    """One step from video to label."""

    name: str
    field: str
    """Field of `LabelConfig` with the stage's settings."""
    needs: tuple[str, ...]
    """Stages whose files it reads; a registered initialiser states its own."""
    runner: Runner | None = None
    """None: an initialiser from the registry."""
    optional: bool = False
    """Whether the clip goes on without it."""
    share: float = 0.1
    """Usual share of a clip's time; only for the progress estimate."""


STAGES: Final = (
    Stage(name="frames", field="video", needs=(), runner=video.run, share=0.04),
    Stage(name="people", field="people", needs=("frames",), share=0.16),
    Stage(name="student", field="student", needs=("frames", "people"), runner=student.run, optional=True, share=0.05),
    Stage(name="cameras", field="cameras", needs=("frames", "people"), share=0.25),
    Stage(name="depth", field="depth", needs=("frames", "people", "cameras"), optional=True, share=0.15),
    Stage(name="bodies", field="bodies", needs=("frames", "people", "cameras"), share=0.15),
    Stage(name="contacts", field="contacts", needs=("frames", "people", "cameras", "bodies"), share=0.02),
    Stage(
        name="joint",
        field="optimise",
        needs=("frames", "people", "cameras", "depth", "bodies", "contacts"),
        runner=optimise.run,
        share=0.22,
    ),
    Stage(name="quality", field="quality", needs=("frames", "people", "joint"), runner=quality.run, share=0.01),
    Stage(
        name="gaussians",
        field="gaussians",
        needs=("frames", "people", "cameras", "depth", "joint", "quality"),
        runner=gaussians.run,
        optional=True,
        share=0.05,
    ),
    Stage(name="pictures", field="pictures", needs=("frames", "joint"), runner=pictures.run, share=0.05),
)


def run_clip(clip: ClipFolder, config: LabelConfig, report: Report, *, until: str = STAGES[-1].name) -> None:
    """Run every stage of a clip whose record does not hold, up to and with the stage `until`.

    Raises:
        FootfallError: a stage failed for a reason that the record now carries; later stages did not run.
    """
    names = [stage.name for stage in STAGES]
    run_stages(clip, config, report, names[: names.index(until) + 1])


def run_stages(clip: ClipFolder, config: LabelConfig, report: Report, names: Collection[str]) -> None:
    """Run the named stages of a clip, in order, where their records do not hold; raises as `run_clip`."""
    done = 0.0
    config = with_hints(config, clip.source)
    for stage in STAGES:
        if stage.name in names:

            def stage_report(fraction: float, text: str, stage: Stage = stage, done: float = done) -> None:
                report(done + stage.share * fraction, f"{stage.name}: {text}" if text else stage.name)

            stage_report(0.0, "")
            settings = getattr(config, stage.field)
            _run_stage(clip, stage, settings, _context_hash(clip, stage, settings), stage_report)
        done += stage.share
    report(1.0, "done")


def needs_of(stage: Stage, config: LabelConfig) -> tuple[str, ...]:
    """Stages whose files a stage reads under this config.

    Raises:
        FootfallError: the config names an initialiser that does not exist.
    """
    return _resolve(stage, getattr(config, stage.field))[1]


def _context_hash(clip: ClipFolder, stage: Stage, config: Any) -> str:
    """The first stage depends on the clip's source, a student on its weights, all others on files of earlier stages
    and, at most, of the user."""
    if stage.runner is None:
        return get_initialiser(stage.name, config.use).sources(clip)
    if stage.name == "student":
        return student.checkpoint_hash(config.checkpoint)
    return config_hash(decoded_part(clip.source)) if stage.name == "frames" else ""


def _run_stage(clip: ClipFolder, stage: Stage, config: Any, context: str, report: Report) -> None:
    implementation, needs, licence, run = _resolve(stage, config)
    settings = config_hash(config) + context
    if clip.holds(stage.name, implementation=implementation, config_hash=settings, needs=needs):
        return
    record = StageRecord(
        stage=stage.name, status="done", implementation=implementation, config_hash=settings,
        inputs=clip.inputs_of(needs), licence=licence,
    )  # fmt: skip
    clip.begin(stage.name)
    start = time.perf_counter()
    try:
        outcome = run(clip, config, report)
        record.summary, record.weights = outcome.summary, outcome.weights
    except StageMissingError as missing:
        record.status, record.reason = "missing" if stage.optional else "failed", str(missing)
    except Exception as error:
        reason = storage_fault(clip.root)
        if reason or is_storage_error(error):  # no property of the clip: nothing is recorded, and room is made
            shutil.rmtree(clip.stage_dir(stage.name), ignore_errors=True)
            raise StorageFaultError(reason or str(error)) from error
        ours = not isinstance(error, FootfallError)
        record.status = "failed"
        record.reason = scrub(f"internal error: {type(error).__name__}: {error}") if ours else str(error)
        if ours:
            _finish(clip, record, start)
            raise
    _finish(clip, record, start)
    if record.status == "failed":
        raise StageFailedError(clip.id, stage.name, record.reason)


def _finish(clip: ClipFolder, record: StageRecord, start: float) -> None:
    record.seconds = time.perf_counter() - start
    clip.finish(record)


def _resolve(stage: Stage, config: Any) -> tuple[str, tuple[str, ...], str, Runner]:
    """Name, needs, licence and function of what will run."""
    if stage.runner is not None:
        return f"footfall.{stage.name}", stage.needs, "Apache-2.0", stage.runner
    initialiser = get_initialiser(stage.name, config.use)
    return initialiser.name, initialiser.needs, initialiser.licence, initialiser.run


class StageFailedError(FootfallError):
    """A stage of a clip failed; the message is the stage's own reason."""

    def __init__(self, clip_id: str, stage: str, reason: str) -> None:
        self.clip_id, self.stage, self.reason = clip_id, stage, reason
        ValueError.__init__(self, f"clip {clip_id}, stage {stage}: {reason}")
