"""One result made ready for the page: where every bone, contact and camera is at any time, worked out once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from distill.body import BodyModel
from distill.body.model import forward_kinematics
from distill.convert.axes import Z_UP_FROM_WORLD
from distill.convert.config import ConvertConfig
from distill.convert.rig import Rig
from distill.convert.source import Source
from distill.convert.tracks import SAME, Track
from distill.geometry.rotations import quat_from_matrix

Array = NDArray[Any]
CHUNK: Final = 256
"""Frames whose contact sites are posed at once."""


@dataclass(kw_only=True)
class Person:
    """A person over the K frames in which they are present, in the result's world."""

    track: Track
    """Whose."""
    rig: Rig
    """Mesh and skeleton at rest."""
    bone_quats: Array
    """[K, 24, 4] wxyz of the joints in the world."""
    bone_places: Array
    """[K, 24, 3] metres."""
    sites: Array
    """[K, 6, 3] contact sites, metres."""
    contact_prob: Array
    """[K, 6]."""
    confidence: Array
    """[K] 0 to 1."""
    sigma_m: Array | None
    """[K] standard deviation per axis of the pelvis, metres, where one was stated."""

    def frame_at(self, seconds: float) -> int | None:
        """Row of the latest frame at or before a time, or None while they are absent."""
        if not self.track.present_at(np.array([seconds]))[0]:
            return None
        return int(np.searchsorted(self.track.times, seconds + SAME, side="right")) - 1


@dataclass(kw_only=True)
class Clip:
    """A result as the page shows it."""

    name: str
    """Shown, and the name of its nodes."""
    source: Source
    """The result."""
    people: list[Person]
    """Of everybody who was seen."""
    page_from_world: Array
    """[4, 4] rigid: the page is z up, and results beside the first are turned onto it."""

    def camera_at(self, seconds: float) -> int:
        """Frame of the camera at a time: the latest at or before it."""
        return max(0, int(np.searchsorted(self.source.times, seconds + SAME, side="right")) - 1)


def read_clips(folders: list[Path], body: str) -> list[Clip]:
    """Read results; names are the last parts of their paths that tell them apart.

    Raises:
        FootfallError: a folder is no result, or a licensed body's file is missing.
    """
    sources = [Source(folder, ConvertConfig(body=body)) for folder in folders]
    return [
        Clip(
            name=name,
            source=source,
            people=[_person(source, track) for track in source.tracks],
            page_from_world=place_beside(sources[0], source),
        )
        for name, source in zip(short_names(folders), sources, strict=True)
    ]


def short_names(folders: list[Path]) -> list[str]:
    """Names that differ: as few last parts of each path as do, joined by `_`; numbered if the paths are equal."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(len(part) for part in parts) + 1):
        names = ["_".join(part[-depth:]).strip("/") for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{number}_{folder.name}" for number, folder in enumerate(folders)]


def place_beside(first: Source, other: Source) -> Array:
    """[4, 4] page from the world of `other`: such that the cameras agree in the first frame that both measured.

    Without such a frame, or for the first itself, only up is turned to z.
    """
    page_from_world = Z_UP_FROM_WORLD[first.world]
    ours, theirs = first.result.cameras, other.result.cameras
    if other is first or not (first.has_camera and other.has_camera):
        return Z_UP_FROM_WORLD[other.world]
    gaps = np.abs(ours.timestamps[ours.valid][:, None] - theirs.timestamps[theirs.valid])
    close = np.argwhere(gaps < 0.5 / first.own_fps)
    if len(close) == 0:
        return Z_UP_FROM_WORLD[other.world]
    row, column = close[0]
    return (
        page_from_world
        @ ours.world_from_cam[ours.valid][row]
        @ np.linalg.inv(theirs.world_from_cam[theirs.valid][column])
    )


def _person(source: Source, track: Track) -> Person:
    rig, motion = source.rig(track), source.result.motion
    rest = torch.from_numpy(rig.joints).expand(len(track.times), -1, -1)
    turns, places = forward_kinematics(rest, torch.from_numpy(track.body_rot), torch.from_numpy(track.world_from_body))
    here = motion.present[:, track.index]
    return Person(
        track=track,
        rig=rig,
        bone_quats=quat_from_matrix(turns).numpy(),
        bone_places=places.numpy(),
        sites=_sites(source.body, track),
        contact_prob=motion.contact_prob[here, track.index],
        confidence=motion.confidence[here, track.index],
        sigma_m=None if motion.sigma_m is None else motion.sigma_m[here, track.index],
    )


def _sites(body: BodyModel, track: Track) -> Array:
    """[K, 6, 3] contact sites in the world."""
    betas, parts = torch.from_numpy(np.asarray(track.betas, np.float32)), []
    for begin in range(0, len(track.times), CHUNK):
        rot = torch.from_numpy(track.body_rot[begin : begin + CHUNK]).float()
        root = torch.from_numpy(track.world_from_body[begin : begin + CHUNK]).float()
        parts.append(body.sites(betas.expand(len(rot), -1), rot, root).numpy())
    return np.concatenate(parts)
