"""Arms swing against legs: a walker's angular momentum about the vertical stays small within a stride.

An arm that swings along the line of sight gets shorter by a tenth in the picture, whichever way it swings. So pictures
and keypoints leave it hanging. Feet say where legs are, and the ground can hardly twist a body: what legs turn one way,
arms turn the other (Elftman 1939), so that most of the parts' angular momenta cancel (Herr and Popovic 2008).
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from distill.geometry.conventions import SMPL_JOINTS

USUAL_M2PS: Final = 0.008
"""Usual angular momentum of a walker about the vertical, m^2/s: per kilogram of the body, turning left out."""
STRIDE_S: Final = 1.1
"""What lasts longer than this is turning."""
EDGE_S: Final = 0.3
"""So near to an end of the clip the term fades: nothing beyond holds an arm in its swing."""
SWINGING: Final = ("shoulder", "elbow")
"""Joints that the term moves: feet and pixels say more about legs, and hands weigh too little to tell."""
_LIMBS: Final = (
    ("hip", "knee", 0.433, 0.1), ("knee", "ankle", 0.433, 0.0465), ("ankle", "foot", 0.5, 0.0145),
    ("shoulder", "elbow", 0.436, 0.028), ("elbow", "wrist", 0.43, 0.016), ("wrist", "hand", 0.506, 0.006),
)  # fmt: skip
"""From, to, where between them the centre of mass lies, share of the body's mass (Winter 2009, table 4.1)."""
_TRUNK, _HEAD = 0.497, 0.081


def _segments() -> tuple[Tensor, Tensor]:
    """Share [15] of each part of the body in its mass, and its centre as a mean of joints [15, 24]; both float64."""
    rows: list[tuple[float, dict[str, float]]] = [(_HEAD, {"neck": 0.2, "head": 0.8})]
    for side in ("left", "right"):
        rows.append((_TRUNK / 2, {f"{side}_hip": 0.5, f"{side}_shoulder": 0.5}))
        rows += [(mass, {f"{side}_{a}": 1 - along, f"{side}_{b}": along}) for a, b, along, mass in _LIMBS]
    centres = torch.tensor([[row.get(name, 0.0) for name in SMPL_JOINTS] for _, row in rows], dtype=torch.float64)
    return torch.tensor([mass for mass, _ in rows], dtype=torch.float64), centres


def spin(joints: Tensor, dt: Tensor, slopes: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Angular momentum about the vertical through the centre of mass, per kilogram, between frames on end.

    Parts are points: `sum m x0 cross x1 / dt`, with places x relative to the centre of mass of all.

    Args:
        joints: [T, 24, 3] in a world with z up, metres. dt: [T - 1] s.
        slopes: [T, 24, 3, K] of the joints by K unknowns.

    Returns:
        [T - 1] m^2/s, and its slopes [T - 1, K] by the unknowns of the earlier and of the later frame.
    """
    mass, centres = (value.to(joints) for value in _segments())
    centres = centres - mass @ centres
    x, y = (centres @ joints)[..., :2].unbind(-1)  # [T, 15]
    dx, dy = torch.einsum("sj,tjak->atsk", centres, slopes[:, :, :2])
    value = ((x[:-1] * y[1:] - y[:-1] * x[1:]) @ mass) / dt
    earlier = torch.einsum("s,tsk->tk", mass, dx[:-1] * y[1:, :, None] - dy[:-1] * x[1:, :, None])
    later = torch.einsum("s,tsk->tk", mass, x[:-1, :, None] * dy[1:] - y[:-1, :, None] * dx[1:])
    return value, [earlier / dt[:, None], later / dt[:, None]]


def turning(value: Tensor, times: Tensor, known: Tensor) -> Tensor:
    """[T - 1] mean over a stride about each moment: of a whole stride at the ends of a clip, too.

    Args:
        value: [T - 1] between frames at times [T], seconds. known: [T - 1] bool, which of them count.
    """
    moment = (times[1:] + times[:-1]) / 2
    half = min(STRIDE_S, float(moment[-1] - moment[0])) / 2
    middle = moment.clamp(float(moment[0]) + half, float(moment[-1]) - half)
    near = ((moment - middle[:, None]).abs() <= half + 1e-4) & known
    return (near.to(value) @ value) / near.sum(1).clamp(min=1)


def faded(times: Tensor) -> Tensor:
    """[T - 1] weights of the moments between frames at times [T], seconds: 1, but less towards both ends."""
    moment = (times[1:] + times[:-1]) / 2
    return (torch.minimum(moment - times[0], times[-1] - moment) / EDGE_S).clamp(max=1)
