"""Write docs/configuration.md: every setting with its type, default and meaning, read from the dataclasses.

    .venv/bin/python .ci/configuration_page.py

The meaning of a field is the docstring under it; a test compares the page with the code.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from distill.config import read_meanings

PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"
SCHEMAS: Final = {
    "footfall label": "teacher.config:LabelConfig",
    "accelerate launch train_student.py": "distill.train_config:TrainConfig",
    "footfall run": "teacher.run_video:RunConfig",
    "footfall serve": "teacher.serve.config:ServeConfig",
    "footfall evaluate": "distill.evaluate:EvaluateConfig",
    "footfall evaluate --ablation": "teacher.benchmark.tables:BenchmarkConfig",
    "footfall bench teacher": "teacher.benchmark.speed:BenchConfig",
    "footfall bench student": "teacher.benchmark.student_speed:Bench",
    "footfall bench stream": "teacher.benchmark.stream_speed:Bench",
    "footfall bench label": "teacher.benchmark.label_speed:Bench",
    "footfall bench data": "teacher.benchmark.data_speed:Bench",
    "footfall bench render": "teacher.benchmark.render_speed:Bench",
    "footfall export": "distill.export.config:ExportConfig",
    "footfall-onnx": "distill.runner.pipeline:RunnerConfig",
    "footfall convert": "distill.convert:ConvertConfig",
    "footfall view": "distill.viewer:ViewConfig",
    "footfall push": "distill.hub_push:PushConfig",
    "footfall push (labels)": "distill.shards.publish:PublishConfig",
    "footfall verify": "distill.shards.verify:VerifyConfig",
    "footfall forget": "teacher.forget:ForgetConfig",
    "python datasets/web_video/prepare_web_video.py": "teacher.collect.config:CollectConfig",
    "python datasets/synthetic/prepare_synthetic.py": "distill.synthetic.spec:ClipSpec",
}
"""Command -> the dataclass of its settings."""

HEAD: Final = """\
# Every setting

Settings are written `key=value` after a command, or into the YAML file after `--config`; later words win. An unknown or
misspelt key, a wrong type or a value out of range stops the command before any work starts. Defaults are complete: no
file is needed. Where a default is a list, write it as `key=[1,2]`.

This page is made from the code by `.ci/configuration_page.py`.
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(make_page(), encoding="utf-8")


def make_page() -> str:
    """The whole page, Markdown."""
    parts = [HEAD]
    for command, place in SCHEMAS.items():
        module, name = place.split(":")
        schema = getattr(importlib.import_module(module), name)
        parts.append(f"\n## `{command}`\n\n| key | type | default | meaning |\n|---|---|---|---|\n")
        parts += [f"{row}\n" for row in rows_of(schema(), "")]
    return "".join(parts)


def summary_of(schema: type[Any]) -> str:
    """First paragraph of a dataclass's docstring."""
    return " ".join((inspect.getdoc(schema) or "").split("\n\n")[0].split())


def rows_of(config: Any, prefix: str) -> Iterator[str]:
    """Table rows of a config and of the configs inside it, keys dotted."""
    kinds, meanings = typing.get_type_hints(type(config)), read_meanings(type(config))
    for field in dataclasses.fields(config):
        key, value = prefix + field.name, getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield f"| **`{key}.`** | | | **{summary_of(type(value))}** |"
            yield from rows_of(value, f"{key}.")
        else:
            meaning = escape(meanings.get(field.name, ""))
            yield f"| `{key}` | {type_shown(kinds[field.name])} | `{shown(value)}` | {meaning} |"


def type_shown(kind: Any) -> str:
    """A type as people read it: the values of a Literal, "float or null"."""
    if typing.get_origin(kind) is typing.Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(kind))
    if isinstance(kind, types.UnionType):
        return " or ".join(type_shown(part) for part in typing.get_args(kind))
    if kind is type(None):
        return "null"
    return escape(str(kind) if typing.get_args(kind) else kind.__name__)


def shown(value: Any) -> str:
    """A default as it is written on a command line."""
    if isinstance(value, tuple | list):
        return "[" + ",".join(shown(item) for item in value) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return escape(str(value)) if value != "" else '""'


def escape(text: str) -> str:
    """Text for a table's cell."""
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main()
