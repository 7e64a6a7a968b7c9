"""The whole loop on one machine: clips -> labels -> shards -> student -> export -> stream -> page.

Every step is a command that a user could type; it is printed before it runs. A second demo in the same folder
goes on where the first one stopped: labelling knows itself what is stale, and any other step is skipped if it
ended before with the same command, code, inputs and results of the steps before it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from distill.errors import FootfallError
from distill.files import read_json, write_json, write_text
from distill.provenance import code_commit

HELD_OUT: Final = "test-"
"""Ids of clips that the student never sees in training begin with this."""


@dataclass(kw_only=True)
class Step:
    """One command of the demo."""

    name: str
    command: list[str]
    done: Path
    """Exists once the step has finished."""
    inputs: list[Path] = field(default_factory=list)
    """Files whose contents decide whether the step must run again."""
    owns: Path | None = None
    """Folder that is removed when the step must start afresh; left in place when it goes on."""
    always: bool = False
    """The command itself knows what is stale."""


@dataclass(kw_only=True)
class Timing:
    """How long a step took when it last ran."""

    name: str
    command: str
    seconds: float


def run_demo(out: Path, video: Path | None, overrides: Sequence[str] = ()) -> Path:
    """Run all steps below `out`; returns the path of `index.html`.

    Args:
        out: folder of the demo.
        video: label, train on and stream this file instead of made-up clips; there is no truth then.
        overrides: settings of the student's training ("steps=200") on top of configs/student/demo.yaml.

    Raises:
        FootfallError: no such video, or a step failed (its own message was printed before).
    """
    from teacher.demo_page import write_page

    started = time.perf_counter()
    if video is not None and not video.is_file():
        raise FootfallError(f"--video {video}", got="no such file", expected="a video file", do="check the path")
    out.mkdir(parents=True, exist_ok=True)
    train, test = _manifests(out) if video is None else _video_manifests(out, video)
    timings = [Timing(**read_json(_clips_marker(out)))] if video is None else []
    basis = ""
    for step in _steps(out, train, test, overrides, has_truth=video is None):
        basis = _basis(step, basis)
        timings.append(_run(step, out, basis))
        if step.name == "label":
            _require_labels(out / "labels")
    page = out / "index.html"
    write_page(out, page, timings, test_ids=[row["id"] for row in _rows(test)], has_truth=video is None)
    print(f"demo finished in {(time.perf_counter() - started) / 60:.1f} minutes")
    return page


def _require_labels(labels: Path) -> None:
    """A student needs at least one clip that was not rejected; `_run` lets clips fail one by one."""
    from teacher.status import read_status

    if read_json(labels / "manifest.json")["totals"]["samples"]:
        return
    reasons = "; ".join(f"{clip.id}: {clip.decision}, {clip.why}" for clip in read_status(labels))
    raise FootfallError(
        "demo step 'label'", got=f"no clip to train on ({reasons})", expected="at least one accepted clip",
        do=f"look at {labels}/clips/*/pictures/overlay.jpg and take another video; footfall label tells more",
    )  # fmt: skip


def _manifests(out: Path) -> tuple[Path, Path]:
    """Make the clips and split their manifest into what is trained on and what is held out."""
    from distill.synthetic import collection, write_collection

    start = time.perf_counter()
    write_collection(out / "clips", collection("demo", seed=0))
    rows = _rows(out / "clips" / "manifest.jsonl")
    train = _write_rows(out / "clips" / "train.jsonl", [r for r in rows if not r["id"].startswith(HELD_OUT)])
    test = _write_rows(out / "clips" / "test.jsonl", [r for r in rows if r["id"].startswith(HELD_OUT)])
    if not _clips_marker(out).exists():
        command = f"python datasets/synthetic/prepare_synthetic.py --out {out / 'clips'} --set demo"
        seconds = time.perf_counter() - start
        write_json(_clips_marker(out), asdict(Timing(name="make clips", command=command, seconds=seconds)))
    return train, test


def _clips_marker(out: Path) -> Path:
    return out / "steps" / "make-clips.json"


def _video_manifests(out: Path, video: Path) -> tuple[Path, Path]:
    """One manifest with the user's video, for training and for streaming."""
    row = {"id": "video", "path": str(video.resolve()), "source": "local", "licence": "unknown"}
    manifest = _write_rows(out / "clips" / "video.jsonl", [row])
    return manifest, manifest


