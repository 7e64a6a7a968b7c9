"""What a manifest knows of a clip, as settings of the stages that it concerns.

A hint fills in what the config leaves open: the choice of another camera initialiser by the user stands.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from teacher.workspace import ClipSource

if TYPE_CHECKING:
    from teacher.config import LabelConfig

INITIALISER_OF_CAMERA: Final = {"static": "static", "moving": "colmap", "known": "known"}
"""Camera hint -> `cameras.use`, where that is auto."""


def with_hints(config: LabelConfig, source: ClipSource) -> LabelConfig:
    """The settings for one clip.

    `camera` chooses the initialiser where `cameras.use` is auto. `people` is how many are kept at most; more are
    followed at once if need be.
    """
    cameras, people = config.cameras, config.people
    if cameras.use == "auto" and source.camera in INITIALISER_OF_CAMERA:
        cameras = replace(cameras, use=INITIALISER_OF_CAMERA[source.camera])
    if source.people is not None:
        followed = max(people.tracker.max_people, source.people)
        people = replace(people, max_people=source.people, tracker=replace(people.tracker, max_people=followed))
    return replace(config, cameras=cameras, people=people)
