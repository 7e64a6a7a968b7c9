"""What a collection will take: hours of machines, and money, before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from distill.errors import FootfallError
from distill.files import read_json
from teacher.collect.config import EstimateConfig

SURVEY_SECONDS: Final = 2500.0
"""Core seconds that the survey takes per hour of video (docs/collections.md)."""
LABEL_SECONDS: Final = 17_700.0
"""Core seconds that labelling takes per hour of video (docs/benchmark.md), where no benchmark row is found."""
ROW_KEY: Final = "processor_seconds_per_video_hour"
"""Where the totals of a benchmark row say it."""
RESULTS: Final = Path("benchmarks") / "results"


@dataclass(kw_only=True)
class Estimate:
    """Hours and costs of some hours of video."""

    video_hours: float
    survey_hours: float
    """Core hours."""
    label_hours: float
    """Core hours."""
    survey_cost: float
    label_cost: float
    """On cores."""
    gpu_hours: float
    gpu_cost: float
    """Of the same work on rented GPUs, whose cores do most of it."""
    basis: str
    """Where the labelling speed comes from."""


def estimate(video_hours: float, config: EstimateConfig) -> Estimate:
    """What surveying and labelling so many hours of video takes.

    Raises:
        FootfallError: the benchmark row that was named is missing or says nothing.
    """
    seconds, basis = label_speed(config.label_row)
    survey_hours, label_hours = video_hours * SURVEY_SECONDS / 3600, video_hours * seconds / 3600
    gpu_hours = label_hours / config.cores_per_gpu
    return Estimate(
        video_hours=video_hours, survey_hours=survey_hours, label_hours=label_hours,
        survey_cost=survey_hours * config.core_price, label_cost=label_hours * config.core_price,
        gpu_hours=gpu_hours, gpu_cost=gpu_hours * config.gpu_price, basis=basis,
    )  # fmt: skip


def label_speed(row: str) -> tuple[float, str]:
    """Core seconds per hour of video, and who says so.

    Raises:
        FootfallError: the row that was named is missing or says nothing.
    """
    files = [Path(row)] if row else sorted(RESULTS.glob("label*.json"))
    for file in files:
        content = read_json(file)
        totals = content.get("totals") if isinstance(content, dict) else None
        seconds = totals.get(ROW_KEY) if isinstance(totals, dict) else None
        if isinstance(seconds, int | float) and seconds > 0:
            return float(seconds), str(file)
    if row:
        raise FootfallError(
            f"estimate.label_row={row}", got=f"no totals.{ROW_KEY}", expected="a result of footfall bench label",
            do="run it, or leave label_row empty",
        )  # fmt: skip
    return LABEL_SECONDS, "docs/benchmark.md"
