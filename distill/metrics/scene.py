"""How well the scene is known: point clouds and depth maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.spatial import cKDTree

from distill.metrics.inputs import Array, DegenerateError, Protocol, as_floats, require_finite


@dataclass(frozen=True)
class CloudError:
    """Distances between two point clouds, metres."""

    accuracy: Array
    """[N] from each predicted point to the nearest true one."""
    completeness: Array
    """[M] from each true point to the nearest predicted one."""

    @property
    def chamfer(self) -> float:
        """Half the sum of the two means, metres (unsquared)."""
        return float((self.accuracy.mean() + self.completeness.mean()) / 2)


def chamfer(target: ArrayLike, prediction: ArrayLike, *, max_distance: float | None = None) -> CloudError:
    """Nearest-neighbour distances between clouds [M, 3] and [N, 3] of one frame, metres.

    Args:
        max_distance: drop longer distances (JOSH's table of reconstructions keeps all).

    Raises:
        DegenerateError: a cloud is empty, or nothing is left within `max_distance`.
    """
    true = require_finite("target", as_floats("target", target, None, 3))
    predicted = require_finite("prediction", as_floats("prediction", prediction, None, 3))
    if len(true) == 0 or len(predicted) == 0:
        raise DegenerateError("an empty cloud")
    to_true, to_predicted = cKDTree(true).query(predicted)[0], cKDTree(predicted).query(true)[0]
    if max_distance is not None:
        to_true, to_predicted = to_true[to_true < max_distance], to_predicted[to_predicted < max_distance]
        if len(to_true) == 0 or len(to_predicted) == 0:
            raise DegenerateError(f"no two points within {max_distance} m")
    return CloudError(to_true, to_predicted)


def voxel_mean(points: ArrayLike, size_m: float) -> Array:
    """One point per occupied voxel, the mean of its points [N, 3] -> [M, 3] (Open3D's down-sampling).

    The grid begins half a voxel below the smallest coordinates. JOSH uses 0.3 m.
    """
    cloud = as_floats("points", points, None, 3)
    if len(cloud) == 0:
        return cloud
    index = np.floor((cloud - (cloud.min(0) - size_m / 2)) / size_m).astype(np.int64)
    _, voxel, count = np.unique(index, axis=0, return_inverse=True, return_counts=True)
    total = np.zeros((len(count), 3))
    np.add.at(total, voxel.reshape(-1), cloud)
    return total / count[:, None]


@dataclass(frozen=True)
class DepthError:
    """Errors of depth over a set of pixels."""

    abs_rel: float
    """Mean |predicted - true| / true."""
    rmse: float
    """Root mean square error, metres."""
    log_rmse: float
    """Root mean square error of log depth; infinite if a predicted depth is not positive."""
    si_log: float
    """`log_rmse` after the best common factor."""
    delta: tuple[float, float, float]
    """Fractions of pixels with max(predicted / true, true / predicted) below 1.25, 1.25^2 and 1.25^3."""
    pixels: int


DepthAlignment = Literal["none", "median", "scale", "lstsq", "scale_shift", "lad"]


def abs_rel(
    target: ArrayLike, prediction: ArrayLike, *, max_depth: float | None = None, align_to: DepthAlignment = "none",
    protocol: Protocol = "footfall",
) -> Array:  # fmt: skip
    """Mean |predicted - true| / true per frame [T]; for "human3r" one value for the clip [1]. See `depth_errors`."""
    return np.array([e.abs_rel for e in depth_errors(
        target, prediction, max_depth=max_depth, align_to=align_to, protocol=protocol,
    )])  # fmt: skip


def depth_errors(
    target: ArrayLike, prediction: ArrayLike, *, max_depth: float | None = None, align_to: DepthAlignment = "none",
    protocol: Protocol = "footfall",
) -> list[DepthError]:  # fmt: skip
    """Errors of depth maps.

    "footfall" and "josh": per frame, over pixels with positive true and predicted depth. "human3r": the whole
    clip as one set, over pixels with positive true depth (a hole in the prediction counts as depth 0).

    Args:
        target, prediction: [T, H, W] metres; true holes are 0, negative or not finite.
        max_depth: pixels at or beyond this true depth are left out.
        align_to: see `aligned_depth`; found over the same pixels.

    Raises:
        DegenerateError: a frame (or the clip) has no such pixel.
    """
    true = as_floats("target", target, None, None, None)
    predicted = as_floats("prediction", prediction, None, None, None)
    if true.shape != predicted.shape:
        raise ValueError(f"target {true.shape} and prediction {predicted.shape} differ")
    valid = np.isfinite(true) & (true > 0) & (true < (np.inf if max_depth is None else max_depth))
    if protocol == "human3r":
        true, predicted, valid = true.reshape(1, -1), predicted.reshape(1, -1), valid.reshape(1, -1)
    else:
        valid &= predicted > 0
    errors = []
    for frame, (t, p, v) in enumerate(zip(true, predicted, valid, strict=True)):
        if not v.any():
            raise DegenerateError(f"depth: frame {frame} has no pixel with true and predicted depth")
        require_finite("prediction", p[v])
        errors.append(_depth_error(t[v], aligned_depth(t[v], p[v], align_to)))
    return errors


def _depth_error(true: Array, predicted: Array) -> DepthError:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.maximum(predicted / true, true / predicted)
        positive = bool((predicted > 0).all())
        log = np.log(predicted) - np.log(true) if positive else np.array([np.inf])
    return DepthError(
        abs_rel=float(np.mean(np.abs(predicted - true) / true)),
        rmse=float(np.sqrt(np.mean((predicted - true) ** 2))),
        log_rmse=float(np.sqrt(np.mean(log**2))),
        si_log=float(np.sqrt(np.maximum(np.mean(log**2) - np.mean(log) ** 2, 0))) if positive else float("inf"),
        delta=(float((ratio < 1.25).mean()), float((ratio < 1.25**2).mean()), float((ratio < 1.25**3).mean())),
        pixels=len(true),
    )


def aligned_depth(true: Array, predicted: Array, how: DepthAlignment) -> Array:
    """Predicted depths after an alignment to the true ones, all [N].

    "none": metric. "median": ratio of the (lower) medians. "scale": factor of least absolute error by ten
    reweighted steps (Human3R; it is not stable, docs/metrics.md). "lstsq": scale and shift of least squares.
    "scale_shift": scale and shift of least absolute error by 1,000 steps of Adam from the median ratio (not
    converged, Human3R). "lad": scale and shift of least absolute error.
    """
    if how == "none":
        return predicted
    if how == "median":
        return predicted * (_lower_median(true) / _lower_median(predicted))
    if how == "scale":
        factor = true.mean() / predicted.mean()
        for _ in range(10):
            weight = 1 / (np.abs(factor * predicted - true) + 1e-8)
            factor = (weight * predicted * true).sum() / (weight * predicted**2).sum()
        return factor * predicted
    if how == "lstsq":
        design = np.stack((predicted, np.ones_like(predicted)), axis=1)
        factor, shift = np.linalg.lstsq(design, true, rcond=None)[0]
        return factor * predicted + shift
    factor, shift = _by_adam(true, predicted) if how == "scale_shift" else _least_absolute(true, predicted)
    return factor * predicted + shift


def _lower_median(values: Array) -> float:
    return float(np.sort(values)[(len(values) - 1) // 2])


def _by_adam(true: Array, predicted: Array, steps: int = 1000, rate: float = 1e-4) -> tuple[float, float]:
    start = [_lower_median(true) / _lower_median(predicted), 0.0]
    unknown = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    p, t = torch.from_numpy(predicted), torch.from_numpy(true)
    optimiser = torch.optim.Adam([unknown], lr=rate)
    for _ in range(steps):
        optimiser.zero_grad()
        (unknown[0] * p + unknown[1] - t).abs().sum().backward()
        optimiser.step()
    return float(unknown[0].detach()), float(unknown[1].detach())


def _least_absolute(true: Array, predicted: Array) -> tuple[float, float]:
    def total(unknown: NDArray[np.float64]) -> float:
        return float(np.abs(unknown[0] * predicted + unknown[1] - true).sum())

    start = [_lower_median(true) / _lower_median(predicted), 0.0]
    factor, shift = minimize(total, start, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-9}).x
    return float(factor), float(shift)
