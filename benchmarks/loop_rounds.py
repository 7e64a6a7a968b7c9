"""SPIN's loop on drawn clips: labels of rounds 0, 1 and 2 against truth, and what each costs (docs/loop.md).

    python benchmarks/loop_rounds.py out=data/loop [clips=[flat-walk-1,turn-1]] [worlds=8] [steps=200]

    round0     the embedded initialisers
    round1     --init student:tiny, the shipped student (trained on labels of other worlds)
    round2     --init student:RUN, the same student trained further on worlds that it labelled itself as in round 1
    only-SLOT  round 1 with one slot from the student and the others embedded: which starting value helps or hurts
    picked     of rounds 0 and 1 the label whose own quality score (predicted_w_mpjpe_mm) is the better one; no truth

    OUT/clips/                 the drawn clips, with truth
    OUT/ROUND/clips/ID/...     workspaces; frames and people are made once and copied
    OUT/worlds/...             what round 2 is trained on
    OUT/runs/round2/...        its student
    OUT/loop.json, loop.png    numbers and plot

Resumable: stages whose records hold are kept. Processor seconds of a stage are known only where it was run by this
script (`seconds.json` beside the records).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from distill.config import config_to_dict, load_config
from distill.errors import FootfallError
from distill.files import read_json, write_json
from distill.results import load_result
from distill.synthetic import write_collection
from distill.synthetic.collections import collection
from teacher.benchmark.provenance import provenance
from teacher.benchmark.scores import clip_values
from teacher.config import LabelConfig
from teacher.initialisers.student.config import SLOTS, init_overrides
from teacher.manifest import read_inputs
from teacher.pack import pack
from teacher.stages import STAGES, StageFailedError, run_stages
from teacher.workspace import ClipFolder

SHOWN: Final = (
    "w_mpjpe_mm", "wa_mpjpe_mm", "pa_mpjpe_mm", "mpjpe_mm", "rte_percent", "ate_m", "ate_sim3_m", "foot_sliding_mm",
    "contact_f1", "focal_error_percent", "world_size_percent", "jitter",
)  # fmt: skip
"""Metrics of the table (docs/metrics.md)."""
COPIED: Final = ("frames", "people")
"""Stages that no round changes."""
ROUNDS: Final = ("round0", "round1", "round2")


@dataclass(kw_only=True)
class LoopConfig:
    """One run of the loop."""

    out: str = "data/loop"
    """Folder for everything."""
    data: str = "footsteps-v1"
    """Collection whose labels are compared with truth."""
    clips: list[str] = field(default_factory=list)
    """Some of its clips; empty: all."""
    rounds: list[str] = field(default_factory=lambda: [*ROUNDS, *(f"only-{slot}" for slot in SLOTS)])
    """What to do now; the table has all that were ever done in `out`."""
    student: str = "tiny"
    """Student of round 1."""
    worlds: int = 16
    """Drawn worlds that the student of round 2 is trained on, labelled as in round 1."""
    steps: int = 200
    """Steps of that training."""
    label: list[str] = field(default_factory=list)
    """Settings of labelling for all rounds."""

    def __post_init__(self) -> None:
        known = {*ROUNDS, *(f"only-{slot}" for slot in SLOTS)}
        if not set(self.rounds) <= known or self.worlds < 1 or self.steps < 1:
            raise ValueError(f"loop: rounds of {sorted(known)}, worlds and steps of at least 1 are expected")


def main() -> int:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    try:
        config = load_config(LoopConfig, None, parser.parse_args().overrides)
        torch.set_num_threads(1)
        known = {spec.id: spec for spec in collection(config.data)}
        specs = [known[name] for name in config.clips or known]
        out = Path(config.out)
        manifest = write_collection(out / "clips", specs)
        for name in config.rounds:
            label_round(manifest, out / name, settings_of(name, config), copy_from=out / "round0")
    except (FootfallError, KeyError) as error:
        print(f"loop_rounds: {error}", file=sys.stderr)
        return 2
    row = summarise(config, [spec.id for spec in specs])
    write_json(out / "loop.json", row)
    draw(out / "loop.png", row)
    print("\n".join(table(row)))
    return 0


def settings_of(name: str, config: LoopConfig) -> LabelConfig:
    """The label config of a round; trains the student of round 2 if that is not done."""
    overrides = list(config.label)
    if name == "round1":
        overrides = [*init_overrides(f"student:{config.student}"), *overrides]
    elif name == "round2":
        overrides = [*init_overrides(f"student:{train(config)}"), *overrides]
    elif name != "round0":
        slot = name.removeprefix("only-")
        overrides = [f"student.checkpoint={config.student}", f"{slot}.use=student", *overrides]
    return load_config(LabelConfig, None, overrides)


def label_round(manifest: Path, out: Path, settings: LabelConfig, *, copy_from: Path) -> None:
    """Label every clip into `out`, one stage after the other, and note the processor seconds of each."""
    for source in read_inputs([manifest]):
        clip = ClipFolder(out / "clips" / source.id)
        clip.write_source(source)
        for stage in COPIED:
            there = copy_from / "clips" / source.id / stage
            if there.is_dir() and not clip.stage_dir(stage).exists():
                shutil.copytree(there, clip.stage_dir(stage))
        try:
            run_timed(clip, settings)
        except StageFailedError as error:
            print(f"{out.name}: {error}", file=sys.stderr)
        print(f"{out.name}: {source.id} done", flush=True)


def run_timed(clip: ClipFolder, settings: LabelConfig) -> None:
    """All stages of a clip up to its quality; `seconds.json` gets processor seconds of those that had to run."""
    path = clip.root / "seconds.json"
    seconds: dict[str, float] = read_json(path) if path.is_file() else {}
    for stage in STAGES[: [stage.name for stage in STAGES].index("quality") + 1]:
        if stage.name in COPIED and clip.is_done(stage.name) and stage.name not in seconds:
            continue  # copied from round 0
        before, record = time.process_time(), clip.stage_dir(stage.name) / "record.json"
        written = record.stat().st_mtime_ns if record.is_file() else 0
        run_stages(clip, settings, lambda part, text: None, [stage.name])
        if record.stat().st_mtime_ns != written:
            seconds[stage.name] = round(time.process_time() - before, 3)
            write_json(path, seconds)


def train(config: LoopConfig) -> Path:
    """The student of round 2: worlds labelled as in round 1, then a short training from the student of round 1."""
    run, worlds = Path(config.out) / "runs" / "round2", Path(config.out) / "worlds"
    if (run / "pretrained" / "config.json").is_file():
        return run / "pretrained"
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "datasets" / "synthetic"))
    from label_worlds import world_spec

    manifest = write_collection(worlds / "drawn", [world_spec(number, 64) for number in range(config.worlds)])
    settings = load_config(LabelConfig, None, [*init_overrides(f"student:{config.student}"), *config.label])
    label_round(manifest, worlds / "labels", settings, copy_from=worlds / "none")
    made = pack(worlds / "labels", settings.pack)
    print(f"round2: {made['totals']['clips']} of {config.worlds} worlds packed", flush=True)
    root = Path(__file__).resolve().parent.parent
    command = [
        sys.executable, "train_student.py", "--config", "configs/student/tiny.yaml", f"init_from={config.student}",
        f"data.shards={(worlds / 'labels' / 'shards').resolve()}/*.tar", f"steps={config.steps}", "optim.lr=1.0e-4",
        "optim.warmup_steps=20", "optim.ema=0.98", f"evaluate_every={config.steps}", f"save_every={config.steps}",
        f"out={run.parent.resolve()}", f"name={run.name}",
    ]  # fmt: skip
    subprocess.run(command, cwd=root, check=True)
    return run / "pretrained"


def summarise(config: LoopConfig, clips: Sequence[str]) -> dict[str, Any]:
    """Values of every clip and round that is there, and their medians and means over the clips that all rounds have."""
    out = Path(config.out)
    rows: dict[str, dict[str, Any]] = {
        name: {clip: row for clip in clips if (row := clip_row(out, name, clip)) is not None}
        for name in (*ROUNDS, *(f"only-{slot}" for slot in SLOTS))
    }
    rows = {name: found for name, found in rows.items() if found}
    common = [clip for clip in clips if all(clip in rows[name] for name in rows)]
    if {"round0", "round1"} <= set(rows):
        rows["picked"] = {}
        for clip in common:
            both = [rows[name][clip] for name in ("round0", "round1")]
            rows["picked"][clip] = {**min(both, key=lambda row: row["own"]), "processor_seconds": spent_on_both(both)}
    return {
        "format": "footfall-bench/1", "name": "loop", "provenance": provenance(), "config": config_to_dict(config),
        "clips": common, "rows": rows,
        "rounds": {name: averages([found[clip] for clip in common]) for name, found in rows.items()},
    }  # fmt: skip


def spent_on_both(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Processor seconds of labelling a clip in both ways, frames and people once; empty unless both are known."""
    timed = [row["processor_seconds"] for row in rows]
    if not all("joint" in seconds for seconds in timed):
        return {}
    stages = {stage for seconds in timed for stage in seconds}
    return {
        stage: timed[0].get(stage, 0.0) if stage in COPIED else sum(seconds.get(stage, 0.0) for seconds in timed)
        for stage in sorted(stages)
    }


