"""Tasks on this machine: in this very process, or in worker processes."""

from __future__ import annotations

import os
import select
from collections.abc import Sequence
from typing import Any

from distill.config import config_to_dict
from teacher.execution.process import WorkerProcess
from teacher.execution.tasks import Ended, Lane, Progress, Task
from teacher.execution.work import do_task


class InProcess:
    """One task at a time, here. No limit holds, and a crash of a library ends the run: for debugging and for scripts
    that register an initialiser of their own."""

    has_gpu = False

    def __init__(self, settings: Any, update: Progress) -> None:
        self._settings, self._update = settings, update
        self._task: Task | None = None

    def room(self, lane: Lane) -> int:
        """One task at a time."""
        return 0 if self._task is not None else 1

    def submit(self, task: Task) -> None:
        """Keep it until `wait`."""
        self._task = task

    def wait(self) -> list[Ended]:
        """Run what was submitted."""
        task, self._task = self._task, None
        return [do_task(task, self._settings, self._update)] if task is not None else []

    def close(self) -> None:
        """Nothing runs between calls."""


class LocalWorkers:
    """`workers` processes, and one more per GPU for the stages that use one.

    Where stages use GPUs, the workers of the "cpu" lane see none, so that only one process holds each GPU's memory.
    """

    def __init__(self, settings: Any, modules: Sequence[str], update: Progress, *, gpus: Sequence[str] = ()) -> None:
        self._update = update
        self.has_gpu = bool(gpus)
        values = config_to_dict(settings)
        memory = settings.limits.clip_bytes(settings.workers + len(gpus))
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if gpus else {}
        self._lanes: dict[Lane, list[WorkerProcess]] = {
            "cpu": [WorkerProcess(values, modules, memory, hidden) for _ in range(settings.workers)],
            "gpu": [WorkerProcess(values, modules, memory, {"CUDA_VISIBLE_DEVICES": gpu}) for gpu in gpus],
        }

    def room(self, lane: Lane) -> int:
        """Workers of that lane without a task."""
        return sum(worker.task is None for worker in self._lanes[lane])

    def submit(self, task: Task) -> None:
        """Give it to a free worker."""
        next(worker for worker in self._lanes[task.lane] if worker.task is None).submit(task)

    def wait(self) -> list[Ended]:
        """Wait up to a second for a worker to say something."""
        running = [worker for workers in self._lanes.values() for worker in workers if worker.pid is not None]
        ended = []
        for worker in select.select(running, [], [], 1.0)[0]:
            outcome = worker.collect(self._update)
            if outcome is not None:
                ended.append(outcome)
        return ended

    def pids(self) -> list[int]:
        """Process ids of the workers that run."""
        return [worker.pid for workers in self._lanes.values() for worker in workers if worker.pid is not None]

    def close(self) -> None:
        """Kill every worker with what it works on."""
        for workers in self._lanes.values():
            for worker in workers:
                worker.close()


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return names.split(",")[:count] if names else [str(number) for number in range(count)]
