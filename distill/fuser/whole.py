"""The whole clip at once, after its end: every frame improved by all that came later.

The terms are the fuser's own, with its result as the first guess; only the window is as long as the clip. The
information matrix is sparse (a frame is tied to the few before it), so that a step costs time in proportion to the
length. It is what a Rauch-Tung-Striebel pass would give for a linear system, with linearisations of its own and weights
of heavy tails that are found anew.

A student may take somebody's back for the front for a while, and the fuser may have begun with that. Both ways are
local optima, so each stretch of time for which a person was seen is tried the other way round too, and stays so where
that is likelier by `MARGIN`.

Clips longer than `WINDOW` are solved in windows that look `AHEAD` beyond their end; memory is bounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import scipy.sparse as sparse
from scipy.sparse.linalg import splu

from distill.fuser.config import FuserConfig, UncertaintyScales
from distill.fuser.factors import cost, linearise
from distill.fuser.observation import FrameObservation
from distill.fuser.smoother import Fuser
from distill.fuser.so3 import Array, Ints, exp, inverse, rigid
from distill.fuser.states import CAMERA, NODE, States
from distill.fuser.static_camera import CameraMode
from distill.fuser.window import Window

WINDOW: Final = 600
"""Frames that are solved together."""
AHEAD: Final = 300
"""Frames after them that are solved with them and thrown away: longer than what is remembered of scales."""
STEPS: Final = 30
"""Gauss-Newton steps at most."""
TURNED_STEPS: Final = 15
"""The same, for a person turned the other way round."""
CLAMP: Final = 1e-5
"""Deviation, rad and m, of frames that an earlier window has settled."""
MARGIN: Final = 3.0
"""Nats by which the other way round must be likelier."""
SHORTEST: Final = 10
"""Frames of a person that are tried the other way round."""


@dataclass(kw_only=True)
class WholePaths:
    """Cameras and people of a clip."""

    world_from_cam: Array
    """[T, 4, 4] metres."""
    log_scale: Array
    """[T] of the network's count of metres over the true one; taken out of positions."""
    static_prob: Array
    """[T] that the camera stands."""
    world_from_body: dict[int, tuple[Ints, Array]]
    """Person's id -> frames [N], ascending, and poses [N, 4, 4]."""

    def cam_from_body(self) -> dict[int, tuple[Ints, Array]]:
        """Person's id -> frames [N] and poses in the camera [N, 4, 4]."""
        return {
            person: (frames, inverse(self.world_from_cam[frames]) @ poses)
            for person, (frames, poses) in self.world_from_body.items()
        }

    def part(self, begin: int, end: int) -> WholePaths:
        """Frames [begin, end), counted from `begin`."""
        people = {}
        for person, (frames, poses) in self.world_from_body.items():
            inside = (frames >= begin) & (frames < end)
            if inside.any():
                people[person] = frames[inside] - begin, poses[inside]
        return WholePaths(
            world_from_cam=self.world_from_cam[begin:end], log_scale=self.log_scale[begin:end],
            static_prob=self.static_prob[begin:end], world_from_body=people,
        )  # fmt: skip

    def put(self, begin: int, better: WholePaths) -> None:
        """Replace frames from `begin` on, in place."""
        end = begin + len(better.log_scale)
        self.world_from_cam[begin:end], self.log_scale[begin:end] = better.world_from_cam, better.log_scale
        for person, (frames, poses) in better.world_from_body.items():
            own, known = self.world_from_body[person]
            known[np.searchsorted(own, frames + begin)] = poses


