"""Camera motion from corners on the backbone's points: what a pointmap is for, beside what the heads say.

Every few frames a keyframe is taken: corners of its background, each with its 3D point from the pointmap. They are
tracked from frame to frame (Lucas-Kanade), and the pose that projects them best is a measurement of the camera's
motion, far finer than tokens are. Each corner's depth may be wrong: pose and depths are solved together, the pointmap
being what is believed of them before. So parallax decides turn and direction, and the pointmap the scale alone; the
fuser weighs the result with everything else.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from distill.errors import require
from distill.fuser.so3 import exp, hat

Array = NDArray[Any]
MIN_CORNERS: Final = 12
"""Fewer tracked corners say nothing."""
PIXEL_SIGMA: Final = 0.5
"""Corners are at best this sure, pixels: neighbouring ones share their errors."""
BACKWARD_PX: Final = 1.0
"""A track that does not come back to its start within this is lost."""


@dataclass(kw_only=True)
class OdometryConfig:
    """Camera motion from tracked corners."""

    corners: int = 200
    """Corners per keyframe."""
    keyframe_every: int = 5
    """Frames from one keyframe to the next."""
    keyframes: int = 2
    """Keyframes that are tracked at once; a frame is measured against each."""
    depth_doubt: float = 0.25
    """Relative standard deviation of each corner's depth in a pointmap."""
    scale_doubt: float = 0.1
    """Relative standard deviation of the scale of a pointmap as a whole."""
    outlier_px: float = 1.0
    """Corners much further than this from where the pose projects them count little, pixels."""

    def __post_init__(self) -> None:
        if min(self.corners, self.keyframe_every, self.keyframes) < 1:
            raise ValueError("odometry: corners, keyframe_every and keyframes of at least 1 are expected")
        if min(self.depth_doubt, self.scale_doubt, self.outlier_px) <= 0:
            raise ValueError("odometry: depth_doubt, scale_doubt and outlier_px above 0 are expected")


@dataclass(kw_only=True)
class Measured:
    """Motion to a keyframe."""

    gap: int
    """Frames since the keyframe."""
    key_from_now: Array
    """[4, 4] in the pointmap's unit."""
    log_var: Array
    """[2] log variance of the norm of the error: rotation (rad^2), translation (unit^2)."""
    inliers: int


@dataclass
class _Keyframe:
    index: int
    points: Array
    """[N, 3] in the keyframe's camera."""
    pixels: Array
    """[N, 2] where they are in the last frame."""
    now_from_key: Array = field(default_factory=lambda: np.eye(4))
    """Last answer: where the next search begins."""


class CornerOdometry:
    """Call `step` for every frame; when `wants_keyframe` afterwards, give the frame's points to `add_keyframe`."""

    def __init__(self, K: Array, config: OdometryConfig | None = None) -> None:
        """`K` [3, 3] in pixels of the images that `step` gets, pixel centres at (0.5, 0.5)."""
        self.config = config or OdometryConfig()
        self._cv2 = require("cv2", extra="people")
        # OpenCV puts the centre of the first pixel at (0, 0).
        self._K = np.asarray(K, np.float64) - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
        self._keyframes: deque[_Keyframe] = deque(maxlen=self.config.keyframes)
        self._grey: Array | None = None
        self._index = -1

    @property
    def wants_keyframe(self) -> bool:
        """Whether the frame just given should become a keyframe."""
        if not self._keyframes:
            return True
        newest = self._keyframes[-1]
        return self._index - newest.index >= self.config.keyframe_every or len(newest.pixels) < 3 * MIN_CORNERS

    def step(self, image: Array) -> list[Measured]:
        """Track all corners into a frame [H, W, 3] uint8 and measure its motion to each keyframe."""
        grey = self._cv2.cvtColor(image, self._cv2.COLOR_RGB2GRAY)
        before, self._grey = self._grey, grey
        self._index += 1
        found = []
        for keyframe in self._keyframes:
            assert before is not None
            self._track(keyframe, before, grey)
            measured = self._measure(keyframe)
            if measured is not None:
                found.append(measured)
        return found

    def add_keyframe(self, points: Array, usable: Array) -> None:
        """Begin to track corners of the frame just given.

        Args:
            points: [h, w, 3] of the frame's pixels in its camera, at any resolution of the same view.
            usable: [h, w] bool: background whose points are trusted.
        """
        assert self._grey is not None
        height, width = self._grey.shape
        mask = self._cv2.resize(usable.astype(np.uint8), (width, height), interpolation=self._cv2.INTER_NEAREST)
        spacing = max(3.0, 0.5 * math.sqrt(height * width / self.config.corners))
        corners = self._cv2.goodFeaturesToTrack(self._grey, self.config.corners, 0.005, spacing, mask=mask)
        if corners is None:
            return
        pixels = corners[:, 0].astype(np.float32)
        row, column = ((pixels[:, ::-1] + 0.5) * np.array(points.shape[:2]) / (height, width)).astype(int).T
        # Depth is read from the map; the ray is the pixel's own, finer than the map.
        depth = points[row, column, 2].astype(np.float64)
        rays = np.column_stack((pixels, np.ones(len(pixels)))) @ np.linalg.inv(self._K).T
        keep = depth > 0.1
        self._keyframes.append(_Keyframe(self._index, (rays * depth[:, None])[keep], pixels[keep]))

    def _track(self, keyframe: _Keyframe, before: Array, now: Array) -> None:
        """Move a keyframe's pixels on; drop those that are lost."""
        if not len(keyframe.pixels):
            return
        flow = self._cv2.calcOpticalFlowPyrLK
        options = {"winSize": (11, 11), "maxLevel": 3}
        start = keyframe.pixels[:, None]
        end, there, _ = flow(before, now, start, None, **options)
        again, back, _ = flow(now, before, end, None, **options)
        kept = (there[:, 0] > 0) & (back[:, 0] > 0) & (np.linalg.norm(again - start, axis=-1)[:, 0] < BACKWARD_PX)
        inside = ((end[:, 0] >= 0) & (end[:, 0] < now.shape[::-1])).all(-1)
        keyframe.pixels, keyframe.points = end[kept & inside, 0], keyframe.points[kept & inside]

    def _measure(self, keyframe: _Keyframe) -> Measured | None:
        """The pose that projects a keyframe's points onto their pixels."""
        if len(keyframe.pixels) < MIN_CORNERS:
            return None
        config = self.config
        solved = solve_pose(
            keyframe.points, keyframe.pixels.astype(np.float64), self._K, keyframe.now_from_key,
            depth_sigma=config.depth_doubt, outlier_px=config.outlier_px,
        )  # fmt: skip
        if solved is None or solved.inliers < MIN_CORNERS:
            return None
        keyframe.now_from_key = solved.now_from_key
        key_from_now = np.linalg.inv(solved.now_from_key)
        scale = (config.scale_doubt * np.linalg.norm(key_from_now[:3, 3])) ** 2
        turn, move = np.trace(solved.covariance[:3, :3]), np.trace(solved.covariance[3:, 3:])
        return Measured(
            gap=self._index - keyframe.index, key_from_now=key_from_now, inliers=solved.inliers,
            log_var=np.log(np.array([turn, move + scale + 1e-8])),
        )  # fmt: skip


