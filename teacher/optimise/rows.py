"""Rows of the terms: residuals, weights and derivatives by the fields of the state that each term reads.

Terms of people declare which points they read (`Term.reads`, `span`, `local`); their derivatives are found by
forward-mode differentiation of the term itself, one seed for each coordinate and frame of a row, so that a new
term needs no second formula. Terms of cameras, scene and single blocks have few shapes and are written out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distill.geometry.rotations import cross_matrix, left_jacobian_inverse, right_jacobian_inverse, rotvec_from_matrix
from teacher.optimise.objective import LONG_SIDE, Situation, Term, observed_world
from teacher.optimise.tangent import COMMON, FOCAL, FRAME, PLANE, SCALE
from teacher.optimise.terms import NEAR, REFERENCE_S
from teacher.optimise.tracks import Tracks

EXTRAS = COMMON + 1
"""What a point's row may read beside points: the common unknowns, then the log of its frame's scene depth."""
DEPTH = COMMON


def _points_of(situation: Situation, field: str) -> Tensor:
    place, kind = field.split(".")
    return getattr(getattr(situation.state, place), kind)  # type: ignore[no-any-return]


def _residual(term: Term, situation: Situation) -> Tensor:
    made = term.make(situation)
    assert made is not None
    return made[0]


def _with_points(situation: Situation, field: str, points: Tensor) -> Situation:
    """The situation with other points of one field."""
    place, kind = field.split(".")
    moved = {kind: points}
    whole = {place: replace(getattr(situation.state, place), **moved)}
    return replace(situation, state=replace(situation.state, **whole))


def _with_extra(situation: Situation, extra: Tensor) -> Situation:
    """The situation with the state's shared parts moved by `extra` [EXTRAS]."""
    state = situation.state
    K = torch.cat((torch.cat((state.K[:2, :2] * extra[FOCAL].exp(), state.K[:2, 2:]), 1), state.K[2:]))
    tilt, offset = extra[PLANE].split((3, 1))
    state = replace(
        state, K=K, scale=state.scale * extra[SCALE].exp(), depth_scale=state.depth_scale * extra[DEPTH].exp(),
        normal=state.normal + torch.linalg.cross(tilt, state.normal), offset=state.offset + offset[0],
    )  # fmt: skip
    return replace(situation, state=state)


def _push(function: Callable[[Tensor], Tensor], at: Tensor, seeds: Tensor) -> Tensor:
    """Directional derivatives [..., S] of a function along S seeds [S, *at.shape]."""
    return torch.func.vmap(lambda seed: torch.func.jvp(function, (at,), (seed,))[1])(seeds).movedim(0, -1)


def point_rows(term: Term, situation: Situation, field: str) -> Tensor:
    """Derivatives of a term of one frame's points by a field's points.

    Returns:
        [T, P, n, D, 3] by point i of row i if the term is local, else [T, P, n, D, K, 3].
    """
    points = _points_of(situation, field)
    count = points.shape[-2]
    if term.local:
        seeds = torch.eye(3).to(points)[:, None, None, None, :].expand(3, *points.shape)
    else:
        each = torch.eye(3 * count).to(points).unflatten(1, (count, 3))
        seeds = each[:, None, None].expand(3 * count, *points.shape)
    found = _push(lambda moved: _residual(term, _with_points(situation, field, moved)), points, seeds)
    return found if term.local else found.unflatten(-1, (count, 3))


def extra_rows(term: Term, situation: Situation) -> Tensor:
    """[T, P, n, D, EXTRAS] derivatives of the same terms by what all frames share, and by their frame's depth."""
    extra = situation.state.root.new_zeros(EXTRAS)
    return _push(lambda moved: _residual(term, _with_extra(situation, moved)), extra, torch.eye(EXTRAS).to(extra))


def motion_rows(term: Term, situation: Situation, field: str) -> Tensor:
    """[span, T', P, n, D, 3]: derivatives of rows (t, p, i) by point i in the frames t, t + 1, .. of its span."""
    points = _points_of(situation, field)
    frame = torch.arange(len(points), device=points.device) % term.span
    # Frames of one colour are never in one row, so one seed serves them all.
    chosen = (frame == torch.arange(term.span, device=points.device)[:, None]).to(points)
    seeds = chosen[:, None, :, None, None, None] * torch.eye(3).to(points)[:, None, None, None, :]
    seeds = seeds.expand(term.span, 3, *points.shape).flatten(0, 1)
    found = _push(lambda moved: _residual(term, _with_points(situation, field, moved)), points, seeds)
    found = found.unflatten(-1, (term.span, 3)).movedim(-2, 0)  # [colour, T', ..., 3]
    row = torch.arange(found.shape[1], device=points.device)
    return torch.stack([found[(row + k) % term.span, row] for k in range(term.span)])


@dataclass(kw_only=True)
class PairRows:
    """L_3D or L_2D: N rows, each of two frames."""

    source: Tensor
    """[N] frame whose observation is back-projected."""
    target: Tensor
    """[N] frame that it is compared in."""
    by_source: Tensor
    """[N, D, 7]."""
    by_target: Tensor
    """[N, D, 7]."""
    by_common: Tensor
    """[N, D, 6]."""


