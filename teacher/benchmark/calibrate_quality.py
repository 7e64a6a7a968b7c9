"""The quality score against truth: fit on half of the clips, check on the other half, ranks and what rejecting brings.

Ridge regression of log W-MPJPE on the logarithms of the signs, with coefficients of measures kept from being
negative (`predicted_error`). Clips, not solves, are split, so that no clip is on both sides; both halves are then
predicted by the fit of the other, and these predictions are judged. The fit that is kept uses all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np
from scipy.optimize import lsq_linear
from scipy.stats import spearmanr

from distill.files import write_json
from teacher.benchmark.provenance import provenance
from teacher.benchmark.report import Check, Rows, check_table, failures, seconds
from teacher.optimise.predicted_error import CIRCUMSTANCES, FILE, MEASURES, Fit, logarithms, within
from teacher.stagefiles import Array

RIDGE: Final = 3.0
"""Weight of the squared coefficients; the signs have unit spread, one solve counts 1."""
REJECTED: Final = 0.2
"""Part of the clips that is rejected."""
METRIC: Final = "w_mpjpe_mm"
"""The error that is predicted."""
FEWEST: Final = 8
"""With fewer solves nothing is fitted."""


def fit_error(rows: Sequence[Mapping[str, Any]]) -> Fit:
    """Fit the formula of `predicted_error` to solved rows with signs and true errors.

    Raises:
        ValueError: too few rows.
    """
    if len(rows) < FEWEST:
        raise ValueError(f"{len(rows)} solves are too few to fit the score; {FEWEST} or more are expected")
    names = (*MEASURES, *CIRCUMSTANCES)
    values = np.stack([logarithms(row["quality"]["signs"], names) for row in rows])
    known = np.isfinite(values)
    used = known.mean(0) > 0.5  # a sign that most clips lack says little
    values = values[:, used]
    names = tuple(name for name, use in zip(names, used, strict=True) if use)
    centre = np.nanmean(values, axis=0)
    spread = np.maximum(np.nanstd(values, axis=0), 1e-3)
    design = within((values - centre) / spread)
    target = np.log([row["values"][METRIC] for row in rows])
    constant = float(target.mean())
    least = [-np.inf if name in CIRCUMSTANCES else 0.0 for name in names]
    stacked = np.vstack((design, np.sqrt(RIDGE) * np.eye(len(names))))
    answer = lsq_linear(stacked, np.concatenate((target - constant, np.zeros(len(names)))), (least, np.inf))
    return Fit(
        names=names, centre=_numbers(centre), spread=_numbers(spread), slope=_numbers(answer.x),
        constant=round(constant, 5),
    )  # fmt: skip


def _numbers(values: Array) -> tuple[float, ...]:
    return tuple(round(float(value), 5) for value in values)


def crossed(rows: Sequence[Mapping[str, Any]]) -> Array:
    """[N] errors predicted for each row by a fit that never saw its clip, mm."""
    clips = sorted({row["clip"] for row in rows})
    half = {clip: number % 2 for number, clip in enumerate(clips)}
    predicted = np.zeros(len(rows))
    for side in (0, 1):
        fit = fit_error([row for row in rows if half[row["clip"]] != side])
        for index, row in enumerate(rows):
            if half[row["clip"]] == side:
                predicted[index] = fit.predict_mm(row["quality"]["signs"])
    return predicted


def judged(true: Array, predicted: Array) -> dict[str, float]:
    """How good a score is: rank correlation, and how much lower the mean error is without the worst fifth by score."""
    kept = np.argsort(predicted)[: len(true) - round(REJECTED * len(true))]
    best = np.sort(true)[: len(kept)]
    return {
        "spearman": _rank_correlation(true, predicted),
        "mean_lowered_percent": float(100 * (1 - true[kept].mean() / true.mean())),
        "mean_lowered_by_truth_percent": float(100 * (1 - best.mean() / true.mean())),
        "mean_mm": float(true.mean()),
        "kept_mean_mm": float(true[kept].mean()),
    }


def _rank_correlation(true: Array, predicted: Array) -> float:
    """Spearman's; 0 for a score that is the same for all."""
    return float(spearmanr(true, predicted).statistic) if np.ptp(predicted) > 0 and np.ptp(true) > 0 else 0.0


def quality_report(rows: Rows) -> tuple[dict[str, Any], list[str]]:
    """Content of the JSON and lines of the Markdown of `table=quality`."""
    solved = [row for by in rows.values() for row in by.values() if "failed" not in row and row["values"].get(METRIC)]
    true = np.array([row["values"][METRIC] for row in solved])
    crossed_mm = crossed(solved)
    held_out = judged(true, crossed_mm)
    stored = judged(true, np.array([row["quality"]["predicted_w_mpjpe_mm"] for row in solved]))
    by_clip = {
        clip: _rank_correlation(true[of], crossed_mm[of])
        for clip in sorted({row["clip"] for row in solved})
        if (of := [i for i, row in enumerate(solved) if row["clip"] == clip]) and len(of) >= 4
    }
    weight = np.array([row["quality"]["weight"] for row in solved])
    gates = judged(true, -weight)
    fit = fit_error(solved)
    checks = [
        Check(about="Spearman of predicted and true W-MPJPE, held-out clips", measured=held_out["spearman"],
              target=0.8),
        Check(about="mean W-MPJPE lowered by rejecting the worst 20 %, held-out clips, %",
              measured=held_out["mean_lowered_percent"], target=25.0),
    ]  # fmt: skip
    failed = failures(rows)
    content = {
        "solves": len(solved), "clips": len({row["clip"] for row in solved}), "held_out": held_out,
        "stored_fit": stored, "gates_weight": gates, "spearman_within_clips": by_clip, "fit": asdict(fit),
        "checks": [check.to_dict() for check in checks], "failures": failed, "seconds": round(seconds(rows), 1),
        "rows": {case: dict(by) for case, by in rows.items()},
    }  # fmt: skip
    lines = [
        f"{len(solved)} solves of {content['clips']} clips. Held out: each half of the clips by the fit of the other.",
        "", "| score | Spearman | mean W-MPJPE mm | without the worst 20 % | lowered by | by truth |",
        "|---|---:|---:|---:|---:|---:|",
        *(_judged_line(name, values) for name, values in (
            ("predicted error, held out", held_out), ("predicted error, stored fit", stored),
            ("weight of the gates", gates))),
        "", *check_table(checks), "", "| sign | coefficient |", "|---|---:|",
        *(f"| `{name}` | {slope:.3f} |" for name, slope in sorted(zip(fit.names, fit.slope, strict=True),
                                                                 key=lambda pair: -abs(pair[1])) if slope),
        "", f"{len(failed)} solves failed.", "", *failed,
    ]  # fmt: skip
    return content, lines


def keep_fit(content: Mapping[str, Any], data: str) -> None:
    """Write the fit of a report to where the program reads it, with where it came from and how it was judged."""
    write_json(FILE, {
        "data": data, "solves": content["solves"], "clips": content["clips"], "held_out": content["held_out"],
        "made_by": provenance(), "fit": content["fit"],
    })  # fmt: skip


def _judged_line(name: str, values: Mapping[str, float]) -> str:
    return (
        f"| {name} | {values['spearman']:.2f} | {values['mean_mm']:.0f} | {values['kept_mean_mm']:.0f} | "
        f"{values['mean_lowered_percent']:.0f} % | {values['mean_lowered_by_truth_percent']:.0f} % |"
    )
