"""Gaussians in 17 bytes each, for labels and shards: whole numbers, with known bounds on what is lost.

    means      16 bits an axis within the bounding box      at most 1/131070 of the box's side
    scales      8 bits of the logarithm within its range    at most exp(range / 510) - 1, relative
    colours     8 bits a channel; opacities 8 bits          at most 1/510
    quaternions 32 bits: which component is largest (2), the other three (10 bits each)  at most 0.3 degrees

The largest component of a unit quaternion follows from the others, which lie within +-1/sqrt(2), so they are stored in
steps of s = sqrt(2) / 1022. Their rounding errors (s / 2 each) change the quaternion by at most 2 sqrt(3) s / 2,
because the largest component is at least 1/2 and the others together at most sqrt(3)/2; a turn changes by twice that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from distill.errors import FootfallError, refuse_damage
from distill.files import load_arrays, save_arrays
from distill.render.gaussians import Gaussians
from distill.render.ply import find_problem

PACKED_FORMAT: Final = "footfall-gaussians/1"
Array = NDArray[Any]
LAYOUT: Final[dict[str, tuple[str, tuple[int, ...]]]] = {
    "mean": ("uint16", (3,)), "log_scale": ("uint8", (3,)), "color": ("uint8", (3,)), "opacity": ("uint8", ()),
    "quat": ("uint32", ()),
}  # fmt: skip
"""Array -> type and shape of one Gaussian's part. Beside these: `box` [2, 3] float32, metres, and `log_scale_range` [2]
float32, ends of what 0 and the largest number stand for."""
ROTATION_BOUND: Final = 4 * math.sqrt(3) * (math.sqrt(2) / 1022) / 2
"""Radians."""
_LARGEST: Final = 1022
"""Of 10 bits: an even number of steps, so that 0 is stored exactly."""


def pack_gaussians(gaussians: Gaussians) -> dict[str, Array]:
    """The arrays of `LAYOUT`, `box` and `log_scale_range`; rows keep their order.

    Raises:
        FootfallError: a value that is not finite, a scale that is not positive, a quaternion without length.
    """
    problem = find_problem(gaussians)
    if problem is not None:
        raise FootfallError(
            "Gaussians to pack", got=problem, expected="finite values, positive scales",
            do="do not keep what a diverged optimisation left",
        )  # fmt: skip
    means, scales, colors, opacities, quats = (
        getattr(gaussians, name).detach().cpu().double().numpy()
        for name in ("means", "scales", "colors", "opacities", "quats")
    )
    box, logs = np.zeros((2, 3), np.float32), np.zeros(2, np.float32)
    log_scales = np.log(scales)
    if len(means):
        box = _around(means.min(0), means.max(0))
        logs = _around(log_scales.min(), log_scales.max())
    return {
        "mean": _steps(means, box[0], box[1], 65535).astype(np.uint16),
        "log_scale": _steps(log_scales, logs[0], logs[1], 255).astype(np.uint8),
        "color": _steps(colors.clip(0, 1), 0, 1, 255).astype(np.uint8),
        "opacity": _steps(opacities, 0, 1, 255).astype(np.uint8),
        "quat": _pack_quats(quats),
        "box": box,
        "log_scale_range": logs,
    }


def unpack_gaussians(arrays: Mapping[str, Array]) -> Gaussians:
    """Gaussians (float32, on the CPU) from what `pack_gaussians` made.

    Raises:
        ValueError: an array is missing or of another type or shape.
    """
    _require_layout(arrays)
    box, logs = arrays["box"].astype(np.float64), arrays["log_scale_range"].astype(np.float64)
    values = {
        "means": box[0] + arrays["mean"] / 65535 * (box[1] - box[0]),
        "scales": np.exp(logs[0] + arrays["log_scale"] / 255 * (logs[1] - logs[0])),
        "colors": arrays["color"] / 255,
        "opacities": arrays["opacity"] / 255,
        "quats": _unpack_quats(arrays["quat"]),
    }
    return Gaussians(**{name: torch.from_numpy(value.astype(np.float32)) for name, value in values.items()})


def error_bounds(arrays: Mapping[str, Array]) -> dict[str, float]:
    """At most how much was lost: `mean_m` (along an axis), `scale_ratio`, `color`, `opacity`, `rotation_rad`.

    float32 adds its own rounding: 6e-8 of the largest coordinate.
    """
    side, logs = float((arrays["box"][1] - arrays["box"][0]).max()), arrays["log_scale_range"]
    return {
        "mean_m": side / 65535 / 2,
        "scale_ratio": math.expm1(float(logs[1] - logs[0]) / 255 / 2),
        "color": 1 / 510,
        "opacity": 1 / 510,
        "rotation_rad": ROTATION_BOUND,
    }


def save_packed(path: Path, gaussians: Gaussians, meta: Mapping[str, Any] | None = None) -> None:
    """Write packed Gaussians as .npz; `meta` is JSON-able and comes back from `load_packed`."""
    save_arrays(path, pack_gaussians(gaussians), {"format": PACKED_FORMAT, "about": dict(meta or {})})


def load_packed(path: Path) -> tuple[Gaussians, dict[str, Any]]:
    """Read what `save_packed` wrote: the Gaussians and their `meta`.

    Raises:
        FootfallError: missing, damaged or of another format.
    """
    arrays, meta = load_arrays(path)
    with refuse_damage(path, expected=f"packed Gaussians ({PACKED_FORMAT})", do="make the file again"):
        if meta.get("format") != PACKED_FORMAT:
            raise ValueError(f"format {meta.get('format')!r}")
        return unpack_gaussians(arrays), dict(meta["about"])


def _require_layout(arrays: Mapping[str, Array]) -> None:
    count = len(arrays.get("quat", ()))
    wanted = {name: (dtype, (count, *shape)) for name, (dtype, shape) in LAYOUT.items()}
    wanted |= {"box": ("float32", (2, 3)), "log_scale_range": ("float32", (2,))}
    if missing := sorted(set(wanted) - set(arrays)):
        raise ValueError(f"no array {missing[0]!r}")
    for name, (dtype, shape) in wanted.items():
        if str(arrays[name].dtype) != dtype or arrays[name].shape != shape:
            raise ValueError(f"{name}: {arrays[name].dtype} {arrays[name].shape}, wanted {dtype} {shape}")
    if not (np.isfinite(arrays["box"]).all() and np.isfinite(arrays["log_scale_range"]).all()):
        raise ValueError("a range that is not finite")


def _around(low: Any, high: Any) -> Array:
    """float32 ends that enclose float64 ones."""
    low32, high32 = np.asarray(low, np.float32), np.asarray(high, np.float32)
    low32 = np.where(low32 > low, np.nextafter(low32, np.float32(-np.inf)), low32)
    high32 = np.where(high32 < high, np.nextafter(high32, np.float32(np.inf)), high32)
    return np.stack((low32, high32)).astype(np.float32)


def _steps(values: Array, low: Any, high: Any, largest: int) -> Array:
    """Nearest of `largest` + 1 even steps from `low` to `high`."""
    span = np.maximum(np.float64(high) - np.float64(low), 1e-30)
    return np.rint((values - np.float64(low)) / span * largest).clip(0, largest)


def _pack_quats(quats: Array) -> Array:
    unit = quats / np.linalg.norm(quats, axis=1, keepdims=True)
    largest = np.abs(unit).argmax(1)
    row = np.arange(len(unit))
    unit = unit * np.where(unit[row, largest] < 0, -1, 1)[:, None]  # q and -q are one rotation
    rest = unit[row[:, None], _others()[largest]]
    bits = _steps(rest, -math.sqrt(0.5), math.sqrt(0.5), _LARGEST).astype(np.uint32)
    return (largest.astype(np.uint32) << 30) | (bits[:, 0] << 20) | (bits[:, 1] << 10) | bits[:, 2]


def _unpack_quats(packed: Array) -> Array:
    largest = (packed >> 30).astype(np.int64)
    bits = np.stack([(packed >> shift) & 1023 for shift in (20, 10, 0)], axis=1)
    rest = (bits / _LARGEST * 2 - 1) * math.sqrt(0.5)
    quats = np.zeros((len(packed), 4))
    row = np.arange(len(packed))
    quats[row[:, None], _others()[largest]] = rest
    quats[row, largest] = np.sqrt(np.maximum(1 - (rest**2).sum(1), 0))
    return quats / np.linalg.norm(quats, axis=1, keepdims=True)


def _others() -> Array:
    """[4, 3] the components other than each."""
    return np.array([[k for k in range(4) if k != largest] for largest in range(4)])
