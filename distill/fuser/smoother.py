"""The fuser: frames' observations in, one after the other; poses of cameras and people out, with covariances."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from distill.fuser.config import FuserConfig, UncertaintyScales, shipped_scales
from distill.fuser.observation import FEET, FrameObservation, Motions, PersonObservation, axis_variance
from distill.fuser.robust import least_opposed
from distill.fuser.so3 import Array, Ints, inverse, rigid, transpose, turn
from distill.fuser.states import CAMERA, NODE
from distill.fuser.static_camera import CameraMode, StaticCamera
from distill.fuser.window import Window

GAUGE: tuple[float, float] = (1e-5, 1e-5)
"""The first camera is the world: how surely, rad and m."""
GUESS = 0.2
"""Deviation, rad and m, of first guesses from the frame before (cameras) or from the root (people)."""
SCALE_FROM_M = 0.2
"""How far a pelvis must have passed over its standing foot, by the pose, before that foot tells the scale."""
JUMP: tuple[float, float] = (30.0, 30.0)
"""Speeds at which a camera of which nothing is known may move, rad/s and m/s."""
ROOT_TERMS = (("root_orientation", 3), ("root_direction", 2), ("root_depth", 1))
"""Terms of a root's residual, and how many rows each has."""
LONGEST_STEP_S = 0.5
"""Velocities are compared over pauses up to this long."""


@dataclass(kw_only=True)
class FusedPerson:
    """A person in the world."""

    world_from_body: Array
    """[4, 4] metres."""
    covariance: Array
    """[6, 6] of local steps: rotation (rad), translation (m)."""


@dataclass(kw_only=True)
class FusedFrame:
    """What the fuser knows of one frame."""

    index: int
    """Count of frames given before it."""
    timestamp: float
    world_from_cam: Array
    """[4, 4] metres; the world is the first camera."""
    covariance: Array
    """[6, 6] of local steps of the camera: rotation (rad), translation (m)."""
    log_scale: float
    """Log of the network's count of metres over the true one."""
    log_scale_sigma: float
    """Its standard deviation."""
    static_prob: float
    """Probability that the camera stood when this frame came."""
    people: dict[int, FusedPerson]


