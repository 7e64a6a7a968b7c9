"""The error that a solved clip probably has, from what can be seen without truth: a score that ranks clips.

    log W-MPJPE = c + sum_i a_i clip((g_i - m_i) / s_i),    g_i = log(e_i + sign_i)

`signs` are measures of the solve (disagreement with images, scene and itself) and circumstances (how far away people
are, how far they walk). The coefficients a_i are not negative for measures, so that a worse measure never lowers the
predicted error, and were fitted on the degraded track of the benchmark (`teacher.benchmark.calibrate_quality`,
`footfall evaluate --ablation table=quality`). They lie in `predicted_error.json` with where they came from.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from distill.files import read_json
from distill.metrics.world import SEGMENT
from distill.results import Result
from teacher.optimise.measure import Measures
from teacher.stagefiles import Array

FILE: Final = Path(__file__).with_suffix(".json")
MEASURES: Final = {
    "keypoint_rel": 0.005, "keypoint_rel_high": 0.005, "background_px": 0.1, "held_out_px": 0.1, "slip_mps": 0.02,
    "foot_gap_m": 0.005, "foot_gap_high_m": 0.01, "penetration_m": 0.005, "scale_spread": 0.01, "witness_gap": 0.01,
    "contact_lost": 0.05, "stature_sd": 0.3, "jitter": 1.0, "focal_change": 0.01, "ground_spread_m": 0.005,
    "gravity_sd_deg": 0.5, "doubt": 0.05, "pose_change": 0.02, "root_change": 0.02, "depth_change": 0.005,
    "first_pose_change": 0.02, "first_root_change": 0.02, "first_keypoint_rel": 0.005, "turn_rad_s": 1.0,
    "backwards": 0.05,
}  # fmt: skip
"""Measures and the size e below which they say nothing more; the higher, the worse the clip."""
FARTHEST: Final = 3.0
"""Standard deviations from the mean beyond which a sign says no more: there was nothing to fit it to."""
WALKING_M_S: Final = 0.4
"""Slower people may step back and aside."""
CIRCUMSTANCES: Final = {"depth_m": 0.5, "way_m": 0.5, "camera_way_m": 0.3, "seconds": 0.5}
"""What makes every error larger or smaller, with the same; their coefficients may have either sign."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The fitted formula."""

    names: tuple[str, ...]
    """Signs that it uses."""
    centre: tuple[float, ...]
    """m_i, used in place of a sign that a clip does not have."""
    spread: tuple[float, ...]
    """s_i."""
    slope: tuple[float, ...]
    """a_i."""
    constant: float
    """c."""

    def predict_mm(self, signs: Mapping[str, float | None]) -> float:
        """W-MPJPE that a clip with these signs probably has, mm."""
        offset = (logarithms(signs, self.names) - self.centre) / self.spread
        return float(np.exp(self.constant + within(offset) @ np.asarray(self.slope)))


@functools.cache
def stored_fit() -> Fit:
    """The fit that comes with the program."""
    stored: dict[str, Any] = read_json(FILE)["fit"]
    lists = {name: tuple(stored[name]) for name in ("names", "centre", "spread", "slope")}
    return Fit(**lists, constant=float(stored["constant"]))


def logarithms(signs: Mapping[str, float | None], names: tuple[str, ...]) -> Array:
    """[N] g_i of the named signs; NaN where there is none."""
    floors = MEASURES | CIRCUMSTANCES
    values = [np.nan if signs.get(name) is None else float(signs[name] or 0.0) for name in names]
    return np.log(np.maximum(values, 0.0) + [floors[name] for name in names])


def within(offset: Array) -> Array:
    """Standardised signs as the formula takes them: nothing beyond `FARTHEST`, 0 where a clip has none."""
    return np.asarray(np.nan_to_num(offset, nan=0.0).clip(-FARTHEST, FARTHEST))


