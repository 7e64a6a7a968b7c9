"""The result's Gaussians as the `.ply` of 3D Gaussian splatting (`distill.render.ply` has the layout).

Metres, axes of the result's world: the same world as the `colmap` export. The file is read and written anew, so that
what arrives is complete and finite.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from distill.convert.source import Source
from distill.errors import FootfallError
from distill.render.ply import read_gaussians, write_gaussians

FILE: Final = "gaussians.ply"
"""In a result, and in what is written."""


def write_3dgs(source: Source, folder: Path) -> dict[str, Any]:
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
    gaussians = read_gaussians(path)
    write_gaussians(folder / FILE, gaussians)
    return {"gaussians": len(gaussians)}
