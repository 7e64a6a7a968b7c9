"""What a new user does: build the wheel, install it into an empty environment, run a video, look at the files.

    python benchmarks/wheel_check.py [--work FOLDER] [--extras people,onnx]

Nothing of this checkout is on the path of what runs. Versions are those of constraints.txt. Ends with one line of
numbers as JSON; exits with 1 if a file is missing or holds nonsense. The installation takes most of the time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any, Final

from distill.results import load_result
from distill.synthetic import ClipSpec, write_clip

ROOT: Final = Path(__file__).resolve().parent.parent
SPEC: Final = ClipSpec(id="walk", seed=12, frames=30, fps=20.0, people=1, camera="walk")
FILES: Final = ("cameras.npz", "latency.json", "meta.json", "motion.npz", "scene.ply")
"""What a result without Gaussians holds at least."""


def build(work: Path) -> Path:
    """The wheel of this checkout."""
    call([sys.executable, "-m", "build", "--wheel", "--outdir", str(work / "dist"), str(ROOT)])
    (wheel,) = (work / "dist").glob("*.whl")
    return wheel


def install(work: Path, wheel: Path, extras: str) -> Path:
    """A new environment with the wheel; the folder of its programs."""
    venv.create(work / "venv", with_pip=True, clear=True)
    programs = work / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    wanted = f"footfall[{extras}] @ {wheel.as_uri()}" if extras else f"footfall @ {wheel.as_uri()}"
    call([str(programs / "python"), "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), wanted])
    return programs


def call(command: list[str], folder: Path | None = None) -> str:
    """Run a program outside the checkout, without its paths; what it printed.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=folder, env=kept, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-4000:], sep="\n", file=sys.stderr)
        done.check_returncode()
    return done.stdout


def check(work: Path, wheel: Path, programs: Path) -> dict[str, Any]:
    """Run the one command and read what it wrote.

    Raises:
        AssertionError: the result is not what it should be.
    """
    write_clip(work / "clip", SPEC)
    video = work / "clip" / "video.mp4"
    began = time.perf_counter()
    said = call([str(programs / "footfall"), "run", str(video), "--out", str(work / "result")], work)
    seconds = time.perf_counter() - began
    missing = [name for name in FILES if not (work / "result" / name).is_file()]
    assert not missing, f"run wrote no {', '.join(missing)}"
    result = load_result(work / "result")  # checks shapes and that everything is finite
    assert len(result.cameras.timestamps) == SPEC.frames, result.cameras.timestamps
    assert result.motion.present.any(), "nobody was found"
    where = call(
        [str(programs / "python"), "-c", "import distill, teacher; print(distill.__file__, teacher.__file__)"], work
    )
    assert str(ROOT) not in where, where
    told = call([str(programs / "footfall"), "doctor"], work)
    assert "run it with --checkpoint tiny" in told, told
    return {
        "wheel_mb": round(wheel.stat().st_size / 1e6, 1),
        "frames": len(result.cameras.timestamps),
        "people": len(result.motion.ids),
        "run_seconds": round(seconds, 1),
        "said": said.strip().splitlines()[-1],
    }


def main(arguments: list[str] | None = None) -> int:
    """Build, install, run, check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder to work in, kept; default: a temporary one")
    parser.add_argument("--extras", default="", help="extras of footfall to install, separated by commas")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        work = (args.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        wheel = build(work)
        programs = install(work, wheel, args.extras)
        numbers = {"install_seconds": round(time.perf_counter() - began, 1), **check(work, wheel, programs)}
    print(json.dumps(numbers))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
