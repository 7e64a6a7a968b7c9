"""Fast movements on top of a clip's own: a clap of the hands, a kick. They show what smoothing takes away."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Literal

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from distill.geometry.conventions import SMPL_JOINTS
from distill.synthetic import SyntheticClip
from distill.synthetic.world import free_body
from teacher.stagefiles import Array

Fast = Literal["", "clap", "kick"]
PERIOD_S: Final = 1.2
"""Seconds from one movement to the next."""
PULSE_SD_S: Final = 0.09
"""Standard deviation in time of one movement: a hand reaches about 4 m/s, a foot 7 m/s."""
RIGHT_FOOT: Final = (2, 3)
"""Contact sites of the foot that kicks."""


def with_fast(clip: SyntheticClip, kind: Fast) -> SyntheticClip:
    """The clip with everybody clapping, or kicking with the right leg; the truth follows."""
    if not kind:
        return clip
    times = clip.truth.cameras.timestamps
    phase = (times % PERIOD_S) - PERIOD_S / 2
    pulse = np.exp(-0.5 * (phase / PULSE_SD_S) ** 2)  # [T], 0 to 1 and back
    motion = clip.truth.motion
    body_rot, contact = np.array(motion.body_rot, np.float64), motion.contact_prob.copy()
    turns = (
        {"left_shoulder": (0, -1.2, 0), "right_shoulder": (0, 1.2, 0)}
        if kind == "clap"
        else {"right_hip": (-1.2, 0, 0), "right_knee": (0.5, 0, 0)}
    )
    for joint, turn in turns.items():
        index = SMPL_JOINTS.index(joint) - 1
        added = Rotation.from_rotvec(pulse[:, None] * np.asarray(turn)).as_matrix()
        body_rot[:, :, index] = added[:, None] @ body_rot[:, :, index]
    if kind == "kick":
        contact[np.ix_(np.flatnonzero(pulse > 0.01), np.arange(contact.shape[1]), np.array(RIGHT_FOOT))] = 0
    joints = _joints(motion.betas, body_rot, motion.cam_from_body)
    moved = replace(motion, body_rot=body_rot, contact_prob=contact, joints_cam=joints)
    return replace(clip, truth=replace(clip.truth, motion=moved))


def _joints(betas: Array, body_rot: Array, cam_from_body: Array) -> Array:
    """[T, P, 24, 3] joints in the camera."""
    arrays = (np.broadcast_to(betas, (len(body_rot), *betas.shape)), body_rot, cam_from_body)
    tensors = (torch.from_numpy(np.array(array, np.float32)) for array in arrays)
    return np.asarray(free_body()(*tensors).joints.double().numpy())