def clip_row(out: Path, name: str, clip: str) -> dict[str, Any] | None:
    """Errors of one label, what its own quality stage thinks of it, and its seconds; None if there is none."""
    folder = ClipFolder(out / name / "clips" / clip)
    if not (folder.is_done("joint") and folder.is_done("quality")):
        return None
    quality = read_json(folder.stage_dir("quality") / "quality.json")
    cameras = folder.record("cameras")
    seconds: dict[str, float] = {}
    for place in (out / "round0" / "clips" / clip, folder.root):  # frames and people were made in round 0
        path = place / "seconds.json"
        known = read_json(path) if path.is_file() else {}
        seconds |= {stage: value for stage, value in known.items() if place == folder.root or stage in COPIED}
    values = clip_values(load_result(out / "clips" / clip / "truth"), load_result(folder.stage_dir("joint")))
    return {
        "values": {metric: values[metric] for metric in SHOWN}, "own": quality["predicted_w_mpjpe_mm"],
        "decision": quality["decision"], "processor_seconds": seconds,
        "cameras": cameras.summary if cameras else {},
    }  # fmt: skip


def averages(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Median and mean of every metric over the clips that have it, and processor seconds a clip."""
    found: dict[str, Any] = {}
    for metric in SHOWN:
        values = [row["values"][metric] for row in rows if row["values"][metric] is not None]
        if metric in ("focal_error_percent", "world_size_percent"):
            values = [abs(value) for value in values]
        if values:
            found[metric] = {"median": float(np.median(values)), "mean": float(np.mean(values)), "clips": len(values)}
    timed = [row["processor_seconds"] for row in rows if "joint" in row["processor_seconds"]]
    stages = sorted({stage for seconds in timed for stage in seconds})
    found["processor_seconds"] = {
        stage: round(float(np.mean([seconds[stage] for seconds in timed if stage in seconds])), 2) for stage in stages
    }
    found["timed_clips"] = len(timed)
    found["accepted"] = sum(row["decision"] in ("accept", "weight") for row in rows)
    return found


def table(row: Mapping[str, Any]) -> list[str]:
    """Markdown: a line for each round, medians over clips."""
    metrics = ("w_mpjpe_mm", "wa_mpjpe_mm", "pa_mpjpe_mm", "rte_percent", "ate_m", "foot_sliding_mm", "contact_f1")
    lines = [
        f"{len(row['clips'])} clips, medians: {', '.join(row['clips'])}",
        "",
        "| round | " + " | ".join(metrics) + " | processor s |",
        "|---" * (len(metrics) + 2) + "|",
    ]
    for name, found in row["rounds"].items():
        cells = [f"{found[metric]['median']:.3g}" if metric in found else "-" for metric in metrics]
        spent = sum(found["processor_seconds"].values())
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {spent:.0f} |")
    return lines


def draw(path: Path, row: Mapping[str, Any]) -> None:
    """W-MPJPE and WA-MPJPE of every clip, round by round, and the processor seconds of each stage."""
    from matplotlib.figure import Figure

    names = list(row["rounds"])
    figure = Figure(figsize=(9.0, 3.4), layout="constrained")
    axes = figure.subplots(1, 3)
    for panel, metric in zip(axes, ("w_mpjpe_mm", "wa_mpjpe_mm"), strict=False):
        for clip in row["clips"]:
            values = [row["rows"][name][clip]["values"][metric] for name in names]
            panel.plot(names, values, "o-", color="#9ab", lw=0.8, ms=3)
        panel.plot(names, [row["rounds"][name][metric]["median"] for name in names], "k_", ms=18, mew=2)
        panel.set_title(f"{metric} (bar: median)", fontsize=9)
        panel.set_ylim(bottom=0)
    left = np.zeros(len(names))
    for stage in ("frames", "people", "student", "cameras", "depth", "bodies", "joint"):
        spent = np.array([row["rounds"][name]["processor_seconds"].get(stage, 0.0) for name in names])
        axes[2].bar(names, spent, bottom=left, label=stage)
        left += spent
    axes[2].set_title("processor seconds a clip", fontsize=9)
    axes[2].legend(fontsize=6, loc="upper left", bbox_to_anchor=(1, 1))
    for panel in axes:
        panel.tick_params(axis="x", labelrotation=60, labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    sys.exit(main())
