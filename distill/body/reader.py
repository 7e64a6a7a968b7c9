"""Read body files in SMPL's form: the shipped free body, and users' own SMPL files."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.body.model import BodyArrays, BodyModel
from distill.errors import FootfallError, refuse_damage
from distill.files import load_arrays
from distill.geometry.conventions import KEYPOINTS, SMPL_JOINTS, SMPL_PARENTS

_SHIPPED = "data/anny24.npz"


def load_body_model(spec: str = "anny") -> BodyModel:
    """A body model by name.

    Args:
        spec: "anny" (shipped), "smpl:FILE" (npz or pkl) or "smplx:FILE" (npz).

    Raises:
        FootfallError: an unknown name, a missing file, or a file that is no body.
    """
    kind, _, path = spec.partition(":")
    if kind == "anny" and not path:
        with resources.as_file(resources.files("distill.body") / _SHIPPED) as file:
            arrays, _ = load_arrays(file)
        return BodyModel(body_arrays("anny", arrays, _SHIPPED))
    if kind in ("smpl", "smplx") and path:
        from distill.body.licensed import load_smpl, load_smplx

        with refuse_damage(path, expected=f"a file of the {kind} model", do="get it again from its licensed site"):
            return load_smpl(Path(path)) if kind == "smpl" else load_smplx(Path(path))
    raise FootfallError(
        f"body model {spec!r}", got="an unknown name", expected="'anny', 'smpl:FILE' or 'smplx:FILE'",
        do="correct the config (SMPL files come from their licensed site)",
    )  # fmt: skip


def body_arrays(name: str, raw: dict[str, Any], source: str) -> BodyArrays:
    """Check and convert the arrays of a body file in SMPL's form.

    Joints come from `J_template` and `J_shapedirs`, or from `J_regressor` [24, V] applied to both. Keypoints
    come from `keypoint_ids` and `keypoint_weights`, or from joints' neighbourhoods if there are none.

    Raises:
        FootfallError: an array is missing or has another shape.
    """
    try:
        template = _tensor(raw["v_template"])
        shapedirs = _tensor(raw["shapedirs"])[..., :10]
        weights = _tensor(raw["weights"])
        faces = torch.as_tensor(np.asarray(raw["f"]).astype(np.int64))
        parents = np.asarray(raw["kintree_table"])[0] if "kintree_table" in raw else np.asarray(raw["parents"])
        if "J_template" in raw:
            joints, joint_dirs = _tensor(raw["J_template"]), _tensor(raw["J_shapedirs"])
        else:
            regressor = raw["J_regressor"]
            regressor = _tensor(regressor.toarray() if hasattr(regressor, "toarray") else regressor)
            joints = regressor @ template
            joint_dirs = torch.einsum("jv,vdb->jdb", regressor, shapedirs)
    except (KeyError, IndexError) as error:
        raise _not_a_body(source, f"no array {error}") from error
    vertices, joint_count = len(template), len(SMPL_JOINTS)
    shapes = {
        "v_template": (template, (vertices, 3)),
        "shapedirs": (shapedirs, (vertices, 3, shapedirs.shape[-1])),
        "weights": (weights, (vertices, joint_count)),
        "joints": (joints, (joint_count, 3)),
    }
    for key, (array, shape) in shapes.items():
        if tuple(array.shape) != shape or not torch.isfinite(array).all():
            raise _not_a_body(source, f"{key} of shape {tuple(array.shape)}, wanted {shape} and finite")
    if tuple(parents[1:].astype(np.int64)) != SMPL_PARENTS[1:]:
        raise _not_a_body(source, "another kinematic tree")
    if "keypoint_ids" in raw:
        ids, key_weights = torch.as_tensor(raw["keypoint_ids"].astype(np.int64)), _tensor(raw["keypoint_weights"])
    else:
        ids, key_weights = _keypoints_from_joints(template, joints)
    posedirs = _tensor(raw["posedirs"]) if "posedirs" in raw else None
    return BodyArrays(
        name=name, v_template=template, shapedirs=shapedirs, weights=weights, faces=faces, joint_template=joints,
        joint_shapedirs=joint_dirs[..., :10], keypoint_ids=ids, keypoint_weights=key_weights, posedirs=posedirs,
    )  # fmt: skip


def _tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32))


def _not_a_body(source: str, got: str) -> FootfallError:
    return FootfallError(
        f"body file {source}", got=got, expected="a body in SMPL's form with 24 joints",
        do="check that the file is the right model and not damaged",
    )  # fmt: skip


# Keypoint -> where it lies relative to a joint of the T-pose, as a fraction of the trunk (pelvis to neck):
# (joint, x outwards, y up, z front). Used for meshes that carry no keypoint regressor of their own.
_KEYPOINT_PLACES: dict[str, tuple[str, float, float, float]] = {
    "nose": ("head", 0.0, 0.08, 0.25),
    "eye": ("head", 0.06, 0.15, 0.2),
    "ear": ("head", 0.14, 0.1, 0.02),
    "shoulder": ("shoulder", 0.0, 0.0, 0.0),
    "elbow": ("elbow", 0.0, 0.0, 0.0),
    "wrist": ("wrist", 0.0, 0.0, 0.0),
    "hip": ("hip", 0.0, 0.0, 0.0),
    "knee": ("knee", 0.0, 0.0, 0.0),
    "ankle": ("ankle", 0.0, 0.0, 0.0),
    "big_toe": ("foot", -0.04, -0.05, 0.12),
    "small_toe": ("foot", 0.09, -0.05, 0.03),
    "heel": ("ankle", 0.0, -0.15, -0.12),
}


def _keypoints_from_joints(template: Tensor, joints: Tensor, count: int = 24) -> tuple[Tensor, Tensor]:
    """Keypoints as the mean of the vertices nearest to their place on the body."""
    trunk = (joints[SMPL_JOINTS.index("neck")] - joints[0]).norm()
    ids = []
    for name in KEYPOINTS:
        side, _, part = name.partition("_") if name.startswith(("left", "right")) else ("", "", name)
        joint, x, y, z = _KEYPOINT_PLACES[part]
        centre = joints[SMPL_JOINTS.index(f"{side}_{joint}" if side and joint != "head" else joint)]
        outwards = -x if side == "right" else x
        place = centre + trunk * torch.tensor([outwards, y, z])
        distance = (template - place).norm(dim=-1)
        ids.append(distance.argsort()[: min(count, len(template))])
    stacked = torch.stack(ids)
    return stacked, torch.full(stacked.shape, 1.0 / stacked.shape[1])
