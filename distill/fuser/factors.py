"""Factors of the window as tables, and their linearisation at the present states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from distill.fuser.robust import student_cost, whitening
from distill.fuser.so3 import Array, Ints, Marks
from distill.fuser.solver import Part
from distill.fuser.states import NODE, POINT, States
from distill.fuser.terms import (
    Linear,
    constant_velocity,
    contact_stillness,
    no_motion,
    relative_motion,
    root_in_camera,
    slow_factor,
)


class Table:
    """Factors of one kind: the nodes (and foothold) of each, and what was measured."""

    def __init__(self, nodes: int, values: dict[str, tuple[int, ...]]) -> None:
        """Empty, for factors of `nodes` nodes each and values of the given shapes."""
        self.nodes: Ints = np.zeros((0, nodes), np.int64)
        self.foothold: Ints = np.zeros(0, np.int64)
        """[F]; -1 where a kind has none."""
        self.values: dict[str, Array] = {name: np.zeros((0, *shape)) for name, shape in values.items()}

    def __len__(self) -> int:
        return len(self.nodes)

    def add(self, nodes: Any, values: dict[str, Any], foothold: Any = None) -> None:
        """Append rows: nodes [f, n], values [f, ...], foothold [f]."""
        nodes = np.asarray(nodes, np.int64)
        points = np.full(len(nodes), -1) if foothold is None else np.asarray(foothold, np.int64)
        self.nodes = np.concatenate((self.nodes, nodes))
        self.foothold = np.concatenate((self.foothold, points))
        for name, old in self.values.items():
            self.values[name] = np.concatenate((old, values[name]))

    def touching(self, drop_nodes: Marks, drop_footholds: Marks) -> Marks:
        """[F] bool: rows with a dropped node or foothold (marked in [n] and [m])."""
        touched: Marks = np.asarray(drop_nodes[self.nodes].any(1), bool)
        with_point = self.foothold >= 0
        touched[with_point] |= drop_footholds[self.foothold[with_point]]
        return touched

    def rows(self, keep: Marks) -> Table:
        """A table of the rows that are marked [F] bool."""
        part = Table(self.nodes.shape[1], {})
        part.nodes, part.foothold = self.nodes[keep], self.foothold[keep]
        part.values = {name: value[keep] for name, value in self.values.items()}
        return part

    def renumber(self, keep_nodes: Marks, keep_footholds: Marks) -> None:
        """After the states kept only what is marked: none of the rows may hold anything else."""
        self.nodes = (np.cumsum(keep_nodes) - 1)[self.nodes]
        with_point = self.foothold >= 0
        self.foothold[with_point] = (np.cumsum(keep_footholds) - 1)[self.foothold[with_point]]


_POSE: Final = np.arange(6)


def _poses(*nodes: Ints) -> list[Ints]:
    return [NODE * n[:, None] + _POSE for n in nodes]


def _factors(*nodes: Ints) -> list[Ints]:
    return [NODE * n[:, None] + 6 for n in nodes]


def _robust(term: Linear, columns: list[Ints], table: Table, blocks: tuple[int, ...], dof: float) -> Part:
    """Whitened by variance and Student-t weight."""
    by = whitening(term.residual, table.values["variance"], blocks, dof)
    return Part(np.concatenate(columns, axis=1), by * term.residual, by[..., None] * term.jacobian)


MOTION_BLOCKS: Final = (3, 3)
ROOT_BLOCKS: Final = (3, 2, 1)
CONTACT_BLOCKS: Final = (3,)
VELOCITY_BLOCKS: Final = (3, 3)
HEAVY: Final = {
    "motion": MOTION_BLOCKS, "root": ROOT_BLOCKS, "contact": CONTACT_BLOCKS, "velocity": VELOCITY_BLOCKS,
}  # fmt: skip
"""Kinds with heavy tails: which of their rows are outliers together."""


def motion_part(states: States, table: Table, dof: float) -> Part:
    """Relative motions; nodes: earlier, later."""
    a, b = table.nodes.T
    term = relative_motion(states.pose(a), states.pose(b), (table.values["R"], table.values["t"]))
    return _robust(term, _poses(a, b), table, MOTION_BLOCKS, dof)


def root_part(states: States, table: Table, dof: float) -> Part:
    """Roots in the camera; nodes: camera, body."""
    camera, body = table.nodes.T
    measured = (table.values["R"], table.values["t"])
    term = root_in_camera(states.pose(camera), states.pose(body), states.factor[body], measured)
    return _robust(term, [*_poses(camera, body), *_factors(body)], table, ROOT_BLOCKS, dof)


def contact_part(states: States, table: Table, dof: float) -> Part:
    """Standing feet; nodes: body, and the camera of its frame, whose factor is the scene's; and a foothold."""
    body, camera = table.nodes.T
    points = NODE * states.nodes + POINT * table.foothold[:, None] + np.arange(3)
    term = contact_stillness(
        states.pose(body), states.foothold[table.foothold], states.factor[camera], table.values["foot"]
    )
    # Someone who stands sways by less than the network errs. The ratio of two noises is no scale: it would run away.
    term.jacobian[:, :, 9] *= table.values["tells_scale"][:, None]
    return _robust(term, [*_poses(body), points, *_factors(camera)], table, CONTACT_BLOCKS, dof)


