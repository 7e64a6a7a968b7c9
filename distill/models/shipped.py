"""Students that come with the package, by name: `Student.from_pretrained("tiny")`, `--checkpoint tiny`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from distill.errors import FootfallError
from distill.models.registry import WEIGHTS_DIR
from distill.models.student_files import CONFIG

SHIPPED: Final = {"tiny": WEIGHTS_DIR / "tiny_student"}
"""Name -> folder. Each holds `config.json`, `model.safetensors` and its card."""


def is_shipped(name: str) -> bool:
    """Whether the name is known and its files are in this build."""
    return name in SHIPPED and (SHIPPED[name] / CONFIG).is_file()


def find_shipped(name: str) -> Path:
    """Folder of a shipped student.

    Raises:
        FootfallError: a name that is not known, or whose files are not in this build.
    """
    if is_shipped(name):
        return SHIPPED[name]
    known = sorted(SHIPPED)
    raise FootfallError(
        f"student {name!r}", got="not in this build" if name in known else "no such folder and no shipped student",
        expected=f"a folder, ORG/NAME on the Hub, or a shipped name ({', '.join(known)})",
        do="check the name, or train one: docs/training.md",
    )  # fmt: skip