def _observed(situation: Situation, tracks: Tracks, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of the back-projected observations: by their frame [M, 3, 7] and by the common unknowns [M, 3, 6]."""
    state, frame = situation.state, tracks.frame
    world = observed_world(state, tracks)
    arm = world - state.centre[frame]  # R D K^-1 p
    rotation = state.rotation[frame]
    in_camera = torch.einsum("mji,mj->mi", rotation, arm)
    by_frame = centre[frame][..., :FRAME].clone()
    by_frame[..., FRAME - 1] += arm
    if not situation.evidence.camera_fixed:
        by_frame[..., :3] -= rotation @ cross_matrix(in_camera)
    by_common = centre[frame][..., FRAME:].clone()
    by_common[..., SCALE] += arm
    by_common[..., FOCAL] += rotation[..., 2] * in_camera[:, 2:]  # D grows, x / f and y / f shrink: only z is left
    return by_frame, by_common


def scene_3d_rows(situation: Situation, centre: Tensor) -> PairRows:
    """Derivatives of `terms.scene_3d`; centre as `centre_tangent`."""
    tracks, scale = situation.evidence.tracks, situation.state.scale
    by_frame, by_common = _observed(situation, tracks, centre)
    world = observed_world(situation.state, tracks)
    common = (by_common[tracks.a] - by_common[tracks.b]) / scale
    common[..., SCALE] -= (world[tracks.a] - world[tracks.b]) / scale
    return PairRows(
        source=tracks.frame[tracks.a], target=tracks.frame[tracks.b],
        by_source=by_frame[tracks.a] / scale, by_target=-by_frame[tracks.b] / scale, by_common=common,
    )  # fmt: skip


def scene_2d_rows(situation: Situation, centre: Tensor) -> PairRows:
    """Derivatives of `terms.scene_2d`, in the pixels of the objective; centre as `centre_tangent`."""
    state, tracks = situation.state, situation.evidence.tracks
    by_frame, by_common = _observed(situation, tracks, centre)
    source, target = torch.cat((tracks.a, tracks.b)), torch.cat((tracks.b, tracks.a))
    frame = tracks.frame[target]
    from_world = state.rotation[frame].transpose(-1, -2)
    seen = (from_world @ (observed_world(state, tracks)[source] - state.centre[frame])[..., None])[..., 0]
    factor = LONG_SIDE / max(situation.evidence.size)
    by_seen = -factor * by_camera_point(seen, state.K)  # r = p - pi(q)
    own = centre[frame]
    by_target = -from_world @ own[..., :FRAME]
    if not situation.evidence.camera_fixed:
        by_target[..., :3] += cross_matrix(seen)
    common = from_world @ (by_common[source] - own[..., FRAME:])
    projected = torch.stack((state.K[0, 0] * seen[:, 0], state.K[1, 1] * seen[:, 1]), -1)
    by_common_px = by_seen @ common
    by_common_px[..., FOCAL] -= factor * projected / seen[:, 2:].clamp(min=NEAR)
    return PairRows(
        source=tracks.frame[source], target=frame,
        by_source=by_seen @ (from_world @ by_frame[source]), by_target=by_seen @ by_target, by_common=by_common_px,
    )  # fmt: skip


def by_camera_point(points: Tensor, K: Tensor) -> Tensor:
    """[..., 2, 3] derivative of the pixel by a point [..., 3] in the camera."""
    near = points[..., 2] <= NEAR
    depth = points[..., 2].clamp(min=NEAR)
    zero = torch.zeros_like(depth)
    fx, fy = K[0, 0] / depth, K[1, 1] / depth
    by_z = torch.where(near, zero, 1 / depth)
    rows = (fx, zero, -fx * points[..., 0] * by_z, zero, fy, -fy * points[..., 1] * by_z)
    return torch.stack(rows, -1).unflatten(-1, (2, 3))


def camera_smooth_rows(situation: Situation, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of `terms.camera_smooth`: by its three cameras [3, T - 2, 6, 7], by the clip [T - 2, 6, 6]."""
    state, dt, pivot = situation.state, situation.evidence.dt, situation.evidence.pivot
    turn = rotvec_from_matrix(state.rotation[:-1].transpose(-1, -2) @ state.rotation[1:])
    after, before = right_jacobian_inverse(turn), -left_jacobian_inverse(turn)
    middle = ((dt[1:] + dt[:-1]) / 2)[:, None, None]
    first, second = REFERENCE_S**2 / (middle * dt[:-1, None, None]), REFERENCE_S**2 / (middle * dt[1:, None, None])
    by_frame = state.rotation.new_zeros(3, len(dt) - 1, 6, FRAME)
    factors = first, -(first + second), second
    count = len(dt) - 1
    for k, factor in enumerate(factors):
        by_frame[k, :, :3] = factor * centre[k : k + count, :, :FRAME]
    by_frame[0, :, 3:, :3] = -pivot * first * before[:-1]
    by_frame[1, :, 3:, :3] = pivot * (second * before[1:] - first * after[:-1])
    by_frame[2, :, 3:, :3] = pivot * second * after[1:]
    by_common = state.rotation.new_zeros(count, 6, COMMON)
    by_common[:, :3] = sum(factor * centre[k : k + count, :, FRAME:] for k, factor in enumerate(factors))
    return by_frame, by_common
