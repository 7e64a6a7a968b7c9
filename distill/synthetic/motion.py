"""Whole-body motion: pelvis, legs that reach the planted feet, spine, arms and head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d, minimum_filter1d

from distill.geometry.conventions import SMPL_JOINTS
from distill.synthetic.axes import Array, make_rigid, rot_x, rot_y, rot_z, turn, world_from_heading
from distill.synthetic.gait import Foot, FootTrack
from distill.synthetic.legs import Leg, solve_leg

JOINT: Final = {name: index for index, name in enumerate(SMPL_JOINTS)}
"""Index of each joint by name."""
SIDES: Final = {"left": 1, "right": -1}
"""Sign of x on each side of the body."""


@dataclass(kw_only=True)
class BodyMotion:
    """One person's motion over T frames, in the world."""

    body_rot: Array
    """[T, 23, 3, 3] joint rotations relative to the parent."""
    world_from_body: Array
    """[T, 4, 4] orientation and pelvis position, metres."""
    contact: Array
    """[T, 6] bool: `conventions.CONTACT_SITES` that stand."""


@dataclass(kw_only=True, frozen=True)
class Build:
    """What motion needs to know of one person's shaped body in the rest pose."""

    joints: Array
    """[24, 3] joints from the pelvis, metres, body axes."""
    legs: Mapping[str, Leg]
    """By side."""
    feet: Mapping[str, Foot]
    """By side."""
    stature: float
    """Metres."""

    @staticmethod
    def of(body: Any, betas: Array) -> Build:
        """Measure a body model (`distill.body`) with shape `betas` [B]."""
        shape = torch.as_tensor(betas, dtype=torch.float32)
        rest = torch.eye(3).expand(23, 3, 3)
        points = body(shape, rest, torch.eye(4), vertex_ids=body.all_vertices)
        joints = points.joints.double().numpy()
        vertices = points.vertices.double().numpy()
        legs, feet = {}, {}
        for side, sign in SIDES.items():
            hip, knee, ankle, ball = (joints[JOINT[f"{side}_{name}"]] for name in ("hip", "knee", "ankle", "foot"))
            legs[side] = Leg(hip=hip, thigh=knee - hip, shin=ankle - knee)
            low = (vertices[:, 1] < ankle[1] - 0.03) & (sign * vertices[:, 0] > 0)
            sole = vertices[low] - ankle
            toes = sole[:, 2] > ball[2] - ankle[2]
            feet[side] = Foot(ball=ball - ankle, sole_back=sole[~toes], sole_toes=sole[toes])
        return Build(joints=joints, legs=legs, feet=feet, stature=float(body.stature(shape)))


@dataclass(kw_only=True)
class Pelvis:
    """Where the pelvis wants to be; its height is then what the legs allow."""

    xy: Array
    """[T, 2] metres."""
    rotation: Array
    """[T, 3, 3] world from body."""
    standing: float
    """Greatest height of the pelvis above the ground as a part of that with straight legs."""
    ground: Array | float = 0.0
    """[T] height of the ground below the pelvis, metres."""


def identity_pose(frames: int) -> Array:
    """[frames, 23, 3, 3] rest pose."""
    return np.tile(np.eye(3), (frames, 23, 1, 1))


def set_joint(pose: Array, joint: str, rotation: Array) -> None:
    """Write rotations [T, 3, 3] of a joint into `pose` [T, 23, 3, 3]."""
    pose[:, JOINT[joint] - 1] = rotation


def place_pelvis(build: Build, pelvis: Pelvis, feet: Mapping[str, FootTrack], *, fps: float) -> Array:
    """Pelvis positions [T, 3]: as high as both legs reach at every frame, and smooth.

    The limit is a lower envelope: the average of minima over a window is below every value in it.
    """
    limit = np.full(len(pelvis.xy), np.inf)
    straight = 0.0
    for side, leg in build.legs.items():
        hip = turn(pelvis.rotation, leg.hip)
        gap = feet[side].ankle[:, :2] - (pelvis.xy + hip[:, :2])
        room = np.sqrt(np.maximum(leg.reach**2 - (gap**2).sum(-1), 0.0))
        limit = np.minimum(limit, feet[side].ankle[:, 2] + room - hip[:, 2])
        straight += (build.feet[side].flat_height + leg.reach - leg.hip[1]) / 2
    limit = np.minimum(limit, pelvis.standing * straight + pelvis.ground)
    sigma = 0.035 * fps
    radius = max(int(np.ceil(2 * sigma)), 1)
    floor = minimum_filter1d(limit, 2 * radius + 1, mode="nearest")
    height = gaussian_filter1d(floor, max(sigma, 0.3), radius=radius, mode="nearest")
    return np.column_stack((pelvis.xy, height))


