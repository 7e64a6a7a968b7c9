"""The registry of initialisers: which code may fill which slot, what it needs, and under which licence.

An initialiser is a function `run(clip, config, report) -> Outcome` that reads the stages named in `needs`
and writes the files of its slot (`teacher.stagefiles`) into `clip.stage_dir(slot)`. To add one:

    @register("depth", "my_depth", needs=("frames", "people", "cameras"), licence="MIT")
    def run(clip, config, report): ...

and name it in the label config (`depth.use=my_depth`). Heavy packages are imported inside `run`.
Every slot also takes `files:FOLDER` (`from_files`), and most take result files of other systems, `wham:PATH` and so on
(`teacher.readers`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from distill.errors import FootfallError
from teacher.workspace import ClipFolder

Slot = Literal["people", "cameras", "depth", "bodies", "contacts"]
SLOTS: Final = ("people", "cameras", "depth", "bodies", "contacts")
EMBEDDED: Final = (*(f"teacher.initialisers.{slot}" for slot in SLOTS), "teacher.initialisers.student")
"""Modules that register the embedded initialisers, and those that start from a student, when imported."""
Report = Callable[[float, str], None]
"""Called with the fraction done in [0, 1] and a short text, for progress."""


@dataclass(kw_only=True)
class Outcome:
    """What a stage tells its record."""

    summary: dict[str, Any] = field(default_factory=dict)
    """JSON-able numbers for tables."""
    weights: dict[str, Any] = field(default_factory=dict)
    """Weights used: id -> {"sha256": ..., "licence": ...}."""


class StageMissingError(Exception):
    """Raised by an optional stage that cannot run on this clip; the reason is recorded."""


@dataclass(kw_only=True, frozen=True)
class Initialiser:
    """A registry entry."""

    slot: str
    name: str
    needs: tuple[str, ...]
    licence: str
    run: Callable[[ClipFolder, Any, Report], Outcome]
    sources: Callable[[ClipFolder], str] = lambda clip: ""
    """Changes when the files change that it reads from outside the clip, so that its stage runs again."""
    gpu: bool = False
    """Whether it works on a GPU where there is one, and so belongs on a worker that has one."""


_REGISTRY: Final[dict[tuple[str, str], Initialiser]] = {}


def register(slot: Slot, name: str, *, needs: tuple[str, ...], licence: str, gpu: bool = False) -> Callable[[Any], Any]:
    """Decorator that adds an initialiser; a second one of the same name is a programming error."""

    def add(run: Callable[[ClipFolder, Any, Report], Outcome]) -> Callable[[ClipFolder, Any, Report], Outcome]:
        assert (slot, name) not in _REGISTRY, f"{slot}/{name} registered twice"
        _REGISTRY[slot, name] = Initialiser(slot=slot, name=name, needs=needs, licence=licence, run=run, gpu=gpu)
        return run

    return add


def modules_of_others() -> list[str]:
    """Modules outside this package that registered an initialiser: workers must import them too.

    Raises:
        FootfallError: one was registered by the script itself, which a worker cannot import.
    """
    modules = sorted({entry.run.__module__ for entry in _REGISTRY.values()})
    if "__main__" in modules:
        raise FootfallError(
            "a registered initialiser", got="one of the script itself", expected="one of a module of its own",
            do="move it into a module and import that, or label with in_process=true",
        )  # fmt: skip
    return [name for name in modules if not name.startswith("teacher.")]


def get_initialiser(slot: str, name: str) -> Initialiser:
    """Look up an initialiser by the name in the config, `files:FOLDER` or `FORMAT:PATH`.

    Raises:
        FootfallError: no such name; the message lists those that exist.
    """
    if name.startswith("files:"):
        from teacher.initialisers.from_files import files_initialiser

        return files_initialiser(slot, name.removeprefix("files:"))
    if ":" in name:
        from teacher.readers.registry import reader_initialiser

        return reader_initialiser(slot, *name.split(":", 1))
    for module in EMBEDDED:
        importlib.import_module(module)
    if (slot, name) not in _REGISTRY:
        known = sorted(n for s, n in _REGISTRY if s == slot)
        raise FootfallError(
            f"initialiser {slot}.use", got=repr(name), expected=f"one of {known}",
            do="correct the config, or register yours (docs/extending.md)",
        )  # fmt: skip
    return _REGISTRY[slot, name]
