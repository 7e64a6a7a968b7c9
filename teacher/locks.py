"""A lock on a folder that no dead owner can keep.

The lock is an advisory `flock`: the kernel (or the file server, where NFS 3 and 4 and Lustre with `-o flock` pass it
on) drops it when its owner dies, so none is ever stale. Some shared file systems grant every host a lock of its own.
Therefore the owner also leaves `lock.owner.json` and touches it every `BEAT_S` seconds: a lock that was granted
while the owner file of ANOTHER host is younger than `STALE_S` is not taken. Ages compare two stamps of the same
file server, so clocks of the hosts do not matter. Between two hosts whose `flock` is not shared, the owner file is
made with O_EXCL; only a stale one can be taken over by two at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Final

from distill.files import write_json

BEAT_S: Final = 10.0
"""Seconds between two signs of life of an owner."""
STALE_S: Final = 60.0
"""An owner of another host that gave no sign for this long is dead, seconds."""


@dataclass(kw_only=True, frozen=True)
class Owner:
    """Who holds a lock."""

    host: str
    pid: int
    since: str
    """UTC, ISO 8601."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


def read_owner(folder: Path) -> Owner | None:
    """The owner file of a folder as its last owner left it; None if there is none or it cannot be read."""
    try:
        return Owner(**json.loads((folder / "lock.owner.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def is_held(folder: Path) -> bool:
    """Whether somebody holds the folder's lock now; asks without taking it."""
    try:
        with (folder / "lock").open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return _lives_elsewhere(folder)
    except FileNotFoundError:
        return False
    except OSError:
        return True


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[bool]:
    """Yield True while this process alone holds `folder`, False at once if another one does."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as handle:
        if not (_take(handle) and _sign(folder)):
            yield False
            return
        stop = threading.Event()
        beat = threading.Thread(target=_beat, args=(folder / "lock.owner.json", stop), daemon=True)
        beat.start()
        try:
            yield True
        finally:
            stop.set()
            (folder / "lock.owner.json").unlink(missing_ok=True)


def _take(handle: IO[str]) -> bool:
    """Take the `flock`; asked three times, because `is_held` holds it for a moment."""
    for pause in (0.05, 0.05, 0.0):
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(pause)
    return False


def _sign(folder: Path) -> bool:
    """Write the owner file; False if a living owner on another host has one."""
    path = folder / "lock.owner.json"
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    owner = asdict(Owner(host=socket.gethostname(), pid=os.getpid(), since=now))
    with contextlib.suppress(FileExistsError):
        with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644), "w") as handle:
            json.dump(owner, handle)
        return True
    if _lives_elsewhere(folder):
        return False
    write_json(path, owner)
    return True


def _lives_elsewhere(folder: Path) -> bool:
    """Whether the owner file is of another host and was touched lately, by the file server's own clock."""
    owner = read_owner(folder)
    if owner is None or owner.host == socket.gethostname():
        return False
    probe = folder / f".now-{socket.gethostname()}-{os.getpid()}"
    now = time.time()
    with contextlib.suppress(OSError):  # read-only for us: our own clock must do
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    try:
        return now - (folder / "lock.owner.json").stat().st_mtime < STALE_S
    except FileNotFoundError:
        return False


def _beat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(BEAT_S):
        with contextlib.suppress(OSError):
            os.utime(path)
