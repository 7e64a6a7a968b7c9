"""Metrics over arrays: per frame or per sample, float64, in the unit that each docstring states.

docs/metrics.md holds the definitions and where published protocols differ from ours.
"""

from distill.metrics.cameras import ate, ate_rotation, rmse, rpe
from distill.metrics.feet import (
    contact_f1,
    contacts_from_motion,
    foot_floating_rate,
    foot_gap,
    foot_sliding,
    height_over_scene,
    penetration,
    slip,
)  # fmt: skip
from distill.metrics.images import lpips_from_features, psnr, ssim
from distill.metrics.inputs import DegenerateError, Protocol
from distill.metrics.people import person_penetration
from distill.metrics.pose import accel_error, mpjpe, pa_mpjpe, pve, root_error, stature_error
from distill.metrics.renders import neuman_split, score_frame
from distill.metrics.scene import abs_rel, chamfer, depth_errors, voxel_mean
from distill.metrics.world import (
    jitter,
    path_length,
    root_drift,
    root_velocity_error,
    rte,
    segments,
    smooth_root,
    w_mpjpe,
    wa_mpjpe,
    world_size_error,
)  # fmt: skip

__all__ = [
    "DegenerateError",
    "Protocol",
    "abs_rel",
    "accel_error",
    "ate",
    "ate_rotation",
    "chamfer",
    "contact_f1",
    "contacts_from_motion",
    "depth_errors",
    "foot_floating_rate",
    "foot_gap",
    "foot_sliding",
    "height_over_scene",
    "jitter",
    "lpips_from_features",
    "mpjpe",
    "neuman_split",
    "pa_mpjpe",
    "path_length",
    "penetration",
    "person_penetration",
    "psnr",
    "pve",
    "rmse",
    "root_drift",
    "root_error",
    "root_velocity_error",
    "rpe",
    "rte",
    "score_frame",
    "segments",
    "slip",
    "smooth_root",
    "ssim",
    "stature_error",
    "voxel_mean",
    "w_mpjpe",
    "wa_mpjpe",
    "world_size_error",
]  # fmt: skip
