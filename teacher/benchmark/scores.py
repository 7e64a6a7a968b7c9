"""Numbers of one solved clip against its truth: those of `footfall evaluate`, and a few that only tables need."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

import numpy as np
import torch

from distill.geometry.conventions import SMPL_JOINTS
from distill.metrics.clip_scores import score_clip
from distill.metrics.inputs import align, moved
from distill.results import Result
from teacher.optimise.assemble import assemble_result
from teacher.optimise.config import OptimiseConfig
from teacher.optimise.evidence import Evidence
from teacher.optimise.measure import Measures, measure
from teacher.optimise.problem import Problem
from teacher.optimise.solver import Solution
from teacher.optimise.variables import Unknowns
from teacher.stagefiles import Array

KEPT: Final = (
    "w_mpjpe_mm", "wa_mpjpe_mm", "pa_mpjpe_mm", "mpjpe_mm", "metric_mpjpe_mm", "ate_m", "ate_sim3_m", "rte_percent",
    "ffr_percent", "foot_sliding_mm", "slip_cm_s", "foot_gap_cm", "penetration_cm", "jitter", "contact_f1",
    "focal_error_percent", "stature_error_cm", "world_size_percent", "people_overlap_cm",
)  # fmt: skip
"""Metrics of docs/metrics.md that rows hold, with their units."""
LIMBS: Final = tuple(
    SMPL_JOINTS.index(f"{side}_{part}") for side in ("left", "right") for part in ("wrist", "hand", "ankle", "foot")
)
"""Joints whose peaks of speed are compared."""
SLOW_PEAK: Final = 2.0
"""A fastest limb below this says nothing about fast movements, m/s."""


def clip_values(truth: Result, prediction: Result) -> dict[str, float | None]:
    """Means over the clip's people and frames; None where a metric has no value."""
    scores = score_clip(truth, prediction)
    samples: dict[str, list[Array]] = {}
    for _, person in scores.people:
        for name, per_frame in person.samples.items():
            samples.setdefault(name, []).append(per_frame)
    means = {name: float(np.concatenate(parts).mean()) for name, parts in samples.items()}
    means |= scores.camera.means() | scores.overlap.means()
    found = sum(int(match.frames.sum()) for match, _ in scores.people)
    values: dict[str, float | None] = {name: finite(means.get(name)) for name in KEPT}
    values["person_recall"] = found / max(int(truth.motion.present.sum()), 1)
    if means.get("jitter_of_truth"):
        values["jitter_ratio"] = finite(means["jitter"] / means["jitter_of_truth"])
    pairs = [(match.true, match.predicted) for match, _ in scores.people if match.predicted is not None]
    peaks = [peak_ratio(truth, prediction, *pair) for pair in pairs]
    known = [peak for peak in peaks if peak is not None]
    values["peak_ratio"] = float(np.mean(known)) if known else None
    return values


def finite(value: float | None) -> float | None:
    """Rounded to six digits; None for what JSON cannot hold."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def peak_ratio(truth: Result, prediction: Result, true: int, predicted: int) -> float | None:
    """How much of a person's fastest limb movement is left: speed relative to the pelvis, solved over true.

    The solved speed is the greatest of the same joint within 0.1 s of the true peak. None if no limb is fast.
    """
    times = truth.cameras.timestamps
    speeds = []
    for result, person in ((truth, true), (prediction, predicted)):
        joints = result.joints_world[:, person]
        limbs = joints[:, LIMBS] - joints[:, :1]
        speeds.append(np.linalg.norm(np.diff(limbs, axis=0), axis=-1) / np.diff(times)[:, None])
    if len(speeds[1]) != len(speeds[0]):
        return None
    frame, limb = np.unravel_index(int(speeds[0].argmax()), speeds[0].shape)
    reach = max(1, round(0.1 / float(np.median(np.diff(times)))))
    near = speeds[1][max(frame - reach, 0) : frame + reach + 1, limb]
    peak = speeds[0][frame, limb]
    return float(near.max() / peak) if peak >= SLOW_PEAK else None


def gap_values(truth: Result, prediction: Result, span: slice) -> dict[str, float | None]:
    """What became of the first person in the frames `span` in which its track was lost.

    `gap_error_mm`: mean joint error there, after the similarity that fits all other frames best.
    `gap_recall`: part of these frames for which there is a body. `gap_doubt`: confidence elsewhere over that there.
    """
    present = prediction.motion.present[:, 0]
    inside = np.zeros(len(present), bool)
    inside[span] = True
    values: dict[str, float | None] = {"gap_recall": finite(float(present[inside].mean()))}
    there, elsewhere = present & inside, present & ~inside
    if not there.any() or elsewhere.sum() < 2:
        return values | {"gap_error_mm": None, "gap_doubt": None}
    true, solved = truth.joints_world[:, 0], prediction.joints_world[:, 0]
    similarity = align(true[elsewhere].reshape(-1, 3), solved[elsewhere].reshape(-1, 3), with_scale=True)
    placed = moved(solved[there].reshape(-1, 3), similarity).reshape(-1, *true.shape[1:])
    confidence = prediction.motion.confidence[:, 0]
    values["gap_error_mm"] = finite(1000 * float(np.linalg.norm(placed - true[there], axis=-1).mean()))
    values["gap_doubt"] = finite(float(confidence[elsewhere].mean() / max(confidence[there].mean(), 1e-3)))
    return values


def results_of(
    problem: Problem, solution: Solution, config: OptimiseConfig
) -> tuple[dict[str, Result], dict[str, Measures]]:
    """The clip as three results with their measures: those of `initial_results`, and `after`, the solution."""
    results, measures = initial_results(problem, solution.evidence, config)
    measures["after"] = measure(solution.after, solution.evidence, config)
    results["after"] = assemble_result(problem, solution, measures["after"], config)
    return results, measures


def initial_results(
    problem: Problem, evidence: Evidence, config: OptimiseConfig
) -> tuple[dict[str, Result], dict[str, Measures]]:
    """What there is before any solve.

    `given`: what the initialisers say, put together, the scene's unit taken for the metre. `before`: the same after
    the first, closed-form estimate of the scale, where the solve begins.
    """
    unknowns = Unknowns(evidence)
    told = replace(evidence, contact_prob=evidence.given_contact)
    results, measures = {}, {}
    for name, log_scale in (("given", -math.log(evidence.unit)), ("before", 0.0)):
        with torch.no_grad():
            unknowns.blocks["log_scale"].fill_(log_scale)
            state = unknowns.decode()
        measures[name] = measure(state, told, config)
        whole = Solution(before=state, after=state, evidence=told, trace=[])
        results[name] = assemble_result(problem, whole, measures[name], config)
    return results, measures
