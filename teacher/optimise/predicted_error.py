"""The error that a solved clip probably has, from what can be seen without truth: a score that ranks clips.

    log W-MPJPE = c + sum_i a_i (g_i - m_i) / s_i,    g_i = log(e_i + sign_i)

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
from distill.results import Result
from teacher.optimise.measure import Measures
from teacher.stagefiles import Array

FILE: Final = Path(__file__).with_suffix(".json")
MEASURES: Final = {
    "keypoint_rel": 0.005, "keypoint_rel_high": 0.005, "background_px": 0.1, "held_out_px": 0.1, "slip_mps": 0.02,
    "foot_gap_m": 0.005, "foot_gap_high_m": 0.01, "penetration_m": 0.005, "scale_spread": 0.01, "witness_gap": 0.01,
    "contact_lost": 0.05, "stature_sd": 0.3, "jitter": 1.0, "focal_change": 0.01, "ground_spread_m": 0.005,
    "gravity_sd_deg": 0.5, "doubt": 0.05,
}  # fmt: skip
"""Measures and the size e below which they say nothing more; the higher, the worse the clip."""
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
        values = logarithms(signs, self.names)
        known = np.where(np.isfinite(values), values, self.centre)
        return float(np.exp(self.constant + (known - self.centre) / self.spread @ np.asarray(self.slope)))


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
