"""Terms, rows and derivatives become normal equations; the only place that knows how each kind of term is added.

Robust terms are reweighted (iteratively reweighted least squares): at the present residuals the weight of row i is

    lambda w_i / sum(w) * rho_gamma'(d_i) / d_i,   d_i = sqrt(|r_i|^2 + eps^2),

so that J^T W r is the exact gradient of the (smoothed) objective of `objective`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from distill.geometry.rotations import right_jacobian_inverse
from teacher.optimise.config import OptimiseConfig
from teacher.optimise.normal import Normal
from teacher.optimise.objective import TERMS, Situation, Term
from teacher.optimise.robust import rho, rho_slope
from teacher.optimise.rows import (
    DEPTH,
    PairRows,
    camera_smooth_rows,
    extra_rows,
    motion_rows,
    point_rows,
    scene_2d_rows,
    scene_3d_rows,
)
from teacher.optimise.tangent import COMMON, FOCAL, FRAME, PERSON, PLANE, SCALE, Tangent, tangent

SHARED = PERSON + FRAME
"""Where the unknowns of the clip begin in a local vector."""
FIELDS = {"joints": slice(0, 24), "keypoints": slice(24, 47), "sites": slice(47, 53)}
"""Rows of `BodyParts.pieces`."""


def active_terms(config: OptimiseConfig, stage: int) -> list[tuple[Term, float]]:
    """Terms of a stage with their weights."""
    weights = [(term, float(getattr(config.weights, term.name))) for term in TERMS if stage in term.stages]
    return [(term, weight) for term, weight in weights if weight > 0]


def smoothed(residual: Tensor, width: float) -> Tensor:
    """Length of residuals [..., D] -> [...], at least `width`: round at 0, so that a second derivative exists."""
    return (residual.square().sum(-1) + width**2).sqrt()


def cost(situation: Situation, stage: int, width: float) -> tuple[Tensor, dict[str, Tensor]]:
    """The smoothed objective, and each term's share."""
    values: dict[str, Tensor] = {}
    for term, factor in active_terms(situation.config, stage):
        made = term.make(situation)
        if made is not None and float(made[1].sum()) > 0:
            residual, weight = made
            values[term.name] = factor * (weight * rho(smoothed(residual, width), term.gamma)).sum() / weight.sum()
    return torch.stack(list(values.values())).sum(), values


def linearise(situation: Situation, stage: int, width: float) -> Normal:
    """Normal equations of all terms of a stage."""
    state, evidence = situation.state, situation.evidence
    frames, people = evidence.person_weight.shape
    normal = Normal(frames, people, state.betas.shape[-1], state.root)
    at = tangent(state, situation.blocks["camera_pos"], evidence)
    motion = _Motion(at)
    for term, factor in active_terms(situation.config, stage):
        made = term.make(situation)
        if made is None or float(made[1].sum()) <= 0:
            continue
        residual, weight = made
        distance = smoothed(residual, width)
        strength = factor * weight / weight.sum() * rho_slope(distance, term.gamma) / distance
        if term.reads and term.span == 1:
            _add_points(normal, at, term, situation, residual, strength)
        elif term.reads:
            motion.add(term, situation, residual, strength)
        elif term.name in ("scene_3d", "scene_2d"):
            rows = scene_3d_rows(situation, at) if term.name == "scene_3d" else scene_2d_rows(situation, at)
            _add_pairs(normal, rows, residual, strength)
        elif term.name == "camera_smooth":
            _add_cameras(normal, situation, at, residual, strength)
        else:
            _add_blocks(normal, term, situation, residual, strength)
    motion.finish(normal)
    return normal


def _columns(at: Tangent, field: str) -> Tensor:
    """[T, P, n, 3, V] derivatives of a field's points."""
    place, kind = field.split(".")
    return getattr(at, place)[:, :, FIELDS[kind]]


