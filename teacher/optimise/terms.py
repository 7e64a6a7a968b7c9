"""Every term of the joint objective, each a function of its own that returns residuals and nothing else.

A term takes tensors and returns residual vectors `[..., D]` in a stated unit. Weights, masks, the robust
function and the sum live in `objective`, so that any solver can use the same terms. Names such as L_c1 are
those of JOSH (arXiv 2501.02158, section 3: "joint optimization"); where a term departs from the paper or from
the released code, it says so. The focal length enters the bodies and the scene through `variables.decode`.

Frame rates differ, so velocities and accelerations are measured over a fixed time: `REFERENCE_S`.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from distill.geometry.cameras import project, unproject
from distill.geometry.rotations import rotvec_from_matrix

REFERENCE_S: Final = 0.1
"""Seconds over which a velocity becomes a displacement (JOSH compares keyframes 5/30 s apart)."""
NEAR: Final = 0.05
"""Least depth in metres at which a point is projected."""


def scene_3d(points_world: Tensor, a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    """L_3D: two observations of one scene point back-project to the same place. [N, 3] metres.

    r = (X_a - X_b) / s, with X = P (D K^-1 p). JOSH has no division by the global scale s, so that its term
    also falls when the world shrinks; divided, it is indifferent to scale, which is left to the witnesses.

    Args:
        points_world: [M, 3] back-projected observations, metres. a, b: [N] long. scale: scalar, 1 at the start.
    """
    return (points_world[a] - points_world[b]) / scale


def scene_2d(
    points_world: Tensor, px: Tensor, camera: tuple[Tensor, Tensor], K: Tensor, pairs: tuple[Tensor, Tensor]
) -> Tensor:
    """L_2D: the back-projected point of one observation is seen at the pixel of the other. [2 N, 2] pixels.

    r = p_b - pi(K, P_b^-1 X_a), in both directions of each pair.

    Args:
        points_world: [M, 3] metres. px: [M, 2]. camera: rotation [M, 3, 3] and centre [M, 3] (world from
            camera) of each observation's frame. K: [3, 3]. pairs: two [N] long.
    """
    source, target = torch.cat(pairs), torch.cat(pairs[::-1])
    rotation, centre = camera[0][target], camera[1][target]
    in_camera = torch.einsum("nji,nj->ni", rotation, points_world[source] - centre)
    return px[target] - project(in_camera, K, min_depth=NEAR)


def contact_align(sites_cam: Tensor, partner_px: Tensor, partner_depth: Tensor, K: Tensor) -> Tensor:
    """L_c1: a touching site lies on the scene. [..., 3] metres.

    r = x_h - x_s with x_s = sigma D K^-1 p: the paper's 3D form (the released code compares depths only).
    The partner lies on the site's own view ray (`contacts`), so no sideways bias enters.

    Args:
        sites_cam: [..., 3] metres in the camera. partner_px: [..., 2]. partner_depth: [...] metres. K: [3, 3].
    """
    return sites_cam - unproject(partner_px, partner_depth, K)


def contact_still(sites_world: Tensor, dt: Tensor) -> Tensor:
    """L_c2: a site that touches in two consecutive frames stays. [T - 1, P, 6, 3] metres per `REFERENCE_S`.

    r = (x_{t+1} - x_t) / dt * REFERENCE_S: the released form (same point of the body in the frame before).

    Args:
        sites_world: [T, P, 6, 3] metres. dt: [T - 1] seconds.
    """
    return (sites_world[1:] - sites_world[:-1]) * (REFERENCE_S / dt)[:, None, None, None]


def ground_plane(sites_world: Tensor, normal: Tensor, offset: Tensor) -> Tensor:
    """Touching feet lie on one plane n . x = h that all people share. [..., 1] metres. Not in JOSH.

    Args:
        sites_world: [..., 3]. normal: [3] unit. offset: scalar, metres.
    """
    return (sites_world @ normal - offset)[..., None]


def ground_up(normal: Tensor, up: Tensor) -> Tensor:
    """The ground's normal against an up direction seen in the bodies. [3], about radians. Not in JOSH.

    Args:
        normal: [3] unit. up: [3] unit.
    """
    return normal - up


def penetration(sites_cam: Tensor, partner: tuple[Tensor, Tensor], normal: Tensor, K: Tensor) -> Tensor:
    """Depth of a site below the scene's surface, 0 above it. [..., 1] metres. Not in JOSH.

    r = max(0, -n . (x_h - x_s)).

    Args:
        sites_cam: [..., 3] metres. partner: pixel [..., 2] and depth [...] (metres) of the surface.
        normal: [..., 3] unit, towards the camera. K: [3, 3].
    """
    return (-(contact_align(sites_cam, *partner, K) * normal).sum(-1, keepdim=True)).clamp(min=0)


def plane_penetration(sites_world: Tensor, normal: Tensor, offset: Tensor) -> Tensor:
    """Depth of a site below the common plane, 0 above it. [..., 1] metres; arguments as `ground_plane`."""
    return (-ground_plane(sites_world, normal, offset)).clamp(min=0)


def flat_feet(heels: Tensor, toes: Tensor, normal: Tensor) -> Tensor:
    """Heel and toes of a standing foot are equally high above the surface below it. [..., 1] metres. Not in JOSH.

    r = n . (x_heel - x_toe).

    Args:
        heels, toes: [..., 3] metres. normal: [..., 3] unit normal of the surface, in the same frame.
    """
    return ((heels - toes) * normal).sum(-1, keepdim=True)


def people_apart(joints_world: Tensor, radius: Tensor) -> Tensor:
    """Depth by which spheres about the joints of two people overlap, 0 apart. [T, P, P J J, 1] metres. Not in JOSH.

    r = max(0, a + b - |x_a - x_b|): row (t, p, q, i, j) is joint i of person p and joint j of person q, who is taken
    as resting; the row (t, q, p, j, i) moves the other one.

    Args:
        joints_world: [T, P, J, 3] metres. radius: [J] metres.
    """
    mine, other = joints_world[:, :, None, :, None], joints_world.detach()[:, None, :, None, :]
    distance = (mine - other).square().sum(-1).clamp(min=1e-8).sqrt()
    return (radius[:, None] + radius - distance).clamp(min=0).flatten(2)[..., None]


def prior_rotation(increment: Tensor) -> Tensor:
    """L_p, orientation: the rotation vector from the initial rotation to the present one. [..., 3] radians.

    JOSH takes the difference of free quaternions (root) and of raw matrices (joints), which are no rotations.
    """
    return increment


def prior_pose(increment: Tensor) -> Tensor:
    """L_p, joints: all 23 rotation vectors of a body as one residual. [..., 23, 3] -> [..., 69] radians."""
    return increment.flatten(-2)


def prior_position(root: Tensor, initial: Tensor) -> Tensor:
    """L_p, pelvis: distance from the initial position at the initial focal length. [..., 3] metres.

    Args:
        root: [..., 3] pelvis with the focal coupling t_z' = (f / f_init) t_z taken out. initial: [..., 3].
    """
    return root - initial


def prior_shape(betas: Tensor, initial: Tensor) -> Tensor:
    """L_p, shape: difference from the initial coefficients. [P, B] standard deviations."""
    return betas - initial


def stature_prior(stature: Tensor, mean: float, sd: float) -> Tensor:
    """Standing height against the population. [P, 1] standard deviations. Not in JOSH; a witness of scale."""
    return ((stature - mean) / sd)[..., None]


def smooth(joints_world: Tensor, dt: Tensor) -> Tensor:
    """Acceleration of the joints in the world. [T - 2, P, 24, 3] metres per `REFERENCE_S` squared.

    r = (v_{t+1} - v_t) * REFERENCE_S^2 / mean dt. As JOSH's smoothness term, for uneven timestamps.

    Args:
        joints_world: [T, P, 24, 3] metres. dt: [T - 1] seconds.
    """
    return _acceleration(joints_world, dt)


def camera_smooth(rotation: Tensor, centre: Tensor, dt: Tensor, pivot: float) -> Tensor:
    """Acceleration of the camera. [T - 2, 6]: 3 of the centre (m), 3 of the orientation (rad times `pivot` m).

    Args:
        rotation: [T, 3, 3]. centre: [T, 3] metres. dt: [T - 1] seconds. pivot: metres, the distance at which a
            turn of the camera is as harmful as a shift.
    """
    turn = rotvec_from_matrix(rotation[:-1].transpose(-1, -2) @ rotation[1:]) / dt[:, None]
    middle = ((dt[1:] + dt[:-1]) / 2)[:, None]
    angular = (turn[1:] - turn[:-1]) / middle * REFERENCE_S**2
    return torch.cat((_acceleration(centre, dt), pivot * angular), dim=-1)


def keypoints_2d(keypoints_cam: Tensor, K: Tensor, target_px: Tensor, metres_per_px: Tensor) -> Tensor:
    """L_2dkp: the body's keypoints are seen where the landmarks are. [T, P, 23, 2] metres at the body's depth.

    r = (pi(K, x) - p) * z_init / f_init: pixels become metres at the person, so that near and far people and
    small and large images weigh alike. The factor is constant; otherwise coming nearer would lower the term.

    Args:
        keypoints_cam: [T, P, 23, 3] metres. K: [3, 3]. target_px: [T, P, 23, 2]. metres_per_px: [T, P].
    """
    return (project(keypoints_cam, K, min_depth=NEAR) - target_px) * metres_per_px[..., None, None]


def scale_tie(log_drift: Tensor, sd: float, step_sd: float) -> Tensor:
    """One scale with slow drift. [T + T - 1, 1] standard deviations. JOSH leaves the frames' scales free.

    Args:
        log_drift: [T] log scale of each frame relative to the clip's. sd, step_sd: of its value and of its steps.
    """
    return torch.cat((log_drift / sd, (log_drift[1:] - log_drift[:-1]) / step_sd))[:, None]


def log_prior(value: Tensor, sd: float) -> Tensor:
    """A logarithm (of focal length or scale) that starts at 0. [1, 1] standard deviations."""
    return (value / sd).reshape(1, 1)


def _acceleration(position: Tensor, dt: Tensor) -> Tensor:
    """[T, ...] positions -> [T - 2, ...] acceleration times `REFERENCE_S` squared."""
    spread = (slice(None),) + (None,) * (position.dim() - 1)
    velocity = (position[1:] - position[:-1]) / dt[spread]
    return (velocity[1:] - velocity[:-1]) / ((dt[1:] + dt[:-1]) / 2)[spread] * REFERENCE_S**2
