"""Tasks on a Ray cluster (`footfall label ... --ray auto|ADDRESS`). Ray decides which machine runs what.

Every Ray worker keeps one worker process of ours (`process`), so limits and forking are those of a single machine; Ray
itself retries nothing, because tries are counted in one place (`schedule`). All machines see the labelling folder and
the videos under the same paths, and have footfall installed.
"""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from distill.config import config_to_dict
from distill.errors import FootfallError, require
from teacher.execution.process import WorkerProcess
from teacher.execution.tasks import Ended, Lane, Task
from teacher.execution.work import settings_from_dict

AHEAD: Final = 2
"""Tasks submitted per core (or GPU) of the cluster: one that runs, one that waits for it to end."""

ANSWER_S: Final = 20.0
"""Seconds in which the head of a cluster must answer."""

_workers: dict[str, WorkerProcess] = {}
"""The worker process of this Ray worker, by what it was started with."""


class RayCluster:
    """The machines of a Ray cluster that runs already."""

    def __init__(self, settings: Any, modules: Sequence[str], address: str) -> None:
        self._ray = require("ray", extra="ray")
        root = str(Path(__file__).resolve().parent.parent.parent)
        try:
            check_head(address)
            self._ray.init(
                address=address, log_to_driver=False, logging_level=logging.ERROR,
                runtime_env={"env_vars": {"PYTHONPATH": root}},  # a checkout need not be installed
            )  # fmt: skip
        except (ConnectionError, ValueError, OSError, RuntimeError) as error:
            raise FootfallError(
                f"--ray {address}", got=str(error).split("\n")[0], expected="a Ray cluster that runs",
                do="start one with `ray start --head`, or name its address (docs/collections.md)",
            ) from error  # fmt: skip
        self.has_gpu = self._count("GPU") > 0
        self._values, self._modules = config_to_dict(settings), list(modules)
        self._tasks: dict[Any, Task] = {}
        self._remote = {
            "cpu": self._ray.remote(num_cpus=1, max_retries=0)(run_on_node),
            "gpu": self._ray.remote(num_cpus=1, num_gpus=1, max_retries=0)(run_on_node),
        }

    def _count(self, resource: str) -> int:
        return int(self._ray.cluster_resources().get(resource, 0))

    def room(self, lane: Lane) -> int:
        """So many more tasks keep the cluster busy; it follows machines that come and go."""
        waiting = sum(task.lane == lane for task in self._tasks.values())
        return AHEAD * max(self._count("GPU" if lane == "gpu" else "CPU"), 1) - waiting

    def submit(self, task: Task) -> None:
        """Queue it with Ray."""
        reference = self._remote[task.lane].remote(task.to_json(), self._values, self._modules)
        self._tasks[reference] = task

    def wait(self) -> list[Ended]:
        """Wait up to a second for a task to end."""
        ready, _ = self._ray.wait(list(self._tasks), num_returns=1, timeout=1.0)
        return [self._outcome(reference) for reference in ready]

    def _outcome(self, reference: Any) -> Ended:
        task = self._tasks.pop(reference)
        try:
            return Ended.from_json(self._ray.get(reference))
        except self._ray.exceptions.RayError as error:
            if isinstance(error, self._ray.exceptions.RayTaskError) and isinstance(error.cause, FootfallError):
                raise error.cause from error
            first = next(line for line in str(error).splitlines() if line.strip()).split(". ")[0]  # the rest is advice
            return Ended(task=task, kind="fault", reason=f"its Ray worker vanished: {type(error).__name__}: {first}")

    def close(self) -> None:
        """Cancel what is queued or runs, and leave the cluster."""
        for reference in self._tasks:
            self._ray.cancel(reference, force=True)
        self._ray.shutdown()


def check_head(address: str) -> None:
    """Raise `OSError` where nobody listens; Ray itself goes on asking for minutes, with warnings of its own.

    Args:
        address: HOST:PORT, or "auto" for `RAY_ADDRESS`, else what `ray start` wrote down on this machine; other kinds
            of addresses are left to Ray.
    """
    if address == "auto":
        current = Path(tempfile.gettempdir()) / "ray" / "ray_current_cluster"
        address = os.environ.get("RAY_ADDRESS") or (current.read_text().strip() if current.is_file() else "")
    host, _, port = address.rpartition(":")
    if host and "://" not in address and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=ANSWER_S).close()
        except OSError as error:
            raise OSError(f"{address}: {error}") from error


def run_on_node(task: str, values: dict[str, Any], modules: list[str]) -> str:
    """Do a task in the worker process of this Ray worker; the end as `Ended.to_json`."""
    key = repr((values, modules, os.environ.get("CUDA_VISIBLE_DEVICES")))
    if key not in _workers:
        while _workers:  # of an earlier run, or for another GPU
            _workers.popitem()[1].close()
        memory = settings_from_dict(values).limits.clip_bytes(_cores_of_node())
        _workers[key] = WorkerProcess(values, modules, memory, {})
    worker = _workers[key]
    worker.submit(Task.from_json(task))
    return worker.wait(lambda *_: None).to_json()


def _cores_of_node() -> int:
    """How many tasks this machine may run at once."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    mine = [node for node in ray.nodes() if node["NodeID"] == here]
    return int(mine[0]["Resources"].get("CPU", 1)) if mine else 1
