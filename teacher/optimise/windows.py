"""Long videos: overlapping windows are solved one after the other and glued; the joint solve starts from there.

Structure from motion over minutes drifts in scale and direction. A window of some seconds hardly does, and its
contacts and bodies say how many metres it spans. So each window is solved by itself, the windows are joined in
Sim(3) over the frames they share (and over scene points seen again much later, where there are any: `gluing`), and
the unknowns of the whole clip begin at the glued world. What follows is the joint solve of all frames with one
shape per person and one focal length, linear in the number of frames (`elimination`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor

from distill.geometry.cameras import unproject
from distill.geometry.rotations import rotvec_from_matrix, slerp
from teacher.optimise.gluing import Edge, Similarity, align_robustly, glue
from teacher.optimise.problem import Problem
from teacher.optimise.tracks import observed_depth
from teacher.optimise.variables import State, Unknowns
from teacher.stagefiles import Array

if TYPE_CHECKING:
    from teacher.optimise.config import OptimiseConfig
    from teacher.optimise.solver import Solution

LOOP_POINTS: Final = 30
"""Fewest scene points that two windows must share, after outliers are gone, to tie them."""
LOOP_ERROR: Final = 0.05
"""Largest error of such a point, as part of its depth."""


@dataclass(kw_only=True)
class Window:
    """A solved part of a clip, in its own world, metres."""

    start: int
    """First frame."""
    people: Array
    """[p] indices of the people seen in it."""
    state: State
    """The solution."""
    unit: Tensor
    """[n] metres per unit of the initialiser's scene, at the initial focal length."""
    problem: Problem
    """Its part of the problem."""

    @property
    def stop(self) -> int:
        """One past the last frame."""
        return self.start + len(self.unit)


def spans(frames: int, length: int, overlap: int) -> list[tuple[int, int]]:
    """First frame and one past the last of windows of equal length that cover a clip, sharing at least `overlap`."""
    if frames <= length:
        return [(0, frames)]
    count = int(np.ceil((frames - overlap) / (length - overlap)))
    starts = np.round(np.linspace(0, frames - length, count)).astype(int)
    return [(int(start), int(start) + length) for start in starts]


def cut(problem: Problem, start: int, stop: int) -> tuple[Problem, Array]:
    """The problem of some frames, and the indices of the people in it; nothing is copied but the observations."""
    own = slice(start, stop)
    people = np.flatnonzero(problem.bodies.present[own].any(0))
    cameras, tracks, bodies = problem.cameras, problem.people, problem.bodies
    seen = (cameras.obs_frame >= start) & (cameras.obs_frame < stop)
    part = replace(
        problem,
        clip_id=f"{problem.clip_id}[{start}:{stop}]",
        timestamps=problem.timestamps[own],
        cameras=replace(
            cameras, world_from_cam=cameras.world_from_cam[own], registered=cameras.registered[own],
            obs_frame=cameras.obs_frame[seen] - start, obs_point=cameras.obs_point[seen], obs_px=cameras.obs_px[seen],
        ),
        people=replace(tracks, **{name: getattr(tracks, name)[own][:, people] for name in vars(tracks)}),
        bodies=replace(
            bodies, present=bodies.present[own][:, people], betas=bodies.betas[people],
            body_rot=bodies.body_rot[own][:, people], cam_from_body=bodies.cam_from_body[own][:, people],
            confidence=bodies.confidence[own][:, people],
        ),
        contacts=replace(problem.contacts, prob=problem.contacts.prob[own][:, people]),
        depth=None if problem.depth is None else replace(problem.depth, depth=problem.depth.depth[own]),
    )  # fmt: skip
    return part, people


@torch.no_grad()
def start_from_windows(
    problem: Problem, unknowns: Unknowns, config: OptimiseConfig, solve_window: Callable[[Problem], Solution]
) -> list[Similarity]:
    """Solve the windows, glue them, and set the unknowns of the whole clip to the glued world.

    Returns:
        `global_from_window` of every window that shows somebody.
    """
    windows: list[Window] = []
    for start, stop in spans(len(problem.timestamps), config.windows.length, config.windows.overlap):
        if problem.bodies.present[start:stop].any():
            part, people = cut(problem, start, stop)
            with torch.enable_grad():
                solution = solve_window(part)
            unit = solution.evidence.unit * solution.after.depth_scale / solution.after.focal_ratio
            windows.append(Window(start=start, people=people, state=solution.after, unit=unit, problem=part))
    nodes = glue(len(windows), [*_neighbours(windows), *_loops(windows)])
    _set_world(unknowns, windows, nodes)
    return nodes


