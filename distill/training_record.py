"""What is known about a training run, as facts: who started it how and where, on which data under which licences.

The trainer notes each start in `RUN/log/starts.jsonl`; `make_record` puts that together with the run's settings,
its log, the manifests of its shards and evaluation reports. `distill.models.card` turns the record into a card.
Nothing is guessed: what was not recorded is None, and the card says so.
"""

from __future__ import annotations

import glob
import importlib.metadata
import json
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from distill.errors import FootfallError, is_installed
from distill.evaluate import REPORT_FORMAT
from distill.files import read_json, sha256_of
from distill.provenance import code_commit, hardware
from distill.shards.manifest import MANIFEST_FORMAT

RECORD_FORMAT: Final = "footfall-training-record/1"
STARTS: Final = "starts.jsonl"
_PACKAGES: Final = ("torch", "accelerate", "numpy", "timm", "deepspeed")
_LOGIN: Final = re.compile(r"(?<=://)[^/@\s]+@")
_QUERY: Final = re.compile(r"(://[^\s?'\"]*)\?[^\s'\"]*")


def note_start(run: Path, *, step: int, processes: int) -> None:
    """Append one line to `RUN/log/starts.jsonl`: command, commit, hardware and versions of this start.

    Args:
        run: the run's folder.
        step: optimiser steps already made (above 0 after a resume).
        processes: that train together.
    """
    row = {
        "command": command_line(),
        "commit": code_commit(),
        "step": step,
        "processes": processes,
        "hardware": hardware(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES if is_installed(name)},
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }
    (run / "log").mkdir(parents=True, exist_ok=True)
    with (run / "log" / STARTS).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


def command_line() -> str:
    """The command of this process as it can be typed again; the launcher as far as it shows in the environment."""
    if "ACCELERATE_MIXED_PRECISION" in os.environ:
        launcher = "accelerate launch"
    elif "TORCHELASTIC_RUN_ID" in os.environ:
        launcher = f"torchrun --nproc_per_node {os.environ.get('LOCAL_WORLD_SIZE', '1')}"
    else:
        launcher = "python"
    return public(f"{launcher} {shlex.join(sys.argv)}")


def public(text: str) -> str:
    """A text without what is nobody's business: the home folder, logins and signed queries in addresses."""
    return _QUERY.sub(r"\1", _LOGIN.sub("", text)).replace(str(Path.home()), "~")


def make_record(
    run: Path, *, step: int | None = None, seconds: float | None = None,
    manifests: Sequence[Path] | None = None, held_out_manifests: Sequence[Path] | None = None,
    reports: Sequence[Path] = (),
) -> dict[str, Any]:  # fmt: skip
    """Everything known about a run, JSON-able.

    Args:
        run: its folder, with `log/config.yaml`.
        step, seconds: of the weights; None takes them from `state/training.json`.
        manifests: `manifest.json` of the shards trained on; None looks beside `data.shards`.
        held_out_manifests: the same of `data.held_out_shards`.
        reports: files written by `footfall evaluate` about these weights.

    Raises:
        FootfallError: not a run, or a manifest or report of another kind.
    """
    settings = _settings(run)
    if step is None or seconds is None:
        state = read_json(run / "state" / "training.json")
        step, seconds = int(state["step"]), float(state["seconds"])
    data = settings.get("data", {})
    if manifests is None:
        manifests = beside(str(data.get("shards", "")))
    if held_out_manifests is None:
        held_out_manifests = beside(str(data.get("held_out_shards", "")))
    rows = _rows(run / "log" / "log.jsonl")
    evaluations = [row for row in rows if any(name.startswith("held_out/") for name in row)]
    trained = [row for row in rows if "loss" in row]
    return {
        "format": RECORD_FORMAT,
        "run": run.name,
        "step": step,
        "steps": settings.get("steps"),
        "seconds": round(seconds, 1),
        "starts": _rows(run / "log" / STARTS),
        "settings": settings,
        "data": data_facts(manifests),
        "held_out_data": data_facts(held_out_manifests),
        "last_training": trained[-1] if trained else None,
        "last_held_out": evaluations[-1] if evaluations else None,
        "reports": [read_report(path) for path in reports],
    }


