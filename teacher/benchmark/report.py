"""Rows of a benchmark as medians over clips, as checks against what was promised, and as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

Rows = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Case -> clip -> row (`runner`)."""
COLUMNS: Final = {
    "w_mpjpe_mm": "W-MPJPE mm", "wa_mpjpe_mm": "WA-MPJPE mm", "pa_mpjpe_mm": "PA-MPJPE mm", "ate_m": "ATE m",
    "rte_percent": "RTE %", "foot_sliding_mm": "FS mm", "ffr_percent": "FFR %", "jitter_ratio": "jitter ×",
    "focal_error_percent": "focal %", "contact_f1": "contact F1", "peak_ratio": "peak ×", "person_recall": "recall",
}  # fmt: skip
"""Columns of the tables."""
PUBLISHED: Final = {
    "full": {"w_mpjpe_mm": 438.3, "wa_mpjpe_mm": 120.0, "ate_m": 3.21, "foot_sliding_mm": 28.2, "ffr_percent": 2.9},
    "- L_c1": {"w_mpjpe_mm": 1361.4, "ate_m": 22.47, "foot_sliding_mm": 47.3, "ffr_percent": 92.9},
    "- human optimisation": {"w_mpjpe_mm": 486.4, "ate_m": 3.28, "foot_sliding_mm": 35.6, "ffr_percent": 3.2},
    "- L_c2": {"w_mpjpe_mm": 448.3, "ate_m": 3.26, "foot_sliding_mm": 68.2, "ffr_percent": 3.2},
}  # fmt: skip
"""JOSH (its variant 3) on SLOPER4D, arXiv 2501.02158 v2; the unit of its ATE is uncertain."""


@dataclass(kw_only=True)
class Check:
    """One promise and what became of it."""

    about: str
    measured: float | None
    target: float
    at_least: bool = True
    """Whether the measured number must not be below the target; otherwise not above."""

    @property
    def met(self) -> bool:
        """Whether the promise holds; not if there is no number."""
        if self.measured is None:
            return False
        return self.measured >= self.target if self.at_least else self.measured <= self.target

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        sign = ">=" if self.at_least else "<="
        return {"about": self.about, "measured": self.measured, "target": f"{sign} {self.target:g}", "met": self.met}


def medians(rows: Mapping[str, Mapping[str, Any]], part: str = "values") -> dict[str, float | None]:
    """Median over clips of every number of a case; clips without that number do not count."""
    solved = [row[part] for row in rows.values() if "failed" not in row]
    names = {name for values in solved for name in values}
    found = {name: [v[name] for v in solved if v.get(name) is not None] for name in sorted(names)}
    return {name: float(f"{statistics.median(values):.5g}") if values else None for name, values in found.items()}


def ratio(a: float | None, b: float | None) -> float | None:
    """a / b, rounded; None where either is missing or b is 0."""
    return None if a is None or not b else round(a / b, 3)


def paired(rows: Rows, case: str, reference: str, metric: str) -> float | None:
    """Median over clips of a case's number over the reference's on the same clip."""
    pairs = [
        ratio(row["values"].get(metric), rows[reference][clip]["values"].get(metric))
        for clip, row in rows.get(case, {}).items()
        if "failed" not in row and "failed" not in rows.get(reference, {}).get(clip, {"failed": ""})
    ]
    known = [value for value in pairs if value is not None]
    return round(statistics.median(known), 3) if known else None


def term_checks(rows: Rows) -> list[Check]:
    """What issue 3 promises of the table of terms: ratios of medians over clips."""
    full, before, given = (medians(rows["full"], part) for part in ("values", "before", "given"))
    checks = []
    for name, start in (("as given", given), ("first estimate", before)):
        for metric, target in (("w_mpjpe_mm", 2.5), ("wa_mpjpe_mm", 2.0), ("ate_m", 3.0)):
            about = f"{COLUMNS[metric]}: initial state ({name}) over full"
            checks.append(Check(about=about, measured=ratio(start.get(metric), full.get(metric)), target=target))
    presets = (("", "ours"), ("josh_", "JOSH's weights"), ("josh_terms_", "JOSH's terms"))
    for prefix, words in presets:
        if f"{prefix}no_contact_align" not in rows or f"{prefix}full" not in rows:
            continue
        whole = medians(rows[f"{prefix}full"])

        def over(case: str, metric: str, prefix: str = prefix, whole: Mapping[str, Any] = whole) -> float | None:
            return ratio(medians(rows.get(f"{prefix}{case}", {})).get(metric), whole.get(metric))

        align = medians(rows[f"{prefix}no_contact_align"])
        checks += [
            Check(about=f"{words}: W-MPJPE without L_c1 over full", measured=over("no_contact_align", "w_mpjpe_mm"),
                  target=2.5),
            Check(about=f"{words}: FFR % without L_c1", measured=align.get("ffr_percent"), target=50.0),
            Check(about=f"{words}: FS without L_c2 over full", measured=over("no_contact_still", "foot_sliding_mm"),
                  target=1.8),
            Check(about=f"{words}: W-MPJPE without body unknowns over full",
                  measured=over("no_bodies", "w_mpjpe_mm"), target=1.0),
        ]  # fmt: skip
    if "no_contact" in rows:
        none = medians(rows["no_contact"])
        worse = ratio(none.get("w_mpjpe_mm"), full.get("w_mpjpe_mm"))
        checks.append(Check(about="ours: W-MPJPE without every contact term over full", measured=worse, target=2.5))
        checks.append(
            Check(about="ours: FFR % without every contact term", measured=none.get("ffr_percent"), target=50)
        )
    return checks


