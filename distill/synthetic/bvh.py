"""Motion capture: reads BVH files and moves the rotations of CMU's skeleton over to SMPL's 24 joints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation, Slerp

from distill.errors import FootfallError
from distill.geometry.conventions import SMPL_JOINTS, SMPL_PARENTS
from distill.synthetic.axes import Array, make_rigid, normalise, turn
from distill.synthetic.motion import JOINT, BodyMotion, Build

SOURCE_JOINT: Final = {
    "pelvis": "root", "left_hip": "lfemur", "right_hip": "rfemur", "spine1": "lowerback", "left_knee": "ltibia",
    "right_knee": "rtibia", "spine2": "upperback", "left_ankle": "lfoot", "right_ankle": "rfoot",
    "spine3": "thorax", "left_foot": "ltoes", "right_foot": "rtoes", "neck": "lowerneck",
    "left_collar": "lclavicle", "right_collar": "rclavicle", "head": "head", "left_shoulder": "lhumerus",
    "right_shoulder": "rhumerus", "left_elbow": "lradius", "right_elbow": "rradius", "left_wrist": "lhand",
    "right_wrist": "rhand", "left_hand": "lfingers", "right_hand": "rfingers",
}  # fmt: skip
"""Joint of CMU's skeleton that turns each of ours."""

LIMBS: Final = tuple(
    (f"{side}_{joint}", f"{side}_{child}")
    for side in ("left", "right")
    for joint, child in (
        ("hip", "knee"), ("knee", "ankle"), ("ankle", "foot"), ("collar", "shoulder"), ("shoulder", "elbow"),
        ("elbow", "wrist"),
    )
)  # fmt: skip
"""Bones whose rest directions differ between the skeletons and are brought together."""

WORLD_FROM_BVH: Final = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])
"""BVH axes (x left, y up, z front) to world axes of someone who faces x."""


@dataclass(kw_only=True, frozen=True)
class Bvh:
    """A motion capture clip."""

    names: list[str]
    """J joints, parents first."""
    parents: list[int]
    """Of each joint; -1 is the root."""
    offsets: Array
    """[J, 3] from the parent, rest pose, in the file's unit (metres here)."""
    rotations: Array
    """[T, J, 3, 3] relative to the parent."""
    root: Array
    """[T, 3] position of the root."""
    fps: float
    """Frames per second."""

    def globals(self) -> Array:
        """[T, J, 3, 3] rotations relative to the file's axes."""
        out = self.rotations.copy()
        for joint, parent in enumerate(self.parents):
            if parent >= 0:
                out[:, joint] = out[:, parent] @ self.rotations[:, joint]
        return out


def read_bvh(path: Path) -> Bvh:
    """Read a BVH file.

    Raises:
        FootfallError: missing or not BVH.
    """
    try:
        head, motion = path.read_text(encoding="utf-8").split("MOTION", 1)
        names, parents, offsets, channels = _read_hierarchy(head.split())
        lines = motion.split("\n")
        rows = [line for line in lines if line.strip() and ":" not in line]
        step = float(next(line for line in lines if "Frame Time" in line).split(":")[1])
        values = np.array([line.split() for line in rows], np.float64)
        return _from_channels(names, parents, offsets, channels, values, 1 / step)
    except (OSError, ValueError, LookupError, TypeError, StopIteration, ArithmeticError, RecursionError) as error:
        raise FootfallError(str(path), got=error, expected="a BVH file", do="check the path and the file") from error


def _read_hierarchy(words: list[str]) -> tuple[list[str], list[int], Array, list[list[str]]]:
    names: list[str] = []
    parents: list[int] = []
    offsets: list[list[float]] = []
    channels: list[list[str]] = []
    stack: list[int] = []
    current, at = -1, 0
    while at < len(words):
        word = words[at]
        if word in ("ROOT", "JOINT"):
            names.append(words[at + 1])
            parents.append(stack[-1] if stack else -1)
            offsets.append([])
            current = len(names) - 1
        elif word == "End":
            current = -2  # an end site: its offset is skipped
        elif word == "{":
            stack.append(current)
        elif word == "}":
            stack.pop()
        elif word == "OFFSET" and current >= 0:
            offsets[current] = [float(value) for value in words[at + 1 : at + 4]]
        elif word == "CHANNELS":
            channels.append(words[at + 2 : at + 2 + int(words[at + 1])])
        at += 1
    return names, parents, np.array(offsets), channels