def _add_points(
    normal: Normal, at: Tangent, term: Term, situation: Situation, residual: Tensor, strength: Tensor
) -> None:
    """A term of one frame's points."""
    jacobian = residual.new_zeros(*residual.shape, at.cam.shape[-1])
    for field in term.reads:
        rows, columns = point_rows(term, situation, field), _columns(at, field)
        if term.local:
            jacobian += rows @ columns[:, :, : rows.shape[2]]
        else:
            jacobian += torch.einsum("tpndkc,tpkcv->tpndv", rows, columns)
    extra = extra_rows(term, situation)
    jacobian[..., SHARED : SHARED + COMMON] += extra[..., :COMMON]
    for place in (SHARED + SCALE, SHARED + FOCAL, SHARED - 1):  # the log of a frame's scene depth, and its drift
        jacobian[..., place] += extra[..., DEPTH]
    root = strength.sqrt()[..., None]
    flat = (root[..., None] * jacobian).flatten(2, 3)
    turned = flat.transpose(-1, -2)
    normal.add_local(turned @ flat, 0)
    normal.add_gradient((turned @ (root * residual).flatten(2)[..., None])[..., 0])


class _Motion:
    """Terms whose rows span several frames, gathered as weights between points: Q_{t+d}^T M_d Q_t, once for all."""

    def __init__(self, at: Tangent) -> None:
        self._at = at
        self._between: dict[str, list[Tensor]] = {}
        self._pull: dict[str, Tensor] = {}

    def add(self, term: Term, situation: Situation, residual: Tensor, strength: Tensor) -> None:
        """Rows [T', P, n, D] of a local term."""
        (field,) = term.reads
        rows = motion_rows(term, situation, field)
        points = _columns(self._at, field)[..., 0]
        if field not in self._between:
            self._between[field] = [points.new_zeros(*points.shape[:3], 3, 3) for _ in range(3)]
            self._pull[field] = torch.zeros_like(points)
        between, count = self._between[field], residual.shape[0]
        weighted = strength[..., None, None] * rows
        for a in range(term.span):
            self._pull[field][a : a + count] += (weighted[a].transpose(-1, -2) @ residual[..., None])[..., 0]
            for b in range(a + 1):
                between[a - b][b : b + count] += weighted[a].transpose(-1, -2) @ rows[b]

    def finish(self, normal: Normal) -> None:
        """Add everything."""
        for field, between in self._between.items():
            columns = _columns(self._at, field)  # [T, P, n, 3, V]
            flat = columns.flatten(2, 3)
            for gap, matrix in enumerate(between):
                count = len(columns) - gap
                pulled = (matrix[:count] @ columns[:count]).flatten(2, 3)
                normal.add_local(flat[gap:].transpose(-1, -2) @ pulled, gap)
            pull = self._pull[field].flatten(2)[..., None]
            normal.add_gradient((flat.transpose(-1, -2) @ pull)[..., 0])


def _add_pairs(normal: Normal, rows: PairRows, residual: Tensor, strength: Tensor) -> None:
    root = strength.sqrt()[:, None]
    wide = root[..., None]
    jacobians = wide * rows.by_source, wide * rows.by_target, wide * rows.by_common
    normal.add_pairs((rows.source, rows.target), jacobians, root * residual)


def _add_cameras(normal: Normal, situation: Situation, at: Tangent, residual: Tensor, strength: Tensor) -> None:
    """`camera_smooth`: rows of three cameras."""
    by_frame, by_common = camera_smooth_rows(situation, at)
    root = strength.sqrt()[:, None]
    first = torch.arange(len(residual), device=residual.device)
    three = [root[..., None] * part for part in by_frame]
    common = root[..., None] * by_common
    for a in range(3):
        turned = three[a].transpose(-1, -2)
        normal.by_frame[first + a] += (turned @ (root * residual)[..., None])[..., 0]
        normal.frame_global[first + a, :, :COMMON] += turned @ common
        for b in range(3):
            normal.frame_frame[first + a, first + b] += turned @ three[b]
    turned = common.transpose(-1, -2)
    normal.by_global[:COMMON] += (turned @ (root * residual)[..., None])[..., 0].sum(0)
    normal.global_global[:COMMON, :COMMON] += (turned @ common).sum(0)


