"""Running the stages of many clips: here, in local workers, or on a Ray cluster. docs/collections.md, "Running".

tasks       the unit of work, its outcome, and the interface of an executor
work        doing one task, the same everywhere
worker      a worker process: forks a child per task and enforces the limits
process     the driver's end of a worker process
local       executors of this machine
ray_cluster the executor of a Ray cluster
devices     which stages use a GPU
schedule    keeps an executor busy; retries
tries       what went wrong with a clip so far
"""

from __future__ import annotations

from typing import Any

from teacher.execution.tasks import Executor, Progress


def make_executor(settings: Any, ray: str | None, update: Progress) -> Executor:
    """The executor that the user asked for.

    Args:
        settings: `teacher.config.LabelConfig`.
        ray: "auto" or the address of a Ray cluster; None for this machine.
        update: called with the progress of clips, where it can be followed.

    Raises:
        FootfallError: no such cluster, or the package ray is missing.
    """
    from teacher.initialisers.registry import modules_of_others

    if settings.in_process and ray is None:
        from teacher.execution.local import InProcess

        return InProcess(settings, update)
    modules = modules_of_others()
    if ray is not None:
        from teacher.execution.ray_cluster import RayCluster

        return RayCluster(settings, modules, ray)
    from teacher.execution.local import LocalWorkers, visible_gpus

    return LocalWorkers(settings, modules, update, gpus=visible_gpus())
