"""Camera motion from corners on the backbone's points: what a pointmap is for, beside what the heads say.

Every few frames a keyframe is taken: corners of its background, each with its 3D point from the pointmap. They are
tracked from frame to frame (Lucas-Kanade), and the pose that projects them best is a measurement of the camera's
motion, far finer than tokens are. Its scale is the pointmap's; the fuser weighs it with everything else.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from distill.errors import require

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
    depth_doubt: float = 0.1
    """Relative standard deviation of a pointmap's depths from one part of the scene to another."""
    outlier_px: float = 2.0
    """Corners further than this from where the pose projects them are outliers, pixels."""

    def __post_init__(self) -> None:
        if min(self.corners, self.keyframe_every, self.keyframes) < 1 or self.depth_doubt < 0 or self.outlier_px <= 0:
            raise ValueError("odometry: corners, keyframe_every, keyframes >= 1, depth_doubt >= 0, outlier_px > 0")


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
    pose: tuple[Array, Array] | None = field(default=None)
    """Last answer, rotation vector and translation: where the next search begins."""


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
        pixels = keyframe.pixels.astype(np.float64)
        turn, shift = keyframe.pose or (np.zeros((3, 1)), np.zeros((3, 1)))
        inliers = np.ones(len(pixels), bool)
        # Points are wrong by their depth: first all count, then only those that the pose explains.
        for limit in (6.0, 3.0, 1.0):
            if inliers.sum() < MIN_CORNERS:
                return None
            turn, shift = self._cv2.solvePnPRefineLM(
                keyframe.points[inliers], pixels[inliers], self._K, None, turn.copy(), shift.copy()
            )
            projected, jacobian = self._cv2.projectPoints(keyframe.points, turn, shift, self._K, None)
            error = np.linalg.norm(projected[:, 0] - pixels, axis=-1)
            inliers = error < limit * max(self.config.outlier_px, float(np.median(error)))
        if inliers.sum() < MIN_CORNERS:
            return None
        keyframe.pose = (turn, shift)
        rotation, _ = self._cv2.Rodrigues(turn)
        key_from_now = np.eye(4)
        key_from_now[:3, :3], key_from_now[:3, 3] = rotation.T, -rotation.T @ shift.reshape(3)
        return Measured(
            gap=self._index - keyframe.index, key_from_now=key_from_now, inliers=int(inliers.sum()),
            log_var=self._log_var(jacobian[:, :6], inliers, error, keyframe.points, key_from_now[:3, 3]),
        )  # fmt: skip

    def _log_var(self, jacobian: Array, inliers: Array, error: Array, points: Array, shift: Array) -> Array:
        """Log variances [2] from the residuals' spread and from the doubt in the points."""
        rows = jacobian[np.repeat(inliers, 2)]
        sigma = max(PIXEL_SIGMA, 1.2 * float(np.median(error[inliers])))
        covariance = np.linalg.inv(rows.T @ rows / sigma**2 + 1e-9 * np.eye(6))
        moved = float(np.linalg.norm(shift))
        # Depth that is wrong by a share bends what a translation explains into a turn: by that share of the parallax.
        parallax = moved / float(np.median(points[inliers, 2]))
        turn = np.trace(covariance[:3, :3]) + (self.config.depth_doubt * parallax) ** 2
        move = np.trace(covariance[3:, 3:]) + (self.config.depth_doubt * moved) ** 2
        return np.log(np.array([turn, move + 1e-8]))
