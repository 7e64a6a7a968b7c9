"""`key=value` words into nested dataclasses, with the standard library alone.

The commands of `footfall` read theirs with `distill.config`, which needs OmegaConf; a runner need not have it.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from distill.errors import FootfallError

Config = TypeVar("Config")


def with_settings(config: Config, words: Sequence[str]) -> Config:
    """A config with some of its fields changed, such as "stream.focal_px=900".

    Raises:
        FootfallError: a word without "=", an unknown field, or a value that does not fit.
    """
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise FootfallError(f"setting {word!r}", got="no '='", expected="key=value", do="write e.g. long_side=480")
        try:
            config = _changed(config, key.split("."), text)
        except (ValueError, TypeError) as error:
            raise FootfallError(
                f"setting {word!r}", got=error, expected="a field and a value that fits it",
                do="see docs/configuration.md, footfall-onnx",
            ) from error  # fmt: skip
    return config


def _changed(config: Any, path: list[str], text: str) -> Any:
    """`dataclasses.replace` at the end of a path, which checks the whole config again."""
    name, *rest = path
    if not is_dataclass(config) or name not in {field.name for field in fields(config)}:
        raise ValueError(f"no field {name!r}")
    old = getattr(config, name)
    if is_dataclass(old) or rest:
        return replace(config, **{name: _changed(old, rest or [""], text)})  # type: ignore[type-var]
    return replace(config, **{name: _value(text, old)})  # type: ignore[type-var]


def _value(text: str, old: Any) -> Any:
    if isinstance(old, str):
        return text
    if isinstance(old, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{text!r} is neither true nor false")
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
    except SyntaxError as error:
        raise ValueError(f"{text!r} is no value") from error
    kinds = (int, float) if isinstance(old, float) else type(old)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise ValueError(f"{text!r} is no {type(old).__name__}")
    return float(value) if isinstance(old, float) else value
