"""A student's camera path made exact on followed points: triangulation, then bundle adjustment.

Structure from motion spends its time on finding which frames belong together and where each camera was. A student
says both, roughly, so only the last step is left: points from its poses (linear triangulation, Hartley and Zisserman,
section 12.2), and all cameras, points and the focal length together (pycolmap). The result keeps the student's metres:
it is moved onto its path by a similarity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from distill.errors import FootfallError, require
from distill.metrics.inputs import align, moved
from teacher.initialisers.student.tracks import PointTracks

Array = NDArray[Any]
MIN_VIEWS: Final = 4
"""Fewer observations do not make a point."""
MIN_ANGLE_DEG: Final = 1.0
"""Least angle between the rays of a point."""
ROUNDS: Final = (12.0, 4.0, 2.0)
"""Largest reprojection error of an observation in each round, pixels at a long side of 640; the student's path is
rough, and better after each round."""
MIN_POINTS: Final = 60
"""Fewer points are no map."""
EVERY: Final = 3
"""Every n-th observation of a point enters the adjustment: neighbouring frames repeat each other."""


@dataclass(kw_only=True)
class Refined:
    """Cameras and points that agree with the tracks."""

    K: Array
    """[3, 3]."""
    world_from_cam: Array
    """[T, 4, 4]."""
    points: Array
    """[N, 3]."""
    tracks: PointTracks
    """Observations that agree, of points 0 to N - 1."""
    error_px: float
    """Median distance of observations from their points' projections."""
    registered: Array
    """[T] bool: frames with enough observations."""


def refine_cameras(
    tracks: PointTracks, K: Array, world_from_cam: Array, size: tuple[int, int], *, K_known: bool
) -> Refined:
    """Triangulate and adjust, in rounds that allow less and less error.

    Args:
        tracks: observations. K: [3, 3] intrinsics. world_from_cam: [T, 4, 4], the student's.
        size: width and height, pixels. K_known: whether the intrinsics stay as they are.

    Raises:
        FootfallError: too few points agree, as with a camera that only turns or a path that is wrong.
    """
    K, poses = K.copy(), world_from_cam.copy()
    for turn, allowed in enumerate(ROUNDS):
        limit = allowed * max(size) / 640
        points, kept, _ = triangulate(tracks, K, poses, limit)
        if len(points) < MIN_POINTS:
            raise FootfallError(
                "cameras of the student", got=f"{len(points)} points that agree within {limit:.1f} px",
                expected=f"at least {MIN_POINTS}", do="take cameras.use=auto",
            )  # fmt: skip
        K, poses, points = _adjust(kept, K, poses, points, size, refine_focal=not K_known and turn > 0)
    points, kept, error = triangulate(tracks, K, poses, ROUNDS[-1] * max(size) / 640)
    if len(points) < MIN_POINTS:
        raise FootfallError(
            "cameras of the student", got=f"{len(points)} points after the adjustment",
            expected=f"at least {MIN_POINTS}", do="take cameras.use=auto",
        )  # fmt: skip
    poses, points = _onto(poses, points, world_from_cam)
    registered = np.bincount(kept.frame, minlength=len(poses)) >= 12
    return Refined(K=K, world_from_cam=poses, points=points, tracks=kept, error_px=error, registered=registered)


def triangulate(
    tracks: PointTracks, K: Array, world_from_cam: Array, limit_px: float
) -> tuple[Array, PointTracks, float]:
    """Points of all tracks by linear least squares, without what disagrees.

    Returns:
        Points [N, 3], their observations (points renumbered), and the median error in pixels.
    """
    cam_from_world = np.linalg.inv(world_from_cam)
    for _ in range(2):  # the second time without the observations that disagreed
        number, point = np.unique(tracks.point, return_inverse=True)
        rays = np.concatenate((tracks.px, np.ones((len(tracks.px), 1))), 1) @ np.linalg.inv(K).T
        rows = cam_from_world[tracks.frame]
        # x P3 - P1 and y P3 - P2 of every observation, summed as normal equations of the inhomogeneous point
        left = rays[:, :2, None] * rows[:, 2:3, :3] - rows[:, :2, :3]
        right = rows[:, :2, 3] - rays[:, :2] * rows[:, 2:3, 3]
        normal, sides = np.zeros((len(number), 3, 3)), np.zeros((len(number), 3))
        np.add.at(normal, point, np.einsum("mki,mkj->mij", left, left))
        np.add.at(sides, point, np.einsum("mki,mk->mi", left, right))
        points = np.linalg.solve(normal + 1e-9 * np.eye(3), sides[..., None])[..., 0]
        cam = np.einsum("mij,mj->mi", rows[:, :3, :3], points[point]) + rows[:, :3, 3]
        error = np.linalg.norm((cam[:, :2] / np.maximum(cam[:, 2:], 1e-6) - rays[:, :2]) * K[[0, 1], [0, 1]], axis=1)
        agrees = (error < limit_px) & (cam[:, 2] > 1e-3)
        good = _enough(point, agrees, _angles(points, point, world_from_cam[tracks.frame, :3, 3], agrees), len(number))
        chosen = agrees & good[point]
        tracks = tracks.kept(chosen)
    renumbered = np.cumsum(good) - 1
    kept = PointTracks(frame=tracks.frame, point=renumbered[point[chosen]].astype(np.int32), px=tracks.px)
    return points[good], kept, float(np.median(error[chosen])) if chosen.any() else float("inf")


