"""Moving cameras: structure from motion on keyframes (pycolmap), then every other frame by resection.

COLMAP maps a few dozen keyframes well and quickly; mapping every frame of a video would cost an hour and add
almost no parallax. The points it makes are followed by Lucas-Kanade from each keyframe into the frames
around it, and the pose of each of those is solved from what was followed (PnP). The joint optimisation later
refines all poses together.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.errors import FootfallError, require
from teacher.initialisers.background import FrameReader, follow
from teacher.initialisers.registry import Report
from teacher.stagefiles import CameraInit, write_image

Array = NDArray[Any]


@dataclass(kw_only=True)
class SfmConfig:
    """Structure from motion."""

    keyframe_motion: float = 0.035
    """Background motion between keyframes, as a share of the image's longer side."""
    max_keyframes: int = 40
    """At most this many."""
    min_keyframes: int = 16
    """As many even if the camera moves little."""
    max_features: int = 3000
    """SIFT features per keyframe."""
    min_registered: float = 0.6
    """Least share of keyframes that must be registered."""
    plausible_focal: list[float] = field(default_factory=lambda: [0.5, 2.2])
    """Range of focal lengths to be believed, as multiples of the longer side (field of view 90 to 26 degrees)."""
    doubtful_px: float = 0.5
    """A map whose mean reprojection error is larger, pixels, is compared with one at the guessed focal length."""
    max_seconds: int = 90
    """Longest time of one mapping; what is mapped by then is taken."""
    max_error_px: float = 2.0
    """Inlier threshold of resection, pixels."""
    min_points: int = 12
    """Fewest inliers of a resection to be believed."""
    max_observations: int = 60000
    """Observations kept in the stage's file."""

    def __post_init__(self) -> None:
        if self.max_keyframes < 5 or not 0 < self.min_registered <= 1 or self.keyframe_motion <= 0:
            raise ValueError("sfm: max_keyframes >= 5, 0 < min_registered <= 1, keyframe_motion > 0 are expected")


@dataclass(kw_only=True)
class SparseMap:
    """What the mapper returns, in plain arrays."""

    K: Array
    cam_from_world: dict[int, Array]
    """Frame -> [4, 4]."""
    points: Array
    rgb: Array
    observations: dict[int, tuple[Array, Array]]
    """Frame -> (point index [n], pixels [n, 2])."""
    error_px: float


def choose_keyframes(path_px: Array, size: tuple[int, int], config: SfmConfig) -> list[int]:
    """Frames at equal steps of background motion (not of time), first and last included."""
    step = config.keyframe_motion * max(size)
    count = int(np.clip(np.ceil(path_px[-1] / step) + 1, min(config.min_keyframes, len(path_px)), config.max_keyframes))
    marks = np.linspace(0, path_px[-1], count)
    chosen = {int(k) for k in np.searchsorted(path_px, marks[:-1] - 1e-9)} | {0, len(path_px) - 1}
    if len(chosen) < config.min_keyframes:  # long stops: fill up evenly in time
        chosen |= {int(k) for k in np.linspace(0, len(path_px) - 1, min(config.min_keyframes, len(path_px)))}
    return sorted(chosen)


def solve_sfm(
    reader: FrameReader,
    path_px: Array,
    config: SfmConfig,
    report: Report,
    *,
    K: Array | None,
    guess: float,
    retry: bool = True,
) -> tuple[CameraInit, dict[str, Any]]:
    """Cameras of every frame and sparse points.

    Args:
        reader: the clip's images and masks.
        path_px: [T] accumulated background motion, pixels.
        K: known intrinsics, which then stay as they are, or None.
        guess: focal length where the video does not tell it, pixels.
        retry: map again with twice the keyframes if too few of them are registered.

    Raises:
        FootfallError: too few keyframes could be registered.
    """
    keyframes = choose_keyframes(path_px, reader.size, config)
    report(0.2, f"mapping {len(keyframes)} keyframes")
    best = _map_keyframes(reader, keyframes, config, K, exhaustive=len(keyframes) <= 24)
    if retry and (best is None or len(best.cam_from_world) < config.min_registered * len(keyframes)):
        keyframes = choose_keyframes(path_px, reader.size, _denser(config))
        report(0.4, f"mapping again with {len(keyframes)} keyframes")
        again = _map_keyframes(reader, keyframes, config, K, exhaustive=True)
        if again is not None and (best is None or len(again.cam_from_world) > len(best.cam_from_world)):
            best = again
    if K is None and best is not None:
        best = _second_opinion(reader, keyframes, config, best, guess)
    registered = len(best.cam_from_world) if best else 0
    if best is None or registered < config.min_registered * len(keyframes):
        raise FootfallError(
            "moving camera", got=f"{registered} of {len(keyframes)} keyframes registered",
            expected=f"at least {config.min_registered:.0%}",
            do="give known cameras or files:, as the background is too plain, too blurred or too much hidden by people",
        )  # fmt: skip
    report(0.7, "resection of the other frames")
    observations = dict(best.observations)
    cam_from_world = dict(best.cam_from_world)
    resect_all(reader, best, cam_from_world, observations, config)
    init = to_init(reader, best, cam_from_world, observations, config, focal_known=K is not None)
    summary = {
        "keyframes": len(keyframes),
        "keyframes_registered": registered,
        "registered": int(init.registered.sum()),
        "points": len(init.points),
        "focal_px": round(float(init.K[0, 0]), 2),
        "focal": "given" if K is not None else "guessed" if best.K[0, 0] == guess else "found",
        "reprojection_px": round(best.error_px, 3),
    }
    return init, summary


