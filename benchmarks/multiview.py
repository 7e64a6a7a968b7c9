"""Landmarks of several calibrated views -> cameras, clocks and points that agree: a reference where there is no truth.

V views, T frames, J landmarks, N = T x J points. The first view's clock counts frames: what it shows in frame t,
view v shows in frame t + shift[v]. Bundle adjustment after Triggs et al., "Bundle adjustment - a modern
synthesis", 2000: points are eliminated (section 6.1), what is left are 7 numbers per view.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from distill.geometry.rotations import matrix_from_rotvec

Array = NDArray[Any]
LASTING: Final = 20.0
"""A landmark's error is about the same for this many frames: so many observations count as one."""
SHIFTS: Final = np.arange(-6.0, 7.0, 2.0)
"""Clock offsets that are tried, frames; the search starts from the outer ones, too."""


@dataclass(kw_only=True)
class Rig:
    """Fixed cameras with clocks."""

    K: Array
    """[V, 3, 3] pixels."""
    world_from_cam: Array
    """[V, 4, 4] metres."""
    shift: Array
    """[V] frames; 0 for the first."""

    def project(self, points: Array) -> tuple[Array, Array]:
        """Points [N, 3] of the world -> points in each camera [V, N, 3] and pixels [V, N, 2]."""
        cam = np.einsum("vba,vnb->vna", self.world_from_cam[:, :3, :3], points - self.world_from_cam[:, None, :3, 3])
        pixels = np.einsum("vab,vnb->vna", self.K, cam / np.maximum(cam[..., 2:], 1e-6))
        return cam, pixels[..., :2]


@dataclass(kw_only=True)
class Spread:
    """What is expected of landmarks and of the published calibration: standard deviations."""

    pixels: float = 6.0
    """Of a landmark, pixels."""
    turn: float = 0.05
    """Of a camera's orientation, radians."""
    place: float = 0.02
    """Of a camera's position, metres: this holds the scale and the world."""
    shift: float = 5.0
    """Of a clock, frames."""


def sample(tracks: Array, at: Array) -> tuple[Array, Array]:
    """Tracks [T, ..., C] at fractional frames [S]: values [S, ..., C], and whether a frame lies inside [S].

    Linear between frames; outside, the nearest frame's values.
    """
    place = np.clip(at, 0, len(tracks) - 1)
    low = np.minimum(place.astype(int), max(len(tracks) - 2, 0))
    part = (place - low).reshape(-1, *[1] * (tracks.ndim - 1))
    values = (1 - part) * tracks[low] + part * tracks[np.minimum(low + 1, len(tracks) - 1)]
    return values, (at >= 0) & (at <= len(tracks) - 1)


def at_first_clock(tracks: Array, score: Array, shift: Array) -> tuple[Array, Array, Array]:
    """Landmarks of all views at the frames of the first one's clock.

    Args:
        tracks: [V, T, J, 2] pixels. score: [V, T, J] in [0, 1]. shift: [V] frames.

    Returns:
        pixels [V, N, 2], their velocity [V, N, 2] in pixels per frame, weight [V, N] (0 outside a view's frames).
    """
    frames = np.arange(tracks.shape[1], dtype=np.float64)
    pixels, velocity, weight = [], [], []
    for view, (track, certain) in enumerate(zip(tracks, score, strict=True)):
        value, inside = sample(track, frames + shift[view])
        pixels.append(value.reshape(-1, 2))
        velocity.append(sample(np.gradient(track, axis=0), frames + shift[view])[0].reshape(-1, 2))
        weight.append((sample(certain[..., None], frames + shift[view])[0][..., 0] * inside[:, None]).reshape(-1))
    return np.stack(pixels), np.stack(velocity), np.stack(weight)


