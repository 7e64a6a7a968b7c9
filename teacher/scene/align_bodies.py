"""Bodies aligned to their pictures, all frames at once: Gauss-Newton on colours and masks, tied over time.

A Gaussian of an avatar moves with its joints as linear blend skinning says. Drawn with these slopes for colours, the
avatar tells how each of its pixels moves with each joint. The difference from the frame, in colour and in mask, then
gives normal equations of the pose. One more unknown is shared by all frames: how much the person is thicker than the
body model. Without it masks that are a pixel wider than the avatar pull the body nearer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.avatar import Avatar
from distill.body import BodyModel
from distill.body.model import forward_kinematics
from distill.geometry.cameras import crop_intrinsics, project
from distill.geometry.conventions import SMPL_JOINTS, SMPL_PARENTS
from distill.geometry.rotations import cross_matrix, matrix_from_quat, matrix_from_rotvec, rotvec_from_matrix
from distill.geometry.transforms import transform_points
from distill.render.rendering import draw_features
from teacher.optimise.bodies import split
from teacher.optimise.measure import SEEN
from teacher.scene.align import Normal, blurred, compare, pixel_slopes, prior
from teacher.scene.chain import Chain, descend, place_rows, time_shares, turn_rows
from teacher.scene.config import PriorConfig
from teacher.scene.footage import Footage
from teacher.scene.motion import (
    HEIGHT_M,
    LONGEST_STEP_S,
    STILL_MPS,
    USUAL,
    USUAL_TURNS,
    joint_degrees,
    touching_sites,
    usual_keypoint_px,
)  # fmt: skip
from teacher.scene.objective import View
from teacher.scene.seeds import coloured
from teacher.scene.spin import SWINGING, USUAL_M2PS, faded, spin, turning
from teacher.scene.world import BODY, Base, World

JOINTS: Final = len(SMPL_PARENTS) - 1
UNKNOWNS: Final = 3 * JOINTS + 6
"""Of a person in a frame: turns of the joints, turn of the root (rad), its shift in the camera (m)."""
THICKNESS_M: Final = 0.01
"""Usual distance of what is seen from the skin: cloth, hair, and errors of the mask."""
REACH: Final = 0.01
"""Part of the picture's longer side over which slopes reach beyond the avatar's outline."""
DETECTED: Final = 0.3
"""Weight of a keypoint: a detector errs alike for many frames, and alike for the keypoints of a limb."""
ANOTHER: Final = 0.3
"""Share of somebody else in a pixel from which it tells nothing of this person."""


@torch.no_grad()
def align_bodies(world: World, view: View, person: int, config: PriorConfig, steps: int) -> list[float]:
    """Move one person in all frames, in place; returns the cost at the start and after each step.

    Args:
        world: whose pose, root_rot, root_pos and the person's offsets are changed.
        view: a level of the footage; in frames in which it shows nobody, motion, points and prior alone decide.
        config: the prior on corrections, and on the avatar's errors. steps: at most.
    """
    offsets = f"person{person}/offsets"

    def move(step: Tensor, thicker: float) -> Callable[[], None]:
        take_back = world.remember((*BODY, offsets))
        _turn(world, person, step.to(world.base.times))
        world.unknowns[offsets] += thicker * _normals(world.base.avatars[person])
        return take_back

    return descend(lambda: _equations(world, view, person, config), move, steps)


@torch.no_grad()
def recolour(world: World, footage: Footage) -> None:
    """Give people the colours that the frames show where their bodies are now."""
    base = world.base
    body_rot, cam_from_body = world.bodies()
    for person, avatar in enumerate(base.avatars):
        pose = body_rot[:, person], cam_from_body[:, person], base.present[:, person]
        found = coloured(avatar, base.body, footage, person, *pose)
        world.unknowns[f"person{person}/colors"].copy_(found.colors)


def thickness_m(world: World, person: int) -> float:
    """Mean distance of a person's Gaussians from the skin, metres."""
    offsets = world.unknowns[f"person{person}/offsets"].detach()
    return float((offsets * _normals(world.base.avatars[person])).sum(-1).mean())


def _normals(avatar: Avatar) -> Tensor:
    """[N, 3] outward, in the rest pose: the third axis of a Gaussian that nothing has turned yet."""
    return matrix_from_quat(avatar.quats)[..., 2]


def _equations(world: World, view: View, person: int, config: PriorConfig) -> Chain:
    base, count = world.base, len(world.base.times)
    chain = Chain(count, UNKNOWNS)
    turns, roots = (value[:, person] for value in world.bodies())
    avatar, present = world.avatar(person), base.present[:, person]
    for frame in range(count):
        if bool(present[frame]) and view.boxes[frame][2]:
            chain.add_frame(
                frame, *_picture(base.body, avatar, view, frame, person, turns[frame], roots[frame], config.alike)
            )
        chain.add_frame(frame, *_prior(world, frame, person, config))
    grown = thickness_m(world, person)
    chain.add_shared(0.5 * (grown / THICKNESS_M) ** 2, THICKNESS_M**-2, grown * THICKNESS_M**-2)
    if count >= 3:
        _add_motion(chain, world, turns, roots, present)
    _add_points(chain, world, person, turns, roots)
    return chain


