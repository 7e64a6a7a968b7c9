"""The rendered track: clips are drawn, labelled from their pixels with the embedded initialisers, and scored.

OUT/clips/      the drawn collection (`distill.synthetic.write_collection`)
OUT/labels/     `footfall label` on it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.config import save_config
from distill.results import load_result
from teacher.benchmark import report
from teacher.benchmark.calibration import initial_errors
from teacher.benchmark.scores import clip_values, initial_results
from teacher.config import LabelConfig
from teacher.optimise.degrade import degraded_problem
from teacher.optimise.evidence import make_evidence
from teacher.optimise.exact import exact_view
from teacher.optimise.problem import build_problem
from teacher.workspace import ClipFolder

if TYPE_CHECKING:
    from distill.synthetic import ClipSpec
    from teacher.benchmark.tables import BenchmarkConfig


def rendered_table(
    specs: Sequence[ClipSpec], config: BenchmarkConfig, folder: Path
) -> tuple[dict[str, Any], list[str]]:
    """Draw, label and score the clips; returns the content of the JSON and the lines of the Markdown.

    What is drawn or labelled already is kept (each by its own record).
    """
    from distill.synthetic import write_collection
    from teacher.pipeline import label
    from teacher.progress import Progress

    progress = Progress(1, title="draw")
    manifest = write_collection(
        folder / "clips", specs, report=lambda part, text: progress.update("clips", min(part, 0.999), text)
    )
    settings = folder / "label.yaml"
    save_config(settings, LabelConfig(workers=config.workers, optimise=config.optimise))
    done = label([manifest], folder / "labels", config=settings, since_config_change=True)
    rows = {spec.id: clip_row(spec, folder, done.failed, config) for spec in specs}
    by_part = {
        "as given": report.medians(rows, "given"), "first estimate of the scale": report.medians(rows, "before"),
        "solved": report.medians(rows),
    }  # fmt: skip
    errors = {name: _middle(rows, name) for name in ("initial_errors", "track_errors")}
    lines: list[tuple[str, Mapping[str, Any]]] = list(by_part.items())
    lines += [(f"`{clip}` solved", row["values"]) for clip, row in rows.items() if "failed" not in row]
    text = [*report.table(lines), "", *error_table(errors["initial_errors"], errors["track_errors"])]
    failed = report.failures({"rendered": rows})
    content = {
        "medians": by_part, "initial_errors": errors["initial_errors"], "track_errors": errors["track_errors"],
        "failures": failed, "rows": rows,
    }  # fmt: skip
    return content, [*text, "", f"{len(failed)} clips without a label:", "", *failed] if failed else text


def clip_row(spec: ClipSpec, folder: Path, failed: Mapping[str, str], config: BenchmarkConfig) -> dict[str, Any]:
    """Numbers of one labelled clip, and how wrong its initial values were beside those of the degraded track."""
    from distill.synthetic import make_clip
    from teacher.benchmark.track import usual_errors

    row: dict[str, Any] = {"clip": spec.id, "frames": spec.frames, "people": spec.people, "camera": spec.camera}
    if spec.id in failed:
        return row | {"failed": failed[spec.id]}
    clip = ClipFolder(folder / "labels" / "clips" / spec.id)
    problem = build_problem(clip)
    view = exact_view(make_clip(spec))
    truth = load_result(folder / "clips" / spec.id / "truth")
    evidence = make_evidence(problem, config.optimise)
    initial, _ = initial_results(problem, evidence, config.optimise)
    records = {stage: clip.record(stage) for stage in ("people", "cameras", "depth", "bodies", "contacts", "joint")}
    quality = clip.record("quality")
    return row | {
        "given": clip_values(truth, initial["given"]), "before": clip_values(truth, initial["before"]),
        "values": clip_values(truth, load_result(clip.stage_dir("joint"))),
        "initial_errors": initial_errors(problem, view),
        "track_errors": initial_errors(degraded_problem(view, usual_errors(spec, config.seed)), view),
        "stage_seconds": {stage: round(record.seconds, 2) for stage, record in records.items() if record},
        "seconds": round(records["joint"].seconds, 2) if records["joint"] else 0.0,
        "quality": quality.summary if quality else {},
    }  # fmt: skip


def _middle(rows: Mapping[str, Mapping[str, Any]], part: str) -> dict[str, dict[str, float]]:
    """Least, median and greatest over clips of each error."""
    solved = [row[part] for row in rows.values() if "failed" not in row]
    found = {}
    for name in sorted({name for errors in solved for name in errors}):
        values = [errors[name] for errors in solved if errors.get(name) is not None]
        if values:
            least, median, most = np.quantile(values, [0, 0.5, 1])
            found[name] = {"least": float(least), "median": float(median), "most": float(most)}
    return found


def error_table(rendered: Mapping[str, Mapping[str, float]], track: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Errors of initial values as Markdown: embedded initialisers on rendered frames beside the degraded track."""
    lines = ["| error of initial values | rendered: median (range) | degraded track: median (range) |", "|---|---|---|"]

    def cell(values: Mapping[str, float] | None) -> str:
        return f"{values['median']:.3g} ({values['least']:.3g} to {values['most']:.3g})" if values else "–"

    names = sorted(set(rendered) | set(track))
    return lines + [f"| `{name}` | {cell(rendered.get(name))} | {cell(track.get(name))} |" for name in names]
