"""Whether the refined result replaces the geometric one. Where it hurts, it does not, and the reason is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from teacher.scene.config import GateConfig

Numbers = Mapping[str, float | None]
FLOORS = {"keypoint_px": 0.3, "background_px": 0.1, "slip_mps": 0.02, "jitter": 0.05}
"""Growth below this is noise, whatever the factor says; in the number's own unit."""


@dataclass(kw_only=True)
class Decision:
    """What became of the stage."""

    decision: Literal["refined", "kept"]
    """refined: labels take the refined cameras and poses; kept: those of the geometric stage."""
    reasons: list[str]
    """Why it was kept; empty if refined."""


def decide(before: Numbers, after: Numbers, config: GateConfig) -> Decision:
    """Compare both fits.

    Args:
        before, after: `measures.measure_result`, and `held_out_psnr_db`, `held_out_person_psnr_db` of Gaussians fitted
            to either geometry.
    """
    reasons = []
    for name, what in (("held_out_psnr_db", "held-out frames"), ("held_out_person_psnr_db", "people in them")):
        gain = _difference(before, after, name)
        if gain is not None and gain < config.psnr_gain_db:
            reasons.append(f"PSNR of {what} changes by {gain:+.2f} dB, less than {config.psnr_gain_db:+.2f}")
    limits = {
        "keypoint_px": config.reprojection, "background_px": config.reprojection, "slip_mps": config.foot_sliding,
        "jitter": config.jitter,
    }  # fmt: skip
    for name, limit in limits.items():
        old, new = before.get(name), after.get(name)
        if old is None or new is None:
            continue
        allowed = max(limit * old, old + FLOORS[name])
        if name == "keypoint_px":  # within what a detector errs, a larger distance from it says nothing
            allowed = max(allowed, config.detector * (before.get("person_px") or 0.0))
        if new > allowed:
            reasons.append(f"{name} grows from {old:.3g} to {new:.3g}")
    return Decision(decision="kept" if reasons else "refined", reasons=reasons)


def _difference(before: Numbers, after: Numbers, name: str) -> float | None:
    old, new = before.get(name), after.get(name)
    return None if old is None or new is None else new - old
