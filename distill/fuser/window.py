"""A window over the last frames: states, factors, and what frames that have left still say about them.

Gauss-Newton on all states of the window; frames that leave are marginalised by a Schur complement into a Gaussian
prior on those that stay, so that memory and time per frame are bounded while nothing is forgotten (fixed-lag
smoothing; Leutenegger et al., "Keyframe-based visual-inertial odometry", IJRR 2015, section 3.4).
"""

from __future__ import annotations

import numpy as np

from distill.fuser.factors import Table, empty_tables, linearise
from distill.fuser.so3 import Array, Ints, Marks
from distill.fuser.solver import assemble, factorise, marginalise, solve
from distill.fuser.states import NODE, States


class Window:
    """States, tables of factors, and the prior 0.5 d^T H d + g^T d with d the step from `_at`."""

    def __init__(self, dof: float) -> None:
        self.states = States()
        self.tables: dict[str, Table] = empty_tables()
        self._dof = dof
        self._H, self._g = np.zeros((0, 0)), np.zeros(0)
        self._at = States()
        self._factor: Array | None = None

    def add_nodes(self, R: Array, t: Array, factor: Array, owner: Ints, frame: int) -> Ints:
        """Append nodes [c] of one frame without any prior; returns their indices."""
        before = self.states.nodes
        for states in (self.states, self._at):
            states.add_nodes(R, t, factor, owner, frame)
        self._grow(NODE * before, NODE * len(t))
        return np.arange(before, before + len(t))

    def add_foothold(self, point: Array) -> int:
        """Append a foothold at a point [3] of the world; returns its index."""
        for states in (self.states, self._at):
            states.foothold = np.concatenate((states.foothold, point[None]))
        self._grow(len(self._g), 3)
        return len(self.states.foothold) - 1

    def _grow(self, at: int, count: int) -> None:
        """Room in the prior for `count` new columns from column `at`."""
        size = len(self._g) + count
        H, g = np.zeros((size, size)), np.zeros(size)
        after = at + count
        H[:at, :at], H[:at, after:] = self._H[:at, :at], self._H[:at, at:]
        H[after:, :at], H[after:, after:] = self._H[at:, :at], self._H[at:, at:]
        g[:at], g[after:] = self._g[:at], self._g[at:]
        self._H, self._g = H, g

    def pin(self, columns: Ints, sigma: Array) -> None:
        """A Gaussian prior on single columns of nodes at their present values."""
        self._H[columns, columns] += 1 / sigma**2

    def improve(self, steps: int) -> None:
        """Gauss-Newton steps, each with new linearisations and weights; ends early when hardly anything moves."""
        for _ in range(steps):
            H, g = assemble(linearise(self.states, self.tables, self._dof), self.states.size)
            moved = self.states.step_from(self._at)
            H += self._H
            g += self._g + self._H @ moved
            self._factor = factorise(H)
            step = -solve(self._factor, g)
            self.states.move(step)
            if np.abs(step).max() < 1e-5:
                return

    def covariances(self, nodes: Ints) -> Array:
        """[c, 7, 7] of nodes as of the last `improve`: local steps (rad, metres), then the log factor."""
        assert self._factor is not None, "improve() comes first"
        columns = NODE * nodes[:, None] + np.arange(NODE)
        unit = np.zeros((len(self._factor), columns.size))
        unit[columns.ravel(), np.arange(columns.size)] = 1.0
        solved = solve(self._factor, unit)
        return np.stack([solved[rows, NODE * k : NODE * (k + 1)] for k, rows in enumerate(columns)])

    def remove(self, drop_nodes: Marks, drop_footholds: Marks) -> None:
        """Marginalise the marked nodes [n] and footholds [m] with all factors that touch them."""
        states = self.states
        touched = {kind: table.touching(drop_nodes, drop_footholds) for kind, table in self.tables.items()}
        leaving = {kind: self.tables[kind].rows(rows) for kind, rows in touched.items()}
        H, g = assemble(linearise(states, leaving, self._dof), states.size)
        moved = states.step_from(self._at)
        H += self._H
        g += self._g + self._H @ moved
        drop = states.columns(drop_nodes, drop_footholds)
        self._H, self._g = marginalise(H, g, drop)
        states.keep(~drop_nodes, ~drop_footholds)
        self._at = states.copy()
        for kind, rows in touched.items():
            self.tables[kind] = self.tables[kind].rows(~rows)
            self.tables[kind].renumber(~drop_nodes, ~drop_footholds)
        self._factor = None
