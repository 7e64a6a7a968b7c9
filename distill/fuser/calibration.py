"""How much to stretch a network's standard deviations, measured on recorded observations with truth.

For each axis of each term: k, the true variance of its errors over the claimed one (as Student's t sees it, so that
outliers do not rule), times 1 + (n - 1) rho for n gaps that err together. What tells which way somebody faces and
walks (`SLOW`) also counts by the long-run factor, by which the variance of a mean over many frames exceeds that of
independent errors: a head that takes somebody's back for the front does so for a whole clip. The stretch is the root.
Standing feet are measured otherwise, by how they drift (`_foot_stretch`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Final

import numpy as np
from scipy.stats import chi2

from distill.fuser.config import FuserConfig, UncertaintyScales
from distill.fuser.observation import FEET, FrameObservation, Motions, axis_variance
from distill.fuser.robust import student_weight
from distill.fuser.smoother import FusedFrame
from distill.fuser.so3 import Array, Ints, inverse, log
from distill.fuser.terms import relative_motion, root_in_camera
from distill.results import Result

HORIZON = 100
"""Frames over which errors add up."""
SLOW: Final = ("body_rotation", "body_translation", "root_orientation")
"""Terms that are weighed against each other over many frames."""
SHORTEST = 20
"""Frames of a sequence that says something of the long run."""
SHORTEST_STANCE = 5
"""Frames."""
Series = dict[str, list[list[list[Array]]]]
"""Term -> for every clip (and person, and stance): for every axis: one or more sequences [T] side by side (one per gap)
of errors over their claimed deviation; NaN where there is none."""


def variance_ratio(errors: Array, dof: float) -> float:
    """Scale k of a t distribution of variance k around 0 [N] (fixed point of the likelihood's gradient)."""
    square, k = errors[np.isfinite(errors)] ** 2, 1.0
    for _ in range(30):
        k = float((student_weight(square / k, 1, dof) * square).mean())
    return k


def long_run_factor(series: Iterable[Array], variance: float, frames: int = HORIZON) -> float:
    """Variance of sums over `frames` errors, over that of independent errors of `variance`; pooled over sequences [T].

    1 + 2 sum_l (1 - l / n) rho_l by blocks of about n frames (Flyvbjerg and Petersen, J. Chem. Phys. 1989). A
    constant error of a clip counts n-fold; errors that come and go count less than 1.
    """
    sums = []
    for x in series:
        x = x[np.isfinite(x)]
        if len(x) >= SHORTEST:
            sums += [block.sum() ** 2 / len(block) for block in np.array_split(x, max(len(x) // frames, 1))]
    return float(np.mean(sums)) / variance if sums else 1.0


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


def fit_scales(series: Series, config: FuserConfig) -> tuple[UncertaintyScales, dict[str, dict[str, list[float]]]]:
    """Scales of all terms, and what each is made of, axis by axis; 1 for a term of which nothing was observed."""
    scales: dict[str, tuple[float, ...]] = {}
    parts: dict[str, dict[str, list[float]]] = {}
    for name in (field.name for field in fields(UncertaintyScales)):  # results have no series: `coverage` tells them
        clips = [clip for clip in series.get(name, []) if any(np.isfinite(x).any() for axis in clip for x in axis)]
        if not clips:
            continue
        axes = [[clip[axis] for clip in clips] for axis in range(len(clips[0]))]
        if name == "contact":
            scales[name] = tuple(
                _foot_stretch([x for group in axis for x in group], config.student_dof) for axis in axes
            )
            continue
        found = [_made_of(axis, config.student_dof) for axis in axes]
        slow = [max(axis["long_run"], 1.0) if name in SLOW else 1.0 for axis in found]
        scales[name] = tuple(
            float(np.sqrt(axis["variance_ratio"] * axis["between_gaps"] * long))
            for axis, long in zip(found, slow, strict=True)
        )
        parts[name] = {part: [axis[part] for axis in found] for part in found[0]}
    return UncertaintyScales(**scales), parts


def _made_of(groups: Sequence[Sequence[Array]], dof: float) -> dict[str, float]:
    """Of one axis of a term."""
    flat = [sequence for group in groups for sequence in group if np.isfinite(sequence).any()]
    k = variance_ratio(np.concatenate(flat), dof)
    tame = [np.clip(x, -3 * np.sqrt(k), 3 * np.sqrt(k)) for x in flat]
    return {"variance_ratio": k, "between_gaps": shared_factor(groups), "long_run": long_run_factor(tame, k)}


def _foot_stretch(stances: Sequence[Array], dof: float) -> float:
    """By how feet drift while they are said to stand, or jump from frame to frame, whichever is more.

    A constant error moves the foothold and does no harm. What does is the slope b over a stance of frames t: with
    independent errors of variance a^2 the slope has variance a^2 / sum (t - mean t)^2 (least squares), so that
    b sqrt(sum (t - mean t)^2) is what an error of one frame would be. Jumps are sqrt(2) a. All sites come from one pose
    and err together: they count as one.
    """
    drift = []
    for stance in stances:
        time = np.arange(len(stance)) - (len(stance) - 1) / 2
        drift.append(time @ stance / np.linalg.norm(time))
    jumps = np.concatenate([np.diff(stance) for stance in stances]) / np.sqrt(2)
    return float(np.sqrt(FEET * max(variance_ratio(np.array(drift), dof), variance_ratio(jumps, dof))))


def error_series(clips: Iterable[tuple[Sequence[FrameObservation], Result]], config: FuserConfig) -> Series:
    """Normalised errors of all terms over clips of observations and their truth, frame by frame."""
    series: Series = defaultdict(list)
    for observations, truth in clips:
        scale = _scale_of(observations, truth)
        for kind, frames in (
            ("camera", [frame.camera for frame in observations]), ("corner", [frame.corners for frame in observations]),
        ):  # fmt: skip
            _motion_errors(series, kind, frames, truth.cameras.world_from_cam, scale)
        for column, person in enumerate(truth.motion.ids.tolist()):
            back = [f.people[person].motions if person in f.people else Motions() for f in observations]
            _motion_errors(series, "body", back, truth.world_from_body[:, column], scale)
            _root_errors(series, observations, truth, column, scale)
            _foot_errors(series, observations, truth, column, config)
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
    for name, axes in ((f"{kind}_rotation", range(3)), (f"{kind}_translation", range(3, 6))):
        series[name].append([[errors[row, :, axis] for row in range(len(gaps))] for axis in axes])


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
    for name, axes in (("root_orientation", range(3)), ("root_direction", range(3, 5)), ("root_depth", range(5, 6))):
        series[name].append([[errors[:, axis]] for axis in axes])


def _foot_errors(
    series: Series, observations: Sequence[FrameObservation], truth: Result, column: int, config: FuserConfig
) -> None:
    """Where a foot that is said to stand is in the world, by the true body and the network's foot, frame by frame.

    False contacts are errors as well: feet that are said to stand and swing.
    """
    poses = truth.world_from_body[:, column]
    for site in range(FEET):
        places = np.full((len(observations), 3), np.nan)
        for k, frame in enumerate(observations):
            person = frame.people.get(int(truth.motion.ids[column]))
            if person is not None and person.contact_prob[site] > config.contact_from:
                places[k] = poses[k, :3, :3] @ person.feet[site] + poses[k, :3, 3]
        for stance in _stances(np.isfinite(places[:, 0])):
            local = poses[stance, :3, :3].transpose(0, 2, 1) @ (places[stance] - places[stance[0]])[..., None]
            series["contact"].append([[axis] for axis in local[..., 0].T / config.foot_sigma_m])


def _stances(standing: Array) -> list[Ints]:
    """Frames of each run of at least `SHORTEST_STANCE` frames that are marked in [T] bool."""
    frames = np.flatnonzero(standing)
    runs = np.split(frames, np.flatnonzero(np.diff(frames) > 1) + 1)
    return [run for run in runs if len(run) >= SHORTEST_STANCE]


PARTS: Final = {"camera position": slice(3, 6), "camera rotation": slice(0, 3), "root position": slice(3, 6),
                "root rotation": slice(0, 3)}  # fmt: skip
"""What the fuser says how sure it is of: three axes each."""


def frame_errors(frames: Sequence[FusedFrame], truth: Result, first_from_world: Array) -> dict[str, Array]:
    """Errors of fused frames in the world of the first camera, with the covariances that were claimed.

    Args:
        frames: of the whole clip. first_from_world: [4, 4] first true camera.

    Returns:
        For each of `PARTS`: [N, 3, 4], the error in local axes in column 0 and its covariance beside it.
    """
    found: dict[str, list[Array]] = {name: [] for name in PARTS}
    cameras, bodies = first_from_world @ truth.cameras.world_from_cam, first_from_world @ truth.world_from_body
    column_of = {int(i): column for column, i in enumerate(truth.motion.ids)}
    for frame in frames[1:]:  # the first camera is the world: it has no error
        _take(found, "camera", frame.world_from_cam, cameras[frame.index], frame.covariance)
        for i, person in frame.people.items():
            _take(found, "root", person.world_from_body, bodies[frame.index, column_of[i]], person.covariance)
    return {name: np.stack(rows) if rows else np.zeros((0, 3, 4)) for name, rows in found.items()}


def _take(found: dict[str, list[Array]], kind: str, pose: Array, truth: Array, covariance: Array) -> None:
    wrong = inverse(pose) @ truth
    error = np.concatenate((log(wrong[:3, :3]), wrong[:3, 3]))
    for part in ("position", "rotation"):
        rows = PARTS[f"{kind} {part}"]
        found[f"{kind} {part}"].append(np.concatenate((error[rows, None], covariance[rows, rows]), axis=1))


def squared_lengths(errors: Array) -> Array:
    """[N] squared Mahalanobis length e^T C^-1 e of errors [N, 3, 4] as `frame_errors` gives them."""
    return (errors[:, :, 0] * np.linalg.solve(errors[:, :, 1:], errors[:, :, :1])[..., 0]).sum(1)


def coverage(errors: Mapping[str, Array]) -> dict[str, dict[str, float]]:
    """How often errors lie within the ellipsoids that should hold 50, 90 and 95 % of them (chi-square, 3 degrees),
    and the factor by which all deviations would have to be stretched for the middle to be right."""
    found = {}
    for name, rows in errors.items():
        square = squared_lengths(rows)
        found[name] = {f"{percent} %": float((square < chi2.ppf(percent / 100, 3)).mean()) for percent in (50, 90, 95)}
        found[name]["stretch"] = float(np.sqrt(np.median(square) / chi2.ppf(0.5, 3)))
    return found