def reach_feet(build: Build, pose: Array, world_from_body: Array, feet: Mapping[str, FootTrack]) -> None:
    """Write hips, knees, ankles and toes into `pose`, so that the feet are where their tracks say."""
    body_from_world = np.swapaxes(world_from_body[:, :3, :3], -1, -2)
    for side, leg in build.legs.items():
        track = feet[side]
        ankle = turn(body_from_world, track.ankle - world_from_body[:, :3, 3])
        world_from_foot = world_from_heading(track.heading) @ rot_x(track.pitch)
        lateral = turn(body_from_world, world_from_heading(track.heading)[:, :, 0])
        hip, flexion = solve_leg(leg, ankle, lateral)
        knee = rot_x(flexion)
        set_joint(pose, f"{side}_hip", hip)
        set_joint(pose, f"{side}_knee", knee)
        set_joint(pose, f"{side}_ankle", np.swapaxes(hip @ knee, -1, -2) @ body_from_world @ world_from_foot)
        set_joint(pose, f"{side}_foot", rot_x(track.bend))


@dataclass(kw_only=True)
class Arm:
    """Angles of one arm over T frames, radians."""

    lower: Array
    """0 is the T-pose, pi/2 hangs straight down."""
    swing: Array
    """Forwards, about the shoulders' axis."""
    elbow: Array
    """Flexion."""
    twist: Array
    """Rotation of the upper arm about itself; positive turns a bent forearm upwards."""


def set_arm(pose: Array, side: str, arm: Arm) -> None:
    """Write one arm into `pose`: the collar takes a sixth of the lowering, as in people."""
    sign = SIDES[side]
    collar = arm.lower / 6
    set_joint(pose, f"{side}_collar", rot_z(-sign * collar))
    # Turn back what the collar did, so that `swing` is about the shoulders' axis whatever the collar does.
    shoulder = rot_z(sign * collar) @ rot_x(-arm.swing) @ rot_z(-sign * arm.lower) @ rot_x(-arm.twist)
    set_joint(pose, f"{side}_shoulder", shoulder)
    set_joint(pose, f"{side}_elbow", rot_y(-sign * arm.elbow))


@dataclass(kw_only=True)
class Trunk:
    """Angles of spine and head over T frames, radians, relative to the pelvis."""

    yaw: Array
    """Chest to the left."""
    roll: Array
    """Chest leaning to the right side (left up)."""
    lean: Array
    """Chest forwards."""
    head_yaw: Array
    """Head to the left, relative to the chest."""
    head_nod: Array
    """Head down, relative to the chest."""


def set_trunk(pose: Array, trunk: Trunk) -> None:
    """Write spine, neck and head into `pose`, each angle shared out over the joints."""
    part = rot_y(trunk.yaw / 3) @ rot_z(trunk.roll / 3) @ rot_x(trunk.lean / 3)
    for joint in ("spine1", "spine2", "spine3"):
        set_joint(pose, joint, part)
    half = rot_y(trunk.head_yaw / 2) @ rot_x(trunk.head_nod / 2)
    set_joint(pose, "neck", half)
    set_joint(pose, "head", half)


def finish(build: Build, pose: Array, pelvis: Array, rotation: Array, feet: Mapping[str, FootTrack]) -> BodyMotion:
    """Solve the legs and gather one person's motion."""
    world_from_body = make_rigid(rotation, pelvis)
    reach_feet(build, pose, world_from_body, feet)
    contact = np.zeros((len(pose), 6), bool)
    for index, side in enumerate(SIDES):
        contact[:, 2 * index], contact[:, 2 * index + 1] = feet[side].heel, feet[side].toe
    return BodyMotion(body_rot=pose, world_from_body=world_from_body, contact=contact)