@torch.no_grad()
def _add_points(chain: Chain, world: World, person: int, turns: Tensor, roots: Tensor) -> None:
    """Keypoints at their pixels; sites that touch stand still, at the height of their stance (`motion`); arms swing
    against legs (`spin`)."""
    base, cameras = world.base, world.world_from_cam()
    found = base.parts.pieces.linearise(base.betas[person], turns, roots)
    by_turn = found.by_turn @ found.rotations[:, None]  # [T, 53, 24, 3, 3], about the joints' own axes
    by_turn = torch.cat((by_turn[:, :, 1:], by_turn[:, :, :1]), 2).transpose(2, 3).flatten(3)
    shift = torch.eye(3).to(by_turn).expand(*by_turn.shape[:3], 3)
    points = split(found.points)
    joints, keypoints = points.joints.shape[-2], points.keypoints.shape[-2]
    slopes = torch.cat((by_turn, shift), -1)  # [T, 53, 3, UNKNOWNS] of joints, keypoints and sites
    if base.z_up and len(base.times) > 1:
        in_world = transform_points(cameras, points.joints)
        _add_spin(chain, base, person, in_world, cameras[:, None, :3, :3] @ slopes[:, :joints])
    slopes = slopes[:, joints:]
    still, standing = touching_sites(base)
    sites = transform_points(cameras, points.sites)
    site_slopes = cameras[:, None, :3, :3] @ slopes[:, keypoints:]
    usual = usual_keypoint_px(base, points.joints[:, None])[:, 0]
    off = project(points.keypoints, base.K, min_depth=0.05) - base.keypoints_px[:, person]
    by_keypoint = pixel_slopes(points.keypoints, base.K) @ slopes[:, :keypoints]
    for frame in torch.nonzero(base.present[:, person]).flatten().tolist():
        seen = base.keypoint_weight[frame, person] > SEEN
        scale = usual[frame]
        chain.add_rows(frame, off[frame][seen] / scale, [by_keypoint[frame][seen] / scale], DETECTED)
        own = standing[frame, person]
        height = (sites[frame, own, 2:] - base.site_height[frame, person, own, None]) / HEIGHT_M
        chain.add_rows(frame, height, [site_slopes[frame, own, 2:] / HEIGHT_M])
        if frame < len(still):
            own = still[frame, person]
            usual_m = float(base.dt[frame]) * STILL_MPS
            step = (sites[frame + 1, own] - sites[frame, own]) / usual_m
            chain.add_rows(frame, step, [-site_slopes[frame, own] / usual_m, site_slopes[frame + 1, own] / usual_m])


def _add_spin(chain: Chain, base: Base, person: int, joints: Tensor, slopes: Tensor) -> None:
    """Angular momentum about the vertical is small but for what the body turns; only arms move for it.

    Args:
        joints: [T, 24, 3] in the world. slopes: [T, 24, 3, UNKNOWNS] of them.
    """
    known = base.present[1:, person] & base.present[:-1, person] & (base.dt < LONGEST_STEP_S)
    value, by_frame = spin(joints, base.dt, slopes)
    off = (value - turning(value, base.times, known)) / USUAL_M2PS
    swings = torch.tensor([name.endswith(SWINGING) for name in SMPL_JOINTS[1:]] + [False, False]).repeat_interleave(3)
    by_frame = [slope * swings.to(slope) / USUAL_M2PS for slope in by_frame]
    weights = faded(base.times).tolist()
    for frame in torch.nonzero(known).flatten().tolist():
        rows = [slope[frame, None, None] for slope in by_frame]
        chain.add_rows(frame, off[frame, None, None], rows, weights[frame])


def _add_motion(chain: Chain, world: World, turns: Tensor, roots: Tensor, present: Tensor) -> None:
    """Accelerations of joints' turns, and of turn and place of the root in the world."""
    dt = world.base.dt.double()
    share = time_shares(dt) * (present[2:] & present[1:-1] & present[:-2])
    cameras = world.world_from_cam()
    world_from_body = cameras @ roots
    every = torch.cat((turns, world_from_body[:, None, :3, :3]), 1).double()
    usual = torch.tensor([*USUAL_TURNS, USUAL["root_turn"]]).to(every)[:, None]
    residual, slopes = turn_rows(every, dt)
    numbers = torch.arange(UNKNOWNS - 3).reshape(-1, 3)
    chain.add_accelerations(residual / usual, [slope / usual[..., None] for slope in slopes], numbers, share)
    residual, slopes = place_rows(world_from_body[:, None, :3, 3].double(), cameras[:, None, :3, :3].double(), dt)
    numbers = torch.arange(UNKNOWNS - 3, UNKNOWNS)[None]
    chain.add_accelerations(residual / USUAL["root"], [slope / USUAL["root"] for slope in slopes], numbers, share)


