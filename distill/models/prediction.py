"""What a student is asked (`Prompts`) and what it answers (`PairPrediction`) about an ordered pair of frames."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(kw_only=True)
class Prompts:
    """People in both frames of B pairs, and the lens. P may be any number; unused rows are padding."""

    boxes: Tensor
    """[B, P, 2, 4] corners x0, y0, x1, y1 in pixels of the network's image; may leave the image."""
    valid: Tensor
    """[B, P, 2] bool: the person is seen in that frame."""
    K: Tensor
    """[B, 2, 3, 3] intrinsics in pixels of the network's image."""
    K_known: Tensor | None = None
    """[B] bool: K was given and is not a guess; None: it was given everywhere."""
    seconds: Tensor | None = None
    """[B] time from frame a to frame b; None: not known."""
    masks: Tensor | None = None
    """[B, P, 2, h, w] share of each token's cell that the person covers, 0 to 1; None: boxes must do. All zero for a
    person without a mask."""
    looks: Tensor | None = None
    """[B, P, 2, width] what `Student.look` saw in the boxes, once per frame; None: `Student.pair` looks itself."""

    def to(self, device: torch.device | str) -> Prompts:
        """The same on another device."""
        moved = replace(self, boxes=self.boxes.to(device), valid=self.valid.to(device), K=self.K.to(device))
        given = (self.K_known, self.seconds, self.masks, self.looks)
        moved.K_known, moved.seconds, moved.masks, moved.looks = (v if v is None else v.to(device) for v in given)
        return moved


@dataclass(kw_only=True)
class PairPrediction:
    """People and camera of B pairs (a, b), metres. Rows of people that are not valid are finite and mean nothing."""

    cam_from_body_a: Tensor
    """[B, P, 4, 4] orientation and pelvis position in camera a."""
    cam_from_body_b: Tensor
    body_rot_a: Tensor
    """[B, P, 23, 3, 3] joint rotations relative to the parent."""
    body_rot_b: Tensor
    betas: Tensor
    """[B, P, num_betas] shape, from both frames together."""
    cam_a_from_cam_b: Tensor
    """[B, 4, 4] camera motion."""
    body_a_from_body_b: Tensor
    """[B, P, 4, 4] motion of the body frame (pelvis)."""
    contact_logit_a: Tensor
    """[B, P, 6] logits of `conventions.CONTACT_SITES`."""
    contact_logit_b: Tensor
    log_scene_scale: Tensor
    """[B] log of the factor from the backbone's points to metres."""
    camera_log_var: Tensor
    """[B, 2] log variance of camera motion: rotation (rad^2), translation (m^2)."""
    body_log_var: Tensor
    """[B, P, 2] log variance of body motion: rotation (rad^2), translation (m^2)."""
    root_log_var_a: Tensor
    """[B, P, 3] log variance of `cam_from_body_a`: orientation (rad^2), direction of the pelvis (rad^2),
    log depth."""
    root_log_var_b: Tensor
    points_a: Tensor | None = None
    """[B, H, W, 3] the backbone's points of view a in camera a, unscaled; None if not asked for."""
    conf_a: Tensor | None = None
    """[B, H, W] their confidence, 1 and above."""
