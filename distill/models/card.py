"""The card of a student: `README.md`, made from its `config.json` and from what is known about its run.

The same facts give the same card, letter for letter. It claims no result that was not measured and names what was not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from distill.config import config_to_dict, read_meanings
from distill.evaluate import TABLE
from distill.models.licences import card_licence, licence_chain
from distill.models.prediction import PairPrediction, Prompts

_TEMPLATE: Final = Path(__file__).with_name("card.md")
_TASK: Final = "People, camera and scene from video, in metres"
_MAX_SOURCES: Final = 30
"""Sources named one by one; the record holds all."""
_STREAMED: Final = ("w_mpjpe_mm", "wa_mpjpe_mm")
"""Names of `distill.held_out.METRICS`, which cannot be imported here: it imports the student."""


def make_card(config: Mapping[str, Any], record: Mapping[str, Any] | None) -> str:
    """The card's text.

    Args:
        config: content of the student's `config.json`.
        record: `training_record.make_record`, or None when no run was recorded.
    """
    backbone = config["backbone"]
    data = record["data"] if record else None
    links = licence_chain(backbone["licence"], data)
    unknown_data = record is not None and data is None
    licence = {} if unknown_data else card_licence(links)
    return str(
        ModelCard.from_template(
            _metadata(config, record, licence),
            template_path=str(_TEMPLATE),
            config=config,
            backbone=backbone,
            record=record,
            data=data,
            held_out=record["held_out_data"] if record else None,
            licence=_licence_words(licence),
            links=links,
            inputs=[("images", "[B, 3, H, W]", _images_words(config["preprocessing"])), *field_rows(Prompts)],
            outputs=field_rows(PairPrediction),
            sources=_source_rows(data),
            settings=changed_settings(record["settings"]) if record else [],
            pair_values=_held_out_rows(record, streamed=False),
            streamed_values=_held_out_rows(record, streamed=True),
            columns=list(TABLE.values()),
            reports=[(report, _report_cells(report)) for report in (record["reports"] if record else [])],
            gaps=gaps(config, record),
        )
    )


def field_rows(schema: type[Any]) -> list[tuple[str, str, str]]:
    """Rows (names, shape, meaning) of a dataclass of tensors, from the docstrings under its fields.

    A field without one shares that of the field before.
    """
    meanings = read_meanings(schema)
    rows: list[tuple[str, str, str]] = []
    for name in schema.__dataclass_fields__:
        text = meanings.get(name)
        if text is None:
            names, shape, meaning = rows.pop()
            rows.append((f"{names}, {name}", shape, meaning))
        elif text.startswith("["):
            shape, _, meaning = text.partition("]")
            rows.append((name, f"{shape}]", meaning.strip()))
        else:
            rows.append((name, "", text))
    return [(names, shape, meaning.replace("|", "\\|")) for names, shape, meaning in rows]


def changed_settings(settings: Mapping[str, Any]) -> list[str]:
    """Settings that are not the defaults of this release, as `key=value`."""
    from distill.train_config import TrainConfig  # it imports the student

    return [f"{key}={json.dumps(value)}" for key, value in _differences(settings, config_to_dict(TrainConfig()), "")]


def _differences(now: Any, default: Any, path: str) -> list[tuple[str, Any]]:
    if isinstance(now, Mapping) and isinstance(default, Mapping):
        prefix = f"{path}." if path else ""
        return [row for key in now for row in _differences(now[key], default.get(key), f"{prefix}{key}")]
    return [] if now == default else [(path, now)]


def gaps(config: Mapping[str, Any], record: Mapping[str, Any] | None) -> list[str]:
    """What these weights were not shown to do, from the facts; each a sentence."""
    found = ["Faces, fingers and clothing are not predicted."]
    if config["backbone"]["sha256"].startswith("seed:"):
        found.append("The backbone's weights are random: it was never trained.")
    if record is None:
        return [*found, "How these weights were trained was not recorded, and nothing was measured with them."]
    data, starts = record["data"], record["starts"]
    if record["steps"] and record["step"] < record["steps"]:
        found.append(f"Training stopped at step {record['step']} of {record['steps']}.")
    if not starts:
        found.append("Command, commit and hardware of the training were not recorded.")
    if any("+changes" in start["commit"] for start in starts):
        found.append("The code differed from the commit named here.")
    if data is None:
        found.append("No manifest lay beside the shards: hours, sources and licences of the data are not known.")
    elif all("synthetic" in source for source in data["sources"]):
        found.append("Every clip was drawn by a program: no number here says anything about real video.")
    if data is not None:
        found.append("Labels come from optimisation where a teacher made them, and share its mistakes.")
    if record["last_held_out"] is None:
        found.append("Nothing was held out during training.")
    if not record["reports"]:
        found.append("No evaluation in world coordinates (`footfall evaluate`) is recorded here.")
    for report in record["reports"]:
        if missed := len(report["missed"]):
            found.append(f"{report['name']}: {missed} of the clips gave nothing to score, which lowers recall only.")
        if report["weights_sha256"] is None:
            found.append(f"{report['name']}: the report does not name the hash of the weights that it scored.")
    return found


def _metadata(config: Mapping[str, Any], record: Mapping[str, Any] | None, licence: Mapping[str, Any]) -> ModelCardData:
    """The front matter, for machines."""
    data = record["data"] if record else None
    facts: dict[str, Any] = {
        "format": config["format"],
        "weights_sha256": config["weights_sha256"],
        "parameters": config["parameters"],
        "backbone": config["backbone"],
        "body_model": config["student"]["body_model"],
    }
    if record is not None:
        facts["training"] = {"step": record["step"], "seconds": record["seconds"]}
    if data is not None:
        facts["data"] = {
            "hours": round(data["seconds"] / 3600, 4), "clips": data["clips"], "licences": sorted(data["licences"]),
        }  # fmt: skip
    results = [
        EvalResult(
            task_type="other", task_name=_TASK, dataset_type=report["data"], dataset_name=report["data"],
            metric_type=name, metric_name=label, metric_value=report["overall"][name],
        )
        for report in (record["reports"] if record else [])
        for name, label in TABLE.items()
        if report["overall"].get(name) is not None
    ]  # fmt: skip
    return ModelCardData(
        library_name="footfall",
        tags=["human-motion", "camera-motion", "4d-reconstruction"],
        model_name=record["run"] if record and results else None,
        eval_results=results or None,
        footfall=facts,
        **licence,
    )


def _licence_words(licence: Mapping[str, str]) -> str:
    if not licence:
        return "not stated: a link of the chain below is unknown, so its owner has to decide"
    if licence["license"] == "other":
        return "the terms of all links of the chain below, together"
    return "Apache-2.0"


def _images_words(preprocessing: Mapping[str, Any]) -> str:
    return (
        f"RGB in 0 to 1, one frame each (`student.encode`); sides are multiples of {preprocessing['multiple']}, the "
        f"longer about {preprocessing['long_side']} pixels (`student.network_size`)"
    )


def _source_rows(data: Mapping[str, Any] | None) -> list[str]:
    if data is None:
        return []
    rows = [
        f"| {source} | {', '.join(facts['licences'])} | {facts['clips']} | {facts['seconds'] / 3600:.3f} |"
        for source, facts in sorted(data["sources"].items(), key=lambda item: -item[1]["seconds"])
    ]
    left = len(rows) - _MAX_SOURCES
    return rows if left <= 0 else [*rows[:_MAX_SOURCES], f"| {left} more, in `training.json` | | | |"]


def _held_out_rows(record: Mapping[str, Any] | None, *, streamed: bool) -> list[tuple[str, str]]:
    """(name with its unit, value) of the last evaluation in the loop; loss terms stay in the log.

    Args:
        record: of the run, or None.
        streamed: errors of streamed samples in the world, else those of frame pairs.
    """
    row = (record or {}).get("last_held_out") or {}
    found = {name.removeprefix("held_out/"): value for name, value in row.items() if name.startswith("held_out/")}
    return [
        (name, plain_number(value))
        for name, value in found.items()
        if not name.startswith("loss") and (name in _STREAMED) == streamed
    ]


def _report_cells(report: Mapping[str, Any]) -> list[str]:
    values = [report["overall"].get(name) for name in TABLE]
    return ["not defined" if value is None else plain_number(value) for value in values]


def plain_number(value: float) -> str:
    """About four digits, never an exponent."""
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