def _angles(points: Array, point: Array, centres: Array, agrees: Array) -> Array:
    """[N] widest angle between a point's rays and its first ray, degrees."""
    ray = points[point] - centres
    ray /= np.maximum(np.linalg.norm(ray, axis=1, keepdims=True), 1e-9)
    first = np.zeros((len(points), 3))
    first[point[agrees][::-1]] = ray[agrees][::-1]
    cosine = np.where(agrees, (ray * first[point]).sum(1), 1.0)
    least = np.ones(len(points))
    np.minimum.at(least, point, cosine)
    return np.degrees(np.arccos(np.clip(least, -1, 1)))


def _enough(point: Array, agrees: Array, angle: Array, count: int) -> Array:
    """[N] bool: points with enough observations that agree, over a wide enough angle."""
    views = np.bincount(point[agrees], minlength=count)
    share = views / np.maximum(np.bincount(point, minlength=count), 1)
    return (views >= MIN_VIEWS) & (share > 0.5) & (angle > MIN_ANGLE_DEG)


def _adjust(
    tracks: PointTracks, K: Array, world_from_cam: Array, points: Array, size: tuple[int, int], *, refine_focal: bool
) -> tuple[Array, Array, Array]:
    """Bundle adjustment over all frames; K, poses and points."""
    colmap = require("pycolmap", extra="teacher")
    colmap.logging.minloglevel = 3
    scene = colmap.Reconstruction()
    focal = float(K[0, 0] + K[1, 1]) / 2
    camera = colmap.Camera(
        camera_id=1, model="SIMPLE_PINHOLE", width=size[0], height=size[1], params=[focal, K[0, 2], K[1, 2]]
    )
    scene.add_camera_with_trivial_rig(camera)
    rank = _rank(tracks.point)
    used = tracks.kept((rank == 0) | ((rank + tracks.point) % EVERY == 0))  # two or more of a point, some in each frame
    ids = [scene.add_point3D(xyz, colmap.Track()) for xyz in points]
    frames = np.unique(used.frame)
    for frame in frames:
        mine = used.kept(used.frame == frame)
        image = colmap.Image(f"{frame}", mine.px.astype(np.float64), 1, int(frame) + 1)
        pose = np.linalg.inv(world_from_cam[frame])[:3]
        scene.add_image_with_trivial_frame(image, colmap.Rigid3d(pose))
        for row, point in enumerate(mine.point):
            scene.add_observation(ids[point], colmap.TrackElement(int(frame) + 1, row))
    options = colmap.BundleAdjustmentOptions()
    options.refine_focal_length, options.refine_principal_point = refine_focal, False
    options.refine_extra_params, options.print_summary = False, False
    options.ceres.loss_function_type = colmap.LossFunctionType.CAUCHY
    options.ceres.solver_options.num_threads = 1
    options.ceres.solver_options.max_num_iterations = 40
    setup = colmap.BundleAdjustmentConfig()
    for frame in frames:
        setup.add_image(int(frame) + 1)
    setup.fix_gauge(colmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    colmap.create_default_bundle_adjuster(options, setup, scene).solve()
    poses = world_from_cam.copy()
    for frame in frames:
        pose = np.eye(4)
        pose[:3] = scene.images[int(frame) + 1].cam_from_world().matrix()
        poses[frame] = np.linalg.inv(pose)
    adjusted = K.copy()
    if refine_focal:
        adjusted[[0, 1], [0, 1]] *= scene.cameras[1].params[0] / focal
    return adjusted, poses, np.array([scene.points3D[i].xyz for i in ids])


def _rank(point: Array) -> Array:
    """[M] which observation of its point each is, from 0."""
    order = np.argsort(point, kind="stable")
    ordered = point[order]
    begin = np.concatenate(([0], np.flatnonzero(np.diff(ordered)) + 1))
    rank = np.empty(len(point), np.int64)
    rank[order] = np.arange(len(point)) - np.repeat(begin, np.diff(np.append(begin, len(point))))
    return rank


def _onto(poses: Array, points: Array, target: Array) -> tuple[Array, Array]:
    """Cameras and points moved by the similarity that lays their path onto another one."""
    similarity = align(target[:, :3, 3], poses[:, :3, 3], with_scale=True)
    out = poses.copy()
    out[:, :3, :3] = similarity[1] @ poses[:, :3, :3]
    out[:, :3, 3] = moved(poses[:, :3, 3], similarity)
    return out, moved(points, similarity)
