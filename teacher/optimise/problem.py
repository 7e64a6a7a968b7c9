"""The joint problem of one clip: what the initialisers found, checked to belong together.

T frames, P people, M observations, N scene points. Lengths of `cameras` and `depth` are in the
initialiser's own unit; bodies are in metres. `evidence` turns this into the tensors of the solve.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from distill.errors import FootfallError
from distill.geometry.conventions import CONTACT_SITES, KEYPOINTS
from teacher.stagefiles import Array, BodyInit, CameraInit, Contacts, DepthInit, Frames, People
from teacher.workspace import ClipFolder


@dataclass(kw_only=True)
class Problem:
    """Everything that the solve reads; make one from the stage files, or from arrays (`degrade`)."""

    clip_id: str
    """Name of the clip, for messages."""
    timestamps: Array
    """[T] seconds, rising."""
    size: tuple[int, int]
    """Width and height of the frames, pixels."""
    cameras: CameraInit
    """Cameras and sparse scene."""
    people: People
    """Keypoints in the images."""
    bodies: BodyInit
    """Bodies in the camera; pelvis depths belong to the focal length of `cameras`."""
    contacts: Contacts
    """Contact probabilities."""
    depth: DepthInit | None = None
    """Dense depth, if there is any."""
    frames_dir: Path | None = None
    """Where the images are; colours for the scene's dense points come from there."""

    def __post_init__(self) -> None:
        frames, people = self.bodies.present.shape
        expected = {
            "frames.timestamps": (self.timestamps, (frames,)),
            "cameras.K": (self.cameras.K, (3, 3)),
            "cameras.world_from_cam": (self.cameras.world_from_cam, (frames, 4, 4)),
            "cameras.registered": (self.cameras.registered, (frames,)),
            "people.keypoints_px": (self.people.keypoints_px, (frames, people, len(KEYPOINTS), 2)),
            "people.keypoint_score": (self.people.keypoint_score, (frames, people, len(KEYPOINTS))),
            "bodies.body_rot": (self.bodies.body_rot, (frames, people, 23, 3, 3)),
            "bodies.cam_from_body": (self.bodies.cam_from_body, (frames, people, 4, 4)),
            "contacts.prob": (self.contacts.prob, (frames, people, len(CONTACT_SITES))),
        }
        for name, (array, shape) in expected.items():
            if array.shape != shape:
                raise self._error(f"{name} of shape {array.shape}", f"shape {shape}")
            if not np.isfinite(array).all():
                raise self._error(f"{name} with values that are not finite", "finite values")
        if self.depth is not None and (self.depth.depth.ndim != 3 or len(self.depth.depth) != frames):
            raise self._error(f"depth of shape {self.depth.depth.shape}", f"({frames}, height, width)")
        if frames < 2 or (np.diff(self.timestamps) <= 0).any():
            raise self._error(f"{frames} frames, or timestamps that do not rise", "2 frames or more, in order")
        if not self.bodies.present.any():
            raise FootfallError(
                f"clip {self.clip_id}", got="no body in any frame", expected="at least one person",
                do="take a clip in which people are seen, or lower the people stage's thresholds",
            )  # fmt: skip
        if (self.bodies.cam_from_body[..., 2, 3][self.bodies.present] <= 0).any():
            raise self._error("a pelvis behind the camera", "pelvis depths above 0")

    def _error(self, got: str, expected: str) -> FootfallError:
        return FootfallError(
            f"clip {self.clip_id}: stage files", got=got, expected=expected, do="run the stages of this clip again"
        )

    @property
    def has_scene(self) -> bool:
        """Whether anything is known of the scene's depth."""
        return self.depth is not None or len(self.cameras.obs_frame) > 0

    @property
    def cameras_known(self) -> bool:
        """Whether the camera poses are given, or there is one fixed pose that defines the world."""
        return self.cameras.kind in ("known", "static")

    @property
    def scale_known(self) -> bool:
        """Whether the unit of the cameras is the metre beyond doubt."""
        return self.cameras.kind == "known" and self.cameras.metric


def build_problem(clip: ClipFolder) -> Problem:
    """Read the stages of a clip.

    Raises:
        FootfallError: a stage is missing or damaged, stages disagree about frames or people, or nobody is seen.
    """
    frames = Frames.load(clip.require("frames"))
    return Problem(
        clip_id=clip.id,
        timestamps=np.asarray(frames.timestamps, np.float64),
        size=(frames.size[0], frames.size[1]),
        cameras=(cameras := CameraInit.load(clip.require("cameras"))),
        people=People.load(clip.require("people")),
        bodies=match_focal(BodyInit.load(clip.require("bodies")), float(cameras.K[0, 0])),
        contacts=Contacts.load(clip.require("contacts")),
        depth=DepthInit.load(clip.stage_dir("depth")) if clip.is_done("depth") else None,
        frames_dir=clip.stage_dir("frames"),
    )


def match_focal(bodies: BodyInit, focal_px: float) -> BodyInit:
    """Bodies whose pelvis depth belongs to another focal length: t_z' = (f / f_bodies) t_z (JOSH, section 3)."""
    cam_from_body = bodies.cam_from_body.astype(np.float64)
    cam_from_body[..., 2, 3] *= focal_px / bodies.focal_px
    return replace(bodies, cam_from_body=cam_from_body, focal_px=focal_px)
