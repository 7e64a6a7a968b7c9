"""Settings of `footfall convert`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from distill.errors import FootfallError


@dataclass(kw_only=True)
class ConvertConfig:
    """`footfall convert`."""

    fps: float = 0.0
    """Frames per second of bvh, amass and of USD's time codes; 0 takes the result's own. Where it is not the result's,
    or where the result's frames are not evenly spaced, poses in between are interpolated."""
    body: str = ""
    """smpl:FILE or smplx:FILE, the licensed body model. Needed when the result's bodies are of it; with bodies of the
    free model, amass retargets to it and states the error."""
    per_person: bool = True
    """With several people, glb writes a file for each beside the one with all of them; each has camera and scene."""
    rrd_mb: float = 500.0
    """Megabytes of meshes in a file of rrd at most (165 kB per person and frame of the free body); where a clip needs
    more, its people are skeletons there, and the record says so."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.fps) and 0 <= self.fps <= 1000):
            raise FootfallError(
                "fps", got=self.fps, expected="0 (the result's own) or up to 1000 frames per second", do="correct it"
            )
        if not self.rrd_mb >= 0:
            raise FootfallError("rrd_mb", got=self.rrd_mb, expected="0 or more megabytes", do="correct it")
        if self.body and self.body.partition(":")[0] not in ("smpl", "smplx"):
            raise FootfallError(
                "body", got=repr(self.body), expected="smpl:FILE or smplx:FILE, or nothing", do="correct the setting"
            )