class _LongWindow(Window):
    """States and factors of many frames; priors on single columns only."""

    def __init__(self, dof: float) -> None:
        super().__init__(dof)
        self._columns: list[Ints] = []
        self._weights: list[Array] = []

    def _grow(self, at: int, count: int) -> None:
        """There is no dense prior."""

    def pin(self, columns: Ints, sigma: Array) -> None:
        """See `Window.pin`."""
        self._columns.append(columns)
        self._weights.append(np.broadcast_to(1 / sigma**2, columns.shape))

    def place(self, node: int, R: Array, t: Array) -> None:
        """Put a node somewhere; a pin holds it there."""
        for states in (self.states, self._at):
            states.R[node], states.t[node] = R, t

    def set_factor(self, node: int, value: float, *, held: bool) -> None:
        """The log factor of a node; `held`: a pin holds it there, and not at what it was when the node was added."""
        self.states.factor[node] = value
        if held:
            self._at.factor[node] = value

    def solve(self, steps: int) -> None:
        """Gauss-Newton until hardly anything moves."""
        columns, weights = np.concatenate(self._columns), np.concatenate(self._weights)
        for _ in range(steps):
            prior = np.zeros(self.states.size)
            np.add.at(prior, columns, weights)
            H, g = self._normal_equations()
            g += prior * self.states.step_from(self._at)
            factor = splu(
                (H + sparse.diags(prior + 1e-9)).tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0,
                options={"SymmetricMode": True},
            )  # fmt: skip
            step = -factor.solve(g)
            self.states.move(step)
            if np.abs(step).max() < 1e-4:
                return

    def _normal_equations(self) -> tuple[sparse.coo_matrix, Array]:
        """J^T J and J^T r of all factors, without the prior."""
        size = self.states.size
        rows, columns, values, g = [], [], [], np.zeros(size)
        for part in linearise(self.states, self.tables, self._dof):
            count = part.columns.shape[1]
            turned = part.jacobian.transpose(0, 2, 1)
            rows.append(np.repeat(part.columns, count, axis=1).ravel())
            columns.append(np.tile(part.columns, (1, count)).ravel())
            values.append((turned @ part.jacobian).ravel())
            np.add.at(g, part.columns.ravel(), (turned @ part.residual[:, :, None]).ravel())
        where = (np.concatenate(rows), np.concatenate(columns))
        return sparse.coo_matrix((np.concatenate(values), where), shape=(size, size)), g

    def cost(self) -> float:
        """Negative log likelihood, nats."""
        return cost(self.states, self.tables, self._dof)


class _WholeFuser(Fuser):
    """Puts many frames into one window, at given first guesses."""

    window: _LongWindow

    def __init__(
        self, config: FuserConfig, camera: CameraMode, scales: UncertaintyScales | None, first: WholePaths
    ) -> None:
        super().__init__(config, camera=camera, scales=scales)
        self.window = _LongWindow(config.student_dof)
        self._first = first
        grown = np.exp(first.log_scale)
        positions = first.world_from_cam[:, :3, 3]
        steps = np.diff(positions, axis=0, prepend=positions[:1]) * grown[:, None]
        self._camera_at = positions[0] + np.cumsum(steps, axis=0)
        """[T, 3] cameras in the network's metres."""
        self._standing = first.static_prob
        self._seen = {person: dict(zip(frames.tolist(), poses, strict=True))
                      for person, (frames, poses) in first.world_from_body.items()}  # fmt: skip

    def add(self, observation: FrameObservation, *, clamp: bool) -> None:
        """The next frame; `clamp`: it stays where it is."""
        self._index += 1
        last = self._times.get(self._index - 1, observation.timestamp - 1.0)
        self._times[self._index] = max(observation.timestamp, last + 1e-3)
        nodes = self._add_frame(observation)
        for owner, node in nodes.items():
            self._place(owner, node, clamp)
            if clamp:  # how far a person's depth is off is not handed from window to window
                held = NODE if owner == CAMERA else NODE - 1
                self.window.pin(NODE * node + np.arange(held), np.full(held, CLAMP))

    def _place(self, owner: int, node: int, clamp: bool) -> None:
        """A node at its first guess, which the fuser gave; where it gave none, the node stays where it is."""
        k, first = self._index, self._first
        camera = first.world_from_cam[k]
        pose = camera if owner == CAMERA else self._seen.get(owner, {}).get(k)
        if pose is None:
            return
        away = np.exp(first.log_scale[k]) * (pose[:3, 3] - camera[:3, 3])
        self.window.place(node, pose[:3, :3], self._camera_at[k] + away)
        if owner == CAMERA:
            self.window.set_factor(node, float(first.log_scale[k]), held=clamp)

    def solve(self, clamped: int) -> None:
        """Best states; everybody is tried the other way round, but for the first `clamped` frames."""
        self._pin_static()
        self.window.solve(STEPS)
        for nodes in self._stretches(clamped):
            self._try_turned(nodes)

    def _stretches(self, clamped: int) -> list[Ints]:
        """Nodes of a person without a pause longer than the lag, for everybody."""
        states, found = self.window.states, []
        for person in sorted(set(states.owner.tolist()) - {CAMERA}):
            nodes = np.flatnonzero(states.owner == person)
            parts = np.split(nodes, np.flatnonzero(np.diff(states.frame[nodes]) > self.config.lag) + 1)
            found += [part for part in parts if len(part) >= SHORTEST and states.frame[part[0]] >= clamped]
        return found

    def _try_turned(self, nodes: Ints) -> None:
        """Turn a person by half a turn about the long axis, and keep that if it is likelier."""
        before, likelihood = self.window.states, self.window.cost()
        turned = self.window.states = before.copy()
        turned.R[nodes] = turned.R[nodes] @ exp(np.array([0.0, np.pi, 0.0]))
        self.window.solve(TURNED_STEPS)
        if self.window.cost() > likelihood - MARGIN:
            self.window.states = before

    def paths(self) -> WholePaths:
        """All frames as they are now."""
        states: States = self.window.states
        cameras = np.flatnonzero(states.owner == CAMERA)
        shrink = np.exp(-states.factor[cameras])
        steps = np.diff(states.t[cameras], axis=0, prepend=states.t[cameras[:1]])
        position = self._first.world_from_cam[0, :3, 3] + np.cumsum(shrink[:, None] * steps, axis=0)
        people = {}
        for person in set(states.owner.tolist()) - {CAMERA}:
            nodes = np.flatnonzero(states.owner == person)
            frames = states.frame[nodes]
            away = shrink[frames, None] * (states.t[nodes] - states.t[cameras[frames]])
            people[person] = frames, rigid(states.R[nodes], position[frames] + away)
        return WholePaths(
            world_from_cam=rigid(states.R[cameras], position), log_scale=states.factor[cameras].copy(),
            static_prob=self._first.static_prob, world_from_body=people,
        )  # fmt: skip