def triangulate(rig: Rig, pixels: Array, weight: Array, *, pixel_sd: float, rounds: int = 10) -> Array:
    """Points [N, 3] seen at pixels [V, N, 2] with weights [V, N]; robust.

    Hartley and Sturm, "Triangulation", 1997, section 5.2: linear equations reweighted until they measure pixels;
    Cauchy's weights on top, so that a landmark on the wrong limb in one view loses its say.
    """
    cam_from_world = np.linalg.inv(rig.world_from_cam)[:, :3]
    projection = rig.K @ cam_from_world
    rows = pixels[..., None] * projection[:, None, 2:] - projection[:, None, :2]  # [V, N, 2, 4]
    trust = np.broadcast_to(weight, weight.shape).copy()
    points = np.zeros((pixels.shape[1], 3))
    for turn in range(rounds):
        a, b = rows[..., :3], -rows[..., 3]
        normal = np.einsum("vn,vnri,vnrj->nij", trust, a, a) + 1e-9 * np.eye(3)
        points = np.linalg.solve(normal, np.einsum("vn,vnri,vnr->ni", trust, a, b)[..., None])[..., 0]
        cam, seen = rig.project(points)
        error = ((seen - pixels) ** 2).sum(-1)
        # The first rounds are not robust: with cameras a degree off, the first points are far from all views.
        robust = 1 / (1 + error / (2 * pixel_sd) ** 2) if turn >= 2 else 1.0
        trust = weight * robust / np.maximum(cam[..., 2], 0.1) ** 2
    return points


def refine(rig: Rig, tracks: Array, score: Array, spread: Spread, *, rounds: int = 40) -> tuple[Rig, float]:
    """Turn, move and re-clock the cameras until the landmarks agree; returns the rig and its cost.

    The first camera's clock is the reference. Positions stay near the published ones, which holds the scale and
    the world; orientations are free, as `datasets/pose2sim/recipe.yaml` found them to be about one degree off.
    """
    published, damping = rig, 1e-3
    points = _points(rig, tracks, score, spread)
    cost = _cost(rig, published, points, tracks, score, spread)
    for _ in range(rounds):
        step, moved = _step(rig, published, points, tracks, score, spread, damping)
        trial = _apply(rig, step)
        trial_cost = _cost(trial, published, moved, tracks, score, spread)
        if trial_cost < cost:
            done = cost - trial_cost < 1e-6 * cost
            rig, points, cost, damping = trial, moved, trial_cost, damping / 5
            if done:
                break
        else:
            damping *= 10
            if damping > 1e6:
                break
    return rig, cost


def search_shifts(rig: Rig, tracks: Array, score: Array, spread: Spread) -> tuple[Rig, list[list[float]]]:
    """`refine` from several clock offsets of each view in turn; keeps the best.

    Returns:
        The rig, and for each view but the first the median error of its landmarks in pixels, with its clock held
        at each of `SHIFTS`: a flat row is a clock that the landmarks do not tell.
    """
    best, cost = refine(rig, tracks, score, spread)
    for view in range(1, len(tracks)):
        for start in SHIFTS[[0, -1]]:
            shift = best.shift.copy()
            shift[view] = start
            trial, trial_cost = refine(replace(rig, shift=shift), tracks, score, spread)
            if trial_cost < cost:
                best, cost = trial, trial_cost
    curves = []
    for view in range(1, len(tracks)):
        curve = []
        for start in SHIFTS:
            shift = best.shift.copy()
            shift[view] = start
            held, _ = refine(replace(rig, shift=shift), tracks, score, replace(spread, shift=1e-4))
            curve.append(float(np.nanmedian(errors(held, tracks, score, spread)[view])))
        curves.append(curve)
    return best, curves


def errors(rig: Rig, tracks: Array, score: Array, spread: Spread) -> Array:
    """[V, N] pixels between the landmarks and the points triangulated from them; NaN outside a view's frames."""
    pixels, _, weight = at_first_clock(tracks, score, rig.shift)
    _, seen = rig.project(triangulate(rig, pixels, weight, pixel_sd=spread.pixels))
    return np.where(weight > 0, np.linalg.norm(seen - pixels, axis=-1), np.nan)


def _points(rig: Rig, tracks: Array, score: Array, spread: Spread) -> Array:
    pixels, _, weight = at_first_clock(tracks, score, rig.shift)
    return triangulate(rig, pixels, weight, pixel_sd=spread.pixels)


def _priors(rig: Rig, published: Rig, spread: Spread) -> tuple[Array, Array]:
    """Residuals [V, 7] of the cameras in standard deviations (turn, place, clock), and those deviations [V, 7]."""
    turned = np.swapaxes(published.world_from_cam[:, :3, :3], -1, -2) @ rig.world_from_cam[:, :3, :3]
    # Small angles: the skew part of the turn is its rotation vector.
    turn = np.stack([turned[:, 2, 1], turned[:, 0, 2], turned[:, 1, 0]], -1)
    place = rig.world_from_cam[:, :3, 3] - published.world_from_cam[:, :3, 3]
    deviation = np.tile([spread.turn] * 3 + [spread.place] * 3 + [spread.shift], (len(rig.K), 1))
    deviation[0, 6] = 1e-6
    return np.concatenate((turn, place, (rig.shift - published.shift)[:, None]), 1) / deviation, deviation