def _neighbours(windows: list[Window]) -> list[Edge]:
    """Edges between windows that follow each other: cameras, points on their axes, and joints of shared frames."""
    edges = []
    for k, (a, b) in enumerate(pairwise(windows)):
        points = [_marks(window, max(a.start, b.start), min(a.stop, b.stop), (a, b)) for window in (a, b)]
        edges.append(Edge(first=k, second=k + 1, first_from_second=align_robustly(*points)[0]))
    return edges


def _marks(window: Window, start: int, stop: int, both: tuple[Window, Window]) -> Array:
    """[N, 3] points of a window that the other one has too, in its own world."""
    own = slice(start - window.start, stop - window.start)
    state = window.state
    centre, axis = state.centre[own], state.rotation[own][..., 2]
    reach = state.root[..., 2].median()
    marks = [centre, centre + reach * axis, centre + reach * state.rotation[own][..., 0]]
    shared = np.intersect1d(both[0].people, both[1].people)
    if len(shared):
        column = [int(np.flatnonzero(window.people == person)[0]) for person in shared]
        present = [
            w.problem.bodies.present[start - w.start : stop - w.start][:, np.isin(w.people, shared)] for w in both
        ]
        joints = state.world.joints[own][:, column]
        marks.append(joints[torch.from_numpy(present[0] & present[1])].flatten(0, 1))
    return torch.cat(marks).double().numpy()


