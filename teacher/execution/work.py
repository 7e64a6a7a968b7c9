"""Doing one task, in whichever process: the same lines run in this process, a local worker and a Ray worker."""

from __future__ import annotations

import time
import traceback
from typing import Any

from distill.config import config_from_dict
from distill.errors import FootfallError
from distill.secrets import scrub
from teacher.execution.tasks import Ended, Progress, Task
from teacher.storage import is_storage_error, storage_fault
from teacher.workspace import ClipFolder, ClipSource


def settings_from_dict(values: dict[str, Any]) -> Any:
    """A `LabelConfig` as the driver sent it."""
    from teacher.config import LabelConfig

    return config_from_dict(LabelConfig, values)


def do_task(task: Task, settings: Any, update: Progress) -> Ended:
    """Run a task to its end. Nothing that goes wrong with a clip leaves this function as an exception."""
    clip = ClipFolder(task.root)
    start = time.perf_counter()
    try:
        with clip.lock() as mine:
            if not mine:
                return Ended(task=task, kind="busy", reason=f"{clip.owner() or 'another process'} is working on it")
            ended = _do(task, clip, settings, update)
    except Exception as error:
        ended = _judge(task, clip, error)
    ended.seconds = time.perf_counter() - start
    return ended


def _do(task: Task, clip: ClipFolder, settings: Any, update: Progress) -> Ended:
    import torch

    if task.source is not None:
        from teacher.sources import prepare

        return Ended(task=task, kind="done", clips=prepare(ClipSource(**task.source), clip.root.parent, settings))
    from teacher.stages import run_stages

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the teacher's tensors are small: more threads wait for each other
    try:
        run_stages(clip, settings, lambda fraction, text: update(clip.id, fraction, text), task.stages)
    finally:
        torch.set_num_threads(threads)
    return Ended(task=task, kind="done")


def _judge(task: Task, clip: ClipFolder, error: Exception) -> Ended:
    """Whose fault it is: the disk's, the clip's, or ours."""
    from teacher.stages import StageFailedError

    reason = storage_fault(clip.root) if clip.root.is_dir() else storage_fault(clip.root.parent)
    if reason or is_storage_error(error):
        return Ended(task=task, kind="storage", reason=reason or str(error))
    if isinstance(error, StageFailedError):
        return Ended(task=task, kind="failed", reason=f"{error.stage}: {error.reason}")
    if isinstance(error, FootfallError):
        return Ended(task=task, kind="failed", reason=str(error))
    clip.log(traceback.format_exc())
    if isinstance(error, OSError):
        return Ended(task=task, kind="fault", reason=f"{type(error).__name__}: {error}")
    text = scrub(" ".join(str(error).split()))
    return Ended(
        task=task, kind="fault",
        reason=f"internal error: {type(error).__name__}: {text} (see {clip.root / 'log.txt'})",
    )  # fmt: skip