def smooth_clip(
    observations: Sequence[FrameObservation], first: WholePaths, config: FuserConfig, *, camera: CameraMode = "auto",
    scales: UncertaintyScales | None = None, starts: Sequence[int] = (0,),
) -> WholePaths:  # fmt: skip
    """Better paths of a clip.

    Args:
        observations: of its frames; read in order, a few hundred at a time.
        first: what the fuser made of them.
        config, camera, scales: as the fuser had them.
        starts: first frames of the parts between which nothing is known of the camera's motion, the first one 0.
    """
    better = WholePaths(
        world_from_cam=first.world_from_cam.copy(), log_scale=first.log_scale.copy(), static_prob=first.static_prob,
        world_from_body={person: (frames, poses.copy()) for person, (frames, poses) in first.world_from_body.items()},
    )  # fmt: skip
    for begin, end in zip(starts, [*starts[1:], len(observations)], strict=True):
        base = better.world_from_cam[begin - 1] @ inverse(first.world_from_cam[begin - 1]) if begin else np.eye(4)
        better.put(begin, _moved(first.part(begin, end), base))
        for start in range(begin, end, WINDOW):
            clamped = min(config.lag, start - begin)
            stop = min(end, start + WINDOW)
            guess = better.part(start - clamped, min(end, stop + AHEAD))
            fuser = _WholeFuser(config, camera, scales, guess)
            for k in range(len(guess.log_scale)):
                fuser.add(observations[start - clamped + k], clamp=k < clamped)
            fuser.solve(clamped)
            found = fuser.paths()
            last = found.world_from_cam[stop - start + clamped - 1]
            moved = last @ inverse(guess.world_from_cam[stop - start + clamped - 1])
            better.put(start, found.part(clamped, stop - start + clamped))
            if stop < end:  # what follows goes along
                better.put(stop, _moved(better.part(stop, end), moved))
    return better


def _moved(paths: WholePaths, by: Array) -> WholePaths:
    """The same, elsewhere: `by` [4, 4] from the left."""
    return WholePaths(
        world_from_cam=by @ paths.world_from_cam, log_scale=paths.log_scale, static_prob=paths.static_prob,
        world_from_body={person: (frames, by @ poses) for person, (frames, poses) in paths.world_from_body.items()},
    )  # fmt: skip
