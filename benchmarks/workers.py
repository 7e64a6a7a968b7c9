"""Clips per hour with 1 to N workers, and a Ray cluster of two nodes that loses one.

    python benchmarks/workers.py OUT [clips=6 workers=[1,2] ray=true]

The clips are those of `kill_test.py`: small, and every stage real. Efficiency is clips per hour with n workers over n
times those with one; the time is from the start of the first clip to the end of the last, and `start_s` says how long
loading took before; `core_seconds` are those of the workers, loading included, which other work on the machine changes
little. The two Ray nodes are two `ray start` processes of this machine, the second joining by the first one's address;
one of them is killed (SIGKILL, with all it runs) as soon as `lost_after` clips are done.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from distill.config import load_config
from distill.errors import FootfallError
from distill.files import sha256_of, write_json
from distill.provenance import code_commit, hardware
from distill.synthetic import collection, write_collection
from teacher.execution.tries import read_tries
from teacher.pipeline import label

STORE_BYTES: Final = 100_000_000
"""Ray's object store: what passes through it is a few kilobytes of JSON."""
PATIENCE: Final = {
    "RAY_worker_niceness": "0",
    "RAY_raylet_start_wait_time_s": "600",
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_health_check_timeout_ms": "120000",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
}
"""Ray's own limits, which a machine with other work on it breaks; and it would run its workers at niceness 15, on top
of the node's own, so that they wait for everything else that the machine does."""


@dataclass(kw_only=True)
class WorkersBench:
    """The measurement."""

    clips: int = 6
    """Clips of the collection."""
    workers: list[int] = field(default_factory=lambda: [1, 2])
    """Numbers of workers; the first is what efficiency refers to."""
    ray: bool = True
    """Whether to run the two nodes, too."""
    lost_after: int = 1
    """Clips done when the second node is killed."""
    settings: list[str] = field(default_factory=lambda: ["pictures.frames=1"])
    """Settings of every run."""


def shards_of(out: Path) -> dict[str, str]:
    """Every shard's hash."""
    return {path.name: sha256_of(path) for path in sorted((out / "shards").iterdir())}


def done_clips(out: Path) -> int:
    """Clips of a run that have their last stage."""
    return len(list((out / "clips").glob("*/pictures/record.json")))