def robustness_checks(rows: Rows) -> list[Check]:
    """What issue 3 promises of wrong initial values; ratios are taken clip by clip."""
    checks = [
        Check(about=f"focal length error %, {words}", target=4.0, at_least=False,
              measured=medians(rows.get(case, {})).get("focal_error_percent"))
        for case, words in (("focal_long", "begun 20 % too long"), ("focal_short", "begun 20 % too short"))
    ]  # fmt: skip
    for case, reference, words, most in (
        ("contacts_flipped", "contacts_right", "20 % of contact labels flipped", 1.15),
        ("outliers", "usual", "30 % outlier matches", 1.20),
        ("unit_0.2", "unit_1", "scene 0.2 times its size", 1.02),
        ("unit_5", "unit_1", "scene 5 times its size", 1.02),
    ):
        measured = paired(rows, case, reference, "w_mpjpe_mm")
        checks.append(Check(about=f"W-MPJPE, {words}, over {reference}", measured=measured, target=most,
                            at_least=False))  # fmt: skip
    lost = medians(rows.get("lost", {}))
    checks += [
        Check(about="track lost for 20 frames: part of them bridged", measured=lost.get("gap_recall"), target=1.0),
        Check(
            about="track lost: confidence elsewhere over that in the gap", measured=lost.get("gap_doubt"), target=1.5
        ),
    ]
    for case in ("usual", "clap", "kick"):
        measured = medians(rows.get(case, {})).get("jitter_ratio")
        checks.append(Check(about=f"jitter over truth's, {case}", measured=measured, target=1.5, at_least=False))
    for case in ("clap", "kick"):
        peak = medians(rows.get(case, {})).get("peak_ratio")
        checks.append(Check(about=f"peak of joint speed over truth's, {case}", measured=peak, target=0.85))
        checks.append(
            Check(about=f"peak of joint speed over truth's, {case}", measured=peak, target=1.15, at_least=False)
        )
    return checks


def cells(values: Mapping[str, Any], columns: Sequence[str]) -> str:
    """One row of a Markdown table without its first cell."""
    return " | ".join("–" if values.get(name) is None else f"{values[name]:.3g}" for name in columns)


def table(lines: Sequence[tuple[str, Mapping[str, Any]]], columns: Mapping[str, str] = COLUMNS) -> list[str]:
    """A Markdown table: a label and its numbers per line."""
    head = ["| | " + " | ".join(columns.values()) + " |", "|---|" + "---:|" * len(columns)]
    return head + [f"| {label} | {cells(values, list(columns))} |" for label, values in lines]


def check_table(checks: Sequence[Check]) -> list[str]:
    """Promises as Markdown."""
    found = [check.to_dict() for check in checks]
    lines = ["| promise | target | measured | |", "|---|---:|---:|---|"]
    for c in found:
        measured = "–" if c["measured"] is None else f"{c['measured']:.3g}"
        lines.append(f"| {c['about']} | {c['target']} | {measured} | {'met' if c['met'] else 'not met'} |")
    return lines


def failures(rows: Rows) -> list[str]:
    """One line for every solve that failed."""
    return [
        f"* {case}, {clip}: {row['failed']}" for case, by in rows.items() for clip, row in by.items() if "failed" in row
    ]


def seconds(rows: Rows, what: Callable[[Mapping[str, Any]], float] = lambda row: row["seconds"]) -> float:
    """Seconds of all solves together."""
    return sum(what(row) for by in rows.values() for row in by.values() if "failed" not in row)