class Fuser:
    """Causal, fixed lag, bounded memory. `step` gives the newest frame; `settled` those that have left the window."""

    def __init__(
        self, config: FuserConfig | None = None, *, camera: CameraMode = "auto",
        scales: UncertaintyScales | None = None,
    ) -> None:  # fmt: skip
        """A new world.

        Args:
            camera: "auto" tests whether the camera stands; "static" and "moving" say so.
            scales: of the networks' standard deviations; None takes the shipped ones.
        """
        self.config = config or FuserConfig()
        self.scales = scales or shipped_scales()
        self.window = Window(self.config.student_dof)
        self._static = StaticCamera(camera, self.config.lag + 1)
        self._index = -1
        self._times: dict[int, float] = {}
        self._stances: dict[tuple[int, int], int] = {}
        self._began: dict[tuple[int, int], Array] = {}
        self._settled: list[FusedFrame] = []
        self._left = (np.zeros(3), np.zeros(3))
        self._standing = np.zeros(0)

    def step(self, observation: FrameObservation) -> FusedFrame:
        """The next frame.

        Returns:
            What is known of it from all frames so far.
        """
        self._index += 1
        last = self._times.get(self._index - 1, observation.timestamp - 1.0)
        self._times[self._index] = max(observation.timestamp, last + 1e-3)
        kind, finest = self._finest(observation)
        self._test_static(finest, kind)
        self._standing = self._static.probabilities()
        self._add_frame(observation)
        self._pin_static()
        self.window.improve(self.config.iterations)
        self._settled = []
        if self._index < self.config.lag:
            return self._frames([-1])[0]
        oldest, newest = self._frames([0, -1])
        self._settle(oldest)
        return newest

    def settled(self) -> list[FusedFrame]:
        """Frames that left the window with the last `step` (at most one); they will not change any more."""
        return self._settled

    def finish(self) -> list[FusedFrame]:
        """The end: the frames that are still in the window, in order."""
        if self._index < 0:
            return []
        self.window.improve(self.config.iterations)
        return self._frames(range(len(self._times)))

    # Adding a frame

    def _finest(self, observation: FrameObservation) -> tuple[str, Motions]:
        """The surest kind of camera motions of a frame, and those motions."""
        longest = min(self.config.lag, self._index)
        corners = observation.corners.usable(longest)
        return ("corner", corners) if len(corners.gaps) else ("camera", observation.camera.usable(longest))

    def _add_frame(self, observation: FrameObservation) -> dict[int, int]:
        """States and factors of the newest frame; returns owner -> node."""
        longest = min(self.config.lag, self._index)
        motions, corners = observation.camera.usable(longest), observation.corners.usable(longest)
        people = {k: p for k, p in observation.people.items() if p.is_finite()}
        kind, finest = self._finest(observation)
        nodes = self._add_states(finest, kind, people)
        self._add_camera(nodes[CAMERA], {"camera": motions, "corner": corners})
        for person, seen in people.items():
            self._add_person(nodes, person, seen)
        return nodes

    def _variance(self, log_var: Array, kind: str) -> Array:
        """[G, 6] variances of motions, per axis and stretched."""
        stretch = [self.scales.rows(f"{kind}_{part}", 3) for part in ("rotation", "translation")]
        return np.repeat(axis_variance(log_var, 3), 3, axis=1) * np.concatenate(stretch) ** 2

    def _test_static(self, motions: Motions, kind: str) -> None:
        if not len(motions.gaps):
            self._static.step(1, None, np.zeros(6), 0.0)
            return
        row = int(np.argmax(motions.gaps))
        gap = int(motions.gaps[row])
        seconds = self._times[self._index] - self._times[self._index - gap]
        variance = self._variance(motions.log_var[row : row + 1], kind)[0]
        self._static.step(gap, motions.past_from_now[row], variance, seconds)

    def _add_states(self, motions: Motions, kind: str, people: dict[int, PersonObservation]) -> dict[int, int]:
        """Nodes of the new frame at first guesses, the camera's from `motions` of a kind; returns owner -> node."""
        states = self.window.states
        before = states.node_of(CAMERA, self._index - 1)
        camera = self._guess(CAMERA, motions, kind, None if before is None else states.matrix(before))
        poses, factors, earlier = [camera], [0.0 if before is None else float(states.factor[before])], [before]
        for person, seen in people.items():
            node = self._last_node(person)
            offset = 0.0 if node is None else float(states.factor[node])
            cam_from_body = seen.cam_from_body.astype(np.float64)
            cam_from_body[:3, 3] *= np.exp(-offset)
            usable = seen.motions.usable(min(self.config.lag, self._index))
            poses.append(self._guess(person, usable, "body", camera @ cam_from_body))
            factors.append(offset)
            earlier.append(node)
        owners = [CAMERA, *people]
        stack = np.stack(poses)
        nodes = self.window.add_nodes(
            stack[:, :3, :3], stack[:, :3, 3], np.array(factors), np.array(owners), self._index
        )
        for owner, node, before in zip(owners, nodes, earlier, strict=True):
            self._add_factor(owner, int(node), before)
        if self._index == 0:
            self.window.pin(NODE * nodes[0] + np.arange(6), np.repeat(GAUGE, 3))
        return dict(zip(owners, nodes.tolist(), strict=True))

    def _guess(self, owner: int, motions: Motions, kind: str, other: Array | None) -> Array:
        """[4, 4] where one of the motions, or `other`, has the new pose: the one that most of them can live with.

        Under heavy tails a wild motion keeps a solution that began with it, however many others are against it.
        """
        states = self.window.states
        past = [states.node_of(owner, self._index - int(gap)) for gap in motions.gaps]
        rows = [row for row, node in enumerate(past) if node is not None]
        guesses = [states.matrix(past[row]) @ motions.past_from_now[row] for row in rows]  # type: ignore[arg-type]
        if other is not None:
            guesses.append(other)
        if not guesses:
            return np.eye(4)
        variance = np.concatenate((self._variance(motions.log_var[rows], kind), np.full((1, 6), GUESS**2)))
        return guesses[least_opposed(np.stack(guesses), variance[: len(guesses)], self.config.student_dof)]

    def _last_node(self, owner: int) -> int | None:
        """Latest node of an owner in the window before the newest frame."""
        states = self.window.states
        found = np.flatnonzero((states.owner == owner) & (states.frame < self._index))
        return int(found[-1]) if len(found) else None

    def _add_factor(self, owner: int, node: int, before: int | None) -> None:
        """The slow log factor of a node: a prior for the first, else its link to the one before."""
        config = self.config
        camera = owner == CAMERA
        sigma = config.scale_sigma if camera else config.offset_sigma
        seconds = config.scale_seconds if camera else config.offset_seconds
        if before is None:
            self.window.pin(np.array([NODE * node + 6]), np.array([sigma]))
            return
        dt = self._times[self._index] - self._times[int(self.window.states.frame[before])]
        decay = np.exp(-dt / seconds)
        self.window.tables["factor"].add([[before, node]], {"decay": [decay], "variance": [sigma**2 * (1 - decay**2)]})

    def _add_camera(self, node: int, motions: dict[str, Motions]) -> None:
        """Motions of the camera by kind, its smoothness, and the place for the static hypothesis."""
        states = self.window.states
        for kind, measured in motions.items():
            if len(measured.gaps):
                rows = [[states.node_of(CAMERA, self._index - int(gap)), node] for gap in measured.gaps]
                self._add_motions(rows, measured, self._variance(measured.log_var, kind))
        before = self._last_node(CAMERA)
        if before is not None:
            self.window.tables["still"].add([[before, node]], {"variance": [self._loose()]})
        self._add_velocity(CAMERA, self.config.camera_turn_accel, self.config.camera_accel)

    def _loose(self) -> Array:
        dt = self._times[self._index] - self._times[self._index - 1]
        return np.repeat(np.square(JUMP), 3) * dt**2

    def _add_motions(self, rows: Sequence[Sequence[int | None]], motions: Motions, variance: Array) -> None:
        move = motions.past_from_now
        self.window.tables["motion"].add(rows, {"R": move[:, :3, :3], "t": move[:, :3, 3], "variance": variance})

    def _add_velocity(self, owner: int, turning: float, moving: float) -> None:
        states = self.window.states
        found = np.flatnonzero(states.owner == owner)[-3:]
        if len(found) < 3:
            return
        dt = np.diff([self._times[int(k)] for k in states.frame[found]])
        if dt.max() <= LONGEST_STEP_S:
            variance = np.repeat(np.square((turning, moving)), 3)
            self.window.tables["velocity"].add([found], {"dt": [dt], "variance": [variance]})

    def _add_person(self, nodes: dict[int, int], person: int, seen: PersonObservation) -> None:
        """Root, motion, contacts and smoothness of one person."""
        states, node = self.window.states, nodes[person]
        variance = [
            axis_variance(seen.root_log_var[k], dims) * self.scales.rows(name, dims) ** 2
            for k, (name, dims) in enumerate(ROOT_TERMS)
        ]
        root = seen.cam_from_body
        self.window.tables["root"].add(
            [[nodes[CAMERA], node]],
            {"R": root[None, :3, :3], "t": root[None, :3, 3], "variance": [np.concatenate(variance)]},
        )
        motions = seen.motions.usable(min(self.config.lag, self._index))
        past = [states.node_of(person, self._index - int(gap)) for gap in motions.gaps]
        known = np.array([before is not None for before in past], bool)
        if known.any():
            motions = Motions(
                gaps=motions.gaps[known], past_from_now=motions.past_from_now[known], log_var=motions.log_var[known]
            )
            rows = [[before, node] for before in past if before is not None]
            self._add_motions(rows, motions, self._variance(motions.log_var, "body"))
        self._add_velocity(person, self.config.body_turn_accel, self.config.body_accel)
        self._add_contacts(person, node, nodes[CAMERA], seen)

    def _add_contacts(self, person: int, node: int, camera: int, seen: PersonObservation) -> None:
        """Standing feet hold to their footholds; a foot that has come down gets a new one."""
        states = self.window.states
        base = (self.config.foot_sigma_m * self.scales.rows("contact", 3)) ** 2
        for site in range(FEET):
            probability = float(seen.contact_prob[site])
            if probability <= self.config.contact_from:
                self._stances.pop((person, site), None)
                continue
            foot = seen.feet[site]
            if (person, site) not in self._stances:
                point = states.t[node] + np.exp(states.factor[camera]) * turn(states.R[node], foot)
                self._stances[person, site] = self.window.add_foothold(point)
                self._began[person, site] = turn(states.R[node], foot)
            passed = np.linalg.norm(turn(states.R[node], foot) - self._began[person, site])
            self.window.tables["contact"].add(
                [[node, camera]],
                {"foot": foot[None], "variance": base[None] / probability,
                 "tells_scale": [float(passed > SCALE_FROM_M)]},
                foothold=[self._stances[person, site]],
            )  # fmt: skip

    def _pin_static(self) -> None:
        """Cameras between frames of which both were probably taken by a standing camera do not move."""
        table, states = self.window.tables["still"], self.window.states
        if not len(table):
            return
        frames: Ints = states.frame[table.nodes[:, 1]]
        standing = self._standing[frames - self._index - 1]
        pinned = np.repeat(np.square((self.config.static_rotation, self.config.static_translation_m)), 3)
        dt = np.array([self._times[int(k)] - self._times[int(k) - 1] for k in frames])
        loose = np.repeat(np.square(JUMP), 3) * dt[:, None] ** 2
        # A pair counts as standing from a probability of 0.9: half a belief times a firm pin would still pin.
        table.values["variance"] = np.where(standing[:, None] > 0.9, pinned, loose)

    # Results

    def _frames(self, wanted: Sequence[int]) -> list[FusedFrame]:
        """Frames of the window by their place in it, oldest first, in true metres."""
        states = self.window.states
        cameras = np.flatnonzero(states.owner == CAMERA)
        # Every step of the camera is scaled by what was known of the scale when it was made.
        steps = np.diff(states.t[cameras], axis=0, prepend=self._left[0][None])
        metric = self._left[1] + np.cumsum(np.exp(-states.factor[cameras])[:, None] * steps, axis=0)
        groups = [np.flatnonzero(states.frame == states.frame[cameras[k]]) for k in wanted]
        covariances = iter(self.window.covariances(np.concatenate(groups)))
        return [
            self._frame(nodes, metric[k], float(self._standing[k - len(cameras)]), covariances)
            for k, nodes in zip([range(len(cameras))[k] for k in wanted], groups, strict=True)
        ]

    def _frame(self, nodes: Ints, position: Array, standing: float, covariances: Iterator[Array]) -> FusedFrame:
        """One frame from its nodes, the camera's first, and the camera's position [3] in true metres."""
        states, camera = self.window.states, nodes[0]
        shrink = float(np.exp(-states.factor[camera]))
        scale_variance, people = 0.0, {}
        for node in nodes:
            covariance = next(covariances)
            if node == camera:
                scale_variance, place = covariance[6, 6], position
            else:
                place = position + shrink * (states.t[node] - states.t[camera])
            by = np.repeat(self.scales.rows("camera_result" if node == camera else "root_result", 2), 3)
            stretched = np.outer(by, by)
            person = FusedPerson(
                world_from_body=rigid(states.R[node], place),
                covariance=stretched
                * _metric(covariance, shrink, scale_variance, turn(transpose(states.R[node]), place)),
            )
            people[int(states.owner[node])] = person
        seen_from = people.pop(CAMERA)
        index = int(states.frame[camera])
        return FusedFrame(
            index=index, timestamp=self._times[index], world_from_cam=seen_from.world_from_body,
            covariance=seen_from.covariance, log_scale=float(states.factor[camera]),
            log_scale_sigma=scale_variance**0.5, static_prob=standing,
            people=people,
        )  # fmt: skip

    def _settle(self, frame: FusedFrame) -> None:
        """Hand out the oldest frame and marginalise it, with footholds that no frame holds any more."""
        index = frame.index
        self._settled = [frame]
        states = self.window.states
        drop = states.frame == index
        self._left = states.t[states.node_of(CAMERA, index)], frame.world_from_cam[:3, 3]
        contact = self.window.tables["contact"]
        held = np.zeros(len(states.foothold), bool)
        held[contact.foothold[~contact.touching(drop, np.zeros(len(held), bool))]] = True
        held[list(self._stances.values())] = True
        self.window.remove(drop, ~held)
        moved = np.cumsum(held) - 1
        self._stances = {key: int(moved[at]) for key, at in self._stances.items()}
        present = set(states.owner.tolist())
        self._stances = {key: at for key, at in self._stances.items() if key[0] in present}
        self._began = {key: self._began[key] for key in self._stances}
        del self._times[index]


def _metric(covariance: Array, shrink: float, scale_variance: float, along: Array) -> Array:
    """[6, 6] of a pose in true metres from [7, 7] in the network's.

    A wrong scale moves a point along its distance [3] from the first camera, seen in the pose's own axes.
    """
    factors = np.repeat((1.0, shrink), 3)
    metric = covariance[:6, :6] * np.outer(factors, factors)
    metric[3:, 3:] += scale_variance * np.outer(along, along)
    return metric


def cam_from_body(frame: FusedFrame, person: int) -> Array:
    """[4, 4] a person in the camera of the same frame, metres."""
    return inverse(frame.world_from_cam) @ frame.people[person].world_from_body
