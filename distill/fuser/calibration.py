"""How much to stretch a network's standard deviations, measured on recorded observations with truth.

For each term: k, the true variance of its errors over the claimed one (as Student's t sees it, so that outliers do
not rule); and the long-run factor 1 + 2 sum_l rho_l over lags l (Flyvbjerg and Petersen, J. Chem. Phys. 1989, eq. 9),
by which the variance of a mean over many frames exceeds that of independent ones. Gaps that err together count as
one: the mean correlation between gaps multiplies in. The scale is the root of the product.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import fields

import numpy as np

from distill.body import BodyModel
from distill.fuser.config import FuserConfig, UncertaintyScales
from distill.fuser.observation import FrameObservation, Motions, axis_variance
from distill.fuser.robust import student_weight
from distill.fuser.simulate import feet_of
from distill.fuser.so3 import Array, inverse
from distill.fuser.terms import relative_motion, root_in_camera
from distill.results import Result

LAGS = 30
"""Frames over which errors may be correlated."""
Series = dict[str, list[list[Array]]]
"""Term -> for every clip (and person, and axis): one or more sequences [T] side by side (one per gap) of errors over
their claimed deviation; NaN where there is none."""


def variance_ratio(errors: Array, dof: float) -> float:
    """Scale k of a t distribution of variance k around 0 [N] (fixed point of the likelihood's gradient)."""
    square, k = errors[np.isfinite(errors)] ** 2, 1.0
    for _ in range(30):
        k = float((student_weight(square / k, 1, dof) * square).mean())
    return k


def long_run_factor(series: Sequence[Array], lags: int = LAGS) -> float:
    """1 + 2 sum rho over lags, at least 1, pooled over sequences [T]; NaN entries are left out.

    The sum ends at the first negative correlation, beyond which estimates are noise.
    """
    factor = 1.0
    power = np.nanmean(np.concatenate([x * x for x in series]))
    for lag in range(1, lags + 1):
        products = np.concatenate([x[lag:] * x[:-lag] for x in series if len(x) > lag] or [np.full(1, np.nan)])
        products = products[np.isfinite(products)]
        if len(products) < 10 or products.mean() <= 0:
            break
        factor += 2 * float(products.mean() / power)
    return factor


def shared_factor(groups: Sequence[Sequence[Array]]) -> float:
    """1 + (n - 1) times the mean correlation of n sequences side by side (several gaps), at least 1."""
    factors = []
    for group in groups:
        rows = np.stack(list(group))
        full = np.isfinite(rows).all(0)
        if len(rows) > 1 and full.sum() > 10:
            unit = rows[:, full] / np.sqrt((rows[:, full] ** 2).mean(1, keepdims=True))
            factors.append((unit.sum(0) ** 2).mean() / len(rows))
    return float(max(np.mean(factors), 1.0)) if factors else 1.0


def fit_scales(series: Series, config: FuserConfig) -> tuple[UncertaintyScales, dict[str, dict[str, float]]]:
    """Scales of all terms, and what each is made of; 1 for a term of which nothing was observed."""
    scales, parts = {}, {}
    for field in fields(UncertaintyScales):
        groups = series.get(field.name, [])
        flat = [sequence for group in groups for sequence in group]
        if not flat:
            scales[field.name] = 1.0
            continue
        k = variance_ratio(np.concatenate(flat), config.student_dof)
        tame = [np.clip(x, -3 * np.sqrt(k), 3 * np.sqrt(k)) for x in flat]
        run, shared = long_run_factor(tame), shared_factor(groups)
        scales[field.name] = float(np.sqrt(k * run * shared))
        parts[field.name] = {"variance_ratio": k, "long_run": run, "between_gaps": shared}
    return UncertaintyScales(**scales), parts


def error_series(
    clips: Iterable[tuple[Sequence[FrameObservation], Result]], body: BodyModel, config: FuserConfig
) -> Series:
    """Normalised errors of all terms over clips of observations and their truth, frame by frame."""
    series: Series = defaultdict(list)
    for observations, truth in clips:
        scale = _scale_of(observations, truth)
        frames = [frame.camera for frame in observations]
        _motion_errors(series, "camera", frames, truth.cameras.world_from_cam, scale)
        for column, person in enumerate(truth.motion.ids.tolist()):
            back = [f.people[person].motions if person in f.people else Motions() for f in observations]
            _motion_errors(series, "body", back, truth.world_from_body[:, column], scale)
            _root_errors(series, observations, truth, column, scale)
            _foot_errors(series, observations, truth, column, feet_of(truth, column, body), config)
    return series


def _scale_of(observations: Sequence[FrameObservation], truth: Result) -> float:
    """Log of the clip's scale: median log ratio of depths."""
    depth = {int(i): truth.motion.cam_from_body[:, column, 2, 3] for column, i in enumerate(truth.motion.ids)}
    ratios = [
        np.log(person.cam_from_body[2, 3] / depth[i][k])
        for k, frame in enumerate(observations)
        for i, person in frame.people.items()
    ]
    return float(np.median(ratios)) if ratios else 0.0


def _motion_errors(series: Series, kind: str, motions: Sequence[Motions], poses: Array, scale: float) -> None:
    """Rotation and translation of all gaps, axis by axis."""
    gaps = sorted({int(gap) for frame in motions for gap in frame.gaps})
    errors = np.full((len(gaps), len(motions), 6), np.nan)
    for k, frame in enumerate(motions):
        if not len(frame.gaps):
            continue
        past, now = poses[k - frame.gaps], np.repeat(poses[k : k + 1], len(frame.gaps), axis=0)
        grown = np.exp(scale)
        term = relative_motion(
            (past[:, :3, :3], grown * past[:, :3, 3]), (now[:, :3, :3], grown * now[:, :3, 3]),
            (frame.past_from_now[:, :3, :3], frame.past_from_now[:, :3, 3]),
        )  # fmt: skip
        variance = np.repeat(axis_variance(frame.log_var, 3), 3, axis=1)
        for row, gap in enumerate(frame.gaps.tolist()):
            errors[gaps.index(gap), k] = term.residual[row] / np.sqrt(variance[row])
    for axis in range(6):
        name = f"{kind}_{'rotation' if axis < 3 else 'translation'}"
        series[name].append([errors[row, :, axis] for row in range(len(gaps))])


def _root_errors(
    series: Series, observations: Sequence[FrameObservation], truth: Result, column: int, scale: float
) -> None:
    """Orientation, ray and log depth of one person, frame by frame; the depth's constant part is the offset's."""
    errors = np.full((len(observations), 6), np.nan)
    for k, frame in enumerate(observations):
        person = frame.people.get(int(truth.motion.ids[column]))
        if person is None:
            continue
        camera, body = truth.cameras.world_from_cam[k][None], truth.world_from_body[k, column][None]
        measured = person.cam_from_body[None]
        term = root_in_camera(
            (camera[:, :3, :3], camera[:, :3, 3]), (body[:, :3, :3], body[:, :3, 3]), np.array([-scale]),
            (measured[:, :3, :3], measured[:, :3, 3]),
        )  # fmt: skip
        variance = np.repeat([axis_variance(person.root_log_var[i], d) for i, d in enumerate((3, 2, 1))], (3, 2, 1))
        errors[k] = term.residual[0] / np.sqrt(variance)
    if np.isfinite(errors).any():
        errors[:, 5] -= np.nanmedian(errors[:, 5])
    names = ["root_orientation"] * 3 + ["root_direction"] * 2 + ["root_depth"]
    for axis, name in enumerate(names):
        series[name].append([errors[:, axis]])


def _foot_errors(
    series: Series, observations: Sequence[FrameObservation], truth: Result, column: int, feet: Array,
    config: FuserConfig,
) -> None:  # fmt: skip
    """Places of feet in the body where they are said to stand, less their mean: constant errors do no harm."""
    errors = np.full((len(observations), *feet.shape[1:]), np.nan)
    for k, frame in enumerate(observations):
        person = frame.people.get(int(truth.motion.ids[column]))
        if person is not None:
            stands = person.contact_prob[: feet.shape[1]] > config.contact_from
            errors[k, stands] = (person.feet - feet[k])[stands] / config.foot_sigma_m
    for site in range(feet.shape[1]):
        for axis in range(3):
            if np.isfinite(errors[:, site, axis]).sum() > 10:
                series["contact"].append([errors[:, site, axis] - np.nanmean(errors[:, site, axis])])


def pose_errors(world_from_x: Array, truth: Array) -> Array:
    """[T, 6] rotation (rad) and translation (m) from the true pose, in local axes; both [T, 4, 4], in one world."""
    from distill.fuser.so3 import log

    wrong = inverse(truth) @ world_from_x
    return np.concatenate((log(wrong[:, :3, :3]), wrong[:, :3, 3]), axis=1)