def _loops(windows: list[Window]) -> list[Edge]:
    """Edges between windows that are no neighbours but see the same scene points."""
    seen = [_scene_points(window) for window in windows]
    edges = []
    for i, (ids_a, points_a, _) in enumerate(seen):
        for j in range(i + 2, len(windows)):
            ids_b, points_b, depth = seen[j]
            shared, at_a, at_b = np.intersect1d(ids_a, ids_b, return_indices=True)
            if len(shared) < LOOP_POINTS:
                continue
            found, residual = align_robustly(points_a[at_a], points_b[at_b])
            if (residual < LOOP_ERROR * depth[at_b]).sum() >= max(LOOP_POINTS, len(shared) // 2):
                edges.append(Edge(first=i, second=j, first_from_second=found))
    return edges


def _scene_points(window: Window) -> tuple[Array, Array, Array]:
    """Ids [N], mean positions [N, 3] in the window's world, and mean depths [N] of the scene points it observes."""
    cameras, state = window.problem.cameras, window.state
    frame = torch.from_numpy(cameras.obs_frame.astype(np.int64))
    depth = torch.from_numpy(observed_depth(cameras)).float() * window.unit[frame] * state.focal_ratio
    in_camera = unproject(torch.from_numpy(cameras.obs_px).float(), depth, state.K)
    world = torch.einsum("nij,nj->ni", state.rotation[frame], in_camera) + state.centre[frame]
    ids, place, count = np.unique(cameras.obs_point, return_inverse=True, return_counts=True)
    total = np.zeros((len(ids), 4))
    np.add.at(total, place, np.column_stack((world.double().numpy(), depth.double().numpy())))
    mean = total / count[:, None]
    return ids, mean[:, :3], mean[:, 3]


def _set_world(unknowns: Unknowns, windows: list[Window], nodes: list[Similarity]) -> None:
    """Blocks of the glued world; frames that several windows share lie between them, nearest to the inner one."""
    e, blocks = unknowns.evidence, unknowns.blocks
    frames, people = e.person_weight.shape
    log_focal = torch.stack([window.state.focal_ratio.log() for window in windows]).mean()
    world = _Blend(frames, people)
    for window, node in zip(windows, nodes, strict=True):
        world.add(window, node, e.pivot)
    unit = world.unit / e.unit
    log_scale = unit.log().median()
    scale = log_scale.exp()
    blocks["log_focal"].copy_(log_focal)
    blocks["log_scale"].copy_(log_scale)
    blocks["log_drift"].copy_(unit.log() - log_scale)
    blocks["camera_rot"].copy_(rotvec_from_matrix(e.rotation.transpose(-1, -2) @ world.rotation))
    start = scale * (e.centre + e.pivot * e.rotation[..., 2])
    blocks["camera_pos"].copy_(world.pivot - start)
    seen = world.weight > 0
    turn = rotvec_from_matrix(e.root_rot.transpose(-1, -2) @ world.root_rot)
    blocks["root_rot"].copy_(torch.where(seen[..., None], turn, 0.0))
    ray = world.root[..., :2] / world.root[..., 2:].clamp(min=0.05) - e.root[..., :2] / e.root[..., 2:]
    blocks["root_ray"].copy_(torch.where(seen[..., None], ray, 0.0))
    depth = (world.root[..., 2].clamp(min=0.05) / e.root[..., 2]).log()
    blocks["root_depth"].copy_(torch.where(seen, depth, 0.0))
    pose = rotvec_from_matrix(e.body_rot.transpose(-1, -2) @ world.body_rot)
    blocks["pose"].copy_(torch.where(seen[..., None, None], pose, 0.0))
    blocks["betas"].copy_(world.betas() - e.betas)


class _Blend:
    """The glued world, filled window by window: a frame's values move from the earlier to the later window."""

    def __init__(self, frames: int, people: int) -> None:
        self.rotation = torch.eye(3).repeat(frames, 1, 1)
        self.pivot = torch.zeros(frames, 3)
        self.unit = torch.ones(frames)
        self.root_rot = torch.eye(3).repeat(frames, people, 1, 1)
        self.root = torch.ones(frames, people, 3)
        self.body_rot = torch.eye(3).repeat(frames, people, 23, 1, 1)
        self.weight = torch.zeros(frames, people)
        self._last = 0
        self._betas: dict[int, list[tuple[Tensor, float]]] = {}

    def add(self, window: Window, node: Similarity, pivot: float) -> None:
        """Blend in the next window; pivot in metres, of the whole clip."""
        own, state = slice(window.start, window.stop), window.state
        shared = max(0, self._last - window.start)
        later = torch.ones(window.stop - window.start)
        later[:shared] = (torch.arange(shared) + 0.5) / max(shared, 1)
        turn = torch.from_numpy(node.rotation).float()
        point = state.centre + state.focal_ratio * pivot * state.rotation[..., 2]
        moved = torch.from_numpy(node(point.double().numpy())).float()
        self.rotation[own] = slerp(self.rotation[own], turn @ state.rotation, later)
        self.pivot[own] = torch.lerp(self.pivot[own], moved, later[:, None])
        self.unit[own] = torch.lerp(self.unit[own], float(node.scale) * window.unit, later)
        present = torch.from_numpy(window.problem.bodies.present)
        for column, person in enumerate(window.people):
            before = self.weight[own, person] > 0
            part = torch.where(before, later, 1.0) * present[:, column]
            place = (own, int(person))
            self.root_rot[place] = slerp(self.root_rot[place], state.cam_from_body[:, column, :3, :3], part)
            root = float(node.scale) * state.root[:, column]
            self.root[place] = torch.lerp(self.root[place], root, part[:, None])
            joints = state.body_rot[:, column]
            self.body_rot[place] = slerp(self.body_rot[place], joints, part[:, None].expand(-1, 23))
            self.weight[place] += present[:, column].float()
            found = (state.betas[column], float(present[:, column].sum()))
            self._betas.setdefault(int(person), []).append(found)
        self._last = max(self._last, window.stop)

    def betas(self) -> Tensor:
        """[P, B] one shape per person: the mean over windows by the frames that show the person."""
        people = self.weight.shape[1]
        shapes = len(next(iter(self._betas.values()))[0][0])
        found = torch.zeros(people, shapes)
        for person, parts in self._betas.items():
            total = sum(count for _, count in parts)
            found[person] = torch.stack([shape * count for shape, count in parts]).sum(0) / total
        return found