def beside(shards: str) -> list[Path]:
    """The manifests that lie beside local shards: a folder of labels or of shards, a file, or a glob, also of several
    folders. None unless every folder has one, since part of a licence chain is none."""
    if not shards or "://" in shards:
        return []
    path = Path(shards)
    if (path / "shards").is_dir():  # a labelling folder; else a folder of shards, or a file or glob in one
        path = path / "shards"
    folders = [path] if path.is_dir() else [Path(name) for name in sorted(glob.glob(str(path.parent)))]  # noqa: PTH207 (absolute)
    manifests = [folder.parent / "manifest.json" for folder in folders if folder.is_dir()]
    return manifests if all(manifest.is_file() for manifest in manifests) else []


def data_facts(manifests: Iterable[Path]) -> dict[str, Any] | None:
    """What manifests say together: totals, and per licence, source and network how many clips and seconds.

    Returns:
        None without any manifest; else {clips, frames, seconds, samples, licences, sources, networks,
        teacher_commits, manifests}. `networks` had a part in the labels: id -> licence and clips.

    Raises:
        FootfallError: not a manifest of shards.
    """
    totals: dict[str, float] = {"clips": 0, "frames": 0, "seconds": 0.0, "samples": 0}
    licences: dict[str, dict[str, float]] = {}
    sources: dict[str, dict[str, Any]] = {}
    networks: dict[str, dict[str, Any]] = {}
    commits, read = set[str](), []
    for path in manifests:
        content = _manifest(path)
        read.append({"sha256": sha256_of(path), "schema_version": content["schema_version"]})
        for name in totals:
            totals[name] += content["totals"][name]
        for clip in content["clips"].values():
            source = public(clip["source"])
            sources.setdefault(source, {"licences": set[str](), "clips": 0, "seconds": 0.0})["licences"].add(
                clip["licence"]
            )
            for group in (licences.setdefault(clip["licence"], {"clips": 0, "seconds": 0.0}), sources[source]):
                group["clips"] += 1
                group["seconds"] += clip["seconds"]
            for name, facts in clip["weights"].items():
                networks.setdefault(name, {"licence": facts.get("licence", "unknown"), "clips": 0})["clips"] += 1
            commits.add(clip["teacher_commit"])
    if not read:
        return None
    for source_facts in sources.values():
        source_facts["licences"] = sorted(source_facts["licences"])
    return {
        **totals, "licences": licences, "sources": sources, "networks": networks,
        "teacher_commits": sorted(commits), "manifests": read,
    }  # fmt: skip


def read_report(path: Path) -> dict[str, Any]:
    """The parts of a `footfall evaluate` report that a card shows.

    Raises:
        FootfallError: not such a report.
    """
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != REPORT_FORMAT:
        raise FootfallError(
            f"report {path}", got="another file", expected=f"{REPORT_FORMAT}, written by footfall evaluate",
            do="evaluate the checkpoint and name that file",
        )  # fmt: skip
    return {
        "name": path.stem,
        "data": Path(content["data"]).name,
        "protocol": content["protocol"],
        "provenance": {key: public(str(value)) for key, value in content["provenance"].items()},
        "weights_sha256": content["provenance"].get("weights_sha256"),
        "overall": content["overall"],
        "missed": [clip["id"] for clip in content["clips"] if clip["status"] != "evaluated"],
    }


def _settings(run: Path) -> dict[str, Any]:
    path = run / "log" / "config.yaml"
    try:
        settings = yaml.safe_load(public(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError) as error:
        raise FootfallError(
            f"run {run}", got=error, expected="log/config.yaml, written when training starts",
            do="name the run's folder (the one that holds pretrained/, state/ and log/)",
        ) from error  # fmt: skip
    return dict(settings)


def _rows(path: Path) -> list[dict[str, Any]]:
    """Lines of a .jsonl; a line that a kill cut short is left out."""
    rows: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def _manifest(path: Path) -> Mapping[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != MANIFEST_FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise FootfallError(
            f"manifest {path}", got=f"format {found!r}", expected=MANIFEST_FORMAT,
            do="name the manifest.json that lies beside the shards",
        )  # fmt: skip
    return content
