"""Training JOSH3R: labelled windows in, its published loss out. One person per window, two frames at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from distill.body import BodyModel, load_body_model
from distill.errors import FootfallError
from distill.frozen_pass import as_floats
from distill.geometry.cameras import unproject
from distill.geometry.rotations import matrix_from_sixd, rotation_angle, sixd_from_matrix
from distill.geometry.transforms import invert, make_transform, transform_points
from distill.josh3r_loss import Josh3rLabels, josh3r_losses, weighted_mean
from distill.models.backbones import load_backbone
from distill.models.held import Held
from distill.models.josh3r import Josh3rConfig, Josh3rOutput
from distill.models.josh3r_files import head_weights
from distill.models.josh3r_images import ZOOM, zoom_boxes, zoom_images
from distill.models.josh3r_student import Josh3rStudent
from distill.models.precision import full_precision

_TERMS: Final = ("rel_trans", "rel_rot", "trans_a", "trans_b", "contact_scale", "contact_static", "depth")


@dataclass(kw_only=True)
class Josh3rTrainConfig:
    """JOSH3R as the model to train, and the weights of its loss; the published ones are all 1."""

    backbone: str = "tiny"
    """Frozen backbone: "tiny", "mast3r", or a folder of that architecture."""
    backbone_revision: str | None = None
    """Commit on the Hub; None takes the registry's."""
    body_model: str = "anny"
    """Body model of the labels."""
    heads: int = 3
    """Attention heads of the decoder blocks: 12 on `mast3r`, 3 on `tiny`."""
    roi_channels: int = 64
    """Channels of the convolutions over a box; 256 as published."""
    init_from: str = ""
    """Folder or file of a JOSH3R of these sizes whose heads are the start; empty starts from fresh weights."""
    rel_trans: float = 1.0
    """Relative translation, metres."""
    rel_rot: float = 1.0
    """Relative rotation, raw 6D."""
    trans_a: float = 1.0
    """Person in camera a in the first frame, relative."""
    trans_b: float = 1.0
    """Person in camera a in the second frame, relative."""
    contact_scale: float = 1.0
    """Feet on the scaled points, metres."""
    contact_static: float = 1.0
    """The foot that moves less stands still, metres."""
    depth: float = 1.0
    """Scaled points against labelled ones, relative."""

    def __post_init__(self) -> None:
        if min(self.heads, self.roi_channels) < 1:
            raise ValueError("josh3r: heads and roi_channels of at least 1 are expected")
        for name in _TERMS:
            if not getattr(self, name) >= 0:
                raise ValueError(f"josh3r: weight {name} is {getattr(self, name)}, expected 0 or more")


def make_josh3r(config: Josh3rTrainConfig) -> Josh3rStudent:
    """A JOSH3R to train, with fresh or given heads.

    Raises:
        FootfallError: an unknown backbone, or sizes that do not fit it or the given heads.
    """
    backbone = load_backbone(config.backbone, config.backbone_revision)
    sizes = Josh3rConfig(dim=backbone.token_dim, heads=config.heads, roi_channels=config.roi_channels)
    student = Josh3rStudent(sizes, backbone)
    if config.init_from:
        student.load_state_dict(head_weights(config.init_from, student))
    return student