def _second_opinion(
    reader: FrameReader, keyframes: list[int], config: SfmConfig, found: SparseMap, guess: float
) -> SparseMap:
    """Map again at the guessed focal length if the found one is hard to believe.

    Walking straight ahead, or past a flat background, hardly tells the focal length, and a map with a wrong one
    can look whole: it is bent, or mirrored in depth. Such maps show an odd focal length or a large error.
    """
    low, high = (share * max(reader.size) for share in config.plausible_focal)
    believable = low < found.K[0, 0] < high
    if believable and found.error_px <= config.doubtful_px:
        return found
    width, height = reader.size
    K = np.array([[guess, 0, width / 2], [0, guess, height / 2], [0, 0, 1.0]])
    again = _map_keyframes(reader, keyframes, config, K, exhaustive=len(keyframes) <= 24)
    if again is None or len(again.cam_from_world) < 0.9 * len(found.cam_from_world):
        return found
    return again if not believable or again.error_px < found.error_px else found


def _denser(config: SfmConfig) -> SfmConfig:
    return replace(config, keyframe_motion=config.keyframe_motion / 2, max_keyframes=2 * config.max_keyframes)


def _map_keyframes(
    reader: FrameReader, keyframes: list[int], config: SfmConfig, K: Array | None, *, exhaustive: bool
) -> SparseMap | None:
    """Run pycolmap; the model with the most registered images, or None."""
    colmap = require("pycolmap", extra="teacher")
    colmap.logging.minloglevel = 3
    colmap.set_random_seed(0)
    with tempfile.TemporaryDirectory(prefix="footfall-sfm-") as name:
        folder = Path(name)
        (folder / "images").mkdir()
        for index in keyframes:
            (folder / "images" / f"{index:06d}.jpg").symlink_to(reader.path(index).resolve())
            write_image(folder / "masks" / f"{index:06d}.jpg.png", reader.background(index))
        database = folder / "database.db"
        reading = colmap.ImageReaderOptions()
        reading.mask_path = str(folder / "masks")
        reading.camera_model = "SIMPLE_PINHOLE" if K is None else "PINHOLE"
        if K is not None:
            reading.camera_params = ",".join(str(float(K[i, j])) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
        extraction = colmap.FeatureExtractionOptions()
        extraction.use_gpu = False
        extraction.sift.max_num_features = config.max_features
        colmap.extract_features(
            database, folder / "images", camera_mode=colmap.CameraMode.SINGLE, reader_options=reading,
            extraction_options=extraction, device=colmap.Device.cpu,
        )  # fmt: skip
        if exhaustive:
            colmap.match_exhaustive(database, device=colmap.Device.cpu)
        else:
            colmap.match_sequential(database, device=colmap.Device.cpu)
        options = colmap.IncrementalPipelineOptions()
        options.ba_refine_focal_length = K is None
        options.min_model_size = 3
        options.multiple_models = True
        options.max_num_models = 5
        options.max_runtime_seconds = config.max_seconds  # grass and leaves start hundreds of tiny models
        models = colmap.incremental_mapping(database, folder / "images", folder / "models", options)
        if not models:
            return None
        largest = max(models.values(), key=lambda model: model.num_reg_images())
        return _from_model(largest)


def _from_model(model: Any) -> SparseMap:
    camera = next(iter(model.cameras.values()))
    point_ids = sorted(model.points3D)
    index_of = {point: k for k, point in enumerate(point_ids)}
    cam_from_world, observations = {}, {}
    for image in model.images.values():
        if not image.has_pose:
            continue
        frame = int(Path(image.name).stem)
        pose = np.eye(4)
        pose[:3] = image.cam_from_world().matrix()
        cam_from_world[frame] = pose
        seen = [(index_of[p.point3D_id], p.xy) for p in image.points2D if p.has_point3D()]
        observations[frame] = (np.array([s[0] for s in seen], int), np.array([s[1] for s in seen]).reshape(-1, 2))
    return SparseMap(
        K=np.asarray(camera.calibration_matrix(), np.float64),
        cam_from_world=cam_from_world,
        points=np.array([model.points3D[p].xyz for p in point_ids]),
        rgb=np.array([model.points3D[p].color for p in point_ids], np.uint8),
        observations=observations,
        error_px=float(model.compute_mean_reprojection_error()),
    )


def resect_all(
    reader: FrameReader, mapped: SparseMap, cam_from_world: dict[int, Array],
    observations: dict[int, tuple[Array, Array]], config: SfmConfig,
) -> None:  # fmt: skip
    """Walk outwards from every keyframe, following its points and solving each frame's pose."""
    keyframes = sorted(mapped.cam_from_world)
    limits = [-1, *keyframes, len(reader)]
    for position, keyframe in enumerate(keyframes, start=1):
        middle_before = (limits[position - 1] + keyframe) // 2 if position > 1 else -1
        middle_after = (keyframe + limits[position + 1]) // 2 if position < len(keyframes) else len(reader) - 1
        for frames in (range(keyframe + 1, middle_after + 1), range(keyframe - 1, middle_before, -1)):
            _walk(reader, mapped, keyframe, frames, cam_from_world, observations, config)


def _walk(
    reader: FrameReader, mapped: SparseMap, keyframe: int, frames: range, cam_from_world: dict[int, Array],
    observations: dict[int, tuple[Array, Array]], config: SfmConfig,
) -> None:  # fmt: skip
    points, pixels = (array.copy() for array in mapped.observations[keyframe])
    before, pose = reader.grey(keyframe), mapped.cam_from_world[keyframe]
    for frame in frames:
        now = reader.grey(frame)
        pixels, ok = follow(before, now, pixels.astype(np.float32))
        points, pixels = points[ok], pixels[ok]
        solved = _resect(mapped.points[points], pixels, mapped.K, pose, config)
        if solved is None:
            return
        pose, inliers = solved
        points, pixels = points[inliers], pixels[inliers]
        cam_from_world[frame], observations[frame] = pose, (points, pixels)
        before = now


def _resect(points: Array, pixels: Array, K: Array, guess: Array, config: SfmConfig) -> tuple[Array, Array] | None:
    """cam_from_world [4, 4] from points seen at pixels, and the inliers [n]; None if too few agree."""
    cv2 = require("cv2", extra="teacher")
    if len(points) < config.min_points:
        return None
    shifted = K - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    cv2.setRNGSeed(0)
    turn, shift = cv2.Rodrigues(guess[:3, :3])[0], guess[:3, 3:].copy()
    ok, turn, shift, inliers = cv2.solvePnPRansac(
        points, pixels.astype(np.float64) - 0.5, shifted, None, turn, shift, useExtrinsicGuess=True,
        reprojectionError=config.max_error_px, iterationsCount=100,
    )  # fmt: skip
    if not ok or inliers is None or len(inliers) < config.min_points:
        return None
    chosen = inliers[:, 0]
    turn, shift = cv2.solvePnPRefineLM(
        points[chosen], pixels[chosen].astype(np.float64) - 0.5, shifted, None, turn, shift
    )
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = cv2.Rodrigues(turn)[0], shift[:, 0]
    return pose, chosen


def to_init(
    reader: FrameReader, mapped: SparseMap, cam_from_world: dict[int, Array],
    observations: dict[int, tuple[Array, Array]], config: SfmConfig, *, focal_known: bool,
) -> CameraInit:  # fmt: skip
    """The stage's file; the world becomes the first registered camera."""
    import torch

    from distill.geometry.transforms import interpolate_missing

    count = len(reader)
    first = np.linalg.inv(cam_from_world[min(cam_from_world)])
    world_from_cam = np.tile(np.eye(4), (count, 1, 1))
    registered = np.zeros(count, bool)
    for frame, pose in cam_from_world.items():
        world_from_cam[frame] = np.linalg.inv(pose @ first)
        registered[frame] = True
    filled = interpolate_missing(torch.from_numpy(world_from_cam), torch.from_numpy(registered)).numpy()
    turned = np.linalg.inv(first)
    points = mapped.points @ turned[:3, :3].T + turned[:3, 3]
    frame_of = np.concatenate([np.full(len(observations[f][0]), f) for f in sorted(observations)])
    point_of = np.concatenate([observations[f][0] for f in sorted(observations)])
    pixel_of = np.concatenate([observations[f][1] for f in sorted(observations)])
    if len(frame_of) > config.max_observations:  # whole tracks are kept or dropped, so that pairs stay pairs
        share = config.max_observations / len(frame_of)
        keep_point = np.random.default_rng(0).random(len(points)) < share
        kept = keep_point[point_of]
        frame_of, point_of, pixel_of = frame_of[kept], point_of[kept], pixel_of[kept]
    return CameraInit(
        kind="sfm", metric=False, focal_known=focal_known, K=mapped.K, world_from_cam=filled, registered=registered,
        points=points.astype(np.float32), points_rgb=mapped.rgb, obs_frame=frame_of.astype(np.int32),
        obs_point=point_of.astype(np.int32), obs_px=pixel_of.astype(np.float32),
    )  # fmt: skip
