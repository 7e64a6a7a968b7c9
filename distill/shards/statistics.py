"""What is in a folder of labels, in numbers and pictures: `statistics.html`, made from the manifest and the index."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from PIL import Image

from distill.files import atomic_path
from distill.pictures.overlay import colour_of, draw_skeleton
from distill.pictures.page import Page
from distill.shards.labels import whole_pieces
from distill.shards.rows import INDEX_NAME, Row, read_index
from distill.shards.schema import Sample
from distill.shards.tarred import from_piece

PAGE_NAME: Final = "statistics.html"
PICTURES_NAME: Final = "statistics"
MAX_EXAMPLES: Final = 6
MAX_SOURCES: Final = 30
"""Sources named one by one."""


@dataclass(kw_only=True)
class Histogram:
    """Counts in bins of equal width; what lies outside is counted in the first or the last."""

    low: float
    high: float
    bins: int
    unit: str
    counts: list[int] = field(default_factory=list)
    total: float = 0.0
    """Sum of all values."""

    def __post_init__(self) -> None:
        self.counts = [0] * self.bins

    def add(self, value: float) -> None:
        """Count a value."""
        place = int((value - self.low) / (self.high - self.low) * self.bins)
        self.counts[min(max(place, 0), self.bins - 1)] += 1
        self.total += value

    @property
    def mean(self) -> float | None:
        """Mean of all values; None of none."""
        return self.total / sum(self.counts) if sum(self.counts) else None


@dataclass(kw_only=True)
class Statistics:
    """Numbers of a folder of labels."""

    histograms: dict[str, Histogram]
    licences: dict[str, tuple[int, float]]
    """Licence -> clips, seconds."""
    sources: dict[str, tuple[int, float]]
    networks: dict[str, tuple[str, int]]
    """Network with a part in labels -> its licence, clips."""
    source_ids: int
    people: int
    """Labelled persons, counted once per clip."""
    blurred: int
    """Clips whose faces are blurred."""
    consent: int
    """Clips with a note on consent."""
    examples: list[Row]
    """Samples of different sources, evenly over the folder."""


def make_statistics(manifest: Mapping[str, Any], rows: Iterable[Row]) -> Statistics:
    """Count; `rows` are read once."""
    clips = manifest["clips"]
    shapes = {
        "quality weight of samples": Histogram(low=0, high=1, bins=10, unit=""),
        "stature of people": Histogram(low=1.2, high=2.2, bins=20, unit="m"),
        "speed of people": Histogram(low=0, high=4, bins=16, unit="m/s"),
        "speed of the camera": Histogram(low=0, high=4, bins=16, unit="m/s"),
        "turning of the camera": Histogram(low=0, high=90, bins=18, unit="degrees/s"),
        "people per clip": Histogram(low=0, high=8, bins=8, unit=""),
    }
    seen = set[str]()
    candidates: dict[str, Row] = {}
    for row in rows:
        shapes["quality weight of samples"].add(row.weight)
        shapes["speed of people"].add(row.speed_mps)
        shapes["speed of the camera"].add(row.camera_mps)
        shapes["turning of the camera"].add(row.camera_dps)
        if row.clip not in seen:
            seen.add(row.clip)
            shapes["people per clip"].add(row.people)
            for stature in row.stature_m:
                shapes["stature of people"].add(stature)
            candidates.setdefault(row.source_id, row)
    spread = list(candidates.values())
    step = max(1, len(spread) // MAX_EXAMPLES)
    networks: dict[str, tuple[str, int]] = {}
    for clip in clips.values():
        for name, facts in clip["weights"].items():
            networks[name] = (str(facts.get("licence", "unknown")), networks.get(name, ("", 0))[1] + 1)
    return Statistics(
        histograms=shapes, licences=_grouped(clips, "licence"), sources=_grouped(clips, "source"), networks=networks,
        source_ids=len({clip["source_id"] for clip in clips.values()}),
        people=sum(clip["people"] for clip in clips.values()),
        blurred=sum(bool(clip["blurred"]) for clip in clips.values()),
        consent=sum(bool(clip["consent"]) for clip in clips.values()), examples=spread[::step][:MAX_EXAMPLES],
    )  # fmt: skip


def _grouped(clips: Mapping[str, Any], name: str) -> dict[str, tuple[int, float]]:
    """Value -> clips, seconds; most seconds first."""
    groups: dict[str, list[float]] = defaultdict(list)
    for clip in clips.values():
        groups[clip[name]].append(clip["seconds"])
    order = sorted(groups.items(), key=lambda item: (-sum(item[1]), item[0]))
    return {value: (len(seconds), sum(seconds)) for value, seconds in order}


def write_statistics(out: Path, manifest: Mapping[str, Any]) -> Path:
    """Write the page of a folder of labels, and its pictures; those of before are replaced.

    Args:
        out: folder of labels whose manifest and index are written.
        manifest: its content.
    """
    with (out / "shards" / INDEX_NAME).open("rb") as stream:
        statistics = make_statistics(manifest, read_index(stream.readline, INDEX_NAME))
    shutil.rmtree(out / PICTURES_NAME, ignore_errors=True)  # nobody stays in a picture who is gone from the labels
    page = Page(f"Labels: {out.resolve().name}")
    totals = manifest["totals"]
    page.text(
        f"{totals['seconds'] / 3600:.3g} hours in {totals['clips']} clips of {statistics.source_ids} sources; "
        f"{totals['samples']} samples in {totals['shards']} shards, {totals['bytes'] / 1e6:.3g} MB; "
        f"{statistics.people} people (counted once per clip)."
    )
    page.text(
        f"Faces are blurred in {statistics.blurred} of {totals['clips']} clips; there is a note on consent for "
        f"{statistics.consent}."
    )
    _examples(page, out, statistics.examples)
    page.heading("How much of what")
    for name, histogram in statistics.histograms.items():
        page.raw(bars(name, histogram))
    page.heading("Licences and sources")
    page.table(("licence of clips", "clips", "hours"), _rows(statistics.licences))
    page.table(("source", "clips", "hours"), _rows(statistics.sources)[:MAX_SOURCES])
    if len(statistics.sources) > MAX_SOURCES:
        page.text(f"{len(statistics.sources) - MAX_SOURCES} more sources are in the index.")
    page.table(("network behind labels", "licence", "clips"), [(k, *v) for k, v in sorted(statistics.networks.items())])
    page.text(f"Schema version {manifest['schema_version']}, packed by {manifest.get('teacher_commit', 'unknown')}.")
    page.write(out / PAGE_NAME)
    return out / PAGE_NAME


def _rows(groups: Mapping[str, tuple[int, float]]) -> list[tuple[str, int, float]]:
    return [(name, clips, seconds / 3600) for name, (clips, seconds) in groups.items()]


def _examples(page: Page, out: Path, examples: Iterable[Row]) -> None:
    """Frames with skeletons, from the shards themselves: what a reader will get."""
    page.heading("Examples")
    for number, row in enumerate(examples):
        for _, piece in whole_pieces(out / "shards" / row.shard, [row]):
            if piece is not None:
                path = out / PICTURES_NAME / f"example-{number}.jpg"
                with atomic_path(path) as temporary:
                    draw_example(from_piece(piece)).save(temporary, quality=85)
                page.picture(path, f"{row.clip}: {row.source}, {row.licence}", base=out)


def draw_example(sample: Sample) -> Image.Image:
    """The middle frame of a sample with the skeletons of those who are seen in it."""
    frame = len(sample.frames) // 2
    image = Image.fromarray(sample.image(frame))
    for person in range(len(sample.arrays["stature"])):
        if sample.arrays["present"][frame, person]:
            draw_skeleton(image, sample.arrays["joints_cam"][frame, person], sample.arrays["K"], colour_of(person))
    return image


def bars(title: str, histogram: Histogram) -> str:
    """A histogram as a drawing within the page."""
    width, height, left = 40, 110, 8
    most = max(1, *histogram.counts)
    step = (histogram.high - histogram.low) / histogram.bins
    mean = "nothing" if histogram.mean is None else f"mean {histogram.mean:.3g} {histogram.unit}".strip()
    parts = [f'<text x="{left}" y="14" font-size="14">{title}: {mean}</text>']
    for place, count in enumerate(histogram.counts):
        x, tall = left + place * width, round(count / most * (height - 30))
        parts.append(f'<rect x="{x}" y="{height - tall + 8}" width="{width - 3}" height="{tall}" fill="#4285f4"/>')
        parts.append(f'<text x="{x}" y="{height + 22}" font-size="10">{histogram.low + place * step:.3g}</text>')
        if count:
            parts.append(f'<text x="{x}" y="{height - tall + 5}" font-size="9" fill="#555">{count}</text>')
    size = f'width="{2 * left + histogram.bins * width}" height="{height + 28}"'
    return f'<svg role="img" aria-label="{title}" style="max-width:100%" {size}>{"".join(parts)}</svg>'
