"""Bodies by landmarks: the free body fitted to every person's keypoints over the whole clip at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.body import BodyModel, load_body_model
from distill.errors import FootfallError
from distill.geometry.rotations import slerp
from distill.geometry.transforms import interpolate_missing
from teacher.initialisers.body_fit import BONES, BodyFit, FitConfig, Observed, Pose
from teacher.initialisers.body_points import KeypointPieces
from teacher.initialisers.body_prior import usual_pose
from teacher.initialisers.body_start import start_transform
from teacher.initialisers.registry import Outcome, Report, register
from teacher.stagefiles import BodyInit, CameraInit, Frames, People
from teacher.workspace import ClipFolder

Array = NDArray[Any]

MIN_KEYPOINTS: Final = 6
"""Fewer visible keypoints than this do not fix a body."""
GOOD_RESIDUAL: Final = 0.03
"""Median image error, in statures, at which the confidence has fallen to exp(-1/2)."""


@dataclass(kw_only=True)
class BodiesConfig:
    """Fit of bodies to keypoints."""

    use: str = "landmarks"
    """Registered initialiser, files:FOLDER, or FORMAT:PATH of another system (docs/initialisers.md)."""
    body_model: str = "anny"
    """The body to fit: anny, smpl:FILE or smplx:FILE."""
    min_keypoint_score: float = 0.3
    """Keypoints below this score are not used, in [0, 1]."""
    fit: FitConfig = field(default_factory=FitConfig)
    """Standard deviations and limits of the fit."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_keypoint_score < 1:
            raise ValueError(f"bodies.min_keypoint_score: got {self.min_keypoint_score}, expected 0 or more, below 1")


@dataclass(kw_only=True)
class FittedPerson:
    """One person over all T frames; frames that are not `present` are filled from their neighbours."""

    present: Tensor
    """[T] bool."""
    pose: Pose
    """All T frames."""
    confidence: Tensor
    """[T] in [0, 1]."""
    residual_px: Tensor
    """[T] median distance of used keypoints, pixels; 0 where not present."""


@register("bodies", "landmarks", needs=("frames", "people", "cameras"), licence="Apache-2.0")
def run(clip: ClipFolder, config: BodiesConfig, report: Report) -> Outcome:
    """Fit every person and write `bodies.npz`.

    Raises:
        FootfallError: nobody shows enough of the body.
    """
    frames = Frames.load(clip.require("frames"))
    people = People.load(clip.require("people"))
    cameras = CameraInit.load(clip.require("cameras"))
    body = load_body_model(config.body_model)
    fitted = []
    for person in range(people.visible.shape[1]):
        report(person / people.visible.shape[1], f"person {person + 1}")
        fitted.append(fit_person(body, frames.timestamps, people, person, cameras, config))
    present = torch.stack([f.present for f in fitted], 1)
    if not present.any():
        raise FootfallError(
            f"clip {clip.id}", got=f"nobody with {MIN_KEYPOINTS} visible keypoints", expected="bodies in view",
            do="leave this clip out",
        )  # fmt: skip
    init = BodyInit(
        body_model=body.name,
        focal_px=float(cameras.K[0, 0] + cameras.K[1, 1]) / 2,
        present=present.numpy(),
        betas=_stack([f.pose.betas for f in fitted], 0),
        body_rot=_stack([f.pose.body_rot for f in fitted], 1),
        cam_from_body=_stack([f.pose.cam_from_body for f in fitted], 1),
        confidence=_stack([f.confidence for f in fitted], 1),
    )
    init.save(clip.stage_dir("bodies"))
    return Outcome(summary=_summary(body, fitted))


def _stack(tensors: list[Tensor], axis: int) -> Array:
    return torch.stack(tensors, axis).numpy().astype(np.float32)


def _summary(body: BodyModel, fitted: list[FittedPerson]) -> dict[str, Any]:
    residuals = torch.cat([f.residual_px[f.present] for f in fitted])
    return {
        "residual_px_median": round(float(residuals.median()), 2),
        "stature_m": [round(float(body.stature(f.pose.betas.float())), 3) for f in fitted],
        "depth_m_median": [round(float(f.pose.cam_from_body[:, 2, 3].median()), 2) for f in fitted],
        "present_frames": [int(f.present.sum()) for f in fitted],
        "confidence_mean": [round(float(f.confidence[f.present].mean()), 3) if f.present.any() else 0 for f in fitted],
    }


