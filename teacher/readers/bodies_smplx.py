"""Readers of systems that write SMPL-X bodies: GVHMR, PromptHMR and Human3R.

Facts about the formats come from the systems' public code: GVHMR `tools/demo/demo.py`, PromptHMR `pipeline/*.py`,
Human3R `demo.py --save_smpl` and `src/dust3r/utils/smpl_layer.py`. Our SMPL-X has flat hands; fingers, jaw and eyes
are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from distill.errors import FootfallError
from teacher.readers.outside import (
    BODY_JOINTS,
    Array,
    OutsideBodies,
    OutsideTrack,
    array_of,
    frame_numbers,
    make_track,
    rotations_from_vectors,
    with_hands,
)
from teacher.readers.pickled import load_npz, load_pickled

SHAPES: Final = 10
HUMAN3R_JOINTS: Final = 53
"""Root, 21 of the body, 30 of the fingers, jaw."""


def read_gvhmr(path: Path, size: tuple[int, int]) -> OutsideBodies:
    """GVHMR's `hmr4d_results.pt`: one person in every frame of the video.

    {smpl_params_incam: {global_orient [L, 3], body_pose [L, 63], betas [L, 10], transl [L, 3]}, K_fullimg [L, 3, 3]},
    axis times angle, SMPL-X's transl in the camera; the principal point of K is the middle of the image.

    Args:
        path: the file.
        size: width and height of the images of the clip (not needed here, but of every reader).

    Raises:
        FootfallError: not such a file.
    """
    where = str(path)
    content = load_pickled(path)
    K = array_of(where, content, "K_fullimg", (None, 3, 3))
    params = content.get("smpl_params_incam")
    at = f"{where}, smpl_params_incam"
    vectors = array_of(at, params, "body_pose", (None, 3 * BODY_JOINTS)).reshape(-1, BODY_JOINTS, 3)
    count = len(vectors)
    if len(K) != count:
        raise FootfallError(
            where, got=f"{len(K)} matrices K for {count} poses", expected="as many of both", do="write the file again"
        )
    track = make_track(
        at, "1", frames=np.arange(count),
        root_rot=rotations_from_vectors(array_of(at, params, "global_orient", (count, 3))),
        body_rot=with_hands(rotations_from_vectors(vectors)),
        position=array_of(at, params, "transl", (count, 3)), betas=array_of(at, params, "betas", (count, SHAPES)),
        focal=K[:, 0, 0],
    )  # fmt: skip
    return OutsideBodies(
        where=where, body_model="smplx", anchor="transl", size=(2 * K[0, 0, 2], 2 * K[0, 1, 2]), tracks=[track]
    )


def read_prompthmr(path: Path, size: tuple[int, int]) -> OutsideBodies:
    """PromptHMR-Vid's `results.pkl`: {people: {id: {frames [N], smplx_cam: {...}}}, camera: {img_focal, img_center}}.

    `smplx_cam` holds rotmat [N, 55, 3, 3] (the hands are left empty there), shape [N, 10] and SMPL-X's trans [N, 3]
    in the camera. Frames are numbered after that program's limit of 60 frames a second; videos at or below that
    rate keep their numbers.

    Raises:
        FootfallError: not such a file.
    """
    where = str(path)
    content = load_pickled(path)
    people = content.get("people") if isinstance(content, dict) else None
    if not isinstance(people, dict) or not people:
        raise FootfallError(
            where, got="no people", expected="{people: {id: {frames, smplx_cam}}, camera}",
            do="give the results.pkl of PromptHMR-Vid",
        )  # fmt: skip
    camera = content.get("camera", {})
    focal = float(array_of(f"{where}, camera", camera, "img_focal", ()))
    centre = array_of(f"{where}, camera", camera, "img_center", (2,))
    tracks = []
    for name, person in people.items():
        at = f"{where}, person {name}"
        body = person.get("smplx_cam") if isinstance(person, dict) else None
        rotations = array_of(at, {"rotmat": _entry(at, body, "rotmat")[:, : BODY_JOINTS + 1]}, "rotmat",
                             (None, BODY_JOINTS + 1, 3, 3))  # fmt: skip
        count = len(rotations)
        position = _entry(at, body, "trans")
        tracks.append(
            make_track(
                at, str(name), frames=frame_numbers(at, "frames", array_of(at, person, "frames", (None,)), count),
                root_rot=rotations[:, 0], body_rot=with_hands(rotations[:, 1:]),
                position=array_of(at, {"trans": position.reshape(len(position), -1)}, "trans", (count, 3)),
                betas=array_of(at, {"shape": _entry(at, body, "shape")}, "shape", (count, SHAPES)), focal=focal,
            )
        )  # fmt: skip
    size_there = (2 * float(centre[0]), 2 * float(centre[1]))
    return OutsideBodies(where=where, body_model="smplx", anchor="transl", size=size_there, tracks=tracks)


def _entry(where: str, source: Any, key: str) -> Array:
    if not isinstance(source, Mapping) or key not in source or np.ndim(source[key]) < 2:
        raise FootfallError(
            where, got=f"no smplx_cam with {key}", expected="smplx_cam: {rotmat, shape, trans}",
            do="give the results.pkl of PromptHMR-Vid",
        )  # fmt: skip
    return np.asarray(source[key])


def read_human3r(path: Path, size: tuple[int, int]) -> OutsideBodies:
    """Human3R's folder `smpl/` (`demo.py --save_smpl`): one `%06d.npz` per frame.

    Each holds rotvec [n, 53, 3], shape [n, 10], transl [n, 3], smpl_id [n] of n people, cam2world [4, 4] and
    intrinsics [3, 3] in pixels of the network's own image. `transl` is where the HEAD joint is in the camera, not
    SMPL-X's transl. The focal length changes from frame to frame.

    Raises:
        FootfallError: no such files, or of another kind.
    """
    where = str(path)
    rows: dict[str, list[dict[str, Any]]] = {}
    size_there = (0.0, 0.0)
    for frame, file in human3r_files(path):
        content = load_npz(file, ("rotvec", "shape", "transl", "smpl_id", "intrinsics", "scores"))
        K = array_of(str(file), content, "intrinsics", (3, 3))
        size_there = (2 * K[0, 2], 2 * K[1, 2])
        rotvec = array_of(str(file), content, "rotvec", (None, HUMAN3R_JOINTS, 3))
        count = len(rotvec)
        shape = array_of(str(file), content, "shape", (count, None))
        transl = array_of(str(file), content, "transl", (count, 3))
        ids = np.asarray(content.get("smpl_id", np.arange(count))).reshape(-1)
        if shape.shape[1] < SHAPES or len(ids) != count:
            raise FootfallError(
                str(file), got=f"shape {list(shape.shape)} and {len(ids)} ids for {count} people",
                expected=f"{SHAPES} or more shape coefficients and one id per person", do="write the file again",
            )  # fmt: skip
        for k, name in enumerate(ids):
            row = {"frame": frame, "focal": K[0, 0], "shape": shape[k, :SHAPES]}
            row |= {"rotvec": rotvec[k], "transl": transl[k]}
            rows.setdefault(str(int(name)), []).append(row)
    if not rows:
        raise FootfallError(where, got="nobody in any frame", expected="people", do="check the path")
    tracks = [_human3r_track(f"{where}, person {name}", name, track) for name, track in rows.items()]
    return OutsideBodies(where=where, body_model="smplx", anchor="head", size=size_there, tracks=tracks)


def _human3r_track(where: str, name: str, rows: list[dict[str, Any]]) -> OutsideTrack:
    stacked: dict[str, Array] = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    rotations = rotations_from_vectors(stacked["rotvec"])
    return make_track(
        where, name, frames=frame_numbers(where, "frames", stacked["frame"], len(rows)), root_rot=rotations[:, 0],
        body_rot=with_hands(rotations[:, 1 : BODY_JOINTS + 1]), position=stacked["transl"], betas=stacked["shape"],
        focal=stacked["focal"],
    )  # fmt: skip


def human3r_files(path: Path) -> list[tuple[int, Path]]:
    """(frame, file) of `smpl/%06d.npz`, in order.

    Raises:
        FootfallError: there is none.
    """
    folder = path / "smpl" if (path / "smpl").is_dir() else path
    found = sorted((int(f.stem), f) for f in folder.glob("*.npz") if f.stem.isdigit())
    if not found:
        raise FootfallError(
            str(path), got="no numbered .npz", expected="smpl/%06d.npz of Human3R",
            do="run its demo with --save_smpl and give its output folder",
        )  # fmt: skip
    return found
