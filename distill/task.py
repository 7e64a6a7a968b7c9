"""The student's training task: a batch in, named losses and a report out. The loop knows no more than that."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, fields
from typing import Any, Final

import torch
from torch import Tensor, nn

from distill.body import BodyModel, load_body_model
from distill.feature_cache import FeatureCache
from distill.frozen_pass import FrozenPass, as_floats, run_backbone
from distill.geometry.cameras import resize_intrinsics
from distill.geometry.transforms import invert
from distill.losses import (
    Loss,
    Term,
    composition_error,
    contact_divergence,
    direction_error,
    joints_error,
    laplace_nll,
    log_depth_error,
    reprojection_error,
    rotation_error,
    scene_scale_error,
    translation_error,
)
from distill.models.held import Held
from distill.models.precision import full_precision
from distill.models.prediction import PairPrediction, Prompts
from distill.models.student import Student
from distill.token_losses import detection_terms, identity_term, match_term

Batch = dict[str, Any]
"""Tensors of B windows of V >= 2 frames in order of time, at network size:
images [B, V, 3, H, W] uint8, or float in [0, 1]; K [B, V, 3, 3] pixels; boxes [B, P, V, 4] pixels;
valid [B, P, V] bool; cam_from_body [B, P, V, 4, 4] m; body_rot [B, P, V, 23, 3, 3]; betas [B, P, num_betas];
joints_cam [B, P, V, 24, 3] m; contact_prob [B, P, V, 6]; world_from_cam [B, V, 4, 4] m; weight [B, P];
masks [B, P, V, h, w] shares of the tokens' cells, all 0 where nobody was segmented; depth [B, V, h, w] m of the
background in the middle of the tokens, 0 unknown; seconds [B, V]; and what the student is asked (`distill.prompting`):
prompt_boxes, prompt_masks, prompt_K, K_known [B].
`cached` and the fields of a feature cache: `distill.data.collate`."""

_REPORT: Final = {
    "camera_rotation": ("camera_rotation_deg", math.degrees(1)),
    "camera_translation": ("camera_translation_mm", 1e3),
    "root_orientation": ("root_orientation_deg", math.degrees(1)),
    "root_direction": ("root_direction_deg", math.degrees(1)),
    "root_log_depth": ("root_depth_percent", 1e2),
    "body_pose": ("body_pose_deg", math.degrees(1)),
    "joints_3d": ("joints_mm", 1e3),
    "joints_2d": ("joints_box_percent", 1e2),
    "motion_rotation": ("motion_rotation_deg", math.degrees(1)),
    "motion_translation": ("motion_translation_mm", 1e3),
    "contact": ("contact_nats", 1.0),
    "scene_scale": ("scene_scale_percent", 1e2),
    "match": ("match_nats", 1.0),
    "detection": ("detection_nats", 1.0),
    "detection_box": ("detection_box_percent", 1e2),
    "identity": ("identity_nats", 1.0),
}
"""Terms that are logged: name in the report, with its unit, and factor."""


@dataclass(kw_only=True)
class LossConfig:
    """Weight of each term (`losses`); 0 leaves it out."""

    camera_rotation: float = 2.0
    """Rotation of the camera between the two frames, radians."""
    camera_translation: float = 1.0
    """Translation of the camera between the two frames, metres."""
    root_orientation: float = 1.0
    """Orientation of the pelvis in the camera, radians."""
    root_direction: float = 5.0
    """Ray from the camera to the pelvis, radians."""
    root_log_depth: float = 2.0
    """Depth of the pelvis, relative."""
    body_pose: float = 1.0
    """Joint rotations relative to the parent, radians."""
    joints_3d: float = 5.0
    """Joints relative to the pelvis, metres."""
    joints_2d: float = 1.0
    """Joints in the image, in heights of the person's box."""
    betas: float = 0.02
    """Shape parameters."""
    motion_rotation: float = 1.0
    """Of the body frame between the two frames, radians."""
    motion_translation: float = 1.0
    """Of the body frame between the two frames, metres."""
    contact: float = 0.2
    """Contact of each site, nats."""
    camera_nll: float = 0.02
    """Uncertainty of the camera's motion."""
    motion_nll: float = 0.02
    """Uncertainty of the body's motion."""
    root_nll: float = 0.02
    """Uncertainty of the root in the camera."""
    loop: float = 0.2
    """Root, body motion and camera motion of a pair agree with each other."""
    gap: float = 0.2
    """Two short gaps compose to the long one; needs windows of three frames or more."""
    scene_scale: float = 0.1
    """Scale of the backbone's points; needs a backbone with points."""
    match: float = 0.2
    """Which tokens of two frames show the same place, nats; needs labels with depth."""
    detection: float = 0.3
    """Whether a token is somebody's centre, nats per frame."""
    detection_box: float = 0.3
    """Boxes of the people found, 1 - overlap."""
    identity: float = 0.1
    """Who is who in two frames, nats."""

    def __post_init__(self) -> None:
        for name in (f.name for f in fields(self)):
            if not getattr(self, name) >= 0:
                raise ValueError(f"loss weight {name} is {getattr(self, name)}, expected 0 or more")