def fit_person(
    body: BodyModel, timestamps: Array, people: People, person: int, cameras: CameraInit, config: BodiesConfig
) -> FittedPerson:
    """Fit one person of `people` over the clip; timestamps [T] seconds."""
    score = torch.from_numpy(people.keypoint_score[:, person]).double()
    weight = torch.where(score >= config.min_keypoint_score, score, 0.0)
    present = torch.from_numpy(people.visible[:, person]) & ((weight > 0).sum(1) >= MIN_KEYPOINTS)
    if not present.any():
        return _nobody(body, len(timestamps))
    pieces = KeypointPieces(body)
    start, observed = prepare(pieces, body.num_betas, present, timestamps, people, person, cameras, weight)
    pose, _ = BodyFit(pieces, observed, config.fit).solve(start)
    distance = _residuals(pieces, pose, observed)
    seen = torch.tensor(people.score[present.numpy(), person], dtype=torch.float64)
    quality = torch.exp(-0.5 * (distance / observed.size_px / GOOD_RESIDUAL).square())
    shown = observed.weight.sum(1) / max(float(observed.weight.sum(1).max()), 1e-6)
    confidence = torch.zeros(len(timestamps), dtype=torch.float64)
    confidence[present] = (seen * quality * shown).clamp(0, 1)
    residual = torch.zeros(len(timestamps), dtype=torch.float64)
    residual[present] = distance
    return FittedPerson(present=present, pose=fill(pose, present), confidence=confidence, residual_px=residual)


def prepare(
    pieces: KeypointPieces, shape: int, present: Tensor, timestamps: Array, people: People, person: int,
    cameras: CameraInit, weight: Tensor,
) -> tuple[Pose, Observed]:  # fmt: skip
    """First pose and measurements of the frames where `present` [T]; weight [T, 23]."""
    chosen = present.numpy()
    count = int(present.sum())
    K = torch.from_numpy(cameras.K).double()
    pixels = torch.from_numpy(people.keypoints_px[chosen, person]).double()
    landmarks = torch.from_numpy(people.keypoints_hip[chosen, person]).double()
    weight = weight[present]
    bones = landmarks[:, [b for _, b in BONES]] - landmarks[:, [a for a, _ in BONES]]
    length = bones.norm(dim=-1, keepdim=True)
    known = (length[..., 0] > 1e-3).double()
    # A hidden limb's 3D landmarks are a guess, but a better one than the prior's.
    score = torch.from_numpy(people.keypoint_score[chosen, person]).double().clamp(min=0.25)
    bone_weight = known * torch.minimum(score[:, [a for a, _ in BONES]], score[:, [b for _, b in BONES]])
    flat = torch.cat((pixels - pixels[:, 11:13].mean(1, keepdim=True), torch.zeros_like(pixels[..., :1])), -1)
    betas = torch.zeros(shape, dtype=torch.float64)
    identity = torch.eye(4, dtype=torch.float64).expand(1, 4, 4)
    usual = pieces.points(betas, usual_pose(1), identity)[0]
    # Without 3D landmarks the picture itself, taken as flat, tells front from back.
    solid = torch.where(known.sum(1)[:, None, None] > 0, landmarks, flat)
    transform = start_transform(solid, usual, pixels, weight, K)
    stature = usual[:, 1].max() - usual[:, 1].min()
    observed = Observed(
        keypoints_px=pixels,
        weight=weight,
        size_px=K[0, 0] * stature / transform[:, 2, 3],
        bones=bones / length.clamp(min=1e-3),
        bone_weight=bone_weight,
        K=K,
        seconds=torch.from_numpy(np.asarray(timestamps, np.float64)[chosen]),
        world_from_cam=torch.from_numpy(cameras.world_from_cam[chosen, :3, :3]).double(),
    )
    return Pose(betas=betas, body_rot=usual_pose(count), cam_from_body=transform), observed


def _residuals(pieces: KeypointPieces, pose: Pose, observed: Observed) -> Tensor:
    """[T] median distance between used keypoints and the fitted ones, pixels."""
    points = pieces.points(pose.betas, pose.body_rot, pose.cam_from_body)
    pixels = points[..., :2] / points[..., 2:].clamp(min=0.1) @ observed.K[:2, :2].T + observed.K[:2, 2]
    distance = (pixels - observed.keypoints_px).norm(dim=-1)
    return torch.where(observed.weight > 0, distance, torch.nan).nanmedian(1).values


def fill(pose: Pose, present: Tensor) -> Pose:
    """Spread the fitted frames over all T frames: between them by interpolation, outside by repetition."""
    slot = (present.cumsum(0) - 1).clamp(min=0)
    transform = interpolate_missing(pose.cam_from_body[slot], present)
    known = torch.nonzero(present).flatten()
    frame = torch.arange(len(present))
    before = known[(torch.searchsorted(known, frame, right=True) - 1).clamp(min=0)]
    after = known[torch.searchsorted(known, frame).clamp(max=len(known) - 1)]
    weight = ((frame - before).clamp(min=0) / (after - before).clamp(min=1)).double()
    joints = slerp(pose.body_rot[slot[before]], pose.body_rot[slot[after]], weight[:, None].expand(-1, 23))
    return Pose(betas=pose.betas, body_rot=joints, cam_from_body=transform)


def _nobody(body: BodyModel, frames: int) -> FittedPerson:
    """A track without a usable frame: nothing present, finite numbers."""
    none = torch.zeros(frames, dtype=torch.float64)
    pose = Pose(
        betas=torch.zeros(body.num_betas, dtype=torch.float64),
        body_rot=usual_pose(frames),
        cam_from_body=torch.eye(4, dtype=torch.float64).expand(frames, 4, 4),
    )
    return FittedPerson(present=none.bool(), pose=pose, confidence=none, residual_px=none)
