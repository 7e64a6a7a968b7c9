"""What each stage of the teacher writes into a clip folder, and how the next stage reads it.

    frames/    %06d.jpg, frames.npz    decoded, rotated and (known lens) undistorted frames
    people/    tracks.npz, masks/%06d.png   tracks, 2D keypoints, landmarks; identity maps
    cameras/   cameras.npz             intrinsics, camera poses, sparse points and their observations
    depth/     depth.npz               dense depth per frame in the units of `cameras`
    bodies/    bodies.npz              body parameters of every person, in the camera
    contacts/  contacts.npz            probability that each contact site touches the scene

These formats are the contract between initialisers: anything that writes such a file can replace the
embedded one. T frames, P people, M observations, N points; pixels refer to the images in `frames/`.
The scale of `cameras` and `depth` is arbitrary unless `metric` is True; the world there is the
initialiser's own, not yet the z-up world of results.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill.errors import refuse_damage
from distill.files import atomic_path, load_arrays, save_arrays
from distill.untrusted import open_picture

Array = NDArray[Any]


@dataclass(kw_only=True)
class StageFile:
    """Arrays and JSON-able values of one stage, in one .npz."""

    file: ClassVar[str]

    def save(self, folder: Path) -> None:
        """Write into the stage's folder, atomically."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        meta = {name: value for name, value in values.items() if not isinstance(value, np.ndarray)}
        save_arrays(folder / self.file, arrays, meta)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read from the stage's folder; raises `FootfallError` if missing, damaged or of another stage."""
        arrays, meta = load_arrays(folder / cls.file)
        with refuse_damage(folder / cls.file, expected=f"the fields of {cls.__name__}", do="make the stage again"):
            return cls(**arrays, **meta)


@dataclass(kw_only=True)
class Frames(StageFile):
    """The decoded clip."""

    file = "frames.npz"
    timestamps: Array
    """[T] float64, seconds from the container."""
    size: list[int]
    """Width and height of the written images, pixels."""
    source_size: list[int]
    """Width and height of the video after rotation, pixels."""
    unreadable: int
    """Frames that could not be decoded and are left out."""
    K: list[list[float]] | None = None
    """Known intrinsics of the written images, if calibration was given."""
    world_from_cam: list[Any] | None = None
    """Known camera poses: one 4x4 (fixed camera) or T of them, metres, if given."""

    @staticmethod
    def image_path(folder: Path, index: int) -> Path:
        """Image `index` inside the stage's folder."""
        return folder / f"{index:06d}.jpg"


@dataclass(kw_only=True)
class People(StageFile):
    """Tracked people. Entries where `visible` is False are zero."""

    file = "tracks.npz"
    visible: Array
    """[T, P] bool."""
    box_xyxy: Array
    """[T, P, 4] float32, pixels."""
    score: Array
    """[T, P] float32 in [0, 1]."""
    keypoints_px: Array
    """[T, P, 23, 2] float32: `conventions.KEYPOINTS`, pixels."""
    keypoint_score: Array
    """[T, P, 23] float32 in [0, 1]; 0 where the source has no such point."""
    keypoints_hip: Array
    """[T, P, 23, 3] float32, metres: 3D landmarks in camera axes with the origin between the hips."""

    @staticmethod
    def mask_path(folder: Path, index: int) -> Path:
        """Identity map of frame `index`: uint8, 0 background, k+1 person k."""
        return folder / "masks" / f"{index:06d}.png"


@dataclass(kw_only=True)
class CameraInit(StageFile):
    """Cameras and sparse scene."""

    file = "cameras.npz"
    kind: str
    """"sfm" (moving, estimated), "static" (fixed) or "known" (given)."""
    metric: bool
    """True if the unit is the metre; otherwise the scale is arbitrary."""
    focal_known: bool
    """True if K was given and must not be changed."""
    K: Array
    """[3, 3] float64, pixels."""
    world_from_cam: Array
    """[T, 4, 4] float64."""
    registered: Array
    """[T] bool: pose estimated or given (True), or filled from neighbours (False)."""
    points: Array
    """[N, 3] float32 in the initialiser's world."""
    points_rgb: Array
    """[N, 3] uint8."""
    obs_frame: Array
    """[M] int32: frame of each observation."""
    obs_point: Array
    """[M] int32: point of each observation."""
    obs_px: Array
    """[M, 2] float32: pixels."""


@dataclass(kw_only=True)
class DepthInit(StageFile):
    """Dense depth (z) per frame at reduced resolution, in the units of `CameraInit`."""

    file = "depth.npz"
    depth: Array
    """[T, h, w] float16; 0 where unknown or on a person."""
    person_depth: Array | None = None
    """[T, h, w] float16; what is seen on people, 0 elsewhere; None: the source knows the background only."""


@dataclass(kw_only=True)
class BodyInit(StageFile):
    """Bodies in the camera. Entries where `present` is False are interpolated or identity, and finite."""

    file = "bodies.npz"
    body_model: str
    """"anny", "smpl" or "smplx"."""
    focal_px: float
    """Focal length in pixels under which the pelvis depth was estimated."""
    present: Array
    """[T, P] bool."""
    betas: Array
    """[P, B] float32."""
    body_rot: Array
    """[T, P, 23, 3, 3] float32: joint rotations relative to the parent."""
    cam_from_body: Array
    """[T, P, 4, 4] float32: orientation and pelvis position in the camera, metres."""
    confidence: Array
    """[T, P] float32 in [0, 1]."""


@dataclass(kw_only=True)
class Contacts(StageFile):
    """Contact probabilities."""

    file = "contacts.npz"
    prob: Array
    """[T, P, 6] float32: `conventions.CONTACT_SITES`."""


def write_image(path: Path, image: Array) -> None:
    """uint8 image, [H, W, 3] RGB as JPEG or [H, W] identity map as PNG (by suffix), atomically."""
    options: dict[str, Any] = {"quality": 92, "subsampling": 0} if path.suffix == ".jpg" else {}
    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary, **options)


def read_image(path: Path) -> Array:
    """uint8 image as written: [H, W, 3] RGB or [H, W].

    Raises:
        FootfallError: missing, damaged or too large.
    """
    with refuse_damage(path, expected="a picture", do="make the stage again"), open_picture(path) as image:
        return np.asarray(image)
