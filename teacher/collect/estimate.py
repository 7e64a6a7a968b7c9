"""What a collection will take: hours of machines, and money, before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from distill.errors import FootfallError
from distill.files import read_json
from teacher.collect.config import EstimateConfig

SURVEY_SECONDS: Final = 1400.0
"""Processor time that the survey takes per hour of video (docs/collections.md)."""
LABEL_SECONDS: Final = 90_000.0
"""Processor time that labelling takes per hour of video (docs/collections.md), where no benchmark row is found."""
ROW_KEY: Final = "seconds_per_video_hour"
"""Where a benchmark row says it."""
RESULTS: Final = Path("benchmarks") / "results"


@dataclass(kw_only=True)
class Estimate:
    """Hours and costs."""

    video_hours: float
    survey_hours: float
    label_hours: float
    """Of all the video given: the most that labelling can take."""
    survey_cost: float
    label_cost: float
    basis: str
    """Where the labelling speed comes from."""


def estimate(video_hours: float, config: EstimateConfig) -> Estimate:
    """What surveying and labelling so many hours of video takes.

    Raises:
        FootfallError: the benchmark row that was named is missing or says nothing.
    """
    seconds, basis = label_speed(config.label_row)
    survey_hours, label_hours = video_hours * SURVEY_SECONDS / 3600, video_hours * seconds / 3600
    return Estimate(
        video_hours=video_hours, survey_hours=survey_hours, label_hours=label_hours,
        survey_cost=survey_hours * config.survey_price, label_cost=label_hours * config.price, basis=basis,
    )  # fmt: skip


def label_speed(row: str) -> tuple[float, str]:
    """Seconds per hour of video, and who says so.

    Raises:
        FootfallError: the row that was named is missing or says nothing.
    """
    files = [Path(row)] if row else sorted(RESULTS.glob("*label*.json"))
    for file in files:
        found = _find(read_json(file))
        if found is not None:
            return found, str(file)
    if row:
        raise FootfallError(
            f"estimate.label_row={row}", got=f"no {ROW_KEY}", expected="a result of footfall bench label",
            do="run it, or leave label_row empty",
        )  # fmt: skip
    return LABEL_SECONDS, "docs/collections.md, one core"


def _find(value: Any) -> float | None:
    """The first positive number under `ROW_KEY`, however deep."""
    if isinstance(value, dict):
        number = value.get(ROW_KEY)
        if isinstance(number, int | float) and not isinstance(number, bool) and number > 0:
            return float(number)
        value = list(value.values())
    if isinstance(value, list):
        return next((found for entry in value if (found := _find(entry)) is not None), None)
    return None
