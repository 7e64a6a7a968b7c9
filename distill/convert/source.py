"""What is converted: a result, its clock, its people and their body model, each worked out once."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.body import BodyModel, load_body_model
from distill.convert.config import ConvertConfig
from distill.convert.rig import Rig, make_rig
from distill.convert.tracks import Track, tracks_of
from distill.errors import FootfallError
from distill.results import load_result

Array = NDArray[Any]
EVEN: float = 0.01
"""Share of a frame's time by which timestamps may miss an even clock and still count as even."""


class Source:
    """A result on its way to other formats. All times count from its first frame, in seconds."""

    def __init__(self, folder: Path, config: ConvertConfig) -> None:
        """Read the result.

        Raises:
            FootfallError: no result, or time does not go forward in it.
        """
        self.folder, self.config = folder, config
        self.result = load_result(folder)
        stamps = self.result.cameras.timestamps
        if len(stamps) == 0 or not (np.diff(stamps) > 0).all():
            raise FootfallError(
                f"{folder}: timestamps", got="no frames" if len(stamps) == 0 else "times that stand still or go back",
                expected="increasing seconds", do="make the result again from a video with a clock",
            )  # fmt: skip
        self.start = float(stamps[0])
        self.times: Array = stamps - stamps[0]
        self.tracks: list[Track] = tracks_of(self.result)
        self.world: str = self.result.meta["world"]

    @functools.cached_property
    def body(self) -> BodyModel:
        """The body model of the result's people.

        Raises:
            FootfallError: it is licensed and its file was not named, or the file is of another model.
        """
        name = self.result.motion.body_model
        if name == "anny":
            return load_body_model(name)
        if self.config.body.partition(":")[0] != name:
            raise FootfallError(
                f"{self.folder}: bodies of {name}", got=f"body={self.config.body or 'nothing'}",
                expected=f"your licensed file of {name}", do=f"add body={name}:FILE",
            )  # fmt: skip
        return load_body_model(self.config.body)

    def rig(self, track: Track) -> Rig:
        """Skeleton and mesh of a person."""
        return make_rig(self.body, track.betas)

    @functools.cached_property
    def own_fps(self) -> float:
        """Frames per second of the result: of its median step where steps differ; 30 if there is one frame only."""
        if len(self.times) == 1:
            return 30.0
        if self.is_even:
            return usual_rate(float((len(self.times) - 1) / self.times[-1]))
        return float(1 / np.median(np.diff(self.times)))

    @functools.cached_property
    def is_even(self) -> bool:
        """Whether the result's frames lie on an even clock."""
        count = len(self.times)
        if count <= 2:
            return True
        even = np.linspace(0, self.times[-1], count)
        return bool(np.abs(self.times - even).max() <= EVEN * self.times[-1] / (count - 1))

    @property
    def fps(self) -> float:
        """Frames per second of formats that have one rate."""
        return self.config.fps or self.own_fps

    @functools.cached_property
    def even_times(self) -> Array:
        """[N] seconds of the frames of such formats: the result's own where they already are even."""
        if self.is_even and self.fps == self.own_fps:
            return self.times
        return np.arange(int(np.floor(self.times[-1] * self.fps + 1e-6)) + 1) / self.fps

    @property
    def has_camera(self) -> bool:
        """Whether any frame's camera was measured."""
        return bool(self.result.cameras.valid.any())

    def need_anything(self, name: str) -> None:
        """Raise `FootfallError` if there are no people, no camera and no points for format `name`."""
        if not self.tracks and not self.has_camera and not len(self.result.scene_points):
            raise FootfallError(
                f"{self.folder}: {name}", got="no people, no measured camera, no points", expected="one of them",
                do="check the result",
            )  # fmt: skip

    def need_people(self, name: str) -> None:
        """Raise `FootfallError` if there is nobody to write in format `name`."""
        if not self.tracks:
            raise FootfallError(
                f"{self.folder}: {name}", got="nobody in any frame", expected="a result with people",
                do=f"leave out {name}",
            )  # fmt: skip

    def need_camera(self, name: str) -> None:
        """Raise `FootfallError` if no camera was measured, for format `name`."""
        if not self.has_camera:
            raise FootfallError(
                f"{self.folder}: {name}", got="no measured camera in any frame", expected="a result with cameras",
                do=f"leave out {name}",
            )  # fmt: skip


def usual_rate(fps: float) -> float:
    """A whole rate, or one of NTSC's (a whole one x 1000 / 1001), if `fps` is that but for rounded time stamps."""
    for rate in (round(fps), round(fps * 1.001) / 1.001):
        if abs(rate - fps) < 1e-4 * fps:
            return float(rate)
    return fps