class Josh3rTask(nn.Module):
    """A JOSH3R with its loss. Consecutive frames of a window are the pairs; each frame is encoded once.

    Images are zoomed to their middle as in the published inference, so that the trained model can be run by it.
    """

    def __init__(self, student: Josh3rStudent, config: Josh3rTrainConfig, body: BodyModel | None = None) -> None:
        """Body model of the config, unless given."""
        super().__init__()
        self.student, self.config = student, config
        self.body = Held(body or load_body_model(config.body_model))

    def forward(self, batch: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """`task.Batch` -> losses to be summed, and detached numbers to be logged (units in their names).

        Raises:
            FootfallError: a batch of one pair, which batch normalisation cannot train on, or without images.
        """
        images = as_floats(batch["images"])
        count, frames = batch["K"].shape[:2]
        if len(images) != count or (self.training and count * (frames - 1) < 2):
            raise FootfallError(
                "batch for JOSH3R", got=f"{count} windows of {frames} frames, {len(images)} with images",
                expected="two pairs or more (batch normalisation), all with images",
                do="raise data.batch_size, and leave data.feature_cache empty",
            )  # fmt: skip
        size = (images.shape[-1], images.shape[-2])
        person = choose_person(batch)
        boxes = zoom_boxes(_take(batch.get("prompt_boxes", batch["boxes"]), person), size)  # [B, V, 4]
        tokens = self.student.encode(zoom_images(images.flatten(0, 1)))
        a, b = (tokens[_every(count, frames, shift)] for shift in (0, 1))
        output = self.student.pair(a, b, boxes[:, :-1].flatten(0, 1), boxes[:, 1:].flatten(0, 1))
        with full_precision(images.device):
            labels, weight = labels_of(batch, person, self.body.module)
            terms = josh3r_losses(output, labels, self._joints, weight)
            losses = {name: getattr(self.config, name) * term for name, term in terms.items()}
            return {k: v for k, v in losses.items() if getattr(self.config, k) > 0}, _report(output, labels, weight)

    def _joints(self, betas: Tensor, body_rot: Tensor, rotation: Tensor, transl: Tensor) -> Tensor:
        """`josh3r_loss.Joints` of our body, whose frame is at the pelvis."""
        body = self.body.module
        return body(betas, body_rot, make_transform(rotation, transl + body.pelvis_offset(betas))).joints


def _every(count: int, frames: int, shift: int) -> Tensor:
    """Rows of frames `shift`, `shift` + 1, ... of all windows: [count * (frames - 1)]."""
    return (torch.arange(count)[:, None] * frames + torch.arange(frames - 1) + shift).flatten()


def choose_person(batch: dict[str, Any]) -> Tensor:
    """[B] the most trusted person who is seen in all frames of a window."""
    return (batch["weight"] * batch["valid"].all(-1)).argmax(1)


def _take(values: Tensor, person: Tensor) -> Tensor:
    """[B, P, ...] -> [B, ...] of the chosen person."""
    return values[torch.arange(len(person), device=person.device), person]


def labels_of(batch: dict[str, Any], person: Tensor, body: BodyModel) -> tuple[Josh3rLabels, Tensor]:
    """Labels of all consecutive pairs, and how far each is trusted: [B * (V - 1)], 0 where the person is not seen."""
    world_from_cam, cam_from_body = batch["world_from_cam"], _take(batch["cam_from_body"], person)
    cam_a_from_cam_b = invert(world_from_cam[:, :-1]) @ world_from_cam[:, 1:]
    roots = torch.stack((cam_from_body[:, :-1], cam_a_from_cam_b @ cam_from_body[:, 1:]), dim=2).flatten(0, 1)
    moved = invert(roots[:, 0]) @ roots[:, 1]
    pairs = roots.shape[0] // len(person)
    betas = _take(batch["betas"], person).repeat_interleave(pairs, dim=0)
    body_rot = _take(batch["body_rot"], person)
    points, known = _labelled_points(batch, cam_a_from_cam_b)
    labels = Josh3rLabels(
        rel_trans=moved[:, :3, 3],
        rel_rot6d=sixd_from_matrix(moved[:, :3, :3]),
        trans=roots[..., :3, 3] - body.pelvis_offset(betas)[:, None],
        rot6d=sixd_from_matrix(roots[..., :3, :3]),
        betas=betas,
        body_rot=torch.stack((body_rot[:, :-1], body_rot[:, 1:]), dim=2).flatten(0, 1),
        points=points,
        points_mask=known,
    )
    trust = _take(batch["weight"] * batch["valid"].all(-1), person)
    return labels, trust.repeat_interleave(pairs)


def _labelled_points(batch: dict[str, Any], cam_a_from_cam_b: Tensor) -> tuple[Tensor, Tensor]:
    """Points [N, 2, H*W, 3] in camera a of the zoomed images' pixels, and where they are known.

    Labels know the depth in the middle of each token of the whole frame. Those in the middle half of the frame fall
    on pixels of the zoomed image, which sees nothing else.
    """
    depth, K = batch["depth"], batch["K"]
    height, width = batch["images"].shape[-2:]
    rows, columns = depth.shape[-2:]
    v = (torch.arange(rows, device=depth.device) + 0.5) * (height / rows)
    u = (torch.arange(columns, device=depth.device) + 0.5) * (width / columns)
    pixels = torch.stack((u.expand(rows, -1), v[:, None].expand(-1, columns)), dim=-1).flatten(0, 1)
    points = unproject(pixels.expand(*depth.shape[:2], -1, -1), depth.flatten(2), K)  # [B, V, rows*columns, 3]
    both = torch.stack((points[:, :-1], transform_points(cam_a_from_cam_b, points[:, 1:])), dim=2).flatten(0, 1)
    there = torch.stack((depth[:, :-1], depth[:, 1:]), dim=2).flatten(3).flatten(0, 1) > 0
    half = pixels.new_tensor((width, height)) / 2
    zoomed = ((pixels - half) * ZOOM + half).floor().long()
    inside = (zoomed >= 0).all(-1) & (zoomed < 2 * half).all(-1)
    at = zoomed[inside, 1] * width + zoomed[inside, 0]
    target = both.new_zeros(len(both), 2, height * width, 3)
    known = torch.zeros(target.shape[:3], dtype=torch.bool, device=depth.device)
    target[:, :, at] = both[:, :, inside]
    known[:, :, at] = there[:, :, inside]
    return target, known


def _report(output: Josh3rOutput, labels: Josh3rLabels, weight: Tensor) -> dict[str, Tensor]:
    """Means in units for people, detached."""
    turned = rotation_angle(matrix_from_sixd(output.rel_rot6d), matrix_from_sixd(labels.rel_rot6d))
    values = {
        "motion_translation_mm": 1e3 * (output.rel_trans - labels.rel_trans).norm(dim=-1),
        "motion_rotation_deg": math.degrees(1) * turned,
        "root_a_mm": 1e3 * (output.trans_a - labels.trans[:, 0]).norm(dim=-1),
    }
    return {name: weighted_mean(value.detach(), weight) for name, value in values.items()}
