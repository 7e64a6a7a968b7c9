"""JOSH3R's published integration: relative motions of one person, chained into paths of person and camera.

    frames = ...                                       # numbers of the frames in which the person was found
    pairs = pair_frames(frames)                        # which detections the network is asked about
    path = chain(frames, rel_trans, rel_rot6d, cam_from_body)

Errors add up along the chain and nothing corrects them; the fuser (docs/fuser.md) is what we run on our own students.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from distill.errors import FootfallError
from distill.geometry.rotations import matrix_from_sixd
from distill.geometry.transforms import interpolate, invert, make_transform

MIN_GAP: Final = 3
"""Frames between the two detections of a pair, at least."""


@dataclass(kw_only=True)
class Path:
    """A person and the camera that follows them, in the person's own frame at the first detection."""

    pairs: Tensor
    """[N, 2] long: indices into the detections, first and second of each pair."""
    keyframes: Tensor
    """[N + 1] frame numbers at which the chain has links."""
    world_from_body_key: Tensor
    """[N + 1, 4, 4] the person at the keyframes, metres."""
    frames: Tensor
    """[T] frame numbers of all detections."""
    world_from_body: Tensor
    """[T, 4, 4] the person at all detections, metres."""
    world_from_cam: Tensor
    """[T, 4, 4] the camera at all detections, metres."""


def pair_frames(frames: Sequence[int] | Tensor, min_gap: int = MIN_GAP) -> Tensor:
    """Pairs [N, 2] of indices into ascending frame numbers: each head with the first detection `min_gap` later.

    The second of a pair is the head of the next one. Gaps in the detections give longer steps, and the last pair may
    be shorter, so that the last detection is always reached.

    Raises:
        FootfallError: frame numbers that do not ascend.
    """
    numbers = [int(frame) for frame in frames]
    if any(b <= a for a, b in itertools.pairwise(numbers)):
        raise FootfallError(
            "frames of a path", got="numbers that do not ascend", expected="each frame once, in order of time",
            do="sort the detections",
        )  # fmt: skip
    pairs, head, last = [], 0, len(numbers) - 1
    while head < last:
        far = (k for k in range(head + 1, last) if numbers[k] - numbers[head] >= min_gap)
        tail = next(far, last)
        pairs.append((head, tail))
        head = tail
    return torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)


def integrate(rel_trans: Tensor, rel_rot6d: Tensor) -> Tensor:
    """Steps [N, 3] and [N, 6] -> poses [N + 1, 4, 4], the first one the identity.

    t <- t + R dt;  R <- R dR, in float64 and never made orthonormal again, as published.
    """
    step_rot, step_trans = matrix_from_sixd(rel_rot6d.double()), rel_trans.double()
    rotation, translation = torch.eye(3).to(step_rot), torch.zeros(3).to(step_trans)
    poses = [make_transform(rotation, translation)]
    for turn, move in zip(step_rot, step_trans, strict=True):
        rotation, translation = rotation @ turn, translation + rotation @ move
        poses.append(make_transform(rotation, translation))
    return torch.stack(poses)


def interpolate_frames(keyframes: Tensor, poses: Tensor, frames: Tensor) -> Tensor:
    """Poses [K, 4, 4] at ascending frame numbers [K] -> [T, 4, 4] at `frames`: linear, and slerp for rotations.

    Weights follow frame numbers, not indices. Frames before the first or after the last keyframe take its pose.
    """
    if len(keyframes) == 1:
        return poses.expand(len(frames), 4, 4)
    after = torch.searchsorted(keyframes, frames).clamp(1, len(keyframes) - 1)
    start, end = keyframes[after - 1], keyframes[after]
    weight = ((frames - start).to(poses) / (end - start)).clamp(0, 1)
    return interpolate(poses[after - 1], poses[after], weight)


def chain(
    frames: Sequence[int] | Tensor, rel_trans: Tensor, rel_rot6d: Tensor, cam_from_body: Tensor,
    *, min_gap: int = MIN_GAP,
) -> Path:  # fmt: skip
    """Chain the network's answers about `pair_frames(frames)` and place the camera by the person in it.

    `world_from_cam = world_from_body @ inv(cam_from_body)`. That is exact for our own bodies, whose frame is the
    pelvis. The published code puts SMPL's `transl` in place of the pelvis; since SMPL turns about the pelvis J0 and not
    about its origin, its cameras are then off by (R_world_from_cam - I) J0. Both come out of this function, each
    from its own `cam_from_body`; `pelvis_from_transl` turns the published form into the exact one.

    Args:
        frames: [T] ascending frame numbers of the detections.
        rel_trans: [N, 3] metres, one row per pair.
        rel_rot6d: [N, 6] one row per pair.
        cam_from_body: [T, 4, 4] the person in the camera at every detection, metres, from any body estimator.
        min_gap: as given to `pair_frames`.

    Raises:
        FootfallError: numbers of rows that do not agree.
    """
    numbers = torch.as_tensor([int(frame) for frame in frames])
    pairs = pair_frames(numbers, min_gap)
    if len(numbers) == 0 or not len(rel_trans) == len(rel_rot6d) == len(pairs) or len(cam_from_body) != len(numbers):
        raise FootfallError(
            "rows of a path", got=f"{len(rel_trans)} and {len(rel_rot6d)} steps, {len(cam_from_body)} bodies",
            expected=f"{len(pairs)} steps for the pairs of {len(numbers)} detections, and a body for each",
            do="ask the network about pair_frames(frames)",
        )  # fmt: skip
    keyframes = numbers[torch.cat((pairs[:1, 0], pairs[:, 1]))] if len(pairs) else numbers[:1]
    world_from_body_key = integrate(rel_trans.cpu(), rel_rot6d.cpu())
    world_from_body = interpolate_frames(keyframes, world_from_body_key, numbers)
    return Path(
        pairs=pairs,
        keyframes=keyframes,
        world_from_body_key=world_from_body_key,
        frames=numbers,
        world_from_body=world_from_body,
        world_from_cam=world_from_body @ invert(cam_from_body.to(world_from_body)),
    )


def pelvis_from_transl(target_from_body: Tensor, pelvis_offset: Tensor) -> Tensor:
    """[..., 4, 4] with SMPL's `transl` -> the same with the pelvis's position; `pelvis_offset` is J0(beta) [..., 3]."""
    return make_transform(target_from_body[..., :3, :3], target_from_body[..., :3, 3] + pelvis_offset)
