"""Legs that reach a planted foot: analytic inverse kinematics of a hip ball and a knee hinge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distill.synthetic.axes import Array, normalise, rot_x, turn


@dataclass(kw_only=True, frozen=True)
class Leg:
    """One leg of a shaped body in the rest pose, body axes, metres."""

    hip: Array
    """[3] hip from the pelvis."""
    thigh: Array
    """[3] knee from the hip."""
    shin: Array
    """[3] ankle from the knee."""

    @property
    def reach(self) -> float:
        """Longest hip-ankle distance: with the knee bent by `MIN_FLEXION`, so that it never hyper-extends."""
        return float(np.linalg.norm(self.thigh + turn(rot_x(np.array(MIN_FLEXION)), self.shin)))


MIN_FLEXION = 0.06
"""Radians (3.4 degrees) that a knee keeps bent."""
MAX_FLEXION = 2.4
"""Radians (138 degrees)."""


def solve_leg(leg: Leg, ankle: Array, lateral: Array) -> tuple[Array, Array]:
    """Hip and knee rotations that bring the ankle to a target.

    Args:
        leg: the rest pose.
        ankle: [T, 3] target, relative to the pelvis joint, in the pelvis' axes (x left, y up, z front).
        lateral: [T, 3] direction to the person's left about which the knee shall hinge, same axes.

    Returns:
        Hip rotation [T, 3, 3] relative to the pelvis, and knee flexion [T] radians: the knee's
        rotation is `rot_x(flexion)`. Targets beyond `leg.reach` are missed along their line.
    """
    span = ankle - leg.hip
    distance = np.linalg.norm(span, axis=-1)
    flexion = _flexion_for(leg, distance)
    # The rest direction hip -> ankle with that flexion, and its frame (direction, knee axis, third).
    rest = leg.thigh + turn(rot_x(flexion), leg.shin)
    target_frame = _frame(span, lateral)
    rest_frame = _frame(rest, np.broadcast_to([1.0, 0.0, 0.0], rest.shape))
    return target_frame @ np.swapaxes(rest_frame, -1, -2), flexion


def _flexion_for(leg: Leg, distance: Array) -> Array:
    """Flexion a at which |thigh + Rx(a) shin| = distance: p cos a + q sin a = r in closed form."""
    p = leg.thigh[1] * leg.shin[1] + leg.thigh[2] * leg.shin[2]
    q = leg.thigh[2] * leg.shin[1] - leg.thigh[1] * leg.shin[2]
    squares = leg.thigh @ leg.thigh + leg.shin @ leg.shin
    r = (distance**2 - squares) / 2 - leg.thigh[0] * leg.shin[0]
    angle = np.arctan2(q, p) + np.arccos(np.clip(r / np.hypot(p, q), -1.0, 1.0))
    return np.clip(angle, MIN_FLEXION, MAX_FLEXION)


def _frame(direction: Array, lateral: Array) -> Array:
    """Orthonormal frames [T, 3, 3] whose first column is `direction`, second as near `lateral` as can be."""
    first = normalise(direction)
    second = normalise(lateral - (lateral * first).sum(-1, keepdims=True) * first)
    return np.stack((first, second, np.cross(first, second)), axis=-1)
