"""`footfall evaluate --ablation`: one table of the benchmark, by one command, as JSON and Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

from distill.config import config_hash, config_to_dict
from distill.errors import FootfallError
from distill.files import write_json, write_text
from teacher.benchmark import report
from teacher.benchmark.cases import Case, quality_cases, robustness_cases, term_cases
from teacher.benchmark.provenance import provenance
from teacher.benchmark.runner import run_cases
from teacher.benchmark.track import clips_of
from teacher.optimise.config import OptimiseConfig

FORMAT: Final = "footfall-benchmark/1"
TABLES: Final = ("terms", "robustness", "quality", "rendered")
"""What can be asked for."""


@dataclass(kw_only=True)
class BenchmarkConfig:
    """`footfall evaluate --ablation`."""

    table: str = "terms"
    """terms: the ablation; robustness: wrong initial values; quality: how well the score ranks clips (and its fit);
    rendered: everything from pixels with the embedded initialisers."""
    clips: list[str] = field(default_factory=list)
    """Ids of clips, with * and ?; empty: all."""
    cases: list[str] = field(default_factory=list)
    """Names of rows, with * and ?; empty: all of the table."""
    workers: int = 2
    """Processes; each takes one clip at a time."""
    seed: int = 0
    """Of the errors that are drawn for each clip."""
    draws: int = 4
    """Solves per clip for the table quality."""
    keep_fit: bool = False
    """table=quality: write the fit into the program (`teacher/optimise/predicted_error.json`), for developers."""
    optimise: OptimiseConfig = field(default_factory=OptimiseConfig)
    """The solve, before a row changes it."""

    def __post_init__(self) -> None:
        if self.table not in TABLES:
            raise ValueError(f"table: got {self.table!r}, expected one of {', '.join(TABLES)}")
        if self.workers < 1 or self.draws < 1 or self.seed < 0:
            raise ValueError("workers and draws of at least 1 and a seed of 0 or more are expected")


def make_table(data: str, config: BenchmarkConfig, out: Path) -> str:
    """Run what is missing of a table and write it; returns the Markdown.

    Args:
        data: name of a collection, or the folder of one.
        config: which table, on which clips.
        out: the JSON file; rows go to a folder beside it, Markdown to the same name with .md.

    Raises:
        FootfallError: no such collection, clip or case.
    """
    specs = chosen(clips_of(data), config.clips, lambda spec: spec.id, "clips")
    folder = out.with_suffix("")
    if config.table == "rendered":
        from teacher.benchmark.rendered import rendered_table

        content, lines = rendered_table(specs, config, folder)
    else:
        cases = chosen(_cases(config), config.cases, lambda case: case.name, "cases")
        rows = run_cases(specs, cases, config.optimise, folder, seed=config.seed, workers=config.workers)
        content, lines = WRITERS[config.table](rows, cases)
        if config.keep_fit and "fit" in content:
            from teacher.benchmark.calibrate_quality import keep_fit

            keep_fit(content, data)
    head = {
        "format": FORMAT, "table": config.table, "data": data, "clips": [spec.id for spec in specs],
        "provenance": provenance(), "config_hash": config_hash(config), "config": config_to_dict(config),
    }  # fmt: skip
    markdown = "\n".join([*_heading(head, len(specs)), *lines]) + "\n"
    write_text(out.with_suffix(".md"), markdown)
    write_json(out, head | content)
    return markdown


def chosen(items: Sequence[Any], patterns: Sequence[str], name: Callable[[Any], str], key: str) -> list[Any]:
    """The items whose name matches a pattern; all if there is none.

    Raises:
        FootfallError: a pattern matches nothing.
    """
    for pattern in patterns:
        if not any(fnmatch(name(item), pattern) for item in items):
            names = ", ".join(name(item) for item in items)
            raise FootfallError(f"{key}={pattern}", got="no such name", expected=names, do="name some of these")
    return [item for item in items if not patterns or any(fnmatch(name(item), pattern) for pattern in patterns)]


def _cases(config: BenchmarkConfig) -> list[Case]:
    if config.table == "terms":
        return term_cases()
    return robustness_cases() if config.table == "robustness" else quality_cases(config.draws)


def _heading(head: Mapping[str, Any], clips: int) -> list[str]:
    made = head["provenance"]
    hardware, versions = made["hardware"], made["versions"]
    track = "rendered" if head["table"] == "rendered" else "degraded"
    return [
        f"# {head['table']}: {head['data']}, {track} track",
        "",
        f"Medians over {clips} clips. Commit {made['commit']}; {hardware['cpu']}, {hardware['cores']} cores, "
        f"GPU {hardware['gpu'] or 'none'}; Python {made['python']}, "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f"; settings {head['config_hash']}, seed {head['config']['seed']}.",
        "",
    ]


def _terms(rows: report.Rows, cases: Sequence[Case]) -> tuple[dict[str, Any], list[str]]:
    first = next(iter(rows))
    lines: list[tuple[str, Mapping[str, Any]]] = [
        ("initial state, as given", report.medians(rows[first], "given")),
        ("initial state, first estimate of the scale", report.medians(rows[first], "before")),
        *((case.about, report.medians(rows[case.name])) for case in cases),
        *((f"published: JOSH on SLOPER4D, {name}", values) for name, values in report.PUBLISHED.items()),
    ]
    checks = report.term_checks(rows) if "full" in rows else []
    return _written(rows, lines, checks)


def _robustness(rows: report.Rows, cases: Sequence[Case]) -> tuple[dict[str, Any], list[str]]:
    lines: list[tuple[str, Mapping[str, Any]]] = []
    for case in cases:
        lines.append((f"{case.about}: as given", report.medians(rows[case.name], "given")))
        lines.append((f"{case.about}: solved", report.medians(rows[case.name])))
    return _written(rows, lines, report.robustness_checks(rows))


def _quality(rows: report.Rows, cases: Sequence[Case]) -> tuple[dict[str, Any], list[str]]:
    from teacher.benchmark.calibrate_quality import quality_report

    return quality_report(rows)


def _written(
    rows: report.Rows, lines: Sequence[tuple[str, Mapping[str, Any]]], checks: Sequence[report.Check]
) -> tuple[dict[str, Any], list[str]]:
    failed = report.failures(rows)
    content = {
        "table_rows": [{"about": about, "medians": dict(values)} for about, values in lines],
        "checks": [check.to_dict() for check in checks],
        "failures": failed,
        "seconds": round(report.seconds(rows), 1),
        "rows": {case: dict(by) for case, by in rows.items()},
    }
    text = [*report.table(lines), "", *report.check_table(checks), ""]
    text += [f"{len(failed)} solves failed:", "", *failed, ""] if failed else []
    text.append(f"Seconds of all solves: {content['seconds']}.")
    return content, text


WRITERS: Final[Mapping[str, Callable[[report.Rows, Sequence[Case]], tuple[dict[str, Any], list[str]]]]] = {
    "terms": _terms, "robustness": _robustness, "quality": _quality,
}  # fmt: skip
"""Table -> what writes it."""
