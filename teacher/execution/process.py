"""The driver's end of a worker process (`worker`): start it, give it a task, hear what became of it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from distill.errors import FootfallError
from teacher.execution.tasks import Ended, Progress, Task

FALSE_STARTS: Final = 5
"""A worker that is killed this often in a row before it is ready will not become ready: the run stops."""


class WorkerProcess:
    """A worker process that is started when it is first needed, and again whenever it has vanished."""

    def __init__(
        self, settings: Mapping[str, Any], modules: Sequence[str], clip_bytes: int, environment: Mapping[str, str]
    ) -> None:
        self._hello = json.dumps({"settings": dict(settings), "modules": list(modules), "clip_bytes": clip_bytes})
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._ready = False
        self._false_starts = 0
        self.task: Task | None = None
        """What it works on."""

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process is not None else None

    def submit(self, task: Task) -> None:
        """Give it a task; it must have none."""
        assert self.task is None
        self.task = task
        if self._process is None:
            self._start()
        else:
            self._write(task.to_json())

    def fileno(self) -> int:
        """For `select`: readable when `collect` has something to say."""
        assert self._process is not None and self._process.stdout is not None
        return self._process.stdout.fileno()

    def collect(self, update: Progress) -> Ended | None:
        """Read what has come (call it when `fileno` is readable); the end of the task if it ended.

        Raises:
            FootfallError: workers cannot be started on this machine.
        """
        data = os.read(self.fileno(), 1 << 16)
        if not data:
            return self._vanished()
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        ended = None
        for line in lines:
            message = json.loads(line)
            if "ready" in message:
                self._ready, self._false_starts = True, 0
            elif "progress" in message:
                update(*message["progress"])
            else:
                ended = Ended.from_json(json.dumps(message["ended"]))
                self.task = None
        return ended

    def wait(self, update: Progress) -> Ended:
        """Wait for the end of the task."""
        while True:
            select.select([self], [], [])
            ended = self.collect(update)
            if ended is not None:
                return ended

    def close(self) -> None:
        """Kill it and what it works on."""
        if self._process is not None:
            self._process.kill()
            self._reap()

    def _start(self) -> None:
        root = str(Path(__file__).resolve().parent.parent.parent)
        paths = [root, *(p for p in sys.path if p)]  # modules that the caller could import, the worker can
        environment = {**os.environ, **self._environment, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
        # -P: modules of the current folder are not taken for ours
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "teacher.execution.worker", str(os.getpid())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True, bufsize=0,
        )  # fmt: skip
        self._buffer, self._ready = b"", False
        self._write(self._hello)
        if self.task is not None:
            self._write(self.task.to_json())

    def _write(self, line: str) -> None:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
        except BrokenPipeError:
            return  # it has vanished, which reading tells next

    def _vanished(self) -> Ended | None:
        """Its pipe ended: the task in hand lost a try, unless it had not been begun."""
        code = self._reap()
        task, began = self.task, self._ready
        if task is None:
            return None
        if began:
            self.task = None
            name = signal.Signals(-code).name if code < 0 else ""
            how = f"was killed by signal {-code} ({name})" if name else f"ended with exit code {code}"
            return Ended(task=task, kind="fault", reason=f"its worker vanished: it {how}")
        self._false_starts += 1
        if code > 0 or self._false_starts >= FALSE_STARTS:
            raise FootfallError(
                "a worker process", got=f"exit code {code} before it was ready", expected="a worker that starts",
                do="read the message above; in_process=true runs without workers",
            )  # fmt: skip
        self._start()
        return None

    def _reap(self) -> int:
        assert self._process is not None
        process, self._process = self._process, None
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        process.kill()
        return process.wait()