def velocity_part(states: States, table: Table, dof: float) -> Part:
    """Acceleration; nodes: three in succession."""
    first, second, third = table.nodes.T
    term = constant_velocity(states.pose(first), states.pose(second), states.pose(third), table.values["dt"])
    return _robust(term, _poses(first, second, third), table, VELOCITY_BLOCKS, dof)


def still_part(states: States, table: Table, dof: float) -> Part:
    """A camera that stands, or does not jump; nodes: two in succession. Gaussian: it is a hypothesis, not data."""
    a, b = table.nodes.T
    term = no_motion(states.pose(a), states.pose(b))
    by = 1 / np.sqrt(table.values["variance"])
    return Part(np.concatenate(_poses(a, b), axis=1), by * term.residual, by[..., None] * term.jacobian)


def factor_part(states: States, table: Table, dof: float) -> Part:
    """Slow log factors; nodes: two in succession of one owner. Gaussian."""
    a, b = table.nodes.T
    term = slow_factor(states.factor[a], states.factor[b], table.values["decay"])
    by = 1 / np.sqrt(table.values["variance"])[:, None]
    return Part(np.concatenate(_factors(a, b), axis=1), by * term.residual, by[..., None] * term.jacobian)


_MEASURED: Final = {"R": (3, 3), "t": (3,), "variance": (6,)}
KINDS: Final[dict[str, tuple[Callable[[States, Table, float], Part], int, dict[str, tuple[int, ...]]]]] = {
    "motion": (motion_part, 2, _MEASURED),
    "root": (root_part, 2, _MEASURED),
    "contact": (contact_part, 2, {"foot": (3,), "variance": (3,), "tells_scale": ()}),
    "velocity": (velocity_part, 3, {"dt": (2,), "variance": (6,)}),
    "still": (still_part, 2, {"variance": (6,)}),
    "factor": (factor_part, 2, {"decay": (), "variance": ()}),
}
"""Kind -> its linearisation, number of nodes, shapes of its values."""


def empty_tables() -> dict[str, Table]:
    """One empty table per kind."""
    return {kind: Table(nodes, values) for kind, (_, nodes, values) in KINDS.items()}


def linearise(states: States, tables: dict[str, Table], dof: float) -> list[Part]:
    """Whitened factors of all tables that are not empty."""
    return [KINDS[kind][0](states, table, dof) for kind, table in tables.items() if len(table)]


def cost(states: States, tables: dict[str, Table], dof: float) -> float:
    """Negative log likelihood of all factors, up to a constant, nats."""
    total = 0.0
    for kind, table in tables.items():
        if len(table):
            residual = KINDS[kind][0](states, table, dof).residual
            heavy = HEAVY.get(kind)
            total += student_cost(residual, heavy, dof) if heavy else 0.5 * float((residual**2).sum())
    return total