class StudentTask(nn.Module):
    """A student with its losses. All ordered pairs of a window are predicted; each frame is encoded once."""

    def __init__(self, student: Student, config: LossConfig, body: BodyModel | None = None) -> None:
        """Body model of the student's config, unless given."""
        super().__init__()
        self.student = student
        self.config = config
        self.cache: FeatureCache | None = None
        self.body = Held(body or load_body_model(student.config.body_model))
        self.loss = Loss({f.name: getattr(config, f.name) for f in fields(config)})

    def forward(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses to be summed, and detached numbers to be logged (units in their names)."""
        points = self.config.scene_scale > 0 and self.student.backbone.module.has_points
        seen = run_backbone(self.student.backbone, batch, points=points, cache=self.cache)
        frames = as_floats(batch["images"]).flatten(0, 1)
        boxes, valid = (batch[name].transpose(1, 2).flatten(0, 1) for name in ("prompt_boxes", "valid"))
        looks = self.student.look(frames, boxes, valid).unflatten(0, batch["images"].shape[:2])
        asked = {**batch, "looks": looks.transpose(1, 2)}
        predictions = {
            (i, j): self.student.answer(pair, seen.frames[i], seen.frames[j], prompts_of(asked, i, j))
            for (i, j), pair in seen.pairs.items()
        }
        # Labels are composed and compared in float32, whatever autocast does.
        with full_precision(batch["images"].device):
            terms = self._terms(predictions, batch) | self._token_terms(seen, batch)
            return self.loss(terms), _report(terms)

    def _terms(self, predictions: dict[tuple[int, int], PairPrediction], batch: Batch) -> dict[str, Term]:
        """All terms of all pairs."""
        collected: dict[str, list[Term]] = defaultdict(list)
        for (i, j), prediction in predictions.items():
            for name, term in self._pair_terms(prediction, batch, i, j).items():
                collected[name].append(term)
        for i in range(batch["images"].shape[1] - 2):
            first, second, long = predictions[i, i + 1], predictions[i + 1, i + 2], predictions[i, i + 2]
            collected["gap"].append(_gap_term(first, second, long, batch))
        return {name: _concatenate(parts) for name, parts in collected.items()}

    def _token_terms(self, seen: FrozenPass, batch: Batch) -> dict[str, Term]:
        """Terms of single frames, and of what tokens alone say about pairs."""
        size = seen.frames[0].size
        collected: dict[str, list[Term]] = defaultdict(list)
        for i, tokens in enumerate(seen.frames):
            boxes, valid = batch["boxes"][:, :, i], batch["valid"][:, :, i]
            for name, term in detection_terms(self.student.detect(tokens), boxes, valid, size).items():
                collected[name].append(term)
        vectors = [
            self.student.identify(tokens, batch["prompt_boxes"][:, :, i]) for i, tokens in enumerate(seen.frames)
        ]
        clip = _clip_numbers(batch)
        for i, j in seen.pairs:
            valid_i, valid_j = batch["valid"][:, :, i], batch["valid"][:, :, j]
            both = valid_i & valid_j
            collected["identity"].append(identity_term(vectors[i], vectors[j], both, valid_j, clip))
            a, b = (seen.frames[k].features.to(vectors[i].dtype) for k in (i, j))
            odds = self.student.trunk.matching.log_odds(a, b)
            b_from_a = invert(batch["world_from_cam"][:, j]) @ batch["world_from_cam"][:, i]
            for rows, one, other, motion in ((odds, i, j, b_from_a), (odds.transpose(1, 2), j, i, invert(b_from_a))):
                lenses = (batch["K"][:, one], batch["K"][:, other])
                depths = (batch["depth"][:, one], batch["depth"][:, other])
                collected["match"].append(match_term(rows, *depths, lenses, motion, size))
        return {name: _concatenate(parts) for name, parts in collected.items()}

    def _pair_terms(self, predicted: PairPrediction, batch: Batch, i: int, j: int) -> dict[str, Term]:
        """All terms of the ordered pair of frames (i, j)."""
        terms = _camera_terms(predicted, batch, i, j)
        terms |= _motion_terms(predicted, batch, i, j)
        person = batch["weight"][:, :, None] * batch["valid"][:, :, [i, j]]  # [B, P, 2]
        terms |= _root_terms(predicted, batch["cam_from_body"][:, :, [i, j]], person)
        terms |= self._body_terms(predicted, batch, i, j, person)
        logit = torch.stack((predicted.contact_logit_a, predicted.contact_logit_b), dim=2)
        terms["contact"] = Term(contact_divergence(logit, batch["contact_prob"][:, :, [i, j]]), person)
        if predicted.points_a is not None:
            (height, width), (down, across) = batch["images"].shape[-2:], predicted.points_a.shape[1:3]
            K = resize_intrinsics(batch["K"][:, i], (width, height), (across, down))  # points are thinned
            error, counts = scene_scale_error(
                predicted.log_scene_scale, predicted.points_a, batch["joints_cam"][:, :, i], K
            )
            terms["scene_scale"] = Term(error, person[:, :, 0, None] * counts)
        return terms

    def _body_terms(self, predicted: PairPrediction, batch: Batch, i: int, j: int, person: Tensor) -> dict[str, Term]:
        """Pose, shape and joints of both frames."""
        body_rot = torch.stack((predicted.body_rot_a, predicted.body_rot_b), dim=2)
        cam_from_body = torch.stack((predicted.cam_from_body_a, predicted.cam_from_body_b), dim=2)
        betas = predicted.betas[:, :, None].expand(-1, -1, 2, -1)
        joints = self.body.module(betas, body_rot, cam_from_body).joints
        wanted = batch["joints_cam"][:, :, [i, j]]
        K = batch["K"][:, None, [i, j]].expand(-1, person.shape[1], -1, -1, -1)
        reprojection = reprojection_error(joints, wanted, K, batch["boxes"][:, :, [i, j]])
        return {
            "body_pose": Term(rotation_error(body_rot, batch["body_rot"][:, :, [i, j]]), person),
            "joints_3d": Term(joints_error(joints, wanted), person),
            "joints_2d": Term(reprojection, person),
            "betas": Term((predicted.betas - batch["betas"]).square(), person.amax(2)),
        }


def prompts_of(batch: Batch, i: int, j: int) -> Prompts:
    """Prompts of the ordered pair of frames (i, j) of every window; `looks` [B, P, V, width] beside the batch's."""
    return Prompts(
        boxes=batch["prompt_boxes"][:, :, [i, j]], valid=batch["valid"][:, :, [i, j]],
        K=batch["prompt_K"][:, [i, j]], K_known=batch["K_known"],
        seconds=(batch["seconds"][:, j] - batch["seconds"][:, i]).abs(), masks=batch["prompt_masks"][:, :, [i, j]],
        looks=batch["looks"][:, :, [i, j]],
    )  # fmt: skip


def _clip_numbers(batch: Batch) -> Tensor:
    """[B] the same number for windows of the same clip; a sample's key is its clip's id, '-' and its first frame."""
    clips = [name.split(":")[0].rpartition("-")[0] for name in batch["name"]]
    return torch.tensor([clips.index(clip) for clip in clips], device=batch["weight"].device)


def _camera_terms(predicted: PairPrediction, batch: Batch, i: int, j: int) -> dict[str, Term]:
    """Camera motion against `inv(world_from_cam_i) @ world_from_cam_j`."""
    target = invert(batch["world_from_cam"][:, i]) @ batch["world_from_cam"][:, j]
    weight = batch["weight"].amax(1)  # labels are weighted by clip: its people carry the clip's weight
    return _motion_pair("camera", predicted.cam_a_from_cam_b, target, predicted.camera_log_var, weight)


def _motion_terms(predicted: PairPrediction, batch: Batch, i: int, j: int) -> dict[str, Term]:
    """Body motion in the world, and its agreement with roots and camera."""
    world_from_body = batch["world_from_cam"][:, None] @ batch["cam_from_body"]
    target = invert(world_from_body[:, :, i]) @ world_from_body[:, :, j]
    both = batch["weight"] * (batch["valid"][:, :, i] & batch["valid"][:, :, j])
    terms = _motion_pair("motion", predicted.body_a_from_body_b, target, predicted.body_log_var, both)
    # Two ways from body b to camera a: by its motion, or by camera b and the camera's motion.
    by_camera = predicted.cam_a_from_cam_b[:, None] @ predicted.cam_from_body_b
    terms["loop"] = Term(composition_error(predicted.cam_from_body_a, predicted.body_a_from_body_b, by_camera), both)
    return terms


def _motion_pair(name: str, predicted: Tensor, target: Tensor, log_var: Tensor, weight: Tensor) -> dict[str, Term]:
    """Rotation, translation and likelihood of rigid motions [..., 4, 4]."""
    rotation = rotation_error(predicted[..., :3, :3], target[..., :3, :3])
    translation = translation_error(predicted[..., :3, 3], target[..., :3, 3])
    return {
        f"{name}_rotation": Term(rotation, weight),
        f"{name}_translation": Term(translation, weight),
        f"{name}_nll": Term(laplace_nll(torch.stack((rotation, translation), dim=-1), log_var), weight),
    }


def _root_terms(predicted: PairPrediction, target: Tensor, person: Tensor) -> dict[str, Term]:
    """Orientation, direction and depth of the pelvis in both cameras; target [B, P, 2, 4, 4]."""
    root = torch.stack((predicted.cam_from_body_a, predicted.cam_from_body_b), dim=2)
    log_var = torch.stack((predicted.root_log_var_a, predicted.root_log_var_b), dim=2)
    orientation = rotation_error(root[..., :3, :3], target[..., :3, :3])
    direction = direction_error(root[..., :3, 3], target[..., :3, 3])
    depth = log_depth_error(root[..., :3, 3], target[..., :3, 3])
    return {
        "root_orientation": Term(orientation, person),
        "root_direction": Term(direction, person),
        "root_log_depth": Term(depth, person),
        "root_nll": Term(laplace_nll(torch.stack((orientation, direction, depth), dim=-1), log_var), person),
    }


def _gap_term(first: PairPrediction, second: PairPrediction, long: PairPrediction, batch: Batch) -> Term:
    """Composition of camera motions over frames i < j < k."""
    error = composition_error(first.cam_a_from_cam_b, second.cam_a_from_cam_b, long.cam_a_from_cam_b)
    return Term(error, batch["weight"].amax(1))


def _concatenate(parts: list[Term]) -> Term:
    """The same term of several pairs as one."""
    return Term(torch.cat([part.values for part in parts]), torch.cat([part.weight for part in parts]))


def _report(terms: dict[str, Term]) -> dict[str, Tensor]:
    """Means in units for people, detached; losses are never among them."""
    return {name: factor * terms[term].mean().detach() for term, (name, factor) in _REPORT.items() if term in terms}
