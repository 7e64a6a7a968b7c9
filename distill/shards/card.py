"""The card of published labels: `README.md`, made from the manifest. The same manifest gives the same card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from huggingface_hub import DatasetCardData

from distill.models.licences import PERMISSIVE, normal

CARD_NAME: Final = "README.md"
MAX_SOURCES: Final = 50
"""Sources named one by one; the manifest has all."""


def make_card(manifest: Mapping[str, Any]) -> str:
    """The card's text: front matter for machines, then counts, licences, sources, networks, quality and consent."""
    clips, totals = manifest["clips"], manifest["totals"]
    decisions = Counter(row["quality"].get("decision", "unknown") for row in clips.values())
    networks: dict[str, tuple[str, int]] = {}
    for row in clips.values():
        for name, facts in row["weights"].items():
            networks[name] = (str(facts.get("licence", "unknown")), networks.get(name, ("", 0))[1] + 1)
    sources = _grouped(clips, "source")
    parts = [
        f"---\n{_metadata(manifest).to_yaml()}\n---",
        "# Labels: cameras, bodies and scene in metres",
        "Made by footfall: a teacher solved every clip for the camera's path, everybody's body and contacts, and the "
        "depth of the background, all in one metric world. Samples are chunks of at most 32 frames, in webdataset tar "
        "files; `manifest.json` and `shards/index.jsonl` say what is where.",
        _table(("", ""), [
            ("hours", f"{totals['seconds'] / 3600:.3f}"), ("clips", totals["clips"]), ("samples", totals["samples"]),
            ("frames", totals["frames"]), ("shards", totals["shards"]), ("MB", f"{totals['bytes'] / 1e6:.1f}"),
            ("sources that may withdraw", len({row["source_id"] for row in clips.values()})),
            ("labelled people (once per clip)", sum(row["people"] for row in clips.values())),
            ("clips with blurred faces", sum(bool(row["blurred"]) for row in clips.values())),
            ("clips with a note on consent", sum(bool(row["consent"]) for row in clips.values())),
            ("quality", ", ".join(f"{count} {name}" for name, count in sorted(decisions.items()))),
            ("teacher", ", ".join(sorted({row["teacher_commit"] for row in clips.values()}))),
            ("schema version", manifest["schema_version"]),
        ]),
        "## Licences\n\nOf the clips, which the frames in the samples are part of:",
        _table(("licence", "clips", "hours"), _grouped(clips, "licence")),
        "## Sources",
        _table(("source", "clips", "hours"), sources[:MAX_SOURCES]),
        f"{len(sources) - MAX_SOURCES} more are in `manifest.json`." if len(sources) > MAX_SOURCES else "",
        "## Networks with a part in the labels",
        _table(("network", "licence", "clips"), [(name, *row) for name, row in sorted(networks.items())]),
        "## Reading\n\n```python\nfrom distill.shards.reader import ShardReader, find_shards\n\n"
        'shards = find_shards("hf://datasets/ORG/NAME")      # or s3://, https://, a folder\n'
        "for sample in ShardReader(shards.urls, seed=0, rank=0, world=1):\n"
        '    print(sample.key, sample.meta["source_id"], sample.arrays["joints_cam"].shape)\n```',
        "## Withdrawal\n\nEvery sample names its source (`source_id`). If a source withdraws, its samples leave the "
        "shards in the next revision; who keeps a copy is asked to fetch that revision and to delete the old one.",
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def _metadata(manifest: Mapping[str, Any]) -> DatasetCardData:
    frames = manifest["totals"]["samples"]
    bounds = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    size = next((name for bound, name in bounds if frames < bound), "n>1M")
    return DatasetCardData(
        pretty_name="Labels made by footfall", size_categories=[size],
        tags=["webdataset", "human-motion", "camera-motion", "4d-reconstruction", "footfall"],
        footfall={"format": manifest["format"], "schema_version": manifest["schema_version"]},
        **_licence(manifest["licences"]),
    )  # fmt: skip


def _licence(licences: list[str]) -> dict[str, Any]:
    """One known licence is named; of several, the card's table holds."""
    if len(licences) == 1 and normal(licences[0]) in PERMISSIVE:
        return {"license": normal(licences[0])}
    return {"license": "other", "license_name": "terms-of-each-source", "license_link": "README.md"}


def _grouped(clips: Mapping[str, Any], name: str) -> list[tuple[object, ...]]:
    """(value, clips, hours), most hours first."""
    seconds: dict[str, list[float]] = {}
    for row in clips.values():
        seconds.setdefault(row[name], []).append(row["seconds"])
    order = sorted(seconds.items(), key=lambda item: (-sum(item[1]), item[0]))
    return [(value, len(found), f"{sum(found) / 3600:.3f}") for value, found in order]


def _table(header: tuple[str, ...], rows: list[Any]) -> str:
    """A Markdown table; what comes from manifests cannot break out of its cell."""
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: object) -> str:
    return " ".join(str(value).replace("|", "\\|").replace("<", "&lt;").split())
