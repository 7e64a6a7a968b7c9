"""Terms, rows and derivatives become normal equations; the only place that knows how each kind of term is added.

Robust terms are reweighted (iteratively reweighted least squares): at the present residuals the weight of row i is

    lambda w_i / sum(w) * rho_gamma'(d_i) / d_i,   d_i = sqrt(|r_i|^2 + width^2),

so that J^T W r is the exact gradient of the objective. `width` is the term's own, and wider in the first iterations.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from distill.geometry.rotations import right_jacobian_inverse
from teacher.optimise.config import OptimiseConfig
from teacher.optimise.normal import REACH, Normal
from teacher.optimise.objective import TERMS, Situation, Term
from teacher.optimise.robust import rho, rho_slope, smoothed
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
from teacher.optimise.tangent import COMMON, FOCAL, FRAME, PERSON, PLANE, SCALE, Tangent, centre_tangent, tangent

SHARED = PERSON + FRAME
"""Where the unknowns of the clip begin in a local vector."""
CHUNK = 128
"""Frames whose points are differentiated at once."""
FIELDS = {"joints": slice(0, 24), "keypoints": slice(24, 47), "sites": slice(47, 53)}
"""Rows of `BodyParts.pieces`."""


def active_terms(config: OptimiseConfig, stage: int) -> list[tuple[Term, float]]:
    """Terms of a stage with their weights."""
    weights = [(term, float(getattr(config.weights, term.name))) for term in TERMS if stage in term.stages]
    return [(term, weight) for term, weight in weights if weight > 0]


def cost(situation: Situation, stage: int, width: float) -> tuple[Tensor, dict[str, Tensor]]:
    """The smoothed objective, and each term's share."""
    values: dict[str, Tensor] = {}
    for term, factor in active_terms(situation.config, stage):
        made = term.make(situation)
        if made is not None and float(made[1].sum()) > 0:
            residual, weight = made
            values[term.name] = (
                factor * (weight * rho(smoothed(residual, max(width, term.width)), term.gamma)).sum() / weight.sum()
            )
    return torch.stack(list(values.values())).sum(), values


def linearise(situation: Situation, stage: int, width: float) -> Normal:
    """Normal equations of all terms of a stage; memory for derivatives of points is that of `CHUNK` frames."""
    state, evidence = situation.state, situation.evidence
    frames, people = evidence.person_weight.shape
    normal = Normal(frames, people, state.betas.shape[-1], state.root)
    centre = centre_tangent(state, situation.blocks["camera_pos"], evidence)
    still: list[_PointTerm] = []
    motion = _Motion()
    for term, factor in active_terms(situation.config, stage):
        made = term.make(situation)
        if made is None or float(made[1].sum()) <= 0:
            continue
        residual, weight = made
        distance = smoothed(residual, max(width, term.width))
        strength = factor * weight / weight.sum() * rho_slope(distance, term.gamma) / distance
        strength = 2 * strength if term.mutual else strength
        if term.reads and term.span == 1:
            still.append(_PointTerm(term, situation, residual, strength))
        elif term.reads:
            motion.add(term, situation, residual, strength)
        elif term.name in ("scene_3d", "scene_2d"):
            rows = scene_3d_rows(situation, centre) if term.name == "scene_3d" else scene_2d_rows(situation, centre)
            _add_pairs(normal, rows, residual, strength)
        elif term.name == "camera_smooth":
            _add_cameras(normal, situation, centre, residual, strength)
        else:
            _add_blocks(normal, term, situation, residual, strength)
    for start in range(0, frames, CHUNK):
        stop = min(frames, start + CHUNK)
        at = tangent(state, centre, evidence, slice(start, min(frames, stop + REACH)))
        for rows_of_term in still:
            rows_of_term.add_to(normal, at, start, stop)
        motion.add_to(normal, at, start, stop)
    return normal


def _columns(at: Tangent, field: str) -> Tensor:
    """[T, P, n, 3, V] derivatives of a field's points."""
    place, kind = field.split(".")
    return getattr(at, place)[:, :, FIELDS[kind]]  # type: ignore[no-any-return]


