"""Score labels or results against truth: which clip is which, averages over frames, a report with provenance.

    PREDICTIONS              one of                          DATA                   one of
      DIR/clips/ID/joint/    a labelling folder                DIR/ID/truth/        a collection
      DIR/ID/                results by clip                   DIR/truth/           one clip
      DIR/                   a single result                   FILE.jsonl           a manifest of a collection

What was not found is part of the score: a clip without a prediction and a person without a track are listed
as missed and lower `person_recall`; the averages of the other metrics are over what was found.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np

from distill.errors import FootfallError
from distill.evaluate_images import ImagesConfig
from distill.files import write_json, write_text
from distill.metrics.clip_scores import ClipScores, score_clip
from distill.metrics.inputs import Protocol
from distill.metrics.world import SEGMENT
from distill.results import load_result

REPORT_FORMAT: Final = "footfall-report/1"
TABLE: Final = {
    "w_mpjpe_mm": "W-MPJPE mm", "wa_mpjpe_mm": "WA-MPJPE mm", "pa_mpjpe_mm": "PA-MPJPE mm", "mpjpe_mm": "MPJPE mm",
    "rte_percent": "RTE %", "ate_m": "ATE m", "foot_sliding_mm": "FS mm", "ffr_percent": "FFR %", "jitter": "jitter",
    "contact_f1": "contact F1", "stature_error_cm": "stature cm", "person_recall": "recall",
}  # fmt: skip
"""Columns of the Markdown table; the JSON holds all metrics."""


@dataclass(kw_only=True)
class EvaluateConfig:
    """`footfall evaluate`."""

    protocol: str = "footfall"
    """Whose definitions where papers differ (docs/metrics.md): footfall, wham, tram, gvhmr, josh or human3r."""
    segment: int = SEGMENT
    """Frames that share one alignment in W- and WA-MPJPE."""
    contact_threshold: float = 0.5
    """Probability from which a contact site counts as touching."""
    images: ImagesConfig = field(default_factory=ImagesConfig)
    """Rendered frames against real ones: predictions that are folders of pictures, or `images.render=true`."""

    def __post_init__(self) -> None:
        if self.protocol not in get_args(Protocol):
            raise ValueError(f"protocol {self.protocol!r} is none of {', '.join(get_args(Protocol))}")
        if self.segment < 2 or not 0 < self.contact_threshold < 1:
            raise ValueError("evaluate: segment >= 2 and 0 < contact_threshold < 1 are expected")


@dataclass
class _Totals:
    """Sums over all clips."""

    samples: dict[str, list[Any]] = field(default_factory=dict)
    found: int = 0
    """(frame, person) pairs found."""
    there: int = 0
    """(frame, person) pairs there are."""
    extra: int = 0

    def add(self, samples: Mapping[str, Any]) -> None:
        for name, values in samples.items():
            self.samples.setdefault(name, []).append(values)


def evaluate(
    predictions: str | Path, data: str | Path, config: EvaluateConfig | None = None, *,
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Score predictions against truth.

    Args:
        predictions, data: see the module's docstring.
        provenance: JSON-able facts for the report (commit, versions).

    Returns:
        The report: {format, provenance, protocol, data, predictions, overall, clips, unknown_predictions}.
        `overall` holds person metrics averaged over frames of all clips, camera metrics over clips,
        `person_recall`, and `clips_evaluated` of `clips`.

    Raises:
        FootfallError: nothing to evaluate, or a folder that is damaged or of another kind.
    """
    settings = config or EvaluateConfig()
    motion_settings = {name: value for name, value in asdict(settings).items() if name != "images"}
    truths = find_truths(Path(data))
    found = find_predictions(Path(predictions), list(truths))
    totals, clips = _Totals(), []
    for clip_id, folder in truths.items():
        clips.append(_evaluate_clip(clip_id, folder, found.get(clip_id), settings, totals))
    evaluated = [clip for clip in clips if clip["status"] == "evaluated"]
    if not evaluated:
        raise FootfallError(
            f"predictions {predictions}", got=f"clips {sorted(found)}", expected=f"some of {sorted(truths)}",
            do="pass the truth of these very clips as --data",
        )  # fmt: skip
    overall: dict[str, Any] = {
        name: _finite(float(np.concatenate(values).mean())) for name, values in sorted(totals.samples.items())
    }
    overall["person_recall"] = totals.found / totals.there if totals.there else None
    overall["extra_person_frames"] = totals.extra
    overall["clips"], overall["clips_evaluated"] = len(clips), len(evaluated)
    return {
        "format": REPORT_FORMAT,
        "provenance": dict(provenance or {}),
        "protocol": {**motion_settings, "definitions": "docs/metrics.md", "joints": "24 of SMPL, kinematic chain",
                     "root": "joint 0", "averages": "people: over frames; cameras: over clips"},
        "predictions": str(predictions),
        "data": str(data),
        "overall": overall,
        "clips": clips,
        "unknown_predictions": sorted(set(found) - set(truths)),
    }  # fmt: skip


