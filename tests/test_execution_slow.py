"""Short versions of `benchmarks/kill_test.py` and `benchmarks/workers.py`: killed runs, a cluster that loses a node."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distill.files import read_json

ROOT = Path(__file__).resolve().parent.parent


def result_of(script: str, out: Path, *settings: str) -> dict[str, Any]:
    """Run a benchmark in a process of its own; its row."""
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), str(out), *settings]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return dict(read_json(out / f"{script}.json"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_that_is_killed_ends_with_the_shards_of_one_that_was_not(tmp_path: Path) -> None:
    row = result_of("kill_test", tmp_path, "clips=2", "kills=8")
    assert sum(row["killed"].values()) == 8 and row["driver_starts"] == 1 + row["killed"].get("driver", 0)
    assert row["identical"] and row["shards_byte_identical"]
    assert (row["lost"], row["added"], row["duplicated"], row["leftovers"]) == ([], [], 0, [])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_cluster_that_loses_a_node_finishes_every_clip(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    row = result_of("workers", tmp_path, "clips=2", "workers=[1]")
    assert row["ray"]["nodes_at_start"] == 2 and row["ray"]["processes_killed"] > 2
    assert row["ray"]["clips"] == 2 and row["ray"]["failed"] == row["rows"][0]["failed"] == {}
    assert row["ray"]["same_shards"]
