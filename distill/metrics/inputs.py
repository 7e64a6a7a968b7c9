"""Checks that every metric shares: shapes, masks, finite numbers, and windows over consecutive frames."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from distill.geometry.alignment import align_points

Array: TypeAlias = NDArray[np.float64]
Protocol = Literal["footfall", "wham", "tram", "gvhmr", "josh", "human3r", "slahmr"]
"""Whose definition to follow where papers differ; "footfall" is ours (docs/metrics.md)."""


class DegenerateError(ValueError):
    """The metric has no value for this input: nothing to average, no length to divide by, or a NaN."""


def as_floats(name: str, values: ArrayLike, *shape: int | None) -> Array:
    """float64 array whose trailing axes have `shape` (None: any size).

    Raises:
        ValueError: another shape.
    """
    array = np.asarray(values, dtype=np.float64)
    trailing = array.shape[array.ndim - len(shape) :] if array.ndim >= len(shape) else ()
    if len(trailing) != len(shape) or any(w is not None and w != g for w, g in zip(shape, trailing, strict=True)):
        raise ValueError(f"{name}: shape {array.shape}, expected [..., {', '.join(str(s or 'N') for s in shape)}]")
    return array


def require_finite(name: str, array: Array) -> Array:
    """`array` itself; a NaN must be masked by the caller, who knows why it is there.

    Raises:
        DegenerateError: it holds NaN or infinity.
    """
    if not np.isfinite(array).all():
        raise DegenerateError(f"{name}: not finite; mask those frames")
    return array


def kept_frames(count: int, mask: ArrayLike | None) -> NDArray[np.int64]:
    """Indices of the frames to evaluate.

    Raises:
        ValueError: the mask has another length. DegenerateError: it leaves nothing.
    """
    keep = np.ones(count, bool) if mask is None else np.asarray(mask, bool)
    if keep.shape != (count,):
        raise ValueError(f"mask: shape {keep.shape}, expected [{count}]")
    if not keep.any():
        raise DegenerateError("no frame to evaluate")
    return np.flatnonzero(keep)


def masked_pair(target: ArrayLike, prediction: ArrayLike, mask: ArrayLike | None, *shape: int | None) -> Any:
    """Both arrays as float64 [N, *shape] at the kept frames, and those frames' indices [N]."""
    true, predicted = as_floats("target", target, None, *shape), as_floats("prediction", prediction, None, *shape)
    if true.shape != predicted.shape:
        raise ValueError(f"target {true.shape} and prediction {predicted.shape} differ")
    frames = kept_frames(len(true), mask)
    return (
        require_finite("target", true[frames]),
        require_finite("prediction", predicted[frames]),
        frames,
    )


def windows(frames: NDArray[np.int64], length: int, *, bridge: bool) -> NDArray[np.int64]:
    """Positions at which `length` successive kept frames begin.

    Args:
        frames: [N] kept frames.
        bridge: take them as successive across gaps, as most peers do; otherwise windows with a gap are left out.

    Raises:
        DegenerateError: there is none.
    """
    starts = np.arange(max(len(frames) - length + 1, 0))
    if not bridge:
        starts = starts[frames[starts + length - 1] - frames[starts] == length - 1]
    if len(starts) == 0:
        raise DegenerateError(f"no {length} successive frames")
    return starts


def align(target: Array, source: Array, *, with_scale: bool) -> tuple[Array, Array, Array]:
    """`distill.geometry.alignment.align_points` in float64: scale [...], rotation [..., 3, 3], translation [..., 3].

    Raises:
        DegenerateError: the source is a single point, so that it has no scale.
    """
    try:
        found = align_points(
            torch.from_numpy(np.ascontiguousarray(target)), torch.from_numpy(np.ascontiguousarray(source)),
            with_scale=with_scale,
        )  # fmt: skip
    except ValueError as error:
        raise DegenerateError(str(error)) from error
    scale, rotation, translation = (part.numpy() for part in found)
    return scale, rotation, translation


def moved(points: Array, similarity: tuple[Array, Array, Array]) -> Array:
    """Points [..., N, 3] after a similarity with the same leading axes."""
    scale, rotation, translation = similarity
    return scale[..., None, None] * (points @ np.swapaxes(rotation, -1, -2)) + translation[..., None, :]
