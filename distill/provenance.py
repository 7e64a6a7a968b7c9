"""Where a number or a file comes from: commit, versions, hardware."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from distill.errors import is_installed


@functools.cache
def code_commit() -> str:
    """Commit of this checkout (with "+changes" if it differs), or the installed version."""
    root = Path(__file__).resolve().parent.parent
    try:
        run = functools.partial(subprocess.run, cwd=root, capture_output=True, text=True, check=True, timeout=10)
        if (root / ".git").exists():
            commit = run(["git", "rev-parse", "--short=12", "HEAD"]).stdout.strip()
            return commit + ("+changes" if run(["git", "status", "--porcelain", "-uno"]).stdout.strip() else "")
    except (OSError, subprocess.SubprocessError):
        pass
    return f"footfall {installed_version()}"


def installed_version() -> str:
    """Version of this package, under whichever name it was installed (packages/onnx holds the runner alone)."""
    try:
        return importlib.metadata.version("footfall")
    except importlib.metadata.PackageNotFoundError:
        return importlib.metadata.version("footfall-onnx")


def cpu_name() -> str:
    """The processor as the system names it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def hardware() -> dict[str, Any]:
    """Processor, cores this process may use, first GPU (None without one) and system, JSON-able."""
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": _gpu_name(),
        "system": platform.platform(),
    }


def _gpu_name() -> str | None:
    if not is_installed("torch"):  # `distill.runner` does without
        return None
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def versions(*packages: str) -> dict[str, str]:
    """Version of Python, and of each of these packages that is installed."""
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in packages if is_installed(name)
    }
