"""BlazePose on a tflite runtime: find people, then 33 landmarks, 3D landmarks and a mask of each.

Bazarevsky et al., "BlazePose: On-device Real-time Body Pose Tracking", CVPR workshops 2020. The networks'
input ranges, anchors and outputs are those of the published files (`weights`); everything around them is ours.
Pixels follow `conventions`: the centre of the top-left pixel is (0.5, 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from distill.errors import require
from distill.people.weights import POSE_DETECTOR, POSE_LANDMARKS, get_weights

Array = NDArray[Any]

DETECTOR_SIDE: Final = 224
LANDMARK_SIDE: Final = 256
# conventions.KEYPOINTS <- index of BlazePose's landmark; -1 where it has none (small toes).
KEYPOINT_FROM_BLAZEPOSE: Final = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28, 31, -1, 29, 32, -1, 30)


@dataclass(kw_only=True)
class Region:
    """A turned square of the image that holds a person; `angle` radians turns it upright."""

    centre: Array
    """[2] pixels."""
    side: float
    """Side length, pixels."""
    angle: float


@dataclass(kw_only=True)
class Pose:
    """One person in one frame."""

    keypoints_px: Array
    """[23, 2] pixels."""
    keypoint_score: Array
    """[23] in [0, 1]: how visible; 0 where BlazePose has no such point."""
    keypoints_hip: Array
    """[23, 3] metres, camera axes, origin between the hips."""
    score: float
    """In [0, 1]: is this a person."""
    box_xyxy: Array
    """[4] pixels, around the visible keypoints."""
    next_region: Region
    """Where to look in the next frame."""
    mask_logit: Array
    """[256, 256] float32: person (positive) or not, in `region`."""
    region: Region
    """Where this pose was read."""


def region_from_points(centre: Array, top: Array) -> Region:
    """Region from the mid-hip point and the point that marks the body's extent and up direction, pixels."""
    delta = top - centre
    return Region(
        centre=np.asarray(centre, np.float64),
        side=float(2.5 * np.hypot(*delta)),  # half side is 1.25 times the distance
        angle=float(np.arctan2(delta[0], -delta[1])),
    )


def affine_from_region(region: Region, side: int) -> Array:
    """[2, 3] image_from_crop: pixels of a `side` x `side` crop -> pixels of the image."""
    cosine, sine = np.cos(region.angle), np.sin(region.angle)
    scale = region.side / side
    linear = scale * np.array([[cosine, -sine], [sine, cosine]])
    return np.concatenate((linear, (region.centre - linear @ np.full(2, side / 2))[:, None]), 1)


def warp(image: Array, target_from_source: Array, size: tuple[int, int]) -> Array:
    """Resample an image under an affine map [2, 3] of pixel coordinates; size (width, height)."""
    cv2 = require("cv2", extra="people")
    matrix = target_from_source.copy()
    # OpenCV puts pixel centres at integers: x' = A (x + 0.5) + b - 0.5.
    matrix[:, 2] += matrix[:, :2] @ np.full(2, 0.5) - 0.5
    return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR)