def signs_of(result: Result, measures: Measures, numbers: Mapping[str, float | None]) -> dict[str, float | None]:
    """Every sign of a solved clip; None where it has none.

    Args:
        result: the solved clip. measures: of the same solve. numbers: of the quality stage's checks.
    """
    motion, times = result.motion, result.cameras.timestamps
    present = motion.present
    focal: dict[str, Any] = result.meta.get("focal_px", {})
    change = abs(np.log(focal["solved"] / focal["initial"])) if focal else None
    roots = result.joints_world[:, :, 0]
    found: dict[str, float | None] = {
        "keypoint_rel_high": _quantile(measures.keypoint_rel, 0.9),
        "foot_gap_high_m": _quantile(measures.gap, 0.9),
        "jitter": _jitter(result.joints_world, present, times),
        "focal_change": change,
        "ground_spread_m": _ground_spread(result),
        "gravity_sd_deg": result.meta.get("gravity", {}).get("sd_deg"),
        "pose_change": _quantile(measures.pose_change, 0.5),
        "root_change": _quantile(measures.root_change, 0.5),
        "depth_change": _quantile(measures.depth_change, 0.5),
        "first_pose_change": _quantile(_first(measures.pose_change), 1.0),
        "first_root_change": _quantile(_first(measures.root_change), 1.0),
        "first_keypoint_rel": _quantile(_first(measures.keypoint_rel), 1.0),
        "turn_rad_s": _fastest_turn(result),
        "backwards": _backwards(result),
        "doubt": float(1 - motion.confidence[present].mean()) if present.any() else None,
        "depth_m": float(np.median(motion.cam_from_body[present][:, 2, 3])) if present.any() else None,
        "way_m": _way(roots, present),
        "camera_way_m": float(np.linalg.norm(np.diff(result.cameras.world_from_cam[:, :3, 3], axis=0), axis=-1).sum()),
        "seconds": float(times[-1] - times[0]),
    }
    found |= {name: value for name, value in numbers.items() if name in MEASURES}
    return {name: None if value is None or not np.isfinite(value) else round(float(value), 5)
            for name, value in found.items()}  # fmt: skip


def _quantile(values: Array, share: float) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.quantile(finite, share)) if finite.size else None


def _first(values: Array) -> Array:
    """The frames that W-MPJPE aligns: two of every `SEGMENT`."""
    return values[np.arange(len(values)) % SEGMENT < 2]


def _fastest_turn(result: Result) -> float | None:
    """Fastest turn of a body as a whole, rad/s: one that is seen the wrong way round must turn back in a frame."""
    rotation, present = result.world_from_body[..., :3, :3], result.motion.present
    step = np.swapaxes(rotation[:-1], -1, -2) @ rotation[1:]
    angle = np.arccos(((np.trace(step, axis1=-2, axis2=-1) - 1) / 2).clip(-1, 1))
    speed = angle / np.diff(result.cameras.timestamps)[:, None]
    return _quantile(speed[present[1:] & present[:-1]], 1.0)


def _backwards(result: Result) -> float | None:
    """Part of the time in which people who walk face away from where they go."""
    present, times = result.motion.present, result.cameras.timestamps
    velocity = np.diff(result.joints_world[:, :, 0], axis=0) / np.diff(times)[:, None, None]
    front = result.world_from_body[:-1, :, :3, 2]  # a body's z axis (`conventions`)
    walks = (np.linalg.norm(velocity, axis=-1) > WALKING_M_S) & present[1:] & present[:-1]
    return float(((front * velocity).sum(-1) < 0)[walks].mean()) if walks.any() else 0.0


def _way(roots: Array, present: Array) -> float | None:
    """Mean over people of the length of the pelvis's path, metres."""
    steps = np.linalg.norm(np.diff(roots, axis=0), axis=-1) * (present[1:] & present[:-1])
    seen = present.any(0)
    return float(steps[:, seen].sum(0).mean()) if seen.any() else None


def _jitter(joints: Array, present: Array, times: Array) -> float | None:
    """Median size of third differences of the joints, m/s^3 / 10 as `metrics.jitter`."""
    if len(joints) < 4:
        return None
    third = np.diff(joints, n=3, axis=0) / float(np.median(np.diff(times))) ** 3
    there = present[3:] & present[2:-1] & present[1:-2] & present[:-3]
    return float(np.median(np.linalg.norm(third, axis=-1)[there])) / 10 if there.any() else None


def _ground_spread(result: Result) -> float | None:
    """How far apart the heights are at which feet stand: robust deviation of the lower ankle in contact, metres.

    Stairs have it too, so it is one sign among others.
    """
    touching = (result.motion.contact_prob[..., :4] > 0.5).any(-1) & result.motion.present
    if touching.sum() < 3:
        return None
    ankles = result.joints_world[:, :, (7, 8)]
    low = np.sort(ankles[..., 2].min(-1)[touching])
    return float(1.4826 * np.median(np.abs(low - np.median(low))))
