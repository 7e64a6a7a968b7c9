"""Terms that know no picture: motion stays smooth, feet stay put, and nothing strays from the geometric result."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from distill.geometry.cameras import project
from distill.geometry.conventions import SMPL_JOINTS
from distill.geometry.transforms import make_transform, transform_points
from teacher.optimise.bodies import Points
from teacher.optimise.contacts import FEET
from teacher.optimise.evidence import TOUCHING
from teacher.scene.config import PriorConfig
from teacher.scene.spin import SWINGING
from teacher.scene.terms import acceleration, soft, turn_acceleration
from teacher.scene.world import Base, World

USUAL: Final = {"joint": 10.0, "camera": 2.0, "camera_turn": 3.0, "root": 1.0, "root_turn": 2.5}
"""Usual accelerations: m/s^2 of joints, the camera and the root, rad/s^2 of the camera and the root."""
LEG, TRUNK, ARM = 42.0, 2.5, 14.0
USUAL_TURNS: Final = tuple(
    LEG if any(part in name for part in ("hip", "knee", "ankle", "foot"))
    else ARM if any(part in name for part in ("shoulder", "elbow", "wrist", "hand"))
    else TRUNK
    for name in SMPL_JOINTS[1:]
)  # fmt: skip
"""The same of the 23 joints against their parents, rad/s^2. Upper quartiles over the motions of `distill.synthetic`
are 59 for knees, 36 for hips, 41 for ankles, 9 for shoulders, 2 for the spine; with 9 arms hardly swing (`spin`)."""
STILL_MPS: Final = 0.1
"""Usual speed of a site that touches, m/s."""
HEIGHT_M: Final = 0.01
"""Usual error of the height at which it stands, metres."""
LONGEST_STEP_S: Final = 0.2
"""Between frames further apart a site that touches in both may have been lifted, and an arm have swung back."""
KEYPOINT_SHARE: Final = 0.02
"""Usual error of a keypoint, heights of the person in the image."""


def smoothness(world: World, points: Points | None, world_from_cam: Tensor, body_rot: Tensor) -> dict[str, Tensor]:
    """Sums over frames of `soft` accelerations of the refined motion: of the bodies, and of the camera.

    Of the motion itself, not of the corrections: those of a start that jitters must jitter themselves to mend it, and
    those of a smooth start are smooth when the motion is. Without `points` of the bodies, only the turns of the joints
    count: their places in the world shake with the camera, which is no fault of theirs.
    """
    base = world.base
    if len(base.times) < 3:
        return {}
    seen = (base.present[2:] & base.present[1:-1] & base.present[:-2]).to(base.times)
    usual = torch.tensor(USUAL_TURNS).to(base.times)[:, None]
    bodies = soft(turn_acceleration(body_rot, base.dt) / usual).mean(-1)
    if points is not None:
        joints = transform_points(world_from_cam, points.joints.flatten(1, 2)).unflatten(1, points.joints.shape[1:3])
        bodies = bodies + soft(acceleration(joints, base.dt) / USUAL["joint"]).mean(-1)
    camera = soft(acceleration(world_from_cam[:, :3, 3], base.dt) / USUAL["camera"])
    camera = camera + soft(turn_acceleration(world_from_cam[:, :3, :3], base.dt) / USUAL["camera_turn"])
    return {"smooth": (bodies * seen).sum(), "camera_smooth": camera.sum()}


def contacts(base: Base, points: Points, world_from_cam: Tensor) -> Tensor:
    """Sum over frames: touching sites stand still, at the height of their stance; mean over the touching sites."""
    sites = transform_points(world_from_cam, points.sites.flatten(1, 2)).unflatten(1, points.sites.shape[1:3])
    still, known = touching_sites(base)
    speed = soft((sites[1:] - sites[:-1]) / (base.dt[:, None, None, None] * STILL_MPS))
    off = soft((sites[..., 2:] - base.site_height.nan_to_num()[..., None]) / HEIGHT_M)
    return _frame_sum(speed, still) + _frame_sum(off, known)


def touching_sites(base: Base) -> tuple[Tensor, Tensor]:
    """Sites that touch in a frame and the next one [T - 1, P, 6], and those that stand at a known height [T, P, 6]."""
    touching = (base.contact_prob > TOUCHING) & base.present[..., None]
    still = touching[1:] & touching[:-1] & (base.dt < LONGEST_STEP_S)[:, None, None]
    return still, touching & base.site_height.isfinite()


def _frame_sum(values: Tensor, chosen: Tensor) -> Tensor:
    """Sum over frames of the mean over what is chosen in a frame; values and chosen [T, P, S]."""
    weight = chosen.to(values)
    return ((values * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1)).sum()


def keypoints(base: Base, points: Points) -> Tensor:
    """Sum over frames of the reprojection errors, over their usual size; mean over keypoints."""
    pixels = project(points.keypoints.flatten(1, 2), base.K, min_depth=0.05).unflatten(1, points.keypoints.shape[1:3])
    off = soft((pixels - base.keypoints_px) / usual_keypoint_px(base, points.joints)[..., None, None])
    weight = base.keypoint_weight * base.present[..., None]
    return ((off * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1e-3)).sum()


def usual_keypoint_px(base: Base, joints: Tensor) -> Tensor:
    """[T, P] usual error of a keypoint: `KEYPOINT_SHARE` of the person's longer extent in the picture; no gradient.

    Args:
        joints: [T, P, 24, 3] in the camera, metres.
    """
    pixels = project(joints.detach().flatten(1, 2), base.K, min_depth=0.05).unflatten(1, joints.shape[1:3])
    return KEYPOINT_SHARE * (pixels.amax(-2) - pixels.amin(-2)).amax(-1).clamp(min=1)


def closeness(world: World, config: PriorConfig) -> Tensor:
    """Sum over frames of the squared corrections over their standard deviations; mean over axes and joints."""
    x, base = world.unknowns, world.base
    radians = math.pi / 180
    sight = torch.nn.functional.normalize(base.cam_from_body[..., :3, 3], dim=-1)
    along = (x["root_pos"] * sight).sum(-1, keepdim=True)
    across = x["root_pos"] - along * sight
    of_camera = [x["camera_rot"] / (config.camera_rot_deg * radians), world.camera_shift() / config.camera_pos_m]
    of_body = [
        x["root_rot"] / (config.root_rot_deg * radians), across / config.root_pos_m, along / config.root_depth_m,
        (x["pose"] / (radians * x["pose"].new_tensor(joint_degrees(config))[:, None])).flatten(2),
    ]  # fmt: skip
    present = base.present.to(base.times)
    camera = torch.stack([part.square().mean(-1) for part in of_camera]).sum()
    return camera + sum((part.square().mean(-1) * present).sum() for part in of_body)


def joint_degrees(config: PriorConfig) -> list[float]:
    """Standard deviations of the 23 joints' turns, degrees."""
    return [config.arm_deg if name.endswith(SWINGING) else config.pose_deg for name in SMPL_JOINTS[1:]]


def stance_heights(height: Tensor, prob: Tensor) -> Tensor:
    """[T, P, 6] median height over each stretch of touching frames, NaN elsewhere; height, prob [T, P, 6]."""
    found = torch.full_like(height, torch.nan)
    for person in range(height.shape[1]):
        for site in range(FEET):
            touching = torch.nonzero(prob[:, person, site] > TOUCHING).flatten()
            if len(touching) == 0:
                continue
            breaks = (torch.nonzero(touching.diff() > 1).flatten() + 1).tolist()
            for run in touching.tensor_split(breaks):
                found[run, person, site] = height[run, person, site].median()
    return found


def site_heights(base_parts: Points, world_from_cam: Tensor, prob: Tensor) -> Tensor:
    """`stance_heights` of sites given in the camera, in a world with z up."""
    sites = transform_points(make_transform(world_from_cam[:, :3, :3], world_from_cam[:, :3, 3]),
                             base_parts.sites.flatten(1, 2)).unflatten(1, base_parts.sites.shape[1:3])  # fmt: skip
    return stance_heights(sites[..., 2], prob)
