"""The stage `quality`: what a student may learn from a solved clip, and why.

Each check compares a number of the solve with two limits: beyond the first the clip weighs less, beyond the
second it is rejected. Every reason is written down with the number and the limit. Frames weigh by their own
numbers, so that one bad second does not cost the clip. Beside the limits stands one continuous score, the error that
the clip probably has (`predicted_error`); it ranks clips, and has limits of its own.

    quality/
        quality.json    {decision, weight, predicted_w_mpjpe_mm, reasons, numbers, signs}
        quality.npz     frame_weight [T, P] in [0, 1]
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Final, Literal

import numpy as np

from distill.files import save_arrays, write_json
from distill.results import Result, load_result
from teacher.initialisers.registry import Outcome, Report
from teacher.optimise.measure import Measures, number
from teacher.optimise.predicted_error import signs_of, stored_fit
from teacher.stagefiles import Array
from teacher.workspace import ClipFolder

Decision = Literal["accept", "weight", "reject"]
LONG_SIDE: Final = 512.0
"""Background errors are judged in an image whose longer side is this, pixels."""
POSE_LIMIT: Final = 0.5
"""Weight of a frame whose camera was not measured but filled from its neighbours."""


@dataclass(kw_only=True)
class Limits:
    """Beyond `weight` a clip weighs less, beyond `reject` it is rejected."""

    weight: float = 0.0
    """In the unit of the number."""
    reject: float = 0.0
    """In the unit of the number; larger than `weight`."""

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= self.reject:
            raise ValueError(f"quality: limits weight={self.weight} and reject={self.reject} must rise from 0")


@dataclass(kw_only=True)
class QualityConfig:
    """Limits of the checks."""

    keypoint_rel: Limits = field(default_factory=lambda: Limits(weight=0.03, reject=0.08))
    """Median reprojection error of the keypoints, in heights of the person."""
    background_px: Limits = field(default_factory=lambda: Limits(weight=2.5, reject=8.0))
    """Median reprojection error of the background, pixels of an image with a longer side of 512."""
    held_out_px: Limits = field(default_factory=lambda: Limits(weight=3.0, reject=10.0))
    """The same over correspondences that the solve never saw."""
    slip_mps: Limits = field(default_factory=lambda: Limits(weight=0.25, reject=0.8))
    """Median speed of touching feet, m/s."""
    foot_gap_m: Limits = field(default_factory=lambda: Limits(weight=0.06, reject=0.25))
    """Median distance of touching feet from the scene or the common ground, metres."""
    penetration_m: Limits = field(default_factory=lambda: Limits(weight=0.08, reject=0.3))
    """Median depth of the deepest contact site below the scene, metres."""
    scale_spread: Limits = field(default_factory=lambda: Limits(weight=0.10, reject=0.35))
    """Disagreement of frames and people about the scale: robust standard deviation of its logarithm."""
    witness_gap: Limits = field(default_factory=lambda: Limits(weight=0.15, reject=0.6))
    """Largest change of scale that depth or stillness of the contacts still asks for, natural logarithm."""
    contact_lost: Limits = field(default_factory=lambda: Limits(weight=0.5, reject=0.85))
    """Part of the given contacts that do not touch in the solved motion."""
    stature_sd: Limits = field(default_factory=lambda: Limits(weight=2.5, reject=5.0))
    """How far the least plausible person's stature lies from the mean, in standard deviations."""
    unregistered: Limits = field(default_factory=lambda: Limits(weight=0.1, reject=0.6))
    """Part of the frames whose camera was not measured."""
    predicted_w_mpjpe_mm: Limits = field(default_factory=lambda: Limits(weight=250.0, reject=1000.0))
    """Error that the clip probably has in its world (`predicted_error`), millimetres."""
    min_frames: int = 8
    """A clip with fewer frames that show a person is rejected."""
    stature_mean: float = 1.69
    """Mean height of the population, metres."""
    stature_one_sd: float = 0.10
    """Standard deviation of the height, metres."""

    def __post_init__(self) -> None:
        if self.min_frames < 1 or self.stature_one_sd <= 0:
            raise ValueError("quality: min_frames of at least 1 and stature_one_sd above 0 are expected")


@dataclass(kw_only=True)
class Verdict:
    """What the stage writes."""

    decision: Decision
    """Whether a student may learn from the clip."""
    weight: float
    """Of the clip, in [0, 1]; the mean of its frames' weights."""
    reasons: list[str]
    """Why it is not simply accepted; empty if it is."""
    numbers: dict[str, float | None]
    """What was checked; None where the clip has no such number."""
    predicted_w_mpjpe_mm: float = 0.0
    """W-MPJPE that the clip probably has, millimetres: the score that ranks clips."""
    signs: dict[str, float | None] = field(default_factory=dict)
    """What that prediction rests on (`predicted_error`)."""