def _prior(world: World, frame: int, person: int, config: PriorConfig) -> Normal:
    sight = F.normalize(world.base.cam_from_body[frame, person, :3, 3], dim=-1)
    along = sight[:, None] * sight
    place = along / config.root_depth_m**2 + (torch.eye(3).to(along) - along) / config.root_pos_m**2
    turns = sight.new_tensor([*joint_degrees(config), config.root_rot_deg]).repeat_interleave(3)
    information = torch.block_diag(torch.diag((turns * torch.pi / 180) ** -2), place)
    now = [world.unknowns[name][frame, person].flatten() for name in ("pose", "root_rot", "root_pos")]
    return prior(torch.cat(now), information)


def _picture(
    body: BodyModel, avatar: Avatar, view: View, frame: int, person: int, body_rot: Tensor, cam_from_body: Tensor,
    alike: float,
) -> Normal:  # fmt: skip
    """The person alone before black, with the mask as a fourth channel; the last unknown is the thickness.

    Errors of an avatar that are the same in every frame would turn joints that time keeps in place, so all pixels of a
    patch count as one; a finer picture says no more.
    """
    footage = view.footage
    left, top, width, height = view.boxes[frame]
    part = (slice(top, top + height), slice(left, left + width))
    K = crop_intrinsics(footage.K, left, top)
    posed = avatar.posed(body, body_rot, cam_from_body)
    outward = matrix_from_quat(posed.quats)[..., 2:]
    moved = torch.cat((skin_slopes(body, avatar, body_rot, cam_from_body), outward), -1)
    slopes = (pixel_slopes(posed.means, K) @ moved).flatten(1)
    features = torch.cat((posed.colors, torch.ones_like(posed.opacities)[:, None], slopes), -1)
    eye = torch.eye(4).to(K)[None]
    drawn = draw_features(posed, eye, K[None], (width, height), features, antialiased=True)[0][0]
    image, alpha = drawn[..., :4], drawn[..., 3:4]
    radius = max(1, round(REACH * max(footage.size)))
    near = blurred(alpha, radius)
    flow = (blurred(drawn[..., 4:], radius) / near.clamp(min=1e-3)).unflatten(-1, (2, UNKNOWNS + 1))
    mask = footage.masks[frame, person][part]
    target = torch.cat((footage.images[frame][part] * mask[..., None], mask[..., None]), -1)
    others = (footage.people[frame][part] - mask).clamp(min=0)
    weight = view.free[frame][part] * (others < ANOTHER)
    return compare(image, target, flow, weight, near[..., 0] > 0.01, (alike * max(footage.size)) ** 2)


def skin_slopes(body: BodyModel, avatar: Avatar, body_rot: Tensor, cam_from_body: Tensor) -> Tensor:
    """[N, 3, UNKNOWNS] how the centres of a posed avatar move: metres per radian of each joint's and the root's turn in
    its own axes, and per metre of the root's shift. Pose-dependent shapes of the body model are left out.

    A turn p of joint j moves what hangs on a joint k below it by w_k (R_j p) x (y_k - x_j), with y_k the place where
    joint k alone would put the centre.

    Args:
        body_rot: [23, 3, 3]. cam_from_body: [4, 4].
    """
    rest = body.rest_joints(avatar.betas)
    rotations, joints = forward_kinematics(rest, body_rot, cam_from_body)
    centres = avatar.canonical(body).means
    by_joint = torch.einsum("kab,nkb->nka", rotations, centres[:, None] - rest) + joints
    below = torch.eye(JOINTS + 1).to(rest)  # [j, k] whether k is j or hangs on it
    for joint in range(JOINTS, 0, -1):
        below[SMPL_PARENTS[joint]] += below[joint]
    lever = torch.einsum("jk,nk,nka->nja", below, avatar.skinning, by_joint)
    lever = lever - (avatar.skinning @ below.T)[..., None] * joints
    turned = -cross_matrix(lever) @ rotations  # [N, 24, 3, 3]: columns are the joint's own axes
    turned = torch.cat((turned[:, 1:], turned[:, :1]), 1)  # the root after the joints
    shifted = torch.eye(3).to(turned).expand(len(turned), 3, 3)
    return torch.cat((turned.permute(0, 2, 1, 3).flatten(2), shifted), -1)


def _turn(world: World, person: int, step: Tensor) -> None:
    """Corrections after a step [T, UNKNOWNS]."""
    turns = {"pose": step[:, : 3 * JOINTS].unflatten(1, (JOINTS, 3)), "root_rot": step[:, -6:-3]}
    for name, value in turns.items():
        now = matrix_from_rotvec(world.unknowns[name][:, person]) @ matrix_from_rotvec(value)
        world.unknowns[name][:, person] = rotvec_from_matrix(now)
    world.unknowns["root_pos"][:, person] += step[:, -3:]