def find_truths(data: Path) -> dict[str, Path]:
    """Clip id -> folder of its true result.

    Raises:
        FootfallError: there is none.
    """
    if data.is_file():
        return {clip_id: _truth_of(data, clip_id) for clip_id in _manifest_ids(data)}
    if (data / "truth" / "meta.json").is_file():
        return {data.name: data / "truth"}
    truths = {meta.parent.parent.name: meta.parent for meta in sorted(data.glob("*/truth/meta.json"))}
    if not truths:
        got = "no ID/truth/meta.json in it" if data.is_dir() else "no such folder"
        raise FootfallError(
            f"--data {data}", got=got, expected="a collection with truth (datasets/synthetic makes one)",
            do="check the path",
        )  # fmt: skip
    return truths


def _manifest_ids(manifest: Path) -> list[str]:
    try:
        rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines() if line.strip()]
        return [str(row["id"]) for row in rows]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise FootfallError(
            f"--data {manifest}", got=error, expected="a manifest: one JSON object with an id per line",
            do="pass the collection's folder or its manifest.jsonl",
        ) from error  # fmt: skip


def _truth_of(manifest: Path, clip_id: str) -> Path:
    folder = manifest.parent / clip_id / "truth"
    if not (folder / "meta.json").is_file():
        raise FootfallError(
            f"--data {manifest}, clip {clip_id}", got="no truth beside it", expected=f"{folder}",
            do="make the collection again, or take the clip out of the manifest",
        )  # fmt: skip
    return folder


def find_predictions(predictions: Path, clip_ids: Sequence[str]) -> dict[str, Path]:
    """Clip id -> folder of its predicted result.

    Args:
        clip_ids: ids of the truth; the id of a single result is taken from its meta ("clip"), its folder's
            name, or, if the truth has one clip only, from there.

    Raises:
        FootfallError: no result in it.
    """
    if (predictions / "meta.json").is_file():
        named = [load_result(predictions).meta.get("clip"), predictions.resolve().name, *clip_ids[: len(clip_ids) == 1]]
        return {next((str(name) for name in named if name in clip_ids), predictions.resolve().name): predictions}
    if (predictions / "clips").is_dir():
        found = {meta.parent.parent.name: meta.parent for meta in sorted(predictions.glob("clips/*/joint/meta.json"))}
        kind = "a labelling folder without any solved clip"
    else:
        found = {meta.parent.name: meta.parent for meta in sorted(predictions.glob("*/meta.json"))}
        kind = "no result in it" if predictions.is_dir() else "no such folder"
    if not found:
        raise FootfallError(
            f"predictions {predictions}", got=kind,
            expected="a checkpoint, a folder written by footfall label or run, or a folder of such results",
            do="check the path",
        )  # fmt: skip
    return found