def _rows(manifest: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines() if line]


def _write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return path


def _steps(out: Path, train: Path, test: Path, overrides: Sequence[str], *, has_truth: bool) -> list[Step]:
    """The commands, in order."""
    footfall = [sys.executable, "-m", "teacher.cli"]
    script = Path(__file__).resolve().parent.parent / "train_student.py"
    if not script.is_file():
        raise FootfallError(
            "footfall demo", got="an installed wheel", expected="a checkout with train_student.py",
            do="clone the repository and run `make demo` there",
        )  # fmt: skip
    labels, held, run = out / "labels", out / "labels-held-out", out / "runs" / "demo"
    checkpoint, reports, streams = run / "pretrained", out / "reports", out / "stream"
    workers = f"workers={min(2, os.cpu_count() or 1)}"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", str(script)]
    launch += ["--config", str(script.parent / "configs" / "student" / "demo.yaml")]
    launch += [f"data.shards={labels / 'shards'}", f"out={run.parent}", f"name={run.name}", "resume=true", *overrides]
    steps = [
        Step(name="label", command=[*footfall, "label", str(train), "--out", str(labels), workers],
             done=labels / "manifest.json", always=True),
        Step(name="train", command=launch, done=checkpoint / "model.safetensors", owns=run,
             inputs=[script.parent / "configs" / "student" / "demo.yaml", labels / "manifest.json"]),
        Step(name="export", command=[*footfall, "export", str(checkpoint), "--format", "pt2", "--out",
                                     str(out / "export")], done=out / "export" / "parity.json"),
    ]  # fmt: skip
    if has_truth:
        steps.append(Step(
            name="label held-out", command=[*footfall, "label", str(test), "--out", str(held), workers],
            done=held / "manifest.json", always=True,
        ))  # fmt: skip
    for row in _rows(test):
        steps.append(Step(
            name=f"stream {row['id']}",
            command=[*footfall, "run", str(test.parent / row["path"]), "--checkpoint", str(checkpoint), "--out",
                     str(streams / row["id"])],
            done=streams / row["id"] / "meta.json",
        ))  # fmt: skip
    if has_truth:
        scored = (("teacher", labels, train), ("teacher-held-out", held, test), ("student-held-out", streams, test))
        for name, folder, manifest in scored:
            report = reports / f"{name}.json"
            command = [*footfall, "evaluate", str(folder), "--data", str(manifest), "--out", str(report)]
            steps.append(Step(name=f"evaluate {name}", command=command, done=report))
    return steps


def _basis(step: Step, before: str) -> str:
    """What a step's result depends on, as a hash: command, code, inputs, and the steps before it."""
    digest = hashlib.sha256("\0".join([before, *step.command, code_commit()]).encode())
    for path in step.inputs:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _run(step: Step, out: Path, basis: str) -> Timing:
    """Run one command, its output going to the terminal; remember its time."""
    marker = out / "steps" / f"{step.name.replace(' ', '-')}.json"
    begun = marker.with_suffix(".basis")
    same = begun.is_file() and begun.read_text() == basis
    shown = " ".join(step.command)
    if same and step.done.exists() and marker.exists() and not step.always:
        print(f"== {step.name}: done before", flush=True)
        return Timing(**read_json(marker))
    print(f"== {step.name}: {shown}", flush=True)
    if not same:
        marker.unlink(missing_ok=True)
        if step.owns is not None:
            shutil.rmtree(step.owns, ignore_errors=True)
        write_text(begun, basis)
    start = time.perf_counter()
    status = subprocess.run(step.command, check=False).returncode
    if status == 2 and step.always and step.done.exists() and read_json(step.done)["totals"]["samples"] > 0:
        print(f"== {step.name}: some clips have no label (see above); going on with the others", flush=True)
    elif status != 0 or not step.done.exists():
        raise FootfallError(
            f"demo step '{step.name}'", got=f"exit code {status}", expected="0 and " + str(step.done),
            do="read the message above; the same command goes on from this step",
        )  # fmt: skip
    timing = Timing(name=step.name, command=shown, seconds=time.perf_counter() - start)
    if marker.exists() and step.always:  # nothing was stale: the first time is what a user wants to know
        timing.seconds = max(timing.seconds, read_json(marker)["seconds"])
    write_json(marker, asdict(timing))
    return timing