class _PointTerm:
    """A term of one frame's points, differentiated by those points; the chain rule follows frame by frame."""

    def __init__(self, term: Term, situation: Situation, residual: Tensor, strength: Tensor) -> None:
        self._local = term.local
        self._rows = {field: point_rows(term, situation, field) for field in term.reads}
        self._extra = extra_rows(term, situation)
        self._residual, self._root = residual, strength.sqrt()[..., None]

    def add_to(self, normal: Normal, at: Tangent, start: int, stop: int) -> None:
        """Add the rows of the frames from start to stop; `at` begins at start."""
        own, count = slice(start, stop), stop - start
        residual, root = self._residual[own], self._root[own]
        jacobian = residual.new_zeros(*residual.shape, at.cam.shape[-1])
        for field, rows in self._rows.items():
            columns = _columns(at, field)[:count]
            if self._local:
                jacobian += rows[own] @ columns[:, :, : rows.shape[2]]
            else:
                jacobian += torch.einsum("tpndkc,tpkcv->tpndv", rows[own], columns)
        extra = self._extra[own]
        jacobian[..., SHARED : SHARED + COMMON] += extra[..., :COMMON]
        for place in (SHARED + SCALE, SHARED + FOCAL, SHARED - 1):  # the log of a frame's scene depth, and its drift
            jacobian[..., place] += extra[..., DEPTH]
        flat = (root[..., None] * jacobian).flatten(2, 3)
        turned = flat.transpose(-1, -2)
        normal.add_local(turned @ flat, 0, start)
        normal.add_gradient((turned @ (root * residual).flatten(2)[..., None])[..., 0], start)


class _Motion:
    """Terms whose rows span several frames, gathered as weights between points: Q_{t+d}^T M_d Q_t, once for all."""

    def __init__(self) -> None:
        self._between: dict[str, list[Tensor]] = {}
        self._pull: dict[str, Tensor] = {}

    def add(self, term: Term, situation: Situation, residual: Tensor, strength: Tensor) -> None:
        """Rows [T', P, n, D] of a local term."""
        (field,) = term.reads
        rows = motion_rows(term, situation, field)
        if field not in self._between:
            size = (len(situation.evidence.person_weight), *rows.shape[2:4], 3)
            self._between[field] = [rows.new_zeros(*size, 3) for _ in range(REACH + 1)]
            self._pull[field] = rows.new_zeros(size)
        between, count = self._between[field], residual.shape[0]
        weighted = strength[..., None, None] * rows
        for a in range(term.span):
            self._pull[field][a : a + count] += (weighted[a].transpose(-1, -2) @ residual[..., None])[..., 0]
            for b in range(a + 1):
                between[a - b][b : b + count] += weighted[a].transpose(-1, -2) @ rows[b]

    def add_to(self, normal: Normal, at: Tangent, start: int, stop: int) -> None:
        """Add what begins in the frames from start to stop; `at` begins at start and ends two frames after stop."""
        for field, between in self._between.items():
            columns = _columns(at, field)[:, :, : between[0].shape[2]]
            flat = columns.flatten(2, 3)
            for gap, matrix in enumerate(between):
                count = min(stop - start, len(columns) - gap)
                if count > 0:
                    pulled = (matrix[start : start + count] @ columns[:count]).flatten(2, 3)
                    normal.add_local(flat[gap : gap + count].transpose(-1, -2) @ pulled, gap, start)
            count = stop - start
            pull = self._pull[field][start:stop].flatten(2)[..., None]
            normal.add_gradient((flat[:count].transpose(-1, -2) @ pull)[..., 0], start)


def _add_pairs(normal: Normal, rows: PairRows, residual: Tensor, strength: Tensor) -> None:
    root = strength.sqrt()[:, None]
    wide = root[..., None]
    jacobians = wide * rows.by_source, wide * rows.by_target, wide * rows.by_common
    normal.add_pairs((rows.source, rows.target), jacobians, root * residual)


def _add_cameras(normal: Normal, situation: Situation, centre: Tensor, residual: Tensor, strength: Tensor) -> None:
    """`camera_smooth`: rows of three cameras."""
    by_frame, by_common = camera_smooth_rows(situation, centre)
    root = strength.sqrt()[:, None]
    first = torch.arange(len(residual), device=residual.device)
    three = [root[..., None] * part for part in by_frame]
    common = root[..., None] * by_common
    for a in range(3):
        turned = three[a].transpose(-1, -2)
        normal.by_frame[first + a] += (turned @ (root * residual)[..., None])[..., 0]
        normal.frame_global[first + a, :, :COMMON] += turned @ common
        for b in range(a + 1):
            normal.frame_frame[first + b, a - b] += turned @ three[b]
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
    frames, config, drift = normal.frames, situation.config, FRAME - 1
    value, step = strength[:frames] / config.drift_sd, strength[frames:] / config.drift_step_sd
    normal.by_frame[:, drift] += value * residual[:frames]
    normal.by_frame[1:, drift] += step * residual[frames:]
    normal.by_frame[:-1, drift] -= step * residual[frames:]
    same = normal.frame_frame[:, 0, drift, drift]
    same += value / config.drift_sd
    same[1:] += step / config.drift_step_sd
    same[:-1] += step / config.drift_step_sd
    normal.frame_frame[:-1, 1, drift, drift] -= step / config.drift_step_sd


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
