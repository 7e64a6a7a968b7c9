"""Reader of COLMAP models, binary or text, through pycolmap.

COLMAP's pixel centres are ours (0.5, 0.5); its poses are cam_from_world; its scale is unknown. Our images are those
of a pinhole, so a model with a distortion that would be seen is refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from distill.errors import FootfallError, require
from teacher.readers.cameras import OutsideCameras, Sparse, scaled_intrinsics
from teacher.readers.clip_frames import ClipFrames
from teacher.readers.colmap_counts import check_counts

Array = NDArray[Any]
MAX_DISTORTION: Final = 0.003
"""Largest displacement by distortion, as a share of the longer side; beyond it the frames must be undistorted."""
SAME_FOCAL: Final = 0.02
"""Relative spread of focal lengths up to which all images are of one camera."""


def read_colmap(path: Path, frames: ClipFrames) -> tuple[OutsideCameras, Sparse]:
    """A COLMAP model's folder (cameras, images, points3D as .bin or .txt).

    The last number in an image's name is the frame of the video, from 0; or from 1, if no name has 0 and one has the
    count of frames (as ffmpeg numbers them).

    Raises:
        FootfallError: no model, several lenses, a visible distortion, or names without numbers.
    """
    where = str(path)
    pycolmap = require("pycolmap", extra="teacher")
    stems = {file.name for file in path.glob("*")} if path.is_dir() else set()
    if not any({f"{s}.{e}" for s in ("cameras", "images", "points3D")} <= stems for e in ("bin", "txt")):
        raise FootfallError(
            where, got="no model in it", expected="cameras, images and points3D (.bin or .txt)",
            do="give the folder of one model, such as sparse/0",
        )  # fmt: skip
    try:
        check_counts(path)
        model = pycolmap.Reconstruction(path)
    except Exception as error:  # pycolmap raises several kinds for damaged files
        raise FootfallError(where, got=error, expected="a COLMAP model", do="write the model again") from error
    images = [image for image in model.images.values() if image.has_pose]
    if not images:
        raise FootfallError(where, got="no image with a pose", expected="a registered model", do="run the mapper again")
    with np.errstate(all="ignore"):  # numbers of a damaged lens; what comes of them is refused
        K, size = _lens(where, [model.cameras[image.camera_id] for image in images])
    numbers = _numbers(where, [image.name for image in images], frames)
    _, rows, chosen = np.intersect1d(frames.numbers, numbers, return_indices=True)
    used = [images[k] for k in chosen]
    poses = np.tile(np.eye(4), (len(used), 1, 1))
    for k, image in enumerate(used):
        pose = image.cam_from_world() if callable(image.cam_from_world) else image.cam_from_world
        poses[k] = np.linalg.inv(np.vstack((pose.matrix(), [0, 0, 0, 1])))
    K_clip = frames.K if frames.K is not None else scaled_intrinsics(where, K, size, frames.size)
    sparse = _sparse(model, used, rows, K, K_clip)
    return OutsideCameras(where=where, rows=rows, world_from_cam=poses, K=K, size=size), sparse


def _lens(where: str, cameras: list[Any]) -> tuple[Array, tuple[float, float]]:
    """K [3, 3] and size of the one lens behind all images."""
    matrices = np.stack([camera.calibration_matrix() for camera in cameras])
    K = np.median(matrices, axis=0)
    camera = cameras[0]
    size = (float(camera.width), float(camera.height))
    spread = np.ptp(matrices[:, 0, 0]) / K[0, 0]
    if spread > SAME_FOCAL or any((c.width, c.height) != (camera.width, camera.height) for c in cameras):
        raise FootfallError(
            where, got=f"several lenses (focal lengths differ by {spread:.1%})", expected="one lens",
            do="map again with a single camera (--ImageReader.single_camera 1)",
        )  # fmt: skip
    corners = np.array([[0, 0], [size[0], 0], [0, size[1]], [size[0], size[1]]], np.float64)
    own = camera.calibration_matrix()
    straight = (corners - own[:2, 2]) / [own[0, 0], own[1, 1]]
    seen = np.array([camera.cam_from_img(corner) for corner in corners], np.float64).reshape(-1, 2)
    moved = np.abs((seen - straight) * [own[0, 0], own[1, 1]]).max() / max(size)
    if not moved <= MAX_DISTORTION:  # also where a corner cannot be undistorted at all
        raise FootfallError(
            where, got=f"a lens ({camera.model.name}) that displaces corners by {moved:.1%} of the image",
            expected=f"a pinhole, to within {MAX_DISTORTION:.1%}",
            do="run colmap image_undistorter and label its images, or give the lens in the manifest and map again",
        )  # fmt: skip
    return K, size


def _numbers(where: str, names: list[str], frames: ClipFrames) -> Array:
    """Frame of the video of every image."""
    found = [re.findall(r"\d+", Path(name).stem) for name in names]
    if not all(found):
        raise FootfallError(
            where, got=f"an image named {names[found.index([])]!r}", expected="names that end in the frame's number",
            do="name the images after the frames of the video, from 0",
        )  # fmt: skip
    numbers = np.array([int(digits[-1]) for digits in found])
    from_one = frames.total is not None and numbers.min() >= 1 and numbers.max() == frames.total
    return numbers - 1 if from_one else numbers


def _sparse(model: Any, images: list[Any], rows: Array, K_model: Array, K_clip: Array) -> Sparse:
    """Points and observations; pixels are moved from the model's lens to that of the clip's images."""
    ids = np.array(sorted(model.points3D), dtype=np.int64)
    order = {int(point): k for k, point in enumerate(ids)}
    frame_of, point_of, pixel_of = [], [], []
    for row, image in zip(rows, images, strict=True):
        for seen in image.points2D:
            if seen.has_point3D():
                frame_of.append(int(row))
                point_of.append(order[int(seen.point3D_id)])
                pixel_of.append(seen.xy)
    rays = (np.array(pixel_of, np.float64).reshape(-1, 2) - K_model[:2, 2]) / [K_model[0, 0], K_model[1, 1]]
    points = [model.points3D[int(k)] for k in ids]
    return Sparse(
        points=np.array([point.xyz for point in points]).reshape(-1, 3),
        rgb=np.array([point.color for point in points]).reshape(-1, 3),
        obs_frame=np.array(frame_of, np.int32), obs_point=np.array(point_of, np.int32),
        obs_px=rays * [K_clip[0, 0], K_clip[1, 1]] + K_clip[:2, 2],
    )  # fmt: skip
