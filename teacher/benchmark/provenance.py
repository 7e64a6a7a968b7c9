"""Where a number comes from: commit, versions, hardware."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from pathlib import Path
from typing import Any, Final

from distill.errors import is_installed
from distill.provenance import code_commit, hardware

PACKAGES: Final = ("torch", "numpy", "scipy", "roma", "pycolmap", "smplx", "gsplat")
"""Packages whose versions can move a number."""
METHOD: Final = ("teacher/optimise", "distill/body", "distill/geometry", "distill/metrics", "distill/synthetic")
"""Folders whose code makes a row of the benchmark."""


def provenance() -> dict[str, Any]:
    """Commit, versions and hardware, JSON-able."""
    return {
        "commit": code_commit(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES if is_installed(name)},
        "hardware": hardware(),
    }


def code_hash() -> str:
    """First 16 hexadecimal digits over the source of everything that makes a row."""
    root = Path(__file__).resolve().parent.parent.parent
    digest = hashlib.sha256()
    for path in sorted(path for folder in METHOD for path in (root / folder).rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
