"""AMASS' `.npz`: one file per person with the keys that AMASS' readers know, z up, metres.

Keys (Mahmood et al., ICCV 2019, https://amass.is.tue.mpg.de): `poses` [N, 156] axis-angle (SMPL-H: pelvis, 21 body
joints, 30 finger joints, which are zero here), `trans` [N, 3], `betas` [16], `gender`, `mocap_framerate`, `dmpls`.
In SMPL's form the pelvis is at `trans` + J0(betas), and J0 belongs to the model. Three cases:

    bodies of smpl or smplx     exact: the same parameters, `trans` moved by J0 of the licensed file
    the free body, body=FILE    retargeted to that model (`distill.convert.retarget`); the error is measured and written
    the free body alone         rotations as they are. On the free body's own skeleton (`rest_joints`) they are exact;
                                what SMPL's skeleton makes of them cannot be measured without SMPL, and is not claimed

`betas` are the fitted ones in the second case and zero in the third; those of the free body are in `free_betas` and
mean nothing to SMPL. More keys of ours: `smpl_poses` [N, 72] (all 24 joints), `present`, `timestamps`, `model`,
`rest_joints` [24, 3] (skeleton of `model` at rest, in its file's axes).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from distill.body import BodyModel, load_body_model
from distill.convert.axes import Z_UP_FROM_WORLD
from distill.convert.retarget import Retargeted, retarget
from distill.convert.source import Source
from distill.convert.tracks import Poses, Track
from distill.geometry.rotations import rotvec_from_matrix

Array = NDArray[Any]
BODY_JOINTS: Final = 22
"""Pelvis and body joints that SMPL, SMPL-H and SMPL-X share; after them come fingers."""
POSES: Final = 156
BETAS: Final = 16


def write_amass(source: Source, folder: Path) -> dict[str, Any]:
    """Write `amass/person_ID.npz`, each from the first to the last frame of its person.

    Raises:
        FootfallError: nobody was found, or the licensed file of the bodies is missing or of another kind.
    """
    source.need_people("amass")
    (folder / "amass").mkdir()
    target = _target(source)
    errors: dict[str, Any] = {}
    for track in source.tracks:
        times = source.even_times
        inside = (times >= track.times[0] - 1e-9) & (times <= track.times[-1] + 1e-9)
        poses = track.at(times[inside] if inside.any() else track.times[:1])
        arrays = _arrays(source, track, poses, target)
        np.savez_compressed(folder / "amass" / f"{track.name}.npz", **arrays)
        if "retarget_error_mean_m" in arrays:
            errors[track.name] = {key: float(arrays[f"retarget_error_{key}_m"]) for key in ("mean", "max")}
    model = target.name if target is not None else source.result.motion.body_model
    facts: dict[str, Any] = {"fps": source.fps, "parameters_of": model}
    if errors:
        facts["retarget_error_m"] = errors
    elif model == "anny":
        facts["on_smpl"] = "rotations of the free body; error on SMPL not measured: add body=smpl:FILE"
    return facts


def _target(source: Source) -> BodyModel | None:
    """The model to retarget to, or None if rotations are written as they are."""
    if source.result.motion.body_model == "anny" and source.config.body:
        return load_body_model(source.config.body)
    return None


def _arrays(source: Source, track: Track, poses: Poses, target: BodyModel | None) -> dict[str, Any]:
    """All keys of a person's file."""
    root = Z_UP_FROM_WORLD[source.world] @ poses.world_from_body
    free = source.result.motion.body_model == "anny"
    betas = np.zeros_like(track.betas) if free else track.betas
    body, body_rot, extra = source.body, poses.body_rot, dict[str, Any]()
    rest, pelvis = source.rig(track).joints, _pelvis(body, track.betas)
    if target is not None:
        fitted: Retargeted = retarget(rest, root, body_rot, target, poses.present)
        body, betas, root, body_rot, rest = target, fitted.betas, fitted.world_from_body, fitted.body_rot, fitted.rest
        pelvis = _pelvis(target, betas)
        extra = {"retarget_error_mean_m": fitted.error_mean, "retarget_error_max_m": fitted.error_max}
    if free:
        extra["free_betas"] = track.betas
    turns = np.concatenate((root[:, None, :3, :3], body_rot), axis=1)
    rotvecs = rotvec_from_matrix(torch.from_numpy(turns)).numpy().reshape(len(turns), -1)
    full = np.zeros((len(turns), POSES))
    full[:, : 3 * BODY_JOINTS] = rotvecs[:, : 3 * BODY_JOINTS]
    return {
        "poses": full,
        "trans": root[:, :3, 3] - pelvis,
        "betas": np.pad(np.asarray(betas, np.float64), (0, BETAS - len(betas))),
        "gender": np.array("neutral"),
        "mocap_framerate": source.fps,
        "mocap_frame_rate": source.fps,  # as AMASS' newer files spell it
        "dmpls": np.zeros((len(turns), 8)),
        "smpl_poses": rotvecs,
        "present": poses.present,
        "timestamps": poses.times + source.start,
        "model": np.array(body.name),
        "rest_joints": rest + pelvis,
        **extra,
    }


def _pelvis(body: BodyModel, betas: Array) -> Array:
    """[3] J0(betas), metres."""
    return body.pelvis_offset(torch.from_numpy(np.asarray(betas, np.float32))).double().numpy()
