"""A worker process: `python -m teacher.execution.worker DRIVER_PID`. Nobody types this.

Standard input brings the settings, then one task a line; standard output takes one message a line. The worker has
imported everything that stages need, but works in a forked child, one per task: a child can be killed for its time or
memory without loading libraries again, and leaves nothing behind in the next clip. The worker itself has one thread,
which makes forking safe, and notices at once when its driver is gone.

Time is that of the clock; memory is the resident memory of the child and its descendants together, looked at every
`LOOK_S` seconds. An address-space limit (RLIMIT_AS) would stop a clip that only maps memory, as torch does, and would
count what it never touches.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import json
import os
import resource
import select
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from teacher.execution.tasks import Ended, Task
from teacher.execution.work import do_task, settings_from_dict

LOOK_S: Final = 0.25
"""Seconds between two looks at a child."""
DUMP_S: Final = 2.0
"""Seconds that a child over its time has to write into the log where it hangs."""
LOG_BYTES: Final = 1 << 22
"""A longer log is begun anew."""


@dataclass
class Child:
    """A forked process that works on a task."""

    task: Task
    pid: int
    pipe: int
    """Its messages."""
    began: float
    buffer: bytes = b""
    ended: Ended | None = None
    stopped: str = ""
    """Why it was killed."""


def main() -> NoReturn:
    """Work until standard input ends."""
    die_with_parent(int(sys.argv[1]))
    channel = os.dup(1)
    os.dup2(2, 1)  # what libraries print must not mix with messages
    lines = _Lines(0)
    first = lines.next(None)
    if first is None:
        os._exit(0)
    start = json.loads(first)
    for module in start["modules"]:
        __import__(module)
    settings = settings_from_dict(start["settings"])
    import teacher.sources  # before the fork: children share what is loaded
    import teacher.stages  # noqa: F401

    _send(channel, {"ready": True})
    while (line := lines.next(None)) is not None:
        child = _fork(Task.from_json(line), settings, channel)
        ended = _watch(child, lines, channel, settings.limits.clip_minutes * 60, start["clip_bytes"])
        _send(channel, {"ended": json.loads(ended.to_json())})
    os._exit(0)


def die_with_parent(parent: int) -> None:
    """Be killed when the parent dies, even while a library holds the interpreter (Linux; elsewhere its pipe tells)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it died before
            os._exit(0)


class _Lines:
    """Lines from a file descriptor, without threads."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.buffer, self.at_end = descriptor, b"", False

    def next(self, timeout: float | None) -> str | None:
        """The next line; None at the end, or (see `at_end`) if there is none within `timeout` seconds."""
        while b"\n" not in self.buffer:
            if self.at_end or not select.select([self.descriptor], [], [], timeout)[0]:
                return None
            data = os.read(self.descriptor, 1 << 16)
            self.buffer, self.at_end = self.buffer + data, not data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.decode()


def _send(descriptor: int, message: dict[str, Any]) -> None:
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(descriptor, data) :]


def _fork(task: Task, settings: Any, channel: int) -> Child:
    reading, writing = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        os.close(writing)
        return Child(task=task, pid=pid, pipe=reading, began=time.monotonic())
    try:
        os.setpgid(0, 0)  # its helpers can be killed with it
        die_with_parent(parent)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for descriptor in (reading, channel):
            os.close(descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        _log_to(task.root / "log.txt")
        ended = do_task(task, settings, lambda *message: _send(writing, {"progress": message}))
        _send(writing, {"ended": json.loads(ended.to_json())})
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


def _log_to(path: Path) -> None:
    """Let this process print into a clip's log, and say there where it is when it is aborted or crashes."""
    with contextlib.suppress(OSError):  # a full disk is found by the task itself
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = not path.is_file() or path.stat().st_size > LOG_BYTES
        log = os.open(path, os.O_CREAT | os.O_WRONLY | (os.O_TRUNC if fresh else os.O_APPEND), 0o644)
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        os.close(log)
    faulthandler.enable(file=2, all_threads=True)


def _watch(child: Child, lines: _Lines, channel: int, seconds: float, memory: int) -> Ended:
    """Follow a child to its end, which a limit may bring about."""
    looked = 0.0
    while child.ended is None:
        sources = [child.pipe] if lines.at_end else [child.pipe, lines.descriptor]
        ready = select.select(sources, [], [], LOOK_S)[0]
        if lines.descriptor in ready and lines.next(0) is None and lines.at_end:
            _kill(child)  # the driver is gone
            os._exit(0)
        if child.pipe in ready:
            if not _listen(child, channel):
                break
        elif is_dead(child.pid):
            break  # , while a helper of it keeps the pipe open
        now = time.monotonic()
        if now - looked >= LOOK_S and not child.stopped:
            looked = now
            _judge(child, now - child.began, seconds, memory)
    os.close(child.pipe)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)  # helpers it left behind
    _, status = os.waitpid(child.pid, 0)
    took = time.monotonic() - child.began
    if child.ended is not None:
        return child.ended
    return Ended(task=child.task, kind="fault", reason=child.stopped or describe_exit(status), seconds=took)


def _listen(child: Child, channel: int) -> bool:
    """Pass on what a child says; False once it will say no more."""
    data = os.read(child.pipe, 1 << 16)
    child.buffer += data
    *complete, child.buffer = child.buffer.split(b"\n")
    for line in complete:
        message = json.loads(line)
        if "ended" in message:
            child.ended = Ended.from_json(json.dumps(message["ended"]))
        else:
            _send(channel, message)
    return bool(data)


def _judge(child: Child, took: float, seconds: float, memory: int) -> None:
    """Stop a child that is over a limit."""
    used = resident_bytes(child.pid)
    if used > memory:
        child.stopped = f"used {used / 1e9:.2f} GB of memory, more than limits.clip_gb allows ({memory / 1e9:.2f})"
        _kill(child)
    elif took > seconds:
        child.stopped = f"took longer than limits.clip_minutes={seconds / 60:g} allows"
        os.kill(child.pid, signal.SIGABRT)  # faulthandler writes into the log where it hangs
        time.sleep(DUMP_S)
        _kill(child)


def _kill(child: Child) -> None:
    for kill, target in ((os.killpg, child.pid), (os.kill, child.pid)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(target, signal.SIGKILL)


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants; pages that they share count once for each."""
    import psutil

    total = 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for member in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += member.memory_info().rss
    return total


def is_dead(pid: int) -> bool:
    """Whether a child has ended and waits to be collected."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def describe_exit(status: int) -> str:
    """A wait status in words."""
    if os.WIFSIGNALED(status):
        return f"its worker was killed by signal {os.WTERMSIG(status)} ({signal.Signals(os.WTERMSIG(status)).name})"
    return f"its worker ended with exit code {os.WEXITSTATUS(status)}"


if __name__ == "__main__":
    main()
