"""From video to labels. `label` is the public face; `import teacher` is fast and needs no extra."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from teacher.pipeline import label

__all__ = ["label"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name == "label":
        return importlib.import_module("teacher.pipeline").label
    raise AttributeError(f"module 'teacher' has no attribute {name!r}")
