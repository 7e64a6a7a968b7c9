"""Cameras: known, in place (tripod, still, panning), or moving. `auto` finds out which."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from distill.errors import FootfallError
from teacher.initialisers.background import FrameReader, follow_background, path_lengths
from teacher.initialisers.camera_rotation import RotationFit, fit_rotations
from teacher.initialisers.camera_sfm import SfmConfig, solve_sfm
from teacher.initialisers.mast3r_sfm.config import Mast3rSfmConfig
from teacher.initialisers.registry import Outcome, Report, register
from teacher.stagefiles import CameraInit, Frames
from teacher.workspace import ClipFolder

Array = NDArray[Any]
NEARLY_IN_PLACE: Final = 0.006
"""Where mapping fails, rotation alone is taken if it explains half of the frames to within this share of the
longer side."""


@dataclass(kw_only=True)
class CamerasConfig:
    """Camera initialisation."""

    use: str = "auto"
    """auto, known, static, colmap, mast3r, files:FOLDER, or FORMAT:PATH of another system (docs/initialisers.md)."""
    focal_guess: float = 0.8
    """Focal length where nothing tells it, as a multiple of the image diagonal (a phone's main lens, filming)."""
    static_residual: float = 0.003
    """A camera is in place if rotation explains the background to within this share of the longer side ..."""
    static_share: float = 0.9
    """... in at least this share of the frames."""
    tripod_motion: float = 0.0025
    """A camera in place is taken as fixed if the background moves less than this share of the longer side."""
    sfm: SfmConfig = field(default_factory=SfmConfig)
    """Moving cameras."""
    mast3r: Mast3rSfmConfig = field(default_factory=Mast3rSfmConfig)
    """For use=mast3r (docs/neural.md)."""

    def __post_init__(self) -> None:
        if self.focal_guess <= 0 or not 0 < self.static_share <= 1:
            raise ValueError("cameras: focal_guess > 0 and 0 < static_share <= 1 are expected")


@register("cameras", "auto", needs=("frames", "people"), licence="Apache-2.0")
def run_auto(clip: ClipFolder, config: CamerasConfig, report: Report) -> Outcome:
    """Known cameras if given; else in place if rotation explains the background; else structure from motion.

    If that finds too little parallax and rotation nearly explains the background, rotation it is.
    """
    reader = FrameReader(clip)
    if reader.frames.world_from_cam is not None and reader.frames.K is not None:
        return run_known(clip, config, report)
    chunks = follow_background(reader, report=lambda fraction, text: report(0.2 * fraction, text))
    fit = _rotation_fit(reader, chunks, config)
    if _is_in_place(fit, reader, config):
        return _write_static(clip, reader, chunks, fit, config)
    # A person who turns while filming moves the camera by some decimetres: often too little to triangulate from.
    nearly_in_place = float(np.median(fit.residual_px)) <= NEARLY_IN_PLACE * max(reader.size)
    try:
        return _write_sfm(clip, reader, chunks, config, report, retry=not nearly_in_place)
    except FootfallError as error:
        if not nearly_in_place:
            raise
        outcome = _write_static(clip, reader, chunks, fit, config)
        outcome.summary["instead_of_sfm"] = f"{error.what}: {error.got}"
        return outcome


@register("cameras", "known", needs=("frames", "people"), licence="Apache-2.0")
def run_known(clip: ClipFolder, config: CamerasConfig, report: Report) -> Outcome:
    """Cameras from calibration, in metres; nothing is estimated."""
    frames = Frames.load(clip.require("frames"))
    if frames.K is None or frames.world_from_cam is None:
        raise FootfallError(
            f"clip {clip.id}: cameras.use=known", got="no calibration of both lens and pose",
            expected="intrinsics and world_from_cam in the manifest", do="give both, or use auto",
        )  # fmt: skip
    poses = np.asarray(frames.world_from_cam, np.float64)
    poses = np.broadcast_to(poses, (len(frames.timestamps), 4, 4)).copy()
    _empty_init("known", np.asarray(frames.K), poses, metric=True, focal_known=True).save(clip.stage_dir("cameras"))
    return Outcome(summary={"kind": "known", "registered": len(poses), "focal_px": round(frames.K[0][0], 2)})


@register("cameras", "static", needs=("frames", "people"), licence="Apache-2.0")
def run_static(clip: ClipFolder, config: CamerasConfig, report: Report) -> Outcome:
    """A camera that stays in place, on the user's word."""
    reader = FrameReader(clip)
    chunks = follow_background(reader, report=report)
    return _write_static(clip, reader, chunks, _rotation_fit(reader, chunks, config), config)


@register("cameras", "colmap", needs=("frames", "people"), licence="Apache-2.0 (pycolmap: BSD-3-Clause)")
def run_colmap(clip: ClipFolder, config: CamerasConfig, report: Report) -> Outcome:
    """A moving camera, on the user's word."""
    reader = FrameReader(clip)
    chunks = follow_background(reader, report=lambda fraction, text: report(0.2 * fraction, text))
    return _write_sfm(clip, reader, chunks, config, report)


@register(
    "cameras", "mast3r", needs=("frames", "people"),
    licence="Apache-2.0 (weights of MASt3R: CC-BY-NC-SA-4.0, non-commercial, further terms of its training sets)",
    gpu=True,
)  # fmt: skip
def run_mast3r(clip: ClipFolder, config: CamerasConfig, report: Report) -> Outcome:
    """A moving camera by a pairwise pointmap network and sparse global alignment (`mast3r_sfm`)."""
    from teacher.initialisers.mast3r_sfm import cameras

    return cameras.run_mast3r(clip, config.mast3r, config.sfm, report)


def _rotation_fit(reader: FrameReader, chunks: list[Any], config: CamerasConfig) -> RotationFit:
    known = None if reader.frames.K is None else float(reader.frames.K[0][0])
    guess = config.focal_guess * float(np.hypot(*reader.size))
    return fit_rotations(chunks, reader.size, focal=known, focal_guess=guess)


def _is_in_place(fit: RotationFit, reader: FrameReader, config: CamerasConfig) -> bool:
    return bool(np.mean(fit.residual_px < config.static_residual * max(reader.size)) >= config.static_share)


def _write_static(
    clip: ClipFolder, reader: FrameReader, chunks: list[Any], fit: RotationFit, config: CamerasConfig
) -> Outcome:
    poses = np.tile(np.eye(4), (len(reader), 1, 1))
    drift = max(
        (float(np.nanpercentile(np.linalg.norm(p - c.points[0], axis=-1), 50)) for c in chunks for p in c.points[1:]
         if np.isfinite(p).any()), default=0.0,
    )  # fmt: skip
    tripod = drift < config.tripod_motion * max(reader.size)
    if not tripod:
        poses[:, :3, :3] = fit.world_from_cam
    width, height = reader.size
    K = np.array([[fit.focal, 0, width / 2], [0, fit.focal, height / 2], [0, 0, 1.0]])
    focal_known = reader.frames.K is not None
    if reader.frames.K is not None:
        K = np.asarray(reader.frames.K)
    _empty_init("static", K, poses, metric=False, focal_known=focal_known).save(clip.stage_dir("cameras"))
    source = "given" if focal_known else "found from the rotation" if fit.focal_found else "guessed"
    return Outcome(
        summary={
            "kind": "static", "fixed": tripod, "registered": len(reader), "focal_px": round(float(K[0, 0]), 2),
            "focal": source, "turn_deg": 0.0 if tripod else round(fit.turn_deg, 2),
            "residual_px": round(float(np.median(fit.residual_px)), 3),
        }
    )  # fmt: skip


def _write_sfm(
    clip: ClipFolder, reader: FrameReader, chunks: list[Any], config: CamerasConfig, report: Report,
    *, retry: bool = True,
) -> Outcome:  # fmt: skip
    known = None if reader.frames.K is None else np.asarray(reader.frames.K)
    guess = config.focal_guess * float(np.hypot(*reader.size))
    path_px = path_lengths(chunks, len(reader))
    init, summary = solve_sfm(reader, path_px, config.sfm, report, K=known, guess=guess, retry=retry)
    init.save(clip.stage_dir("cameras"))
    return Outcome(summary={"kind": "sfm", **summary})


def _empty_init(kind: str, K: Array, poses: Array, *, metric: bool, focal_known: bool) -> CameraInit:
    """Cameras without points."""
    return CameraInit(
        kind=kind, metric=metric, focal_known=focal_known, K=K.astype(np.float64), world_from_cam=poses,
        registered=np.ones(len(poses), bool), points=np.zeros((0, 3), np.float32),
        points_rgb=np.zeros((0, 3), np.uint8), obs_frame=np.zeros(0, np.int32), obs_point=np.zeros(0, np.int32),
        obs_px=np.zeros((0, 2), np.float32),
    )  # fmt: skip
