"""Gaussians in the .ply layout of 3D Gaussian splatting, which viewers such as SuperSplat open.

One element `vertex`, binary little endian, properties of type float in the order of `PROPERTIES`. The file holds what
Kerbl et al. (2023) optimise, not what is drawn:

    opacity  = logit(opacity)               scale_* = ln(standard deviation in metres)
    f_dc_*   = (rgb - 1/2) / Y00            Y00 = 1 / (2 sqrt(pi)), the spherical harmonic of degree 0
    rot_*    = quaternion wxyz, unit        n* = 0, never used
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from distill.errors import FootfallError
from distill.files import MAX_ARRAY_BYTES, atomic_path
from distill.render.gaussians import Gaussians

Array = NDArray[Any]
PROPERTIES: Final = (
    "x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2",
    "rot_0", "rot_1", "rot_2", "rot_3",
)  # fmt: skip
HARMONIC_0: Final = 0.5 / math.sqrt(math.pi)
LEAST_OPACITY: Final = 1e-6
"""Opacities are written as if at least this, and at most 1 minus this: the logits of 0 and 1 are infinite."""
_MAX_HEADER: Final = 1 << 16
_TYPES: Final = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "<i2", "int16": "<i2", "ushort": "<u2",
    "uint16": "<u2", "int": "<i4", "int32": "<i4", "uint": "<u4", "uint32": "<u4", "float": "<f4", "float32": "<f4",
    "double": "<f8", "float64": "<f8",
}  # fmt: skip
"""Scalar types of PLY."""


def write_gaussians(path: Path, gaussians: Gaussians) -> None:
    """Write Gaussians (metres, any frame) atomically, 68 bytes each.

    Raises:
        FootfallError: a value that is not finite, a scale that is not positive, a quaternion without length.
    """
    problem = find_problem(gaussians)
    if problem is not None:
        raise FootfallError(
            f"Gaussians for {path.name}", got=problem, expected="finite values, positive scales",
            do="do not write what a diverged optimisation left",
        )  # fmt: skip
    values = {name: getattr(gaussians, name).detach().cpu().double().numpy() for name in _FIELDS}
    opacity = values["opacities"].clip(LEAST_OPACITY, 1 - LEAST_OPACITY)
    table = np.zeros((len(opacity), len(PROPERTIES)), "<f4")
    table[:, 0:3] = values["means"]
    table[:, 6:9] = (values["colors"] - 0.5) / HARMONIC_0
    table[:, 9] = np.log(opacity / (1 - opacity))
    table[:, 10:13] = np.log(values["scales"])
    table[:, 13:17] = values["quats"] / np.linalg.norm(values["quats"], axis=1, keepdims=True)
    header = ["ply", "format binary_little_endian 1.0", "comment footfall: metres, harmonics of degree 0"]
    header += [f"element vertex {len(table)}", *(f"property float {name}" for name in PROPERTIES), "end_header"]
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write(("\n".join(header) + "\n").encode("ascii"))
        stream.write(table.tobytes())


def read_gaussians(path: Path) -> Gaussians:
    """Read a .ply of Gaussians, ours or that of another program: float32, on the CPU.

    Properties may come in any order and of any scalar type, with others among them. Harmonics above degree 0
    (`f_rest_*`) are left out: our colours do not depend on the view. Colours are clipped to 0..1.

    Raises:
        FootfallError: missing, damaged, too large, not Gaussians, or a compressed or textual kind of .ply.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            head = stream.read(_MAX_HEADER)
            count, dtype, start = _read_header(head)
            missing = [name for name in PROPERTIES if name not in (dtype.names or ()) and not name.startswith("n")]
            if missing:
                raise ValueError(f"no property {', '.join(missing)}")
            if count * dtype.itemsize > min(size - start, MAX_ARRAY_BYTES):
                raise ValueError(f"{count} Gaussians of {dtype.itemsize} bytes in a file of {size}")
            stream.seek(start)
            rows = np.frombuffer(stream.read(count * dtype.itemsize), dtype, count)
        gaussians = _from_rows(rows)
    except (OSError, ValueError, OverflowError) as error:
        raise _bad_file(path, error) from error
    problem = find_problem(gaussians)
    if problem is not None:
        raise _bad_file(path, problem)
    return gaussians


def find_problem(gaussians: Gaussians) -> str | None:
    """What makes these no Gaussians that can be drawn, or None."""
    for name in _FIELDS:
        if not torch.isfinite(getattr(gaussians, name)).all():
            return f"{name} that are not finite"
    if (gaussians.scales <= 0).any():
        return "scales that are not positive"
    if (gaussians.opacities < 0).any() or (gaussians.opacities > 1).any():
        return "opacities outside 0..1"
    if (gaussians.quats.norm(dim=-1) < 1e-12).any():
        return "quaternions without length"
    return None


_FIELDS: Final = ("means", "quats", "scales", "opacities", "colors")


def _read_header(head: bytes) -> tuple[int, np.dtype[Any], int]:
    """Number of vertices, type of one, and where the first begins."""
    end = re.search(rb"end_header\r?\n", head)
    if not head.startswith(b"ply") or end is None:
        raise ValueError("no PLY header")
    lines = [line.split() for line in head[: end.start()].decode("ascii", "replace").splitlines()]
    lines = [line for line in lines if line and line[0] in ("format", "element", "property")]
    if not lines or lines[0][:2] != ["format", "binary_little_endian"]:
        raise ValueError(f"{' '.join(lines[0]) if lines else 'no format'}, not binary_little_endian")
    elements = [line for line in lines if line[0] == "element"]
    if not elements or elements[0][1:2] != ["vertex"] or len(elements[0]) != 3:
        raise ValueError(f"first element {elements[0][1:2] if elements else 'none'}, not vertex (a compressed .ply?)")
    fields: list[tuple[str, str]] = []
    for line in lines[lines.index(elements[0]) + 1 :]:
        if line[0] == "element":  # what follows the vertices is not read
            break
        if len(line) != 3 or line[1] not in _TYPES:
            raise ValueError(f"property {' '.join(line[1:])!r}")
        fields.append((line[2], _TYPES[line[1]]))
    count = int(elements[0][2])
    if count < 0 or not fields:
        raise ValueError(f"{count} vertices of {len(fields)} properties")
    return count, np.dtype(fields), end.end()


def _from_rows(rows: Array) -> Gaussians:
    def columns(*names: str) -> Array:
        return np.stack([rows[name].astype(np.float64) for name in names], axis=-1)

    with np.errstate(over="ignore"):  # infinities are found and named afterwards
        scales = np.exp(columns("scale_0", "scale_1", "scale_2"))
        opacities = 1 / (1 + np.exp(-columns("opacity")[:, 0]))
    values = {
        "means": columns("x", "y", "z"),
        "quats": columns("rot_0", "rot_1", "rot_2", "rot_3"),
        "scales": scales,
        "opacities": opacities,
        "colors": (0.5 + HARMONIC_0 * columns("f_dc_0", "f_dc_1", "f_dc_2")).clip(0, 1),
    }
    return Gaussians(**{name: torch.from_numpy(value.astype(np.float32)) for name, value in values.items()})


def _bad_file(path: Path, got: object) -> FootfallError:
    return FootfallError(
        str(path), got=got, expected="Gaussians in the layout of 3D Gaussian splatting (binary little-endian .ply)",
        do="export it again as an uncompressed .ply of splats",
    )  # fmt: skip
