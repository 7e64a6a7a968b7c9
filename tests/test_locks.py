"""Locks: one owner at a time, none that is dead, and hosts whose locks the file system keeps apart."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from distill.files import write_json
from teacher import locks
from teacher.locks import Owner, hold, is_held, read_owner

ELSEWHERE = Owner(host="another-host", pid=1, since="2026-01-01T00:00:00Z")
HOLDER = """
import sys, time
from pathlib import Path
from teacher.locks import hold
with hold(Path(sys.argv[1])) as mine:
    print(mine, flush=True)
    time.sleep(600)
"""


def test_a_lock_dies_with_its_owner(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "True\n"
    with hold(tmp_path) as mine:
        assert not mine
    owner = read_owner(tmp_path)
    assert is_held(tmp_path) and owner is not None and owner.pid == holder.pid
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert not is_held(tmp_path)
    assert read_owner(tmp_path) == owner  # it could not tidy up
    with hold(tmp_path) as mine:
        assert mine
        signed = read_owner(tmp_path)
        assert signed is not None and signed.pid == os.getpid()
    assert read_owner(tmp_path) is None


def test_an_owner_of_another_host_counts_while_it_shows_signs_of_life(tmp_path: Path) -> None:
    path = tmp_path / "lock.owner.json"
    write_json(path, asdict(ELSEWHERE))
    (tmp_path / "lock").touch()
    assert is_held(tmp_path)
    with hold(tmp_path) as mine:
        assert not mine
    assert read_owner(tmp_path) == ELSEWHERE
    old = path.stat().st_mtime - locks.STALE_S - 1
    os.utime(path, (old, old))
    assert not is_held(tmp_path)
    with hold(tmp_path) as mine:
        assert mine
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lock"]


def test_a_damaged_owner_file_keeps_nobody_out(tmp_path: Path) -> None:
    (tmp_path / "lock.owner.json").write_text("{")
    with hold(tmp_path) as mine:
        assert mine
