"""The terms of the fuser: residuals and their derivatives, batched over F factors, before any weighting.

A pose is moved by a local step (theta, v): R <- R exp(theta), t <- t + R v, as in Sola, Deray and Atchuthan, "A
micro Lie theory for state estimation in robotics", 2018. Columns of a Jacobian are the steps of its unknowns in
the order that the function names. `Pose` is (R [F, 3, 3], t [F, 3]), world from camera or from body.

Positions are in the network's metres, which may be wrong by a common factor. Only feet know true metres, so the factor
is an unknown of `contact_stillness` alone. Were it in every term, noise would show up as acceleration and error in
true metres, and a smaller world would fit better: the scale would shrink against the little that is known about it.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np

from distill.fuser.so3 import Array, hat, log, right_jacobian_inverse, transpose, turn

Pose: TypeAlias = tuple[Array, Array]
MIN_DEPTH_M = 0.1
"""Bodies nearer than this, or behind the camera, are taken to be at this depth in the logarithm."""


class Linear(NamedTuple):
    """A term at the present estimate."""

    residual: Array
    """[F, r]."""
    jacobian: Array
    """[F, r, k]."""


def _between(a: Pose, b: Pose) -> tuple[Array, Array]:
    """a_from_b."""
    R = transpose(a[0])
    return R @ b[0], turn(R, b[1] - a[1])


def relative_motion(a: Pose, b: Pose, measured: Pose) -> Linear:
    """A network's motion a_from_b against that of the poses, of the camera or of a body.

    r = [log(M_R^T R_a^T R_b), R_a^T (t_b - t_a) - m]: radians, metres.

    Args:
        a, b: poses at the earlier and the later frame.
        measured: M_R and m.

    Returns:
        Residual [F, 6]; columns theta_a, v_a, theta_b, v_b: [F, 6, 12].
    """
    R, p = _between(a, b)
    rotation = log(transpose(measured[0]) @ R)
    inverse = right_jacobian_inverse(rotation)
    J = np.zeros((len(p), 6, 12))
    J[:, :3, 0:3] = -inverse @ transpose(R)
    J[:, :3, 6:9] = inverse
    J[:, 3:, 0:3] = hat(p)
    J[:, 3:, 3:6] = -np.eye(3)
    J[:, 3:, 9:12] = R
    return Linear(np.concatenate((rotation, p - measured[1]), axis=1), J)


def no_motion(a: Pose, b: Pose) -> Linear:
    """Two poses are the same: a camera that stands. As `relative_motion` with the identity measured."""
    count = len(a[1])
    return relative_motion(a, b, (np.broadcast_to(np.eye(3), (count, 3, 3)), np.zeros((count, 3))))


def root_in_camera(camera: Pose, body: Pose, log_offset: Array, measured: Pose) -> Linear:
    """A network's root in the camera: orientation, ray, log depth, as the network's variances name them.

    With h = R_c^T (t_b - t_c), its direction n and the measured m with direction u and tangents E (E u = 0):
    r = [log(M_R^T R_c^T R_b), E n, log h_z + o - log m_z]: radians, radians, relative.

    Args:
        camera, body: world from camera and from body in the same frame.
        log_offset: [F] o by which this person alone seems too far (a wrong stature looks so).
        measured: M_R and m, body in the camera.

    Returns:
        Residual [F, 6]; columns theta_c, v_c, theta_b, v_b, o: [F, 6, 13].
    """
    R, h = _between(camera, body)
    rotation = log(transpose(measured[0]) @ R)
    inverse = right_jacobian_inverse(rotation)
    distance = np.maximum(np.linalg.norm(h, axis=1, keepdims=True), MIN_DEPTH_M)
    direction = h / distance
    tangents = tangents_of(measured[1])
    depth = np.maximum(h[:, 2], MIN_DEPTH_M)
    # d(h/|h|) = (I - n n^T) / |h| dh; d log z = dh_z / z; dh = [h]x theta_c - v_c + R v_b
    by_point = np.zeros((len(h), 3, 3))
    by_point[:, :2] = (tangents - (tangents @ direction[..., None]) * direction[:, None]) / distance[..., None]
    by_point[:, 2, 2] = 1 / depth
    J = np.zeros((len(h), 6, 13))
    J[:, :3, 0:3] = -inverse @ transpose(R)
    J[:, :3, 6:9] = inverse
    J[:, 3:, 0:3] = by_point @ hat(h)
    J[:, 3:, 3:6] = -by_point
    J[:, 3:, 9:12] = by_point @ R
    J[:, 5, 12] = 1.0
    log_depth = np.log(depth) + log_offset - np.log(np.maximum(measured[1][:, 2], MIN_DEPTH_M))
    return Linear(np.concatenate((rotation, turn(tangents, direction), log_depth[:, None]), axis=1), J)


def tangents_of(points: Array) -> Array:
    """Two unit vectors across the ray to each point [F, 3]: [F, 2, 3]."""
    ray = points / np.linalg.norm(points, axis=1, keepdims=True)
    aside = np.where(np.abs(ray[:, :1]) < 0.9, [[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]])
    first = np.cross(ray, aside)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    return np.stack((first, np.cross(ray, first)), axis=1)


def contact_stillness(body: Pose, foothold: Array, log_scale: Array, foot: Array) -> Linear:
    """A foot that touches stays where it first touched: a zero-velocity update over a whole stance.

    r = e^-s R_b^T (l - t_b) - f, true metres in the body's axes. One unknown foothold per stance, not one factor per
    pair of frames: the foot's error in the body then counts once per frame and not again with every step back.

    Args:
        body: world from body. foothold: [F, 3] l, world.
        log_scale: [F] s, log of the network's count of metres over the true one.
        foot: [F, 3] f, in the body.

    Returns:
        Residual [F, 3]; columns theta_b, v_b, l, s: [F, 3, 10].
    """
    R = np.exp(-log_scale)[:, None, None] * transpose(body[0])
    local = turn(R, foothold - body[1])
    J = np.zeros((len(foot), 3, 10))
    J[:, :, 0:3] = hat(local)
    J[:, :, 3:6] = -np.exp(-log_scale)[:, None, None] * np.eye(3)
    J[:, :, 6:9] = R
    J[:, :, 9] = -local
    return Linear(local - foot, J)


def constant_velocity(first: Pose, second: Pose, third: Pose, dt: Array) -> Linear:
    """Acceleration between three poses in succession, weakly zero.

    r = [(log(R_2^T R_3) / dt_2 - log(R_1^T R_2) / dt_1) / dt, ((t_3 - t_2) / dt_2 - (t_2 - t_1) / dt_1) / dt] with
    the mean dt: rad/s^2, m/s^2.

    Args:
        dt: [F, 2] seconds from first to second and from second to third.

    Returns:
        Residual [F, 6]; columns theta and v of the three in order: [F, 6, 18].
    """
    mean = dt.mean(1)
    before, after = (1 / (dt[:, k] * mean) for k in (0, 1))
    R12, R23 = transpose(first[0]) @ second[0], transpose(second[0]) @ third[0]
    turn12, turn23 = log(R12), log(R23)
    inverse12 = right_jacobian_inverse(turn12) * before[:, None, None]
    inverse23 = right_jacobian_inverse(turn23) * after[:, None, None]
    J = np.zeros((len(dt), 6, 18))
    J[:, :3, 0:3] = inverse12 @ transpose(R12)
    J[:, :3, 6:9] = -inverse23 @ transpose(R23) - inverse12
    J[:, :3, 12:15] = inverse23
    J[:, 3:, 3:6] = before[:, None, None] * first[0]
    J[:, 3:, 9:12] = -(before + after)[:, None, None] * second[0]
    J[:, 3:, 15:18] = after[:, None, None] * third[0]
    rotation = turn23 * after[:, None] - turn12 * before[:, None]
    line = (third[1] - second[1]) * after[:, None] - (second[1] - first[1]) * before[:, None]
    return Linear(np.concatenate((rotation, line), axis=1), J)


def slow_factor(earlier: Array, later: Array, decay: Array) -> Linear:
    """A log factor forgets slowly (Ornstein-Uhlenbeck): r = later - decay earlier, relative.

    Args:
        earlier, later: [F] log factors. decay: [F] exp(-dt / time constant).

    Returns:
        Residual [F, 1]; columns earlier, later: [F, 1, 2].
    """
    J = np.stack((-decay, np.ones_like(decay)), axis=-1)[:, None]
    return Linear((later - decay * earlier)[:, None], J)