def _add_blocks(normal: Normal, term: Term, situation: Situation, residual: Tensor, strength: Tensor) -> None:
    """Terms on unknowns themselves."""
    state, blocks = situation.state, situation.blocks
    if term.name == "prior_root_rot":
        _add_person(normal, right_jacobian_inverse(blocks["root_rot"]), 0, residual, strength)
    elif term.name == "prior_pose":
        by_joint = right_jacobian_inverse(blocks["pose"])  # [T, P, 23, 3, 3]
        wide = residual.new_zeros(*by_joint.shape[:2], 23, 3, 23, 3)
        joint = torch.arange(23)
        wide[:, :, joint, :, joint] = by_joint.movedim(2, 0)
        _add_person(normal, wide.flatten(4, 5).flatten(2, 3), 6, residual, strength)
    elif term.name == "prior_root_pos":
        by_root = residual.new_zeros(*residual.shape[:2], 3, 3)
        by_root[..., 0, 0] = by_root[..., 1, 1] = state.root[..., 2]
        by_root[..., 2] = state.root
        _add_person(normal, by_root, 3, residual, strength)
    elif term.name in ("prior_shape", "stature"):
        by_betas = torch.func.jacfwd(
            lambda betas: term.make(replace(situation, state=replace(state, betas=betas)))[0]  # type: ignore[index]
        )(state.betas)  # [P, D, P, B]
        person = torch.arange(normal.people)
        _add_shapes(normal, by_betas[person, :, person], residual, strength)
    elif term.name == "scale_tie":
        _add_drift(normal, situation, residual[:, 0], strength)
    else:
        _add_common(normal, term, situation, residual, strength)


def _add_person(normal: Normal, jacobian: Tensor, start: int, residual: Tensor, strength: Tensor) -> None:
    """Rows [T, P, D] of a person's own unknowns from place `start`; jacobian [T, P, D, N]."""
    own = slice(start, start + jacobian.shape[-1])
    turned = (strength[..., None, None] * jacobian).transpose(-1, -2)
    normal.chain[0][:, : normal.frames, own, own] += (turned @ jacobian).transpose(0, 1)
    normal.by_person[:, : normal.frames, own] += (turned @ residual[..., None])[..., 0].transpose(0, 1)


def _add_shapes(normal: Normal, jacobian: Tensor, residual: Tensor, strength: Tensor) -> None:
    """Rows [P, D] of each person's shape; jacobian [P, D, B]."""
    turned = (strength[:, None, None] * jacobian).transpose(-1, -2)
    for p in range(normal.people):
        own = normal.columns(p)[COMMON:]
        normal.global_global[own[:, None], own] += turned[p] @ jacobian[p]
        normal.by_global[own] += turned[p] @ residual[p]


def _add_drift(normal: Normal, situation: Situation, residual: Tensor, strength: Tensor) -> None:
    """`scale_tie`: the drift itself, then its steps."""
    frames, config = normal.frames, situation.config
    eye = torch.eye(frames).to(residual)
    jacobian = torch.cat((eye / config.drift_sd, (eye[1:] - eye[:-1]) / config.drift_step_sd))
    weighted = (strength[:, None] * jacobian).T
    normal.frame_frame[:, :, FRAME - 1, FRAME - 1] += weighted @ jacobian
    normal.by_frame[:, FRAME - 1] += weighted @ residual


def _add_common(normal: Normal, term: Term, situation: Situation, residual: Tensor, strength: Tensor) -> None:
    """Terms of the clip's unknowns alone."""
    state, config = situation.state, situation.config
    jacobian = residual.new_zeros(*residual.shape, COMMON)
    if term.name == "scale_prior":
        jacobian[..., SCALE] = 1 / config.scale_sd
    elif term.name == "focal_prior":
        jacobian[..., FOCAL] = 1 / config.focal_sd
    elif term.name == "ground_up":  # n(d) = n + d x n
        x, y, z = state.normal.unbind()
        zero = torch.zeros_like(x)
        turn = torch.stack((zero, z, -y, -z, zero, x, y, -x, zero)).unflatten(0, (3, 3))
        jacobian[..., PLANE][..., :3] = turn
    else:
        raise NotImplementedError(f"the term {term.name} has no derivative: declare what it reads")
    turned = (strength[:, None, None] * jacobian).transpose(-1, -2)
    normal.global_global[:COMMON, :COMMON] += (turned @ jacobian).sum(0)
    normal.by_global[:COMMON] += (turned @ residual[..., None])[..., 0].sum(0)