@dataclass(kw_only=True)
class SolvedPose:
    """A camera before points of doubtful depth."""

    now_from_key: Array
    """[4, 4]."""
    covariance: Array
    """[6, 6] of local steps: rotation (rad), translation."""
    inliers: int


def solve_pose(
    points: Array, pixels: Array, K: Array, start: Array, *, depth_sigma: float, outlier_px: float, steps: int = 8
) -> SolvedPose | None:
    """Gauss-Newton over a pose and the log depth of every point, the depths eliminated (Schur complement).

    Minimises sum_i rho(|pi(K (R e^{d_i} X_i + t)) - p_i|) / s^2 + (d_i / depth_sigma)^2 with Cauchy's rho.

    Args:
        points: [N, 3] in the keyframe's camera, as the pointmap has them.
        pixels: [N, 2] where they are seen now, in the pixels of `K` [3, 3].
        start: [4, 4] first guess of now_from_key.
        depth_sigma: relative standard deviation of the points' depths.
        outlier_px: width of the robust function, pixels.

    Returns:
        None if the points do not hold a pose.
    """
    R, t, log_depth = start[:3, :3].copy(), start[:3, 3].copy(), np.zeros(len(points))
    focal = np.array([K[0, 0], K[1, 1]])
    hessian, weight = np.eye(6), np.ones(len(points))
    for _ in range(steps):
        turned = (points * np.exp(log_depth)[:, None]) @ R.T
        seen = turned + t
        depth = np.maximum(seen[:, 2], 0.05)
        residual = seen[:, :2] / depth[:, None] * focal + K[:2, 2] - pixels
        weight = (seen[:, 2] > 0.05) / (1 + (residual**2).sum(-1) / outlier_px**2) / PIXEL_SIGMA**2
        by_point = np.zeros((len(points), 2, 3))  # pixels by a step of the point in the camera
        by_point[:, 0, 0], by_point[:, 1, 1] = focal[0] / depth, focal[1] / depth
        by_point[:, :, 2] = -seen[:, :2] / depth[:, None] ** 2 * focal
        by_pose = np.concatenate((-by_point @ hat(turned), by_point), axis=2)  # R <- exp(w) R, t <- t + v
        by_depth = np.einsum("nij,nj->ni", by_point, turned)
        own = weight * (by_depth**2).sum(-1) + depth_sigma**-2
        mixed = weight[:, None] * np.einsum("ni,nij->nj", by_depth, by_pose)
        slope = weight * (by_depth * residual).sum(-1) + log_depth * depth_sigma**-2
        weighted = by_pose * weight[:, None, None]
        hessian = np.einsum("nij,nik->jk", weighted, by_pose) - (mixed / own[:, None]).T @ mixed
        gradient = np.einsum("nij,ni->j", weighted, residual) - mixed.T @ (slope / own)
        try:
            step = -np.linalg.solve(hessian + 1e-6 * np.eye(6), gradient)
        except np.linalg.LinAlgError:
            return None
        log_depth = np.clip(log_depth - (slope + mixed @ step) / own, -2, 2)
        R, t = exp(step[:3]) @ R, t + step[3:]
        if np.abs(step).max() < 1e-6:
            break
    if not np.isfinite(t).all():
        return None
    now_from_key = np.eye(4)
    now_from_key[:3, :3], now_from_key[:3, 3] = R, t
    return SolvedPose(
        now_from_key=now_from_key, covariance=np.linalg.inv(hessian + 1e-6 * np.eye(6)),
        inliers=int((weight > 0.2 / PIXEL_SIGMA**2).sum()),
    )  # fmt: skip