def _cost(rig: Rig, published: Rig, points: Array, tracks: Array, score: Array, spread: Spread) -> float:
    """Cauchy's function of the reprojection errors, and the squares of the priors."""
    pixels, _, weight = at_first_clock(tracks, score, rig.shift)
    _, seen = rig.project(points)
    square = ((seen - pixels) ** 2).sum(-1) / spread.pixels**2
    # Frames that a shift moves out of a view must not make the shift look better: a mean, times all there are.
    data = (weight * 4 * np.log1p(square / 4)).sum() / weight.sum() * score.sum()
    return float(data / LASTING + (_priors(rig, published, spread)[0] ** 2).sum())


def _step(
    rig: Rig, published: Rig, points: Array, tracks: Array, score: Array, spread: Spread, damping: float
) -> tuple[Array, Array]:
    """One damped Gauss-Newton step: the cameras' [V, 7] and the moved points [N, 3]."""
    pixels, velocity, weight = at_first_clock(tracks, score, rig.shift)
    cam, seen = rig.project(points)
    residual = (seen - pixels) / spread.pixels
    trust = weight / (1 + (residual**2).sum(-1) / 4) * (score.sum() / weight.sum() / LASTING)
    views, count = weight.shape
    x, y, z = np.moveaxis(cam, -1, 0)
    focal = rig.K[:, [0, 1], [0, 1]] / spread.pixels
    by_cam = np.zeros((views, count, 2, 3))
    by_cam[..., 0, 0], by_cam[..., 1, 1] = focal[:, None, 0] / z, focal[:, None, 1] / z
    by_cam[..., 0, 2], by_cam[..., 1, 2] = -focal[:, None, 0] * x / z**2, -focal[:, None, 1] * y / z**2
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(views, count, 3, 3)
    by_point = by_cam @ np.swapaxes(rig.world_from_cam[:, None, :3, :3], -1, -2)
    by_camera = np.concatenate((by_cam @ cross, -by_point, -velocity[..., None] / spread.pixels), -1)
    weighted = trust[..., None, None] * by_camera
    camera_block = np.einsum("vnri,vnrj->vij", weighted, by_camera)
    coupling = np.einsum("vnri,vnrj->nvij", weighted, by_point).reshape(count, views * 7, 3)
    point_block = np.einsum("vn,vnri,vnrj->nij", trust, by_point, by_point)
    point_block = point_block + (damping * np.trace(point_block, axis1=1, axis2=2)[:, None, None] + 1e-6) * np.eye(3)
    point_right = -np.einsum("vn,vnri,vnr->ni", trust, by_point, residual)
    prior, deviation = _priors(rig, published, spread)
    normal = np.zeros((views * 7, views * 7))
    for view in range(views):
        part = slice(7 * view, 7 * view + 7)
        normal[part, part] = camera_block[view] + np.diag((1 + damping) / deviation[view] ** 2)
    right = -np.einsum("vnri,vnr->vi", weighted, residual) - prior / deviation
    solved = np.linalg.solve(point_block, np.swapaxes(coupling, 1, 2))  # [N, 3, 7V]
    normal -= np.einsum("nik,nkj->ij", coupling, solved)
    reduced = right.reshape(-1) - np.einsum("nki,nk->i", solved, point_right)
    step = np.linalg.solve(normal, reduced)
    moved = np.linalg.solve(point_block, (point_right - np.einsum("nik,i->nk", coupling, step))[..., None])[..., 0]
    return step.reshape(views, 7), points + moved


def _apply(rig: Rig, step: Array) -> Rig:
    """Turn each camera in its own frame, move it, change its clock."""
    poses = rig.world_from_cam.copy()
    turn = matrix_from_rotvec(torch.from_numpy(np.ascontiguousarray(step[:, :3]))).numpy()
    poses[:, :3, :3] = poses[:, :3, :3] @ turn
    poses[:, :3, 3] += step[:, 3:6]
    return Rig(K=rig.K, world_from_cam=poses, shift=rig.shift + step[:, 6])