def invert_affine(matrix: Array) -> Array:
    """Inverse of an affine map [2, 3]."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.concatenate((linear, -linear @ matrix[:, 2:]), 1)


class BlazePose:
    """Both networks, loaded once. One instance serves one thread."""

    def __init__(self, threads: int = 1) -> None:
        litert = require("ai_edge_litert.interpreter", extra="people")

        def load(path: str) -> Any:
            interpreter = litert.Interpreter(model_path=path, num_threads=threads)
            interpreter.allocate_tensors()
            return interpreter

        self._detector = load(str(get_weights(POSE_DETECTOR)))
        self._landmarks = load(str(get_weights(POSE_LANDMARKS)))
        self._anchors = _anchors()

    def detect(self, image: Array, *, min_score: float = 0.5) -> list[tuple[float, Region]]:
        """People in an image [H, W, 3] uint8, best first: (score, region). Finds large people best."""
        height, width = image.shape[:2]
        scale = DETECTOR_SIDE / max(width, height)
        shift = (DETECTOR_SIDE - scale * np.array([width, height])) / 2
        letterbox = np.concatenate((scale * np.eye(2), shift[:, None]), 1)
        crop = warp(image, letterbox, (DETECTOR_SIDE, DETECTOR_SIDE)).astype(np.float32) / 127.5 - 1
        boxes, scores = self._run(self._detector, crop)
        if boxes.shape[-1] == 1:
            boxes, scores = scores, boxes
        probability = 1 / (1 + np.exp(-np.clip(scores.reshape(-1), -80, 80)))
        points = boxes.reshape(-1, 6, 2).copy()
        points[:, 2:] += self._anchors[:, None] * DETECTOR_SIDE
        points[:, 0] += self._anchors * DETECTOR_SIDE
        found = []
        for index in _suppress(points[:, 0], points[:, 1], probability, min_score):
            hip, top = (points[index, 2:4] - shift) / scale
            found.append((float(probability[index]), region_from_points(hip, top)))
        return found

    def landmarks(self, image: Array, region: Region) -> Pose:
        """Read the pose in a region of an image [H, W, 3] uint8."""
        image_from_crop = affine_from_region(region, LANDMARK_SIDE)
        crop = warp(image, invert_affine(image_from_crop), (LANDMARK_SIDE, LANDMARK_SIDE))
        outputs = {array.size: array for array in self._run(self._landmarks, crop.astype(np.float32) / 255)}
        points = outputs[195].reshape(39, 5)
        world = outputs[117].reshape(39, 3)
        pixels = _refine(points[:, :2], outputs[64 * 64 * 39].reshape(64, 64, 39))
        pixels = pixels @ image_from_crop[:, :2].T + image_from_crop[:, 2]
        visible = 1 / (1 + np.exp(-np.clip(np.minimum(points[:, 3], points[:, 4]), -80, 80)))
        turn = image_from_crop[:, :2] / np.sqrt(np.linalg.det(image_from_crop[:, :2]))
        world = np.concatenate((world[:, :2] @ turn.T, world[:, 2:]), 1)
        take = np.array(KEYPOINT_FROM_BLAZEPOSE)
        known = take >= 0
        score = np.where(known, visible[take], 0.0)
        keypoints = np.where(known[:, None], pixels[take], 0.0)
        body = pixels[:33][visible[:33] > 0.3] if (visible[:33] > 0.3).sum() >= 4 else pixels[:33]
        margin = 0.05 * region.side
        return Pose(
            keypoints_px=keypoints.astype(np.float32),
            keypoint_score=score.astype(np.float32),
            keypoints_hip=np.where(known[:, None], world[take], 0.0).astype(np.float32),
            score=float(outputs[1].reshape(())),
            box_xyxy=np.concatenate((body.min(0) - margin, body.max(0) + margin)).astype(np.float32),
            next_region=region_from_points(pixels[33], pixels[34]),
            mask_logit=outputs[256 * 256].reshape(256, 256).copy(),
            region=region,
        )

    @staticmethod
    def _run(interpreter: Any, crop: Array) -> list[Array]:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], crop[None])
        interpreter.invoke()
        return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def mask_in_image(pose: Pose, size: tuple[int, int]) -> Array:
    """The mask's logits as an image of `size` (width, height), float32; -10 outside the region."""
    cv2 = require("cv2", extra="people")
    matrix = affine_from_region(pose.region, LANDMARK_SIDE).copy()
    matrix[:, 2] += matrix[:, :2] @ np.full(2, 0.5) - 0.5
    return cv2.warpAffine(
        pose.mask_logit, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=-10.0
    )


def _anchors() -> Array:
    """[2254, 2] anchor centres in [0, 1]: 2 per cell at strides 8 and 16, 6 per cell at stride 32."""
    rows = []
    for stride, per_cell in ((8, 2), (16, 2), (32, 6)):
        cells = DETECTOR_SIDE // stride
        y, x = np.mgrid[:cells, :cells]
        centres = (np.stack((x, y), -1).reshape(-1, 2) + 0.5) / cells
        rows.append(np.repeat(centres, per_cell, 0))
    return np.concatenate(rows).astype(np.float32)


def _suppress(centres: Array, sizes: Array, scores: Array, min_score: float, overlap: float = 0.3) -> list[int]:
    """Indices of boxes kept by greedy non-maximum suppression, best first."""
    low, high = centres - sizes / 2, centres + sizes / 2
    kept: list[int] = []
    for index in np.argsort(-scores):
        if scores[index] < min_score:
            break
        if all(box_overlap(low[index], high[index], low[k], high[k]) < overlap for k in kept):
            kept.append(int(index))
    return kept


def box_overlap(low_a: Array, high_a: Array, low_b: Array, high_b: Array) -> float:
    """Intersection over union of two boxes given by their corners [2]."""
    inside = np.clip(np.minimum(high_a, high_b) - np.maximum(low_a, low_b), 0, None).prod()
    union = (high_a - low_a).prod() + (high_b - low_b).prod() - inside
    return float(inside / max(union, 1e-9))


def _refine(points: Array, heat: Array, half: int = 3) -> Array:
    """Move landmarks [39, 2] (pixels of the crop) to the centre of mass of their heat map nearby, if it is sure."""
    refined = points.copy()
    cell = LANDMARK_SIDE / heat.shape[0]
    for index, (x, y) in enumerate(points / cell):
        column, row = int(x), int(y)
        if not (0 <= column < heat.shape[1] and 0 <= row < heat.shape[0]):
            continue
        top, left = max(row - half, 0), max(column - half, 0)
        patch = 1 / (1 + np.exp(-heat[top : row + half + 1, left : column + half + 1, index]))
        if patch.max() < 0.5:
            continue
        ys, xs = np.mgrid[top : top + patch.shape[0], left : left + patch.shape[1]] + 0.5
        refined[index] = np.array([(xs * patch).sum(), (ys * patch).sum()]) / patch.sum() * cell
    return refined
