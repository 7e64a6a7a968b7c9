"""Contacts from labels on SMPL's 6890 vertices, as DECO and BSTRO write them.

A site's probability is the mean label of its vertices: those that `find_sites` takes for that site on the user's
SMPL mesh, and that the joint solve holds on to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from distill.body import BodyModel
from distill.errors import FootfallError
from distill.geometry.conventions import CONTACT_SITES
from teacher.readers.attach import Placed, match, place
from teacher.readers.bodies_smpl import SMPL_VERTICES, read_tram, tram_tracks
from teacher.readers.clip_frames import ClipFrames
from teacher.readers.pickled import load_npz, load_pickled
from teacher.stagefiles import CameraInit, Contacts, People

Array = NDArray[Any]
LABEL_KEYS: Final = ("contact", "contacts", "labels")
"""Names under which an .npz may hold its one array of labels."""


def read_vertex_labels(path: Path, body: BodyModel, frames: ClipFrames, people: People) -> Contacts:
    """Labels [T, 6890] (one person) or [T, P, 6890] in [0, 1], T frames of the video, P in the order of the clip.

    Raises:
        FootfallError: not such an array, or not of this video and its people.
    """
    labels = checked_labels(path)
    count = people.visible.shape[1]
    labels = labels[:, None] if labels.ndim == 2 else labels
    if labels.shape[1] != count:
        raise FootfallError(
            str(path), got=f"labels of {labels.shape[1]} people", expected=f"{count}, as the clip's people stage has",
            do="write them as [frames, people, 6890] in the order of the tracks, with zeros for those without labels",
        )  # fmt: skip
    prob = site_probabilities(labels[frames.rows_of(str(path), len(labels))], body, str(path))
    prob[~people.visible] = 0
    return Contacts(prob=prob.astype(np.float32))


def read_deco(path: Path, body: BodyModel, frames: ClipFrames, people: People, cameras: CameraInit) -> Contacts:
    """JOSH's `deco/hps_track_*.npy` ([N, 6890] of 0 and 1), rows as in `tram/hps_track_*.npy` beside them.

    Frames without a label are 0: nobody knows of a contact there.

    Raises:
        FootfallError: no such files, tracks whose rows do not belong to their bodies, or nobody of this clip.
    """
    outside = read_tram(path, frames.size)
    labels: dict[str, Array] = {}
    for body_file, track in zip(tram_tracks(path), outside.tracks, strict=True):
        file = path / "deco" / body_file.name
        labels[track.name] = checked_labels(file)
        if labels[track.name].shape != (len(track.frames), SMPL_VERTICES):
            raise FootfallError(
                str(file), got=f"labels of shape {list(labels[track.name].shape)} for {len(track.frames)} bodies",
                expected="one row per body of that track",
                do="run DECO again on the frames that the track file names (short pieces of a track are dropped there)",
            )  # fmt: skip
    placed, _ = place(outside, body, frames.numbers, frames.size, cameras.K)
    match(placed, people, str(path))
    prob = np.zeros((*people.visible.shape, len(CONTACT_SITES)))
    for piece in sorted((p for p in placed if p.person is not None), key=lambda p: p.overlap):
        prob[piece.rows, piece.person] = site_probabilities(_rows(piece, labels), body, str(path))
    return Contacts(prob=prob.astype(np.float32))


def _rows(piece: Placed, labels: dict[str, Array]) -> Array:
    return labels[piece.name][piece.source_rows]


def checked_labels(path: Path) -> Array:
    """Labels [..., 6890] in [0, 1] of an `.npy`, `.npz` or pickled array.

    Raises:
        FootfallError: another shape, or numbers outside [0, 1].
    """
    content = load_npz(path, LABEL_KEYS) if path.suffix == ".npz" else load_pickled(path)
    if isinstance(content, dict):
        content = next((content[key] for key in LABEL_KEYS if key in content), None)
    try:
        labels = np.asarray(content, np.float64)
    except (TypeError, ValueError):
        labels = np.zeros(0)
    if labels.ndim not in (2, 3) or labels.shape[-1] != SMPL_VERTICES:
        raise FootfallError(
            str(path), got=f"labels of shape {list(labels.shape)}",
            expected=f"[frames, {SMPL_VERTICES}] on SMPL's mesh",
            do="give labels on the vertices of SMPL (not SMPL-X)",
        )  # fmt: skip
    if not np.isfinite(labels).all() or labels.min(initial=0) < 0 or labels.max(initial=0) > 1:
        raise FootfallError(
            str(path), got=f"labels from {np.min(labels):.3g} to {np.max(labels):.3g}",
            expected="probabilities in [0, 1]", do="apply the sigmoid before saving",
        )  # fmt: skip
    return labels


def site_probabilities(labels: Array, body: BodyModel, where: str) -> Array:
    """Mean label [..., 6] of the vertices of each contact site; labels [..., 6890].

    Raises:
        FootfallError: the body is not SMPL's mesh.
    """
    if body.name != "smpl" or body.num_vertices != labels.shape[-1]:
        raise FootfallError(
            f"contacts of {where}", got=f"contacts.body_model of the kind {body.name!r} ({body.num_vertices} vertices)",
            expected=f"smpl:FILE with {labels.shape[-1]} vertices, the mesh that was labelled",
            do="set contacts.body_model=smpl:FILE, your licensed file",
        )  # fmt: skip
    return np.stack([labels[..., body.site_vertices[site].numpy()].mean(-1) for site in CONTACT_SITES], axis=-1)
