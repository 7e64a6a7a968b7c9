"""A run that is killed again and again ends with the shards of one that was not.

    python benchmarks/kill_test.py OUT [clips=40 kills=100 workers=1 seed=0]

Draws small clips, labels them once undisturbed, then again while processes of the run are killed (SIGKILL) at random
times: the driver, its worker, or the worker's forked child that works on a clip. Whenever the driver was the victim,
the same command starts again. Then it compares: every shard byte for byte, the clips and samples of both manifests, and
nothing left over. The clips are as small as the pipeline takes; every stage is the real one.

The time until the next kill is uniform, and so short on average that all kills fall into the work that is left (its
time as measured in the undisturbed run, its share by the stages' records, and by these earlier if it is faster). After
a driver or worker was killed that time begins when its successor has started, because starting would otherwise be all
that happens; one in three kills falls into the start itself.

The driver is `footfall label` in a process that is forked from this one, which has loaded its libraries already: each
restart of the driver would otherwise cost ten seconds of loading. Workers start as they always do.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from distill.config import load_config
from distill.files import read_json, sha256_of, write_json
from distill.provenance import code_commit, hardware
from distill.synthetic import collection, write_collection
from teacher.cli import main as footfall
from teacher.status import read_status

DRIVER: Final = "driver"
WORKER: Final = "worker"
CHILD: Final = "child at work"
EARLY: Final = 0.6
"""The kills that are left are spread over this share of the work that is left, so that it does not end before them."""
IN_START: Final = 1 / 3
"""Share of the kills after that of a driver or worker that meet its successor while it starts."""
WEIGHTS: Final = {DRIVER: 1, WORKER: 1, CHILD: 2}
"""How likely each is the next victim, while it exists."""


@dataclass(kw_only=True)
class KillTest:
    """The experiment."""

    clips: int = 40
    """Clips of the collection."""
    kills: int = 100
    """Processes killed; a run that ends before so many were is a failure of the test."""
    workers: int = 1
    """Workers of the run."""
    seed: int = 0
    """Of the times and the victims."""
    settings: list[str] = field(default_factory=lambda: ["pictures.frames=1"])
    """Settings of both runs."""

    def __post_init__(self) -> None:
        if min(self.clips, self.workers) < 1 or self.kills < 0:
            raise ValueError("clips >= 1, workers >= 1 and kills >= 0 are expected")


def draw(folder: Path, count: int) -> Path:
    """Draw the clips in a forked process, so that this one never computes: threads do not survive a fork."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            write_collection(folder, collection(f"tiny:{count}"))
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code not in (0, 2):  # 2: a clip or two in which nobody is found
        raise SystemExit(f"drawing the clips ended with exit code {code}")
    return folder / "manifest.jsonl"


def start_driver(arguments: Sequence[str], log: Path) -> int:
    """`footfall` with these arguments in a forked process; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    os.setpgid(0, 0)
    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    code = 1
    try:
        code = footfall(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def processes_of(driver: int) -> dict[int, str]:
    """Every process of a run that may be killed, and what it is."""
    found = {driver: DRIVER}
    try:
        for worker in psutil.Process(driver).children():
            if "teacher.execution.worker" in " ".join(worker.cmdline()):
                found[worker.pid] = WORKER
                found |= {child.pid: CHILD for child in worker.children()}
    except psutil.Error:
        pass  # it ended just now
    return found


@dataclass(kw_only=True)
class Pace:
    """How long things take undisturbed, seconds."""

    start: float
    """From the start of the driver to the first clip."""
    work: float
    """From the first clip to the end."""
    records: int
    """Stages' records at the end."""


def count_records(out: Path) -> int:
    """Stages that are done, over all clips."""
    return sum(1 for _ in out.glob("clips/*/*/record.json"))


class Killer:
    """Kills processes of the run into `out`, and counts."""

    def __init__(self, test: KillTest, pace: Pace, out: Path) -> None:
        self.chance, self.left, self.pace, self.out = random.Random(test.seed), test.kills, pace, out
        self.killed: Counter[str] = Counter()
        self._due: float | None = None
        """When to kill next; None: some time after work has begun again."""
        self._latest = 0.0
        """Records with which to kill even before: the undisturbed run may have had a busier machine."""

    def look(self, driver: int) -> None:
        """Kill something if it is time."""
        now = time.monotonic()
        if not self.left or (self._due is not None and now < self._due and count_records(self.out) < self._latest):
            return
        victims = processes_of(driver)
        if self._due is None:
            if CHILD in victims.values():
                done = count_records(self.out)
                share = EARLY * max(1 - done / self.pace.records, 0) / self.left
                self._due = now + self.chance.uniform(0, 2 * share * self.pace.work)
                self._latest = done + 2 * share * self.pace.records
            return
        kinds = sorted(set(victims.values()))
        kind = self.chance.choices(kinds, [WEIGHTS[kind] for kind in kinds])[0]
        victim = self.chance.choice(sorted(pid for pid, what in victims.items() if what == kind))
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
            self.killed[kind] += 1
            self.left -= 1
        in_start = kind != CHILD and self.chance.random() < IN_START
        self._due = now + self.chance.uniform(0, self.pace.start) if in_start else None
        self._latest = count_records(self.out) + 1


