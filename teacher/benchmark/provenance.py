"""Where a number comes from: commit, versions, hardware."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any, Final

from distill.errors import is_installed
from teacher.workspace import code_commit

PACKAGES: Final = ("torch", "numpy", "scipy", "roma", "pycolmap", "smplx")
"""Packages whose versions can move a number."""
METHOD: Final = ("teacher/optimise", "distill/body", "distill/geometry", "distill/metrics", "distill/synthetic")
"""Folders whose code makes a row of the benchmark."""


def provenance() -> dict[str, Any]:
    """Commit, versions and hardware, JSON-able."""
    import torch

    return {
        "commit": code_commit(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES if is_installed(name)},
        "hardware": {
            "cpu": cpu_name(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
            "system": platform.platform(),
        },
    }


def cpu_name() -> str:
    """The processor as the system names it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def code_hash() -> str:
    """First 16 hexadecimal digits over the source of everything that makes a row."""
    root = Path(__file__).resolve().parent.parent.parent
    digest = hashlib.sha256()
    for path in sorted(path for folder in METHOD for path in (root / folder).rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
