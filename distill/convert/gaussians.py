"""The result's Gaussians as the `.ply` of 3D Gaussian splatting, as they are: they have that form already.

Kerbl et al., SIGGRAPH 2023; logit opacities, log scales, quaternions wxyz, colours as harmonics of degree 0
(docs/gaussian_files.md). Metres, axes of the result's world: the world of the `colmap` export.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

from distill.convert.source import Source
from distill.errors import FootfallError

FILE: Final = "gaussians.ply"
"""In a result, and in what is written."""
NEEDED: Final = frozenset(
    ("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2",
     "rot_0", "rot_1", "rot_2", "rot_3")
)  # fmt: skip
"""Properties without which no viewer shows Gaussians."""
HEAD_BYTES: Final = 1 << 16


def write_gaussians(source: Source, folder: Path) -> dict[str, Any]:
    """Write `gaussians.ply`.

    Raises:
        FootfallError: the result has none, or the file is no set of Gaussians.
    """
    path = source.folder / FILE
    if not path.is_file():
        raise FootfallError(
            f"{source.folder}: 3dgs", got=f"no {FILE}", expected="a result with Gaussians",
            do="label or run with Gaussians, or leave out 3dgs",
        )  # fmt: skip
    count = read_count(path)
    shutil.copyfile(path, folder / FILE)
    return {"gaussians": count}


def read_count(path: Path) -> int:
    """Number of Gaussians that a file states.

    Raises:
        FootfallError: it is no PLY of Gaussians.
    """
    with path.open("rb") as stream:
        head, end, _ = stream.read(HEAD_BYTES).partition(b"end_header\n")
    words = [line.split() for line in head.decode("ascii", "replace").splitlines()]
    counts = [int(word[2]) for word in words if word[:2] == ["element", "vertex"] and word[2].isdigit()]
    missing = NEEDED - {word[-1] for word in words if word[:1] == ["property"]}
    if not end or len(counts) != 1 or missing:
        raise FootfallError(
            str(path), got=f"no properties {sorted(missing)}" if end and missing else "no complete header",
            expected="a PLY of 3D Gaussians", do="make the result again",
        )  # fmt: skip
    return counts[0]