def run(clip: ClipFolder, config: QualityConfig, report: Report) -> Outcome:
    """Judge the solved clip and write the stage's files."""
    folder = clip.require("joint")
    verdict, frame_weight = judge(load_result(folder), Measures.load(folder), config)
    report(0.9, verdict.decision)
    target = clip.stage_dir("quality")
    save_arrays(target / "quality.npz", {"frame_weight": frame_weight})
    write_json(target / "quality.json", asdict(verdict))
    return Outcome(summary=asdict(verdict))


def judge(result: Result, measures: Measures, config: QualityConfig) -> tuple[Verdict, Array]:
    """The verdict on a clip and the weights [T, P] of its frames.

    Args:
        result: the solved clip. measures: of the same solve. config: the limits.
    """
    numbers = _numbers(result, measures, config)
    signs = signs_of(result, measures, numbers)
    predicted = stored_fit().predict_mm(signs)
    numbers["predicted_w_mpjpe_mm"] = number(predicted)
    reasons, factor, rejected = [], 1.0, False
    for name, value in numbers.items():
        limits = getattr(config, name)
        if value is None or value <= limits.weight:
            continue
        limit = limits.reject if value > limits.reject else limits.weight
        rejected |= value > limits.reject
        reasons.append(f"{name} is {value:.3g}, more than {limit:.3g}")
        factor *= limits.weight / value if limits.weight > 0 else 0.0
    frames = int(result.motion.present.any(1).sum())
    if frames < config.min_frames:
        rejected = True
        reasons.append(f"a person is seen in {frames} frames only, fewer than {config.min_frames}")
    guess = _scale_is_a_guess(result, measures)
    if guess:
        rejected = True
        reasons.append(guess)
    frame_weight = factor * _frame_weight(result, measures, config)
    present = result.motion.present
    weight = 0.0 if rejected or not present.any() else float(frame_weight[present].mean())
    decision: Decision = "reject" if rejected else "weight" if reasons else "accept"
    frame_weight = np.zeros_like(frame_weight) if rejected else frame_weight
    verdict = Verdict(
        decision=decision, weight=number(weight), reasons=reasons, numbers=numbers,
        predicted_w_mpjpe_mm=number(predicted), signs=signs,
    )  # fmt: skip
    return verdict, frame_weight.astype(np.float32)


def _numbers(result: Result, measures: Measures, config: QualityConfig) -> dict[str, float | None]:
    """The number of every check; its name is that of its limits in the config."""
    to_long_side = LONG_SIDE / max(result.cameras.size)
    seen = result.motion.present.any(0)
    statures = np.abs(measures.stature[seen] - config.stature_mean) / config.stature_one_sd
    witnesses = np.abs(measures.witness_log[np.isfinite(measures.witness_log)])
    return {
        "keypoint_rel": _median(measures.keypoint_rel),
        "background_px": _median(measures.background_px * to_long_side),
        "held_out_px": _median(measures.held_out_px * to_long_side),
        "slip_mps": _median(measures.slip),
        "foot_gap_m": _median(measures.gap),
        "penetration_m": _median(measures.penetration),
        "scale_spread": _scale_spread(measures.scale_ratio),
        "witness_gap": number(witnesses.max()) if witnesses.size else None,
        "contact_lost": None if np.isnan(measures.contact_kept) else number(1 - measures.contact_kept),
        "stature_sd": number(statures.max()) if len(statures) else None,
        "unregistered": number(1 - result.cameras.valid.mean()),
    }


def _scale_spread(ratio: Array) -> float | None:
    """Robust standard deviation over frames and people of the log scale that each contact asks for."""
    values = ratio[np.isfinite(ratio)]
    return number(1.4826 * np.median(np.abs(values))) if len(values) >= 3 else None


def _scale_is_a_guess(result: Result, measures: Measures) -> str:
    """A travelling camera whose scale no contact speaks for is not in metres."""
    if result.meta.get("camera") != "sfm":
        return ""
    if result.meta.get("scale", {}).get("first_estimate_from") in ("pelvis", "none"):
        return "no contact with the scene was found, so the scale is a guess"
    if not np.isfinite(measures.gap).any():
        return "after the solve no touching foot is near the scene, so nothing holds the scale"
    return ""


def _frame_weight(result: Result, measures: Measures, config: QualityConfig) -> Array:
    """[T, P]: product of a factor for each number of the frame; 1 up to its limit, then falling.

    A body that no image speaks for, such as a bridged one, counts by its confidence.
    """
    weight = result.motion.present * np.where(result.cameras.valid, 1.0, POSE_LIMIT)[:, None]
    weight = weight * np.where(np.isnan(measures.keypoint_rel), result.motion.confidence, 1.0)
    for values, limit in (
        (measures.keypoint_rel, config.keypoint_rel.weight),
        (measures.slip, config.slip_mps.weight),
        (measures.gap, config.foot_gap_m.weight),
    ):
        weight = weight * np.minimum(1.0, limit / np.maximum(np.nan_to_num(values, nan=0.0), 1e-9))
    return weight


def _median(values: Array) -> float | None:
    finite = values[np.isfinite(values)]
    return number(np.median(finite)) if finite.size else None