def _evaluate_clip(
    clip_id: str, truth_folder: Path, folder: Path | None, settings: EvaluateConfig, totals: _Totals
) -> dict[str, Any]:
    """One clip's part of the report; its samples go into `totals`."""
    truth = load_result(truth_folder)
    present = truth.motion.present.sum(0)
    totals.there += int(present.sum())
    if folder is None:
        return {"id": clip_id, "status": "missed", "reason": "no prediction", "frames": len(truth.cameras.timestamps)}
    protocol: Any = settings.protocol
    scores = score_clip(
        truth, load_result(folder), protocol=protocol, segment=settings.segment,
        contact_threshold=settings.contact_threshold,
    )  # fmt: skip
    if scores.shared_frames == 0:
        reason = "no predicted frame at the time of a true one"
        return {"id": clip_id, "status": "missed", "reason": reason, "frames": len(truth.cameras.timestamps)}
    person_samples: dict[str, list[Any]] = {}
    for match, person in scores.people:
        totals.found += int(match.frames.sum())
        totals.add(person.samples)
        for name, per_frame in person.samples.items():
            person_samples.setdefault(name, []).append(per_frame)
    # One value per clip: a long clip must not drown the others' cameras.
    totals.add({name: [float(per_frame.mean())] for name, per_frame in scores.camera.samples.items()})
    totals.add(scores.overlap.samples)
    totals.extra += scores.extra_person_frames
    values = {name: float(np.concatenate(parts).mean()) for name, parts in sorted(person_samples.items())}
    values.update(scores.camera.means(), **scores.overlap.means())
    found = sum(int(match.frames.sum()) for match, _ in scores.people)
    values["person_recall"] = found / max(int(present.sum()), 1)
    return {
        "id": clip_id,
        "status": "evaluated",
        "prediction": str(folder),
        "frames": len(truth.cameras.timestamps),
        "frames_shared": scores.shared_frames,
        "extra_person_frames": scores.extra_person_frames,
        "values": {name: _finite(value) for name, value in values.items()},
        "undefined": {**scores.camera.undefined, **scores.overlap.undefined},
        "people": _people_rows(scores, truth.motion.ids, present),
    }


def _people_rows(scores: ClipScores, ids: Any, present: Any) -> list[dict[str, Any]]:
    return [
        {
            "id": int(ids[match.true]),
            "status": "missed" if match.predicted is None else "evaluated",
            "predicted_person": match.predicted,
            "frames": int(present[match.true]),
            "frames_found": int(match.frames.sum()),
            "values": {name: _finite(value) for name, value in person.means().items()},
            "undefined": person.undefined,
        }
        for match, person in scores.people
    ]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def write_report(path: Path, report: Mapping[str, Any]) -> Path:
    """Write a report as JSON and, beside it, as a Markdown table; returns the Markdown file's path."""
    markdown = path.with_suffix(".md")
    write_text(markdown, markdown_table(report))
    write_json(path, report)
    return markdown


def markdown_table(report: Mapping[str, Any]) -> str:
    """The report as a Markdown table: a row per clip and one for all."""
    protocol, overall = report["protocol"], report["overall"]
    facts = ", ".join(f"{name} {value}" for name, value in report["provenance"].items())
    lines = [
        f"# {Path(report['predictions']).name} against {Path(report['data']).name}",
        "",
        f"Protocol {protocol['protocol']}, segments of {protocol['segment']} frames; definitions in "
        f"{protocol['definitions']}. {overall['clips_evaluated']} of {overall['clips']} clips evaluated. {facts}",
        "",
        "| clip | " + " | ".join(TABLE.values()) + " |",
        "|---|" + "---:|" * len(TABLE),
    ]
    for clip in report["clips"]:
        cells = _cells(clip["values"]) if clip["status"] == "evaluated" else ["missed", *[""] * (len(TABLE) - 1)]
        lines.append(f"| {clip['id']} | " + " | ".join(cells) + " |")
    lines.append("| **all** | " + " | ".join(_cells(overall)) + " |")
    return "\n".join(lines) + "\n"


def _cells(values: Mapping[str, Any]) -> list[str]:
    return ["–" if values.get(name) is None else f"{values[name]:.3g}" for name in TABLE]
