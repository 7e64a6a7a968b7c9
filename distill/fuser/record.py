"""Observations of a clip in one file, so that the fuser can be tuned and measured again without the network.

clip.npz
    timestamps [T] s
    camera_frame [N], camera_gap [N], camera_move [N, 4, 4], camera_log_var [N, 2]         camera motions of the heads
    corner_frame [C], corner_gap [C], corner_move [C, 4, 4], corner_log_var [C, 2]         the same from corners
    person_frame [M], person_id [M], cam_from_body [M, 4, 4], root_log_var [M, 3], contact_prob [M, 6],
    feet [M, 4, 3], joints [M, 24, 3]                                                      people, one row per frame
    motion_row [L] (row of the person), motion_gap [L], motion_move [L, 4, 4], motion_log_var [L, 2]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distill.errors import refuse_damage
from distill.files import load_arrays, save_arrays
from distill.fuser.observation import FrameObservation, Motions, PersonObservation
from distill.fuser.so3 import Array

Joints = list[dict[int, Array]]
"""For every frame: person's id -> [24, 3] joints in the body, metres."""


def save_observations(path: Path, observations: Sequence[FrameObservation], joints: Joints | None = None) -> None:
    """Write a clip; without `joints`, those are written as zeros."""
    people = [(k, person, seen) for k, frame in enumerate(observations) for person, seen in frame.people.items()]
    camera = _rows([frame.camera for frame in observations])
    corner = _rows([frame.corners for frame in observations])
    motion = _rows([seen.motions for _, _, seen in people])
    save_arrays(path, {
        "timestamps": np.array([frame.timestamp for frame in observations]),
        "camera_frame": camera[0], "camera_gap": camera[1], "camera_move": camera[2], "camera_log_var": camera[3],
        "corner_frame": corner[0], "corner_gap": corner[1], "corner_move": corner[2], "corner_log_var": corner[3],
        "person_frame": np.array([k for k, _, _ in people], np.int64),
        "person_id": np.array([person for _, person, _ in people], np.int64),
        "cam_from_body": np.array([seen.cam_from_body for _, _, seen in people]).reshape(-1, 4, 4),
        "root_log_var": np.array([seen.root_log_var for _, _, seen in people]).reshape(-1, 3),
        "contact_prob": np.array([seen.contact_prob for _, _, seen in people]).reshape(-1, 6),
        "feet": np.array([seen.feet for _, _, seen in people]).reshape(-1, 4, 3),
        "joints": (
            np.array([joints[k][person] for k, person, _ in people]).reshape(-1, 24, 3)
            if joints is not None else np.zeros((len(people), 24, 3))
        ),
        "motion_row": motion[0], "motion_gap": motion[1], "motion_move": motion[2], "motion_log_var": motion[3],
    })  # fmt: skip


def _rows(motions: Sequence[Motions]) -> tuple[Any, Any, Any, Any]:
    """Motions of several owners as rows: owner, gap, move, log variance."""
    none = Motions()
    return (
        np.repeat(np.arange(len(motions)), [len(m.gaps) for m in motions]),
        np.concatenate([m.gaps for m in motions] or [none.gaps]),
        np.concatenate([m.past_from_now for m in motions] or [none.past_from_now]),
        np.concatenate([m.log_var for m in motions] or [none.log_var]),
    )


def load_observations(path: Path) -> tuple[list[FrameObservation], Joints]:
    """Read what `save_observations` wrote.

    Raises:
        FootfallError: not such a file.
    """
    a, _ = load_arrays(path)
    with refuse_damage(path, expected="observations of a stream", do="record them again"):
        return _observations(a)


def _observations(a: dict[str, Any]) -> tuple[list[FrameObservation], Joints]:
    observations = []
    joints: Joints = []
    for k, time in enumerate(a["timestamps"]):
        camera, corners = (_motions(a, kind, a[f"{kind}_frame"] == k) for kind in ("camera", "corner"))
        observations.append(FrameObservation(timestamp=float(time), camera=camera, corners=corners))
        joints.append({})
    for row, (k, person) in enumerate(zip(a["person_frame"].tolist(), a["person_id"].tolist(), strict=True)):
        observations[k].people[person] = PersonObservation(
            cam_from_body=a["cam_from_body"][row], root_log_var=a["root_log_var"][row],
            contact_prob=a["contact_prob"][row], feet=a["feet"][row],
            motions=_motions(a, "motion", a["motion_row"] == row),
        )  # fmt: skip
        joints[k][person] = a["joints"][row]
    return observations, joints


def _motions(arrays: dict[str, Any], kind: str, rows: Any) -> Motions:
    return Motions(
        gaps=arrays[f"{kind}_gap"][rows], past_from_now=arrays[f"{kind}_move"][rows],
        log_var=arrays[f"{kind}_log_var"][rows],
    )  # fmt: skip
