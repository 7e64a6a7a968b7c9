"""Bodies as other systems write them, in one form, before they are tied to the people of a clip.

A format's reader only says where its numbers stand and what they are measured from; the conversion into our
conventions happens once, in `attach`. Here are the checks that all formats share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from distill.errors import FootfallError
from distill.geometry.conventions import SMPL_JOINTS

Array = NDArray[Any]
Anchor = Literal["transl", "pelvis", "head"]
MOVING_JOINTS: Final = len(SMPL_JOINTS) - 1
BODY_JOINTS: Final = 21
"""Joints 1..21 (hips to wrists), which SMPL and SMPL-X have in common; SMPL's hands follow."""
ORTHONORMAL: Final = 1e-2
"""Largest entry of R R^T - I in files, some of which hold the raw output of a network in half precision."""


@dataclass(kw_only=True)
class OutsideTrack:
    """One person of a result file, over the N frames in which that system has it."""

    name: str
    """The person's name in the file."""
    frames: Array
    """[N] int: frame of the video, from 0, rising."""
    root_rot: Array
    """[N, 3, 3] orientation of the root in the camera."""
    body_rot: Array
    """[N, 23, 3, 3] joint rotations relative to the parent."""
    position: Array
    """[N, 3] metres, in the camera; of what, `OutsideBodies.anchor` says."""
    betas: Array
    """[N, B] shape coefficients."""
    focal: Array
    """[N] focal length in pixels of an image of `OutsideBodies.size`."""
    score: Array
    """[N] in [0, 1]; 1 where the system gives none."""


@dataclass(kw_only=True)
class OutsideBodies:
    """What one result file says about bodies."""

    where: str
    """The file, for messages."""
    body_model: str
    """"smpl" or "smplx"."""
    anchor: Anchor
    """What `position` is: SMPL's `transl`, the pelvis joint, or the head joint."""
    size: tuple[float, float]
    """Width and height in pixels of the images that the focal length belongs to."""
    tracks: list[OutsideTrack] = field(default_factory=list)


def array_of(where: str, source: Mapping[Any, Any], key: str, shape: tuple[int | None, ...]) -> Array:
    """An array of a result file, checked.

    Args:
        where: the file, for messages.
        source: what the file holds.
        key: name of the array.
        shape: expected shape; None where any length is right.

    Raises:
        FootfallError: no such array, another shape, or values that are not finite.
    """
    wanted = "[" + ", ".join("any" if n is None else str(n) for n in shape) + "]"
    if not isinstance(source, Mapping) or key not in source:
        found = sorted(map(str, source))[:12] if isinstance(source, Mapping) else type(source).__name__
        raise FootfallError(
            where, got=f"no array {key!r} (there is {found})", expected=f"{key} {wanted}",
            do="check that the file is of the named format and version",
        )  # fmt: skip
    try:
        array = np.asarray(source[key], np.float64)
    except (TypeError, ValueError) as error:
        raise FootfallError(
            where, got=f"{key} that is no array ({error})", expected=f"{key} {wanted}", do="write the file again"
        ) from error
    if len(array.shape) != len(shape) or any(n not in (None, m) for n, m in zip(shape, array.shape, strict=True)):
        raise FootfallError(
            where, got=f"{key} of shape {list(array.shape)}", expected=wanted,
            do="check that the file is of the named format and of a body model of that size",
        )  # fmt: skip
    if not np.isfinite(array).all():
        bad = int(np.argwhere(~np.isfinite(array))[0][0]) if array.ndim else 0
        raise FootfallError(
            where, got=f"{key} that is not finite (first in row {bad})", expected="finite numbers",
            do="mend the file, or leave those frames out of it",
        )  # fmt: skip
    return array


def rotations_from_vectors(vectors: Array) -> Array:
    """[..., 3] axis times angle (Rodrigues) to [..., 3, 3]."""
    return Rotation.from_rotvec(vectors.reshape(-1, 3)).as_matrix().reshape(*vectors.shape[:-1], 3, 3)


def checked_rotations(where: str, key: str, matrices: Array) -> Array:
    """[..., 3, 3] rotations of a file, made exact.

    Raises:
        FootfallError: one of them is no rotation.
    """
    error = np.abs(matrices @ np.swapaxes(matrices, -1, -2) - np.eye(3)).max(initial=0)
    if error > ORTHONORMAL or (np.linalg.det(matrices) < 0).any():
        raise FootfallError(
            where, got=f"{key} that are no rotations (R R^T differs from 1 by up to {error:.3g})",
            expected="orthonormal matrices with determinant 1", do="write the file again",
        )  # fmt: skip
    u, _, v = np.linalg.svd(matrices)
    return u @ v


def with_hands(body_rot: Array) -> Array:
    """[N, 21, 3, 3] of SMPL-X's body, with SMPL's two hand joints at rest: [N, 23, 3, 3]."""
    rest = np.broadcast_to(np.eye(3), (len(body_rot), MOVING_JOINTS - BODY_JOINTS, 3, 3))
    return np.concatenate((body_rot[:, :BODY_JOINTS], rest), axis=1)


def frame_numbers(where: str, key: str, frames: Array, count: int) -> Array:
    """[N] int of a file's frame numbers, checked.

    Raises:
        FootfallError: not `count` whole numbers from 0 up, or one of them twice.
    """
    whole = frames.astype(np.int64)
    if frames.shape != (count,) or (whole != frames).any() or (whole < 0).any() or len(np.unique(whole)) != count:
        raise FootfallError(
            where, got=f"{key} of {frames.shape[0] if frames.ndim else 0} numbers for {count} poses, or some twice",
            expected="one frame number per pose, from 0", do="write the file again",
        )  # fmt: skip
    return whole


def make_track(
    where: str, name: str, *, frames: Array, root_rot: Array, body_rot: Array, position: Array, betas: Array,
    focal: Array | float, score: Array | float = 1.0,
) -> OutsideTrack:  # fmt: skip
    """A track with its rotations checked and its rows in the order of the frames.

    Raises:
        FootfallError: rotations that are none, or a focal length that is not positive.
    """
    count = len(frames)
    focal = np.broadcast_to(np.asarray(focal, np.float64), (count,))
    if not (np.isfinite(focal) & (focal > 0)).all():
        raise FootfallError(
            where, got=f"a focal length of {float(np.min(focal)):.4g}", expected="a positive number of pixels",
            do="write the file again with the right camera",
        )  # fmt: skip
    order = np.argsort(frames)
    return OutsideTrack(
        name=name, frames=frames[order], root_rot=checked_rotations(where, "root rotations", root_rot)[order],
        body_rot=checked_rotations(where, "joint rotations", body_rot)[order], position=position[order],
        betas=betas[order], focal=focal[order],
        score=np.clip(np.broadcast_to(np.asarray(score, np.float64), (count,)), 0, 1)[order],
    )  # fmt: skip