def _from_channels(
    names: list[str], parents: list[int], offsets: Array, channels: list[list[str]], values: Array, fps: float
) -> Bvh:
    rotations = np.tile(np.eye(3), (len(values), len(names), 1, 1))
    root = np.zeros((len(values), 3))
    column = 0
    for joint, labels in enumerate(channels):
        part = values[:, column : column + len(labels)]
        column += len(labels)
        order = "".join(label[0] for label in labels if label.endswith("rotation"))
        angles = part[:, [index for index, label in enumerate(labels) if label.endswith("rotation")]]
        # Channels apply from left to right about the moving axes: upper case in scipy.
        rotations[:, joint] = Rotation.from_euler(order, angles, degrees=True).as_matrix()
        if parents[joint] < 0:
            root = part[:, ["XYZ".index(label[0]) for label in labels if label.endswith("position")]]
    if column != values.shape[1]:
        raise ValueError(f"{values.shape[1]} numbers in a frame, {column} channels")
    return Bvh(names=names, parents=parents, offsets=offsets, rotations=rotations, root=root, fps=fps)


def retarget(clip: Bvh, build: Build, times: Array, *, begin: float, heading: float, origin: Array) -> BodyMotion:
    """The clip's motion on another body.

    Rotations are taken over in a common pose: where our rest direction of a limb differs from the clip's,
    the difference is turned first. The root's path is scaled by the legs, so that steps fit. No foot is
    planted: what the capture does is kept, and no contact is claimed here (`contacts_from_motion` does that).

    Args:
        clip: motion capture.
        build: the body.
        times: [T] seconds.
        begin: seconds into the clip of time 0.
        heading: radians by which the clip is turned in the world.
        origin: [2] where the first frame's root stands.

    Raises:
        FootfallError: joints of CMU's skeleton are missing, or the clip is too short.
    """
    missing = sorted(set(SOURCE_JOINT.values()) - set(clip.names))
    if missing:
        raise FootfallError("motion capture", got=f"no joints {missing}", expected="CMU's skeleton", do="convert it")
    last = (len(clip.root) - 1) / clip.fps
    if begin + times[-1] > last:
        raise FootfallError(
            "motion capture",
            got=f"{last:.2f} s",
            expected=f"{begin + times[-1]:.2f} s or more",
            do="ask for fewer frames",
        )
    stamps = np.arange(len(clip.root)) / clip.fps
    source = clip.globals()
    aligned = _alignment(clip, build)
    turned = np.stack(
        [
            Slerp(stamps, Rotation.from_matrix(source[:, clip.names.index(SOURCE_JOINT[name])]))(
                begin + times
            ).as_matrix()
            @ aligned[name]
            for name in SMPL_JOINTS
        ],
        axis=1,
    )
    pose = np.stack(
        [np.swapaxes(turned[:, SMPL_PARENTS[joint]], -1, -2) @ turned[:, joint] for joint in range(1, 24)], axis=1
    )
    spin = Rotation.from_euler("z", heading).as_matrix() @ WORLD_FROM_BVH
    scale = _leg_length(build.joints) / _leg_length(_rest_joints(clip))
    root = np.stack([np.interp(begin + times, stamps, clip.root[:, axis]) for axis in range(3)], axis=-1) * scale
    position = turn(spin, root - root[0] * [1, 0, 1])
    position[:, :2] += origin
    return BodyMotion(
        body_rot=pose,
        world_from_body=make_rigid(spin @ turned[:, 0], position),
        contact=np.zeros((len(times), 6), bool),
    )


def _rest_joints(clip: Bvh) -> Array:
    """[24, 3] our joints in the clip's rest pose."""
    positions = clip.offsets.copy()
    for joint, parent in enumerate(clip.parents):
        if parent >= 0:
            positions[joint] += positions[parent]
    return positions[[clip.names.index(SOURCE_JOINT[name]) for name in SMPL_JOINTS]]


def _leg_length(joints: Array) -> float:
    path = joints[[JOINT["left_hip"], JOINT["left_knee"], JOINT["left_ankle"]]]
    return float(np.linalg.norm(np.diff(path, axis=0), axis=-1).sum())


def _alignment(clip: Bvh, build: Build) -> dict[str, Array]:
    """Rotation per joint that brings our rest direction of its bone to the clip's."""
    source = _rest_joints(clip)
    aligned = {name: np.eye(3) for name in SMPL_JOINTS}
    for joint, child in LIMBS:
        ours, theirs = (normalise(rest[JOINT[child]] - rest[JOINT[joint]]) for rest in (build.joints, source))
        axis, cosine = np.cross(ours, theirs), float(ours @ theirs)
        sine = float(np.linalg.norm(axis))
        aligned[joint] = Rotation.from_rotvec(axis / max(sine, 1e-9) * np.arctan2(sine, cosine)).as_matrix()
    return aligned


def contacts_from_motion(sites: Array, fps: float) -> Array:
    """Contacts [T, 6] bool from site positions [T, 6, 3]: slower than 0.25 m/s and lower than 5 cm."""
    smooth = gaussian_filter1d(sites, 1.0, axis=0, mode="nearest")
    speed = np.linalg.norm(np.gradient(smooth, 1 / fps, axis=0), axis=-1)
    return (speed < 0.25) & (sites[..., 2] < 0.05)
