"""The student and all that it shares with the teacher. The names here are the public face; `import distill` is fast."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill.body import load_body_model
    from distill.models.backbones import load_backbone
    from distill.models.student import Student

    __version__: str

__all__ = ["Student", "__version__", "load_backbone", "load_body_model"]

_HOMES = {
    "Student": "distill.models.student",
    "load_backbone": "distill.models.backbones",
    "load_body_model": "distill.body",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562): torch takes seconds, `--help` should not."""
    if name == "__version__":
        return importlib.import_module("distill.provenance").installed_version()
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'distill' has no attribute {name!r}")