def children_seconds() -> float:
    """Core seconds of all child processes that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(manifest: Path, out: Path, workers: int, settings: list[str]) -> dict[str, Any]:
    """Label with so many workers; the row of numbers."""
    start, cores = time.time(), children_seconds()
    report = label([manifest], out, overrides=[f"workers={workers}", *settings])
    first = min(path.stat().st_mtime for path in (out / "clips").glob("*/clip.json"))
    last = max(path.stat().st_mtime for path in (out / "clips").glob("*/pictures/record.json"))
    count = len(report.clips)
    return {
        "workers": workers, "clips": count, "failed": report.failed, "start_s": round(first - start, 1),
        "seconds": round(last - first, 1), "clips_per_hour": round(3600 * count / (last - first), 1),
        "core_seconds": round(children_seconds() - cores, 1), "load_average": round(os.getloadavg()[0], 1),
    }  # fmt: skip


@contextlib.contextmanager
def ray_nodes(cores: int = 1) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start a head and a second node; yields the head's address and the second node's process."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    head = start_node("--head", f"--port={port}", "--include-dashboard=false", cores=cores)
    second = None
    try:
        wait_for_port(port)
        second = start_node(f"--address={address}", cores=cores)
        yield address, second
    finally:
        for node in (second, head):
            if node is not None:
                kill_node(node)


def start_node(*words: str, cores: int) -> subprocess.Popen[bytes]:
    """`ray start --block` in a process of its own."""
    command = [str(Path(sys.executable).with_name("ray")), "start", *words, "--block", f"--num-cpus={cores}"]
    command += [f"--object-store-memory={STORE_BYTES}", "--disable-usage-stats", "--node-ip-address=127.0.0.1"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, **PATIENCE})


def kill_node(node: subprocess.Popen[bytes]) -> int:
    """Kill a node with everything that it runs; returns how many processes that were."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(node.pid)
        doomed = [family, *family.children(recursive=True)]
        for process in doomed:
            with contextlib.suppress(psutil.NoSuchProcess):
                os.kill(process.pid, signal.SIGKILL)
        node.wait()
        return len(doomed)
    return 0


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for_port(port: int, seconds: float = 600.0) -> None:
    """Wait until somebody listens."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if time.monotonic() > deadline:
            raise FootfallError("ray start", got="no answer", expected=f"port {port}", do="run it by hand and look")
        time.sleep(0.5)


def wait_for_nodes(address: str, count: int, seconds: float = 1200.0) -> int:
    """Wait until so many nodes are alive; returns how many are."""
    import ray

    deadline, alive = time.monotonic() + seconds, 0
    while alive < count:
        if time.monotonic() > deadline:
            raise FootfallError("ray start", got=f"{alive} nodes", expected=f"{count}", do="run it by hand and look")
        with contextlib.suppress(ConnectionError):  # the head answers before its own node has joined
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            alive = sum(node["Alive"] for node in ray.nodes())
        ray.shutdown()
        time.sleep(0.5)
    return alive


def lose_a_node(manifest: Path, out: Path, bench: WorkersBench) -> dict[str, Any]:
    """Label on two nodes and kill the second once `lost_after` clips are done; the row of numbers."""
    with ray_nodes() as (address, second):
        alive = wait_for_nodes(address, 2)
        killed: dict[str, int] = {}

        def strike() -> None:
            while done_clips(out) < bench.lost_after:
                time.sleep(0.1)
            killed["done"] = done_clips(out)
            killed["processes"] = kill_node(second)

        striker = threading.Thread(target=strike, daemon=True)
        striker.start()
        start = time.monotonic()
        report = label([manifest], out, overrides=bench.settings, ray=address)
        took = time.monotonic() - start
    tries = {clip: [lost["reason"] for lost in read_tries(out / "clips" / clip).lost] for clip in report.clips}
    return {
        "nodes_at_start": alive, "clips": len(report.clips), "failed": report.failed,
        "clips_done_when_killed": killed["done"], "processes_killed": killed["processes"],
        "lost_tries": {clip: reasons for clip, reasons in tries.items() if reasons},
        "packed_clips": report.manifest["totals"]["clips"], "seconds": round(took, 1),
        "load_average": round(os.getloadavg()[0], 1),
    }  # fmt: skip


def run_bench(out: Path, bench: WorkersBench) -> dict[str, Any]:
    """All runs below `out`; the row of numbers."""
    manifest = write_collection(out / "clips", collection(f"tiny:{bench.clips}"))
    rows = [measure(manifest, out / f"workers-{n}", n, bench.settings) for n in bench.workers]
    for row in rows:
        ideal = rows[0]["clips_per_hour"] * row["workers"] / rows[0]["workers"]
        row["efficiency"] = round(row["clips_per_hour"] / ideal, 3)
    reference = shards_of(out / f"workers-{bench.workers[0]}")
    result: dict[str, Any] = {
        "format": "footfall-bench/1", "name": "workers", "commit": code_commit(), "hardware": hardware(),
        "config": asdict(bench), "rows": rows,
        "same_shards": all(shards_of(out / f"workers-{n}") == reference for n in bench.workers),
    }  # fmt: skip
    if bench.ray:
        result["ray"] = lose_a_node(manifest, out / "ray", bench)
        result["ray"]["same_shards"] = shards_of(out / "ray") == reference
    return result


def main() -> int:
    """Measure, write `OUT/workers.json`; 1 if a clip is missing or a shard differs."""
    if len(sys.argv) < 2:
        print(__doc__)
        return 2
    out = Path(sys.argv[1])
    row = run_bench(out, load_config(WorkersBench, None, sys.argv[2:]))
    write_json(out / "workers.json", row)
    print(json.dumps(row, indent=1))
    whole = row["same_shards"] and row.get("ray", {}).get("same_shards", True)
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
