"""Fit a body to the keypoints of one person over all frames at once.

Unknowns: root and 23 joint rotations per frame, one shape. Residuals, each in its own standard deviations:
keypoints in the image (robust), directions of bones in 3D landmarks (they carry the signs of depth and no
size), the pose prior (`body_prior`), the shape prior, and acceleration in world axes. Levenberg-Marquardt with
exact derivatives; frames are tied only to their two neighbours, so that the normal equations are a band with
one border for the shape, solved in time linear in the number of frames.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import torch
from scipy.linalg import LinAlgError, solveh_banded
from torch import Tensor

from distill.geometry.conventions import KEYPOINTS
from distill.geometry.rotations import left_jacobian_inverse, matrix_from_rotvec, rotvec_from_matrix
from teacher.initialisers.body_points import KeypointPieces
from teacher.initialisers.body_prior import prior_residuals

UNKNOWNS: Final = 75
"""Of one frame: translation 3, root rotation 3, joints 69."""
_GROUPS: Final = UNKNOWNS // 3
_ROBUST_STAGES: Final = (20.0, 3.0)
"""Scale of the robust function, standard deviations: wide first, so that a far start still feels its points."""


def _bones() -> tuple[tuple[int, int], ...]:
    pairs = [("left_shoulder", "right_shoulder"), ("left_hip", "right_hip")]
    for side in ("left", "right"):
        chain = [f"{side}_{part}" for part in ("shoulder", "elbow", "wrist")]
        pairs += list(pairwise(chain))
        chain = [f"{side}_{part}" for part in ("shoulder", "hip", "knee", "ankle")]
        pairs += list(pairwise(chain))
        pairs += [(f"{side}_heel", f"{side}_big_toe"), (f"{side}_ear", "nose")]
    return tuple((KEYPOINTS.index(a), KEYPOINTS.index(b)) for a, b in pairs)


BONES: Final = _bones()
"""Pairs of keypoints whose direction in 3D is compared."""


@dataclass(kw_only=True)
class FitConfig:
    """Standard deviations of what is measured and believed, and the solver's limits."""

    keypoint_sd: float = 0.012
    """Of a keypoint in the image, in statures of the person there: what landmark and body model disagree by."""
    bone_sd: float = 0.25
    """Of the direction of a bone in the 3D landmarks, radians."""
    shape_per_frame: float = 0.5
    """Weight of the shape prior for each frame: keypoint errors are alike in all frames of a clip (the landmark
    network and the body model differ in their idea of a hip), so that more frames must not outvote the prior."""
    move_acceleration: float = 4.0
    """Usual acceleration of the root, m/s^2."""
    turn_acceleration: float = 15.0
    """Usual angular acceleration of the root, rad/s^2."""
    joint_acceleration: float = 40.0
    """Usual angular acceleration of a joint, rad/s^2."""
    max_gap_s: float = 0.5
    """Frames further apart than this in time are not tied, seconds."""
    steps: int = 12
    """Most steps of each of the two robust stages."""
    tolerance: float = 1e-3
    """A stage ends when a step lowers the cost by less than this share."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"bodies.fit.{name}: got {value}, expected more than 0")


@dataclass(kw_only=True)
class Observed:
    """What is seen of one person in T frames; float64."""

    keypoints_px: Tensor
    """[T, 23, 2]."""
    weight: Tensor
    """[T, 23] in [0, 1]."""
    size_px: Tensor
    """[T] stature in the image, pixels: the unit of image errors."""
    bones: Tensor
    """[T, len(BONES), 3] unit directions in the camera; zero where unknown."""
    bone_weight: Tensor
    """[T, len(BONES)] in [0, 1]."""
    K: Tensor
    """[3, 3]."""
    seconds: Tensor
    """[T] increasing."""
    world_from_cam: Tensor
    """[T, 3, 3] rotations of the camera."""


@dataclass(kw_only=True)
class Pose:
    """The unknowns; float64."""

    betas: Tensor
    """[B]."""
    body_rot: Tensor
    """[T, 23, 3, 3]."""
    cam_from_body: Tensor
    """[T, 4, 4]."""


class _Normal:
    """Normal equations: blocks of frames, their coupling to the next two frames, and the border of the shape."""

    def __init__(self, frames: int, shape: int) -> None:
        def zeros(*size: int) -> Tensor:
            return torch.zeros(*size, dtype=torch.float64)

        self.frames = frames
        self.bands = zeros(frames, 3, UNKNOWNS, UNKNOWNS)  # [t, d]: rows of frame t + d, columns of frame t
        self.border = zeros(frames, UNKNOWNS, shape)
        self.corner = zeros(shape, shape)
        self.gradient = zeros(frames, UNKNOWNS)
        self.gradient_shape = zeros(shape)

    def add(self, residual: Tensor, by_frame: Tensor, by_shape: Tensor | None = None) -> None:
        """Residuals [T, R] with derivatives [T, R, 75] and [T, R, B]."""
        transposed = by_frame.transpose(1, 2)
        self.bands[:, 0] += transposed @ by_frame
        self.gradient += (transposed @ residual[..., None])[..., 0]
        if by_shape is not None:
            self.border += transposed @ by_shape
            self.corner += (by_shape.transpose(1, 2) @ by_shape).sum(0)
            self.gradient_shape += torch.einsum("trb,tr->b", by_shape, residual)

    def add_links(self, residual: Tensor, by_three: Tensor) -> None:
        """Residuals [T-2, 25, 3] of frames t, t+1, t+2 with derivatives [T-2, 3 (frame), 25, 3, 3]."""
        count = len(residual)
        groups = torch.arange(_GROUPS)
        bands = self.bands.unflatten(-1, (_GROUPS, 3)).unflatten(-3, (_GROUPS, 3))  # [T, 3, 25, 3, 25, 3]
        for a in range(3):
            rows = slice(a, a + count)
            self.gradient[rows] += torch.einsum("mgij,mgi->mgj", by_three[:, a], residual).flatten(1)
            for b in range(a + 1):
                block = torch.einsum("mgij,mgik->gmjk", by_three[:, a], by_three[:, b])
                bands[b : b + count, a - b, groups, :, groups] += block

    def solve(self, damping: float) -> tuple[Tensor, Tensor] | None:
        """Step of the frames [T, 75] and of the shape [B]; None if the system is not positive definite."""
        bands = self.bands.clone()
        diagonal = bands[:, 0].diagonal(dim1=-2, dim2=-1)
        diagonal += damping * diagonal + 1e-9
        wide = bands.transpose(0, 1).permute(1, 3, 0, 2).reshape(self.frames, UNKNOWNS, 3 * UNKNOWNS)
        # LAPACK's lower band form: row d of column j holds entry (j + d, j).
        column = torch.arange(UNKNOWNS)[:, None]
        row = column + torch.arange(3 * UNKNOWNS)
        inside = row < 3 * UNKNOWNS
        picked = torch.where(inside, wide[:, column, row.clamp(max=3 * UNKNOWNS - 1)], 0.0)
        band = picked.flatten(0, 1).T.contiguous().numpy()
        right = torch.cat((self.gradient[..., None], self.border), -1).flatten(0, 1).numpy()
        try:
            solved = torch.from_numpy(solveh_banded(band, right, lower=True, check_finite=False))
        except LinAlgError:
            return None
        border = self.border.flatten(0, 1)
        corner = self.corner + damping * torch.diag(self.corner.diagonal()) - border.T @ solved[:, 1:]
        shape = torch.linalg.solve(corner, border.T @ solved[:, 0] - self.gradient_shape)
        frames = -solved[:, 0] - solved[:, 1:] @ shape
        return frames.unflatten(0, (self.frames, UNKNOWNS)), shape


class BodyFit:
    """The least-squares problem of one person."""

    def __init__(self, pieces: KeypointPieces, observed: Observed, config: FitConfig) -> None:
        self.pieces, self.observed, self.config = pieces, observed, config
        self._robust = _ROBUST_STAGES[0]
        self._shape_weight = max(1.0, config.shape_per_frame * len(observed.seconds))
        first, second = torch.tensor(BONES).T
        self._first, self._second = first, second
        gap = observed.seconds.diff()
        tied = gap <= config.max_gap_s
        self._gap = gap.clamp(min=1e-3)
        self._tied = (tied[:-1] & tied[1:]).double()
        deviation = [config.move_acceleration, config.turn_acceleration] + 23 * [config.joint_acceleration]
        self._deviation = torch.tensor(deviation, dtype=torch.float64)

    def solve(self, start: Pose) -> tuple[Pose, list[float]]:
        """Fit from `start`; returns the pose and the cost after every step of the last stage."""
        pose, trace = start, list[float]()
        for robust in _ROBUST_STAGES:
            self._robust = robust
            pose, trace = self._descend(pose)
        return pose, trace

    def _descend(self, pose: Pose) -> tuple[Pose, list[float]]:
        damping, normal = 1e-3, _Normal(len(pose.body_rot), len(pose.betas))
        cost = self.cost(pose, normal)
        trace = [cost]
        for _ in range(self.config.steps):
            while True:
                step = normal.solve(damping)
                candidate = moved(pose, *step) if step is not None else pose
                after = self.cost(candidate) if step is not None else float("inf")
                if after < cost or damping > 1e6:
                    break
                damping *= 8
            if not after < cost:
                break
            gain, pose = (cost - after) / cost, candidate
            damping = max(damping / 5, 1e-7)
            if gain < self.config.tolerance:
                trace.append(after)
                break
            normal = _Normal(len(pose.body_rot), len(pose.betas))
            cost = self.cost(pose, normal)
            trace.append(cost)
        return pose, trace

    def cost(self, pose: Pose, normal: _Normal | None = None) -> float:
        """Half the robust sum of squares; adds to `normal` if given."""
        at = self.pieces.linearise(pose.betas, pose.body_rot, pose.cam_from_body) if normal is not None else None
        points = at.points if at is not None else self.pieces.points(pose.betas, pose.body_rot, pose.cam_from_body)
        total = 0.0
        for residual, by_point, pick in (self._image(points), self._directions(points)):
            scale, value = self._weigh(residual)
            total += value
            if normal is not None and at is not None:
                by_move, by_shape = (
                    scale[..., None] * (by_point @ (d[:, pick[1]] - d[:, pick[0]] if len(pick) == 2 else d[:, pick[0]]))
                    for d in (at.by_move, at.by_shape)
                )
                normal.add((scale * residual).flatten(1), by_move.flatten(1, 2), by_shape.flatten(1, 2))
        prior, by_joints = prior_residuals(pose.body_rot)
        total += 0.5 * float(prior.square().sum()) + 0.5 * self._shape_weight * float(pose.betas.square().sum())
        if normal is not None:
            padded = torch.nn.functional.pad(by_joints, (6, 0))
            normal.add(prior, padded)
            normal.corner += self._shape_weight * torch.eye(len(pose.betas), dtype=torch.float64)
            normal.gradient_shape += self._shape_weight * pose.betas
        if len(self._tied):
            residual, by_three = self._accelerations(pose)
            scale, value = self._weigh(residual)
            total += value
            if normal is not None:
                normal.add_links(scale * residual, scale[:, None, :, :, None] * by_three)
        return total

    def _weigh(self, residual: Tensor) -> tuple[Tensor, float]:
        """Square roots of the weights [..., 1] of residual vectors [..., D] under Cauchy's function, and its sum."""
        ratio = residual.square().sum(-1, keepdim=True) / self._robust**2
        # rho(r) = c^2 / 2 log(1 + r^2 / c^2); its weight is rho'(r) / r = 1 / (1 + r^2 / c^2).
        return (1 + ratio).rsqrt(), 0.5 * self._robust**2 * float(torch.log1p(ratio).sum())

    def _image(self, points: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Keypoints in the image: residuals [T, 23, 2], derivatives by points [T, 23, 2, 3]."""
        seen, K = self.observed, self.observed.K
        depth = points[..., 2:].clamp(min=0.1)
        ratio = points[..., :2] / depth
        pixels = ratio @ K[:2, :2].T + K[:2, 2]
        precision = seen.weight / (self.config.keypoint_sd * seen.size_px[:, None]).clamp(min=0.75)
        residual = precision[..., None] * (pixels - seen.keypoints_px)
        eye = torch.eye(2, dtype=points.dtype).expand(*ratio.shape[:2], 2, 2)
        by_point = K[:2, :2] @ torch.cat((eye, -ratio[..., None]), -1) / depth[..., None]
        return residual, precision[..., None, None] * by_point, (torch.arange(points.shape[1]),)

    def _directions(self, points: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Directions of bones: residuals [T, N, 3], derivatives by the bone's vector [T, N, 3, 3]."""
        bone = points[:, self._second] - points[:, self._first]
        length = bone.norm(dim=-1, keepdim=True).clamp(min=1e-3)
        unit = bone / length
        precision = (self.observed.bone_weight / self.config.bone_sd)[..., None]
        across = torch.eye(3, dtype=points.dtype) - unit[..., :, None] * unit[..., None, :]
        by_bone = (precision / length)[..., None] * across
        return precision * (unit - self.observed.bones), by_bone, (self._first, self._second)

    def _accelerations(self, pose: Pose) -> tuple[Tensor, Tensor]:
        """Second differences in time: residuals [T-2, 25, 3], derivatives [T-2, 3, 25, 3, 3]."""
        world = self.observed.world_from_cam
        root = (world @ pose.cam_from_body[:, :3, :3])[:, None]
        rotations = torch.cat((root, pose.body_rot), 1)
        place = (world @ pose.cam_from_body[:, :3, 3:])[:, None, :, 0]
        turn = rotvec_from_matrix(rotations[1:] @ rotations[:-1].transpose(-1, -2))
        step = torch.cat((place.diff(dim=0), turn), 1) / self._gap[:, None, None]
        after = left_jacobian_inverse(turn)
        identity = torch.eye(3, dtype=turn.dtype).expand(len(turn), 1, 3, 3)
        by_after = torch.cat((identity, after), 1) / self._gap[:, None, None, None]
        by_before = torch.cat((identity, left_jacobian_inverse(-turn)), 1) / self._gap[:, None, None, None]
        middle = (self._gap[1:] + self._gap[:-1]) / 2
        precision = self._tied[:, None] / (middle[:, None] * self._deviation)
        residual = precision[..., None] * (step[1:] - step[:-1])
        three = torch.stack((by_before[:-1], -by_before[1:] - by_after[:-1], by_after[1:]), 1)
        three = precision[:, None, :, None, None] * three
        turned = torch.stack((world[:-2], world[1:-1], world[2:]), 1)[:, :, None]
        # The root's unknowns are in camera axes, its residuals in world axes.
        return residual, torch.cat((three[:, :, :2] @ turned, three[:, :, 2:]), 2)


def moved(pose: Pose, step: Tensor, shape_step: Tensor) -> Pose:
    """Apply a step [T, 75] of the frames and [B] of the shape."""
    transform = pose.cam_from_body.clone()
    transform[:, :3, :3] = matrix_from_rotvec(step[:, 3:6]) @ transform[:, :3, :3]
    transform[:, :3, 3] += step[:, :3]
    turn = matrix_from_rotvec(step[:, 6:].unflatten(-1, (23, 3)))
    return replace(pose, betas=pose.betas + shape_step, body_rot=turn @ pose.body_rot, cam_from_body=transform)
