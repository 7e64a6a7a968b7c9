"""Joints and feet of the body that the graphs answer in, from `body.npz` of an exported folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from distill.errors import FootfallError
from distill.files import load_arrays
from distill.geometry.conventions import SMPL_PARENTS

Array = NDArray[Any]


class Posed(Protocol):
    """What a stream asks of a body: `Body`, or a `BodyModel` behind arrays (`distill.stream`)."""

    def pose(self, betas: Array, body_rot: Array) -> tuple[Array, Array]:
        """Joints [P, 24, 3] and feet [P, 4, 3] in the body frame, metres."""
        ...


class Body:
    """A body in SMPL's form (`distill.body.model`), reduced to joints, feet and stature (`distill.body.pieces`)."""

    def __init__(self, path: Path) -> None:
        """Read `body.npz`.

        Raises:
            FootfallError: not there (bodies under a licence are not exported), or damaged.
        """
        if not path.is_file():
            raise FootfallError(
                str(path), got="no such file", expected="the free body's arrays",
                do="export again; graphs of licensed bodies run with footfall run alone",
            )  # fmt: skip
        arrays, meta = load_arrays(path)
        try:
            self.name: str = meta["body_model"]
            self._rest, self._rest_dirs = arrays["joint_template"], arrays["joint_shapedirs"]
            self._mass, self._offset = arrays["feet_mass"], arrays["feet_offset"]
            self._offset_dirs = arrays["feet_offset_shapedirs"]
            self._height, self._height_dirs = float(arrays["height"]), arrays["height_shapedirs"]
        except KeyError as error:
            raise FootfallError(
                str(path), got=f"no array {error}", expected="the arrays of a body", do="export again"
            ) from error

    def pose(self, betas: Array, body_rot: Array) -> tuple[Array, Array]:
        """Joints [P, 24, 3] and feet [P, 4, 3] in the body frame, metres, of shapes [P, B] and rotations
        [P, 23, 3, 3] (SMPL, eqs. 3 and 7)."""
        count = len(betas)
        rest = self._rest + np.einsum("jdb,pb->pjd", self._rest_dirs, betas)
        rotations = np.empty((count, 24, 3, 3))
        joints = np.zeros((count, 24, 3))
        rotations[:, 0] = np.eye(3)
        for joint, parent in enumerate(SMPL_PARENTS[1:], start=1):
            rotations[:, joint] = rotations[:, parent] @ body_rot[:, joint - 1]
            step = (rest[:, joint] - rest[:, parent])[..., None]
            joints[:, joint] = joints[:, parent] + (rotations[:, parent] @ step)[..., 0]
        offset = self._offset + np.einsum("kjdb,pb->pkjd", self._offset_dirs, betas)
        feet = np.einsum("pjde,pkje->pkd", rotations, offset) + self._mass @ joints
        return joints, feet

    def stature(self, betas: Array) -> float:
        """Standing height, metres, of a shape [B]."""
        return self._height + float(self._height_dirs @ betas)
