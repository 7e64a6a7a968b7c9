"""A fuser that begins anew where relative motion is broken: what comes after a break hangs on what came before.

Nothing measured joins the two sides. The camera is taken to go on from where it was; whoever is known again by looks is
wherever that camera sees them. Covariances after a break are relative to the break.
"""

from __future__ import annotations

import numpy as np

from distill.fuser import CameraMode, FrameObservation, FusedFrame, Fuser, FuserConfig


class Worlds:
    """As a `Fuser`, with breaks."""

    def __init__(self, config: FuserConfig, camera: CameraMode) -> None:
        self.config, self.camera = config, camera
        self.fuser = Fuser(config, camera=camera)
        """Of what came after the last break."""
        self._base = np.eye(4)
        self._offset = 0
        self._count = 0
        self._ready: list[FusedFrame] = []

    def step(self, observation: FrameObservation, *, broken: bool = False) -> FusedFrame:
        """The next frame; `broken`: nothing joins it to the one before."""
        self._ready = []
        if broken and self._count > self._offset:
            self._ready = self._moved(self.fuser.finish())
            self._base, self._offset = self._ready[-1].world_from_cam, self._count
            self.fuser = Fuser(self.config, camera=self.camera)
        self._count += 1
        (newest,) = self._moved([self.fuser.step(observation)])
        self._ready += self._moved(self.fuser.settled())
        return newest

    def settled(self) -> list[FusedFrame]:
        """Frames that nothing will change any more since the last `step`: at most one, or all before a break."""
        return self._ready

    def finish(self) -> list[FusedFrame]:
        """The end: the frames that are still open, in order."""
        return self._moved(self.fuser.finish())

    def _moved(self, frames: list[FusedFrame]) -> list[FusedFrame]:
        """Counted from the first frame of all, in its world."""
        if not self._offset:
            return frames
        for frame in frames:
            frame.index += self._offset
            frame.world_from_cam = self._base @ frame.world_from_cam
            for person in frame.people.values():
                person.world_from_body = self._base @ person.world_from_body
        return frames
