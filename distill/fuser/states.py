"""The unknowns of the window: a node per camera and per person and frame, a foothold per stance.

A node is a pose and one log factor (of the scene for cameras, of one person's depth for bodies): 7 columns. A
foothold is a point in the world: 3 columns, after those of all nodes.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from distill.fuser.so3 import Array, Ints, Marks, exp, log, rigid, transpose, turn
from distill.fuser.terms import Pose

NODE: Final = 7
POINT: Final = 3
CAMERA: Final = -1
"""Owner of a camera's node; a body's is the person's id."""


class States:
    """Arrays of all nodes and footholds, oldest first."""

    def __init__(self) -> None:
        self.R = np.zeros((0, 3, 3))
        self.t = np.zeros((0, 3))
        self.factor = np.zeros(0)
        self.owner = np.zeros(0, np.int64)
        self.frame = np.zeros(0, np.int64)
        self.foothold = np.zeros((0, 3))

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return len(self.t)

    @property
    def size(self) -> int:
        """Number of columns."""
        return NODE * len(self.t) + POINT * len(self.foothold)

    def copy(self) -> States:
        """The same values, apart."""
        other = States()
        for name, value in vars(self).items():
            setattr(other, name, value.copy())
        return other

    def add_nodes(self, R: Array, t: Array, factor: Array, owner: Ints, frame: int) -> None:
        """Append nodes of one frame."""
        self.R, self.t = np.concatenate((self.R, R)), np.concatenate((self.t, t))
        self.factor, self.owner = np.concatenate((self.factor, factor)), np.concatenate((self.owner, owner))
        self.frame = np.concatenate((self.frame, np.full(len(t), frame)))

    def keep(self, nodes: Marks, footholds: Marks) -> None:
        """Keep the nodes [n] bool and footholds [m] bool that are marked."""
        self.R, self.t, self.factor = self.R[nodes], self.t[nodes], self.factor[nodes]
        self.owner, self.frame = self.owner[nodes], self.frame[nodes]
        self.foothold = self.foothold[footholds]

    def pose(self, nodes: Ints) -> Pose:
        """Poses of nodes [F]."""
        return self.R[nodes], self.t[nodes]

    def matrix(self, node: int) -> Array:
        """[4, 4] pose of a node."""
        return rigid(self.R[node], self.t[node])

    def node_of(self, owner: int, frame: int) -> int | None:
        """A node by owner and frame."""
        found = np.flatnonzero((self.owner == owner) & (self.frame == frame))
        return int(found[0]) if len(found) else None

    def columns(self, nodes: Marks, footholds: Marks) -> Marks:
        """[size] bool: the columns of marked nodes [n] and footholds [m]."""
        return np.concatenate((np.repeat(nodes, NODE), np.repeat(footholds, POINT)))

    def move(self, step: Array) -> None:
        """Take a step [size] in place."""
        nodes, points = np.split(step, [NODE * self.nodes])
        local = nodes.reshape(-1, NODE)
        self.t = self.t + turn(self.R, local[:, 3:6])
        self.R = self.R @ exp(local[:, :3])
        self.factor = self.factor + local[:, 6]
        self.foothold = self.foothold + points.reshape(-1, POINT)

    def step_from(self, other: States) -> Array:
        """The step [size] that takes `other` (same nodes) here."""
        back = transpose(other.R)
        local = np.concatenate(
            (log(back @ self.R), turn(back, self.t - other.t), (self.factor - other.factor)[:, None]), axis=1
        )
        return np.concatenate((local.ravel(), (self.foothold - other.foothold).ravel()))