def run_disturbed(arguments: Sequence[str], killer: Killer, log: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Label while processes are killed, starting again whenever the driver was; returns counts."""
    starts = 0
    while True:
        driver = start_driver(arguments, log)
        starts += 1
        while not (ended := os.waitpid(driver, os.WNOHANG))[0]:
            killer.look(driver)
            time.sleep(0.1)
        code = os.waitstatus_to_exitcode(ended[1])
        if code != -signal.SIGKILL:
            return {"killed": dict(killer.killed), "driver_starts": starts, "exit_code": code}
        say(f"{sum(killer.killed.values())} killed so far: {dict(killer.killed)}")


def contents(out: Path) -> dict[str, Any]:
    """What a run made: every shard's hash, every clip's row; hashed together."""
    manifest = read_json(out / "manifest.json")
    shards = {path.name: sha256_of(path) for path in sorted((out / "shards").iterdir())}
    rows = manifest["clips"]
    text = json.dumps([shards, rows], sort_keys=True)
    return {
        "shards": shards, "clips": sorted(rows), "samples": manifest["totals"]["samples"],
        "decisions": {row.id: row.decision for row in read_status(out)},
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }  # fmt: skip


def compare(calm: dict[str, Any], disturbed: dict[str, Any]) -> dict[str, Any]:
    """Differences of two runs; all empty or true if none was lost, doubled or changed."""
    return {
        "lost": sorted(set(calm["decisions"]) - set(disturbed["decisions"])),
        "added": sorted(set(disturbed["decisions"]) - set(calm["decisions"])),
        "duplicated": disturbed["samples"] - calm["samples"],
        "shards_byte_identical": calm["shards"] == disturbed["shards"],
        "same_decisions": calm["decisions"] == disturbed["decisions"],
        "identical": calm["sha256"] == disturbed["sha256"],
    }


def leftovers(out: Path) -> list[str]:
    """Temporary files and locks' owners that nobody holds any more, anywhere below a finished run."""
    hidden = (p for p in out.rglob("*") if p.name == "lock.owner.json" or p.name.startswith("."))
    return sorted(str(p.relative_to(out)) for p in hidden if p.name != ".lock")


def run_calm(arguments: Sequence[str], first: Path, log: Path) -> tuple[int, Pace, float]:
    """Label undisturbed: exit code, pace, seconds. `first` is the folder of clips, which appears with the first."""
    began = time.monotonic()
    driver, seen = start_driver(arguments, log), 0.0
    while not (ended := os.waitpid(driver, os.WNOHANG))[0]:
        if not seen and first.exists():
            seen = time.monotonic() - began
        time.sleep(0.05)
    took = time.monotonic() - began
    return (
        os.waitstatus_to_exitcode(ended[1]),
        Pace(start=seen, work=took - seen, records=count_records(first.parent)),
        took,
    )


def run_test(out: Path, test: KillTest, say: Callable[[str], None] = print) -> dict[str, Any]:
    """The whole experiment below `out`; returns the row of numbers."""
    commit = code_commit()
    manifest = draw(out / "clips", test.clips)
    settings = [f"workers={test.workers}", f"limits.tries={test.kills + 3}", *test.settings]  # no clip is to blame
    calm, disturbed, log = out / "calm", out / "disturbed", out / "log.txt"
    code, pace, calm_s = run_calm(["label", str(manifest), "--out", str(calm), *settings], calm / "clips", log)
    if code not in (0, 2):  # 2: a clip or two in which nobody is found
        raise SystemExit(f"the undisturbed run ended with exit code {code}: see {log}")
    say(f"undisturbed: exit code {code}, {calm_s:.0f} s, the start of it {pace.start:.1f} s")
    began = time.monotonic()
    counts = run_disturbed(
        ["label", str(manifest), "--out", str(disturbed), *settings], Killer(test, pace, disturbed), log, say
    )
    found = contents(disturbed)
    return {
        "format": "footfall-bench/1", "name": "kill", "commit": commit, "commit_at_end": code_commit(),
        "hardware": hardware(), "config": asdict(test), "undisturbed_exit_code": code, **counts,
        "kills": sum(counts["killed"].values()), "clips": len(list((disturbed / "clips").iterdir())),
        "packed_clips": len(found["clips"]), "samples": found["samples"], **compare(contents(calm), found),
        "leftovers": leftovers(disturbed), "undisturbed_s": round(calm_s, 1),
        "disturbed_s": round(time.monotonic() - began, 1), "content_sha256": found["sha256"],
    }  # fmt: skip


def main() -> int:
    """Run it, write `OUT/kill_test.json`; 1 if anything was lost, doubled or changed."""
    if len(sys.argv) < 2:
        print(__doc__)
        return 2
    out, test = Path(sys.argv[1]), load_config(KillTest, None, sys.argv[2:])
    shutil.rmtree(out, ignore_errors=True)
    row = run_test(out, test, lambda text: print(text, flush=True))
    write_json(out / "kill_test.json", row)
    print(json.dumps(row, indent=1))
    good = (
        row["identical"]
        and row["same_decisions"]
        and not row["lost"]
        and not row["duplicated"]
        and row["kills"] == test.kills
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
