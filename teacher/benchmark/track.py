"""The degraded track: which clips, and how wrong the initial values of each are.

The sizes are those that `calibration` finds for the embedded initialisers on rendered frames (docs/benchmark.md);
where rendered frames are kinder than real ones (cameras, focal length) they are larger, and the page says by how much.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from distill.config import load_config
from distill.errors import FootfallError
from teacher.optimise.degrade import Degradation

if TYPE_CHECKING:
    from distill.synthetic import ClipSpec

FOCAL_SD: Final = 0.08
"""Standard deviation of the logarithm of the focal length's factor over clips."""
MEASURED_FOCAL_SD: Final = 0.02
"""The same where the turns of a camera in its place tell the focal length."""
IN_PLACE: Final = ("static", "pan")
"""Moves of a camera in its place: the cameras stage finds turns and no scene."""
ROOT_DEPTH_SD: Final = 0.05
"""The same of the factor on pelvis depths."""
UNITS: Final = (0.2, 5.0)
"""Range of the units per metre of a scene; its logarithm is even over it."""


def clips_of(data: str) -> list[ClipSpec]:
    """The clips of a collection: its name, or a folder that `prepare_synthetic` wrote.

    Raises:
        FootfallError: neither.
    """
    from distill.synthetic import ClipSpec, collection

    folder = Path(data)
    if not folder.is_dir():
        return collection(data)
    files = sorted(folder.glob("*/spec.yaml"))
    if not files:
        raise FootfallError(
            f"--data {data}", got="no ID/spec.yaml in it", expected="a collection's name or folder",
            do="name one, e.g. footsteps-v1, or make one with datasets/synthetic/prepare_synthetic.py",
        )  # fmt: skip
    return [load_config(ClipSpec, path) for path in files]


def clip_rng(clip_id: str, seed: int, purpose: str) -> np.random.Generator:
    """A generator that belongs to a clip, whatever else is run."""
    return np.random.default_rng([seed, zlib.crc32(clip_id.encode()), *purpose.encode()])


def usual_errors(spec: ClipSpec, seed: int = 0) -> Degradation:
    """How wrong initial values usually are; drawn per clip, always the same for a clip and seed."""
    rng = clip_rng(spec.id, seed, "usual errors")
    focal, depth, unit = rng.standard_normal(), rng.standard_normal(), rng.random()
    static = spec.camera in IN_PLACE
    focal_sd = MEASURED_FOCAL_SD if spec.camera == "pan" else FOCAL_SD
    return Degradation(
        seed=int(rng.integers(2**31)),
        focal=float(np.exp(focal_sd * focal)),
        unit=1.0 if static else float(UNITS[0] * (UNITS[1] / UNITS[0]) ** unit),
        root_depth=float(np.exp(ROOT_DEPTH_SD * depth)),
        root_depth_sd=0.012, root_rot_sd=0.09, pose_sd=0.11, standing=0.4, slow=0.6, memory_s=0.25, betas_sd=0.95,
        keypoint_px=1.2, keypoint_memory_s=0.08, keypoint_bias=0.010, keypoint_hidden=0.1,
        track_px=0.25, outliers=0.01,
        depth_sd=0.003, depth_patch_sd=0.015, depth_holes=0.08, depth_far=0.02,
        wrong_contacts=0.18, wrong_contact_s=0.1, contact_doubt=0.15,
        camera_pos_sd=0.001, camera_rot_sd=0.0003, drift_rot=0.002, drift_pos=0.003, drift_scale=0.004,
        cameras="static" if static else "sfm",
    )  # fmt: skip


def strained_errors(spec: ClipSpec, seed: int, draw: int) -> Degradation:
    """Anything from better than usual to hopeless, as videos from the web are; for the calibration of quality."""
    rng = clip_rng(spec.id, seed, f"strain {draw}")
    usual = usual_errors(spec, seed)
    bodies, scene, contacts = np.exp(rng.uniform(np.log(0.4), np.log(3.0), 3))
    failed = rng.random(5) < 0.12
    return Degradation(
        seed=int(rng.integers(2**31)),
        focal=float(np.exp(rng.standard_normal() * (0.35 if failed[0] else FOCAL_SD) * scene)),
        unit=usual.unit,
        root_depth=float(np.exp(rng.standard_normal() * ROOT_DEPTH_SD * bodies)),
        root_depth_sd=usual.root_depth_sd * bodies, root_rot_sd=usual.root_rot_sd * bodies,
        pose_sd=usual.pose_sd * bodies, standing=usual.standing, slow=usual.slow, memory_s=usual.memory_s,
        betas_sd=usual.betas_sd * min(bodies, 2.0), keypoint_px=usual.keypoint_px * bodies * (6 if failed[1] else 1),
        keypoint_memory_s=usual.keypoint_memory_s, keypoint_bias=usual.keypoint_bias * bodies,
        keypoint_hidden=min(usual.keypoint_hidden * bodies, 0.5), mirrored_frames=spec.frames // 3 if failed[4] else 0,
        track_px=usual.track_px * scene, outliers=0.4 if failed[2] else usual.outliers * scene,
        depth_sd=usual.depth_sd * scene, depth_patch_sd=usual.depth_patch_sd * scene * (6 if failed[2] else 1),
        depth_holes=min(usual.depth_holes * scene, 0.5), depth_far=min(usual.depth_far * scene**2, 0.3),
        wrong_contacts=0.5 if failed[3] else min(usual.wrong_contacts * contacts, 0.5),
        wrong_contact_s=usual.wrong_contact_s, contact_doubt=usual.contact_doubt,
        camera_pos_sd=usual.camera_pos_sd * scene, camera_rot_sd=usual.camera_rot_sd * scene,
        drift_rot=usual.drift_rot * scene * (8 if failed[2] else 1), drift_pos=usual.drift_pos * scene,
        drift_scale=usual.drift_scale * scene * (8 if failed[2] else 1), cameras=usual.cameras,
    )  # fmt: skip
