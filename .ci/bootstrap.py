"""Make the environment that `make demo` and `make test` need: .venv, packages, checks. Standard library only.

    python3 .ci/bootstrap.py EXTRA      (EXTRA is an extra of pyproject.toml: demo or dev)

Safe to run again: a stamp, written last, holds a hash of everything the environment was made from. While it
matches, nothing is done; after an interrupted or outdated install, pip goes on from what is there.
"""

from __future__ import annotations

import argparse
import ctypes.util
import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
MADE_FROM = ("pyproject.toml", "constraints.txt", ".ci/bootstrap.py", ".ci/torchvision_on_cpu.py")
INCLUDES = {"demo": ("demo", "dev"), "dev": ("dev",)}
"""Extra -> the extras that bring everything it needs."""
NATIVE = ("torch", "decord", "cv2", "pycolmap", "ai_edge_litert.interpreter", "embreex", "scipy.linalg")
"""Packages with compiled parts: what can be installed and still not load."""


def stop(problem: str, do: str) -> NoReturn:
    """Say what is wrong and what to do, and exit with 2."""
    print(f"footfall set-up: {problem}\n  {do}", file=sys.stderr)
    sys.exit(2)


def stamp_text() -> str:
    """Changes whenever the environment has to be made again; names its folder, because a moved one is broken."""
    digest = hashlib.sha256()
    for name in MADE_FROM:
        digest.update((ROOT / name).read_bytes())
    return f"{digest.hexdigest()} {VENV}\n"


def stamp_path(extra: str) -> Path:
    """File whose content says what the environment was made from."""
    return VENV / f"footfall-{extra}.stamp"


def is_ready(extra: str) -> bool:
    """Whether a finished install already brings `extra`."""
    stamps = (stamp_path(other) for other in INCLUDES[extra])
    return PYTHON.is_file() and any(stamp.is_file() and stamp.read_text() == stamp_text() for stamp in stamps)


def make_venv() -> None:
    """Make .venv, or make it anew if its Python does not run, is too old, or the folder was moved."""
    check = "import sys; print(sys.prefix); sys.exit(sys.version_info < (3, 11))"
    if PYTHON.is_file():
        found = subprocess.run([PYTHON, "-c", check], capture_output=True, text=True, check=False)
        if found.returncode == 0 and Path(found.stdout.strip()) == VENV:
            return
        print(f"footfall set-up: {VENV} does not run here; making it anew")
    if importlib.util.find_spec("ensurepip") is None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        stop(
            f"{sys.executable} cannot make environments (no ensurepip)",
            f"install its venv package, e.g. on Debian or Ubuntu: apt-get install python{version}-venv",
        )
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=False)
    if made.returncode != 0:
        stop(f"could not make {VENV}", "look at the message above; the folder must be writable")


def install(extra: str) -> None:
    """Install this checkout with `extra`, in the tested versions."""
    print(f"footfall set-up: installing footfall[{extra}] into {VENV} (some minutes the first time)", flush=True)
    command = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check"]
    command += ["-c", ROOT / "constraints.txt", "-e", f"{ROOT}[{extra}]"]
    if subprocess.run(command, check=False).returncode != 0:
        stop("pip could not install the packages", "look at pip's message above; the same command goes on from here")
    subprocess.run([PYTHON, ROOT / ".ci" / "torchvision_on_cpu.py"], check=True)


def check_system() -> None:
    """Load every compiled package once, and say which system library is missing if one does not load."""
    for package in NATIVE:
        loaded = subprocess.run([PYTHON, "-c", f"import {package}"], capture_output=True, text=True, check=False)
        if loaded.returncode != 0:
            reason = (loaded.stderr.strip().splitlines() or ["it crashed"])[-1]
            stop(f"{package} does not load: {reason}", "install the named system library, then run the same command")
    missing = [name for name in ("EGL", "GL") if ctypes.util.find_library(name) is None]
    if sys.platform == "linux" and missing:
        libraries = ", ".join(f"lib{name}" for name in missing)
        print(f"footfall set-up: no {libraries}: synthetic clips are drawn by rays (some four times slower).")
        print("  For OpenGL, e.g. on Debian or Ubuntu: apt-get install libegl1 libgl1 libgl1-mesa-dri")


def main() -> int:
    """Make the environment unless it is ready."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extra", choices=sorted(INCLUDES))
    extra = parser.parse_args().extra
    if sys.version_info < (3, 11):  # noqa: UP036 (this file is what tells users of an older Python)
        stop(f"Python {sys.version.split()[0]} is too old", "install Python 3.11 or later")
    if is_ready(extra):
        return 0
    make_venv()
    install(extra)
    check_system()
    stamp_path(extra).write_text(stamp_text())
    print("footfall set-up: ready")
    return 0


if __name__ == "__main__":
    sys.exit(main())
