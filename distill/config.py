"""Configuration: nested keyword-only dataclasses, strict YAML, `key=value` overrides, validated first.

Defaults live in the dataclasses, so an installed wheel needs no file. A dataclass may define
`__post_init__` and raise `FootfallError` or `ValueError` there; nothing runs before that has passed.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from distill.errors import FootfallError
from distill.files import write_text
from distill.untrusted import check_plain, check_yaml

Config = TypeVar("Config")


def load_config(schema: type[Config], path: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Build a config dataclass from its defaults, a YAML file and `key=value` overrides, in that order.

    Args:
        schema: a dataclass whose fields all have defaults.
        path: a YAML file, or None for the defaults.
        overrides: dotted assignments such as "optimise.steps=200".

    Raises:
        FootfallError: no such file, not YAML, an unknown or misspelt key, a wrong type or value.
    """
    source = str(path) if path is not None else "config"
    do = "mend that key; the fields and their defaults are listed in docs/configuration.md"
    try:
        merged = OmegaConf.structured(schema)
        if path is not None:
            if not path.is_file():
                raise FootfallError(
                    f"config {path}", got="no such file", expected="a YAML file", do="check the path after --config"
                )
            check_yaml(path)
            merged = OmegaConf.merge(merged, OmegaConf.load(path))
        for override in overrides:
            if "=" not in override:
                raise FootfallError(
                    f"override {override!r}", got="no '='", expected="key=value", do="write e.g. optimise.steps=200"
                )
            check_plain(override)
        merged = OmegaConf.merge(merged, OmegaConf.from_dotlist(list(overrides)))
        built = OmegaConf.to_object(merged)
    except FootfallError:
        raise
    except (
        OmegaConfBaseException, YAMLError, ArithmeticError, AttributeError, LookupError, OSError, RecursionError,
        TypeError, ValueError,
    ) as error:  # fmt: skip
        reason = str(error).split("\n")[0]
        raise FootfallError(f"config {source}", got=reason, expected="keys and values as documented", do=do) from error
    assert isinstance(built, schema)
    return built


def read_yaml(path: Path) -> Any:
    """The values of a YAML file, without a schema.

    Raises:
        FootfallError: not YAML.
    """
    try:
        return OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
        reason = str(error).split("\n")[0]
        raise FootfallError(f"config {path}", got=reason, expected="YAML", do="restore or remove it") from error


def config_to_dict(config: Any) -> dict[str, Any]:
    """A config dataclass as plain JSON-able values."""
    return json.loads(json.dumps(asdict(config)))


def config_from_dict(schema: type[Config], values: dict[str, Any]) -> Config:
    """Undo `config_to_dict`, with the same checks as `load_config`."""
    built = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), values))
    assert isinstance(built, schema)
    return built


def config_hash(config: Any) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a config's canonical JSON."""
    return hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode()).hexdigest()[:16]


def save_config(path: Path, config: Any) -> None:
    """Write the complete config as YAML, atomically; it loads again with `load_config`."""
    write_text(path, OmegaConf.to_yaml(OmegaConf.structured(config)))


def read_meanings(schema: type[Any]) -> dict[str, str]:
    """Field -> the docstring under it, in one line, from the source of a dataclass."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(schema)))
    definition = tree.body[0]
    assert isinstance(definition, ast.ClassDef)
    meanings: dict[str, str] = {}
    previous = ""
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            previous = node.target.id
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and previous:
            meanings[previous] = " ".join(str(node.value.value).split())
    return meanings
