"""Plots as PNG files: paths seen from above, loss curves. Needs matplotlib (extra [demo])."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distill.errors import require
from distill.files import atomic_path
from distill.geometry.alignment import align_points
from distill.pictures.overlay import colour_of
from distill.results import Result

Array = NDArray[Any]
_STYLE = {"truth": "-", "teacher": "--", "student": ":"}


def _figure(width: float, height: float) -> Any:
    matplotlib = require("matplotlib", extra="demo")
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def plot_top_down(path: Path, results: Mapping[str, Result], *, reference: str | None = None) -> None:
    """Paths of cameras and people seen from above, metres.

    Args:
        path: PNG to write.
        results: name ("truth", "teacher", "student") -> result of the same clip.
        reference: name of the result whose world the others are moved into by the rigid motion (no scale)
            that best fits their camera and root paths; None draws every result in its own world.
    """
    figure = _figure(6.4, 5.2)
    axes = figure.add_subplot()
    for name, result in results.items():
        move = np.eye(4)
        if reference is not None and name != reference:
            move = rigid_between(results[reference], result)
        cameras = _apply(move, result.cameras.world_from_cam[:, :3, 3])
        style = _STYLE.get(name, "-")
        axes.plot(cameras[:, 0], cameras[:, 1], style, color="0.35", lw=1.2, label=f"camera, {name}")
        roots = result.world_from_body[..., :3, 3]
        for k in range(len(result.motion.ids)):
            root = np.where(result.motion.present[:, k, None], _apply(move, roots[:, k]), np.nan)
            colour = np.array(colour_of(k)) / 255
            axes.plot(root[:, 0], root[:, 1], style, color=colour, lw=2, label=f"person {k}, {name}")
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel("x (m)")
    axes.set_ylabel("y (m)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="best")
    _save(figure, path)


def rigid_between(reference: Result, other: Result) -> Array:
    """[4, 4] reference_from_other: best rigid fit of camera centres and roots over shared frames."""
    frames = min(len(reference.cameras.timestamps), len(other.cameras.timestamps))
    target = [reference.cameras.world_from_cam[:frames, :3, 3]]
    source = [other.cameras.world_from_cam[:frames, :3, 3]]
    for k, j in match_people(reference, other):
        both = reference.motion.present[:frames, k] & other.motion.present[:frames, j]
        target.append(reference.joints_world[:frames, k][both].reshape(-1, 3))
        source.append(other.joints_world[:frames, j][both].reshape(-1, 3))
    _, rotation, translation = align_points(
        torch.from_numpy(np.concatenate(target)).double(), torch.from_numpy(np.concatenate(source)).double(),
        with_scale=False,
    )  # fmt: skip
    move = np.eye(4)
    move[:3, :3], move[:3, 3] = rotation.numpy(), translation.numpy()
    return move


def match_people(a: Result, b: Result) -> list[tuple[int, int]]:
    """Pairs (person of a, person of b) that are closest in the camera over shared frames."""
    from scipy.optimize import linear_sum_assignment

    frames = min(len(a.cameras.timestamps), len(b.cameras.timestamps))
    cost = np.full((len(a.motion.ids), len(b.motion.ids)), 1e6)
    for k, j in np.ndindex(*cost.shape):
        both = a.motion.present[:frames, k] & b.motion.present[:frames, j]
        if both.any():
            ray_a, ray_b = (
                r.motion.cam_from_body[:frames, p][both][:, :2, 3] / r.motion.cam_from_body[:frames, p][both][:, 2:3, 3]
                for r, p in ((a, k), (b, j))
            )
            cost[k, j] = np.linalg.norm(ray_a - ray_b, axis=-1).mean()
    return [(int(k), int(j)) for k, j in zip(*linear_sum_assignment(cost), strict=True) if cost[k, j] < 1e6]


def _apply(transform: Array, points: Array) -> Array:
    return points @ transform[:3, :3].T + transform[:3, 3]


def plot_curves(
    path: Path, curves: Mapping[str, Sequence[tuple[float, float]]], *, x: str, y: str, log: bool = False
) -> None:
    """Named curves of (x, y) points, PNG."""
    figure = _figure(6.4, 3.6)
    axes = figure.add_subplot()
    for name, points in curves.items():
        axes.plot(*zip(*points, strict=True), label=name, lw=1.4)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if log:
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=6, loc="center left", bbox_to_anchor=(1.01, 0.5))  # many terms: beside, not over
    _save(figure, path)


def plot_calibration(path: Path, errors: Mapping[str, Mapping[str, Array]], *, bins: int = 12) -> None:
    """Predicted against true error, and errors over their predicted deviation against a normal distribution, PNG.

    Args:
        errors: method -> part ("root position") -> [N, 3, 4] errors beside their claimed covariances
            (`distill.fuser.calibration.frame_errors`).
    """
    figure = _figure(11.0, 4.2 * len(errors))
    for row, (method, parts) in enumerate(errors.items()):
        left, right = (figure.add_subplot(len(errors), 2, 2 * row + k) for k in (1, 2))
        for name, values in parts.items():
            deviation = np.sqrt(np.diagonal(values[:, :, 1:], axis1=1, axis2=2).mean(1))
            true = np.square(values[:, :, 0]).mean(1)
            groups = np.array_split(np.argsort(deviation), bins)
            left.plot(
                [deviation[g].mean() for g in groups], [np.sqrt(true[g].mean()) for g in groups], ".-", label=name
            )
            ratio = values[:, :, 0] / np.sqrt(np.diagonal(values[:, :, 1:], axis1=1, axis2=2))
            right.hist(ratio.ravel(), bins=61, range=(-5, 5), density=True, histtype="step", label=name)
        ends = np.array(left.get_xlim())
        left.plot(ends, ends, color="0.6", lw=1, label="as predicted")
        grid = np.linspace(-5, 5, 201)
        right.plot(grid, np.exp(-0.5 * grid**2) / np.sqrt(2 * np.pi), color="0.6", lw=1, label="normal")
        left.set_xlabel("predicted standard deviation per axis (m or rad)")
        left.set_ylabel("true error per axis, root mean square")
        right.set_xlabel("error / predicted standard deviation")
        left.set_title(method)
        for axes in (left, right):
            axes.grid(alpha=0.3)
            axes.legend(fontsize=7)
    _save(figure, path)


def save_bars(path: Path, values: Mapping[str, float], *, label: str, notes: Sequence[str]) -> None:
    """One horizontal bar for each name, in order from the top, with a note at its end.

    Args:
        path: PNG to write. values: name -> length. label: of the axis, with its unit. notes: one for each bar.
    """
    figure = _figure(6.4, 0.9 + 0.32 * len(values))
    axes = figure.add_subplot()
    bars = axes.barh(list(values), list(values.values()), color="#4878a8")
    axes.bar_label(bars, list(notes), padding=3, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(values.values()))
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)
