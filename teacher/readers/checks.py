"""What no camera can be: the checks that every calibration from outside passes first."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from distill.errors import FootfallError
from distill.geometry.conventions import SMPL_JOINTS
from teacher.stagefiles import BodyInit

Array = NDArray[Any]
FOCAL_RANGE: Final = (0.1, 50.0)
"""Focal length in units of the longer side: from a field of view of 157 degrees to one of 1 degree."""
MAX_STRETCH: Final = 2.0
"""Ratio of fx and fy; no camera's pixels are longer than that."""
BODY_MODELS: Final = ("anny", "smpl", "smplx")
SHAPES: Final = 10
"""Shape coefficients of every body model here."""
MOVING_JOINTS: Final = len(SMPL_JOINTS) - 1
JOINT_ROTATION: Final = 1e-2
"""Largest entry of R R^T - I of a joint: results of networks in half precision."""
RIGID: Final = 1e-3
"""Largest entry of R R^T - I of a pose; text files keep four digits."""


def check_intrinsics(where: str, K: Array, size: tuple[float, float]) -> Array:
    """[3, 3] float64 intrinsics in pixels of an image of `size`.

    Raises:
        FootfallError: not an upper triangular matrix of finite numbers, a focal length that is not positive or
            belongs to another image, unequal focal lengths, or a principal point outside the image.
    """
    K = np.asarray(K, np.float64)
    shape = "[[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels, fx and fy positive"
    if K.shape != (3, 3) or not np.isfinite(K).all() or K[0, 0] <= 0 or K[1, 1] <= 0:
        raise _impossible(where, f"intrinsics {np.round(K, 3).tolist()}", shape)
    if np.abs(K[[1, 2, 2], [0, 0, 1]]).max() > 1e-6 * K[0, 0] or abs(K[2, 2] - 1) > 1e-6:
        raise _impossible(where, f"intrinsics {np.round(K, 3).tolist()}", shape)
    focal, longer = np.array([K[0, 0], K[1, 1]]), max(size)
    low, high = (factor * longer for factor in FOCAL_RANGE)
    if focal.min() < low or focal.max() > high or focal.max() / focal.min() > MAX_STRETCH:
        raise _impossible(
            where, f"focal lengths {focal[0]:.4g} and {focal[1]:.4g} px for an image of {size[0]:.0f} x {size[1]:.0f}",
            f"about equal ones between {low:.4g} and {high:.4g}",
        )  # fmt: skip
    if not (0 < K[0, 2] < size[0] and 0 < K[1, 2] < size[1]):
        raise _impossible(
            where, f"principal point ({K[0, 2]:.1f}, {K[1, 2]:.1f}) for an image of {size[0]:.0f} x {size[1]:.0f}",
            "a point inside the image",
        )  # fmt: skip
    return K


def check_poses(where: str, poses: Array) -> Array:
    """[..., 4, 4] float64 rigid transforms, with rotations made exact.

    Raises:
        FootfallError: not finite, no rotation, or a last row other than 0 0 0 1; the first bad one is named.
    """
    poses = np.asarray(poses, np.float64)
    if poses.shape[-2:] != (4, 4) or poses.ndim not in (2, 3):
        raise _impossible(where, f"poses of shape {list(poses.shape)}", "4x4 matrices")
    flat = poses.reshape(-1, 4, 4)
    rotation = flat[:, :3, :3]
    finite = np.asarray(np.isfinite(flat).all(axis=(1, 2)))
    clean = np.where(finite[:, None, None], rotation, np.eye(3))
    skew: Array = np.abs(clean @ np.swapaxes(clean, 1, 2) - np.eye(3)).max(axis=(1, 2))
    faults: dict[str, Array] = {
        "numbers that are not finite": ~finite,
        "a last row other than 0 0 0 1": np.abs(flat[:, 3] - [0, 0, 0, 1]).max(axis=1) > RIGID,
        "a matrix that is no rotation": (skew > RIGID) | (np.linalg.det(clean) <= 0),
    }
    for what, bad in faults.items():
        if bad.any():
            raise _impossible(
                where, f"{what} in pose {int(np.argmax(bad))} (of {len(flat)})", "rigid 4x4 transforms, world_from_cam"
            )
    u, _, v = np.linalg.svd(clean)
    out = flat.copy()
    out[:, :3, :3], out[:, 3] = u @ v, [0, 0, 0, 1]
    return out.reshape(poses.shape)


def check_bodies(where: str, bodies: BodyInit) -> None:
    """Whether a bodies stage's file is of this version, and its rotations are rotations.

    Raises:
        FootfallError: an unknown body model, another number of joints or shape coefficients, a focal length that is
            not positive, matrices that are no rotations, or a body behind the camera.
    """
    frames, people = bodies.present.shape
    shapes = {
        "betas": (bodies.betas, (people, SHAPES)),
        "body_rot": (bodies.body_rot, (frames, people, MOVING_JOINTS, 3, 3)),
        "cam_from_body": (bodies.cam_from_body, (frames, people, 4, 4)),
        "confidence": (bodies.confidence, (frames, people)),
    }
    if bodies.body_model not in BODY_MODELS:
        raise _other_version(where, f"body_model {bodies.body_model!r}", f"one of {', '.join(BODY_MODELS)}")
    for name, (array, shape) in shapes.items():
        if array.shape != shape:
            raise _other_version(where, f"{name} of shape {list(array.shape)}", f"{list(shape)}")
    if not (np.isfinite(bodies.focal_px) and bodies.focal_px > 0):
        raise _impossible(where, f"focal_px {bodies.focal_px}", "a positive number of pixels")
    present = bodies.cam_from_body[bodies.present]
    check_poses(f"{where}, cam_from_body", present)
    rotations = bodies.body_rot[bodies.present].reshape(-1, 3, 3)
    if np.abs(rotations @ np.swapaxes(rotations, 1, 2) - np.eye(3)).max(initial=0) > JOINT_ROTATION:
        raise _other_version(where, "body_rot with matrices that are no rotations", "orthonormal matrices")
    if (present[:, 2, 3] <= 0).any():
        raise _other_version(where, "a pelvis behind the camera", "depths above 0 (cam_from_body, not world)")


def _other_version(where: str, got: str, expected: str) -> FootfallError:
    return FootfallError(
        where, got=got, expected=expected, do="write it as teacher/stagefiles.py describes it, for this version"
    )


def _impossible(where: str, got: str, expected: str) -> FootfallError:
    return FootfallError(
        where, got=got, expected=expected, do="correct the calibration, given for this video with its rotation applied"
    )
