"""The first stage: decode a clip into numbered images with their time stamps.

Time stamps come from the container (phones write variable frame rates), rotation metadata is applied by the
decoder, and no frame is dropped or repeated: frames that cannot be decoded are counted and left out. A video
with hard cuts is split at them, because no camera path crosses a cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from distill.errors import FootfallError, require
from distill.geometry.cameras import intrinsics_to_integer_centres, resize_intrinsics
from distill.video import Decoder
from teacher.initialisers.registry import Outcome, Report
from teacher.readers.checks import check_intrinsics
from teacher.stagefiles import Frames, write_image
from teacher.workspace import ClipFolder, ClipSource

Array = NDArray[Any]


@dataclass(kw_only=True)
class VideoConfig:
    """Decoding."""

    long_side: int = 640
    """Longer side of the written images, pixels; smaller videos keep their size."""
    min_frames: int = 8
    """Fewer frames than this cannot be solved."""
    max_frames: int = 2000
    """A longer shot is cut into parts of at most this many frames."""
    image_fps: float = 30.0
    """Frame rate of a folder of images whose manifest row gives none."""
    cut_correlation: float = 0.4
    """A cut is where consecutive thumbnails correlate less than this ..."""
    cut_histogram: float = 0.3
    """... and their colour histograms differ by more than this share of the pixels."""

    def __post_init__(self) -> None:
        if self.long_side < 64 or self.min_frames < 2 or self.max_frames < self.min_frames or self.image_fps <= 0:
            raise ValueError("video: long_side >= 64, 2 <= min_frames <= max_frames and image_fps > 0 are expected")


def split_shots(path: Path, config: VideoConfig, fps: float | None = None) -> list[tuple[float, float | None]]:
    """[start, end) in seconds of every shot of a video; the last end is None.

    A cut is a pair of consecutive frames whose thumbnails are uncorrelated AND whose colours differ: fast
    camera motion does the first, a flash the second, only a cut both.
    """
    decoder = Decoder(path, fps=fps or (config.image_fps if path.is_dir() else None), size=(64, 36))
    starts = [0]
    before: tuple[Array, Array] | None = None
    for index, frame in decoder.frames(range(len(decoder))):
        if frame is None:
            continue
        now = _thumbnail(frame)
        if before is not None and index - starts[-1] >= config.min_frames and _is_cut(before, now, config):
            starts.append(index)
        if index - starts[-1] >= config.max_frames:
            starts.append(index)
        before = now
    times = [float(decoder.timestamps[start]) for start in starts]
    times[0] = 0.0
    return list(zip(times, [*times[1:], None], strict=True))


def _thumbnail(frame: Array) -> tuple[Array, Array]:
    """Grey thumbnail without its mean, unit norm; histogram of 4x4x4 colours, sum 1."""
    grey = frame.astype(np.float32).mean(-1)
    grey = grey[: grey.shape[0] // 4 * 4, : grey.shape[1] // 4 * 4]
    grey = grey.reshape(grey.shape[0] // 4, 4, -1, 4).mean((1, 3))
    grey = grey - grey.mean()
    cells = (frame >> 6).reshape(-1, 3).astype(np.int64) @ np.array([16, 4, 1])
    return grey / (np.linalg.norm(grey) + 1e-6), np.bincount(cells, minlength=64) / len(cells)


def _is_cut(a: tuple[Array, Array], b: tuple[Array, Array], config: VideoConfig) -> bool:
    correlation = float((a[0] * b[0]).sum())
    difference = float(np.abs(a[1] - b[1]).sum() / 2)
    return correlation < config.cut_correlation and difference > config.cut_histogram


def run(clip: ClipFolder, config: VideoConfig, report: Report) -> Outcome:
    """Write `frames/`: images and `frames.npz`.

    Raises:
        FootfallError: not decodable, too few frames, or calibration that does not fit the video.
    """
    source = clip.source
    folder = clip.stage_dir("frames")
    fps = source.fps or (config.image_fps if Path(source.path).is_dir() else None)
    decoder = Decoder(Path(source.path), fps=fps)
    wanted = _window(decoder.timestamps, source)
    poses = _poses(source, len(decoder), wanted, unreadable=0)
    lens: _Lens | None = None
    timestamps: list[float] = []
    unreadable, size, source_size = 0, [0, 0], [0, 0]
    for index, frame in decoder.frames(wanted):
        report((index - wanted.start) / len(wanted), f"frame {index}")
        if frame is None:
            unreadable += 1
            continue
        if not timestamps:
            source_size = [frame.shape[1], frame.shape[0]]
            size = _written_size(source_size, config.long_side)
            lens = _Lens(source.intrinsics, source_size, size) if source.intrinsics else None
        rgb = lens.undistort(frame) if lens else frame
        image = Image.fromarray(rgb).resize((size[0], size[1]), Image.Resampling.LANCZOS, reducing_gap=2.0)
        write_image(Frames.image_path(folder, len(timestamps)), np.asarray(image))
        timestamps.append(decoder.timestamps[index])
    if len(timestamps) < config.min_frames:
        raise FootfallError(
            f"video {source.path}", got=f"{len(timestamps)} frame{'s' if len(timestamps) != 1 else ''}",
            expected=f"at least {config.min_frames}", do="give a longer clip",
        )  # fmt: skip
    _poses(source, len(decoder), wanted, unreadable)
    Frames(
        timestamps=np.asarray(timestamps, np.float64), size=size, source_size=source_size, unreadable=unreadable,
        K=lens.K if lens else None, world_from_cam=poses,
    ).save(folder)  # fmt: skip
    seconds = float(timestamps[-1] - timestamps[0])
    return Outcome(
        summary={
            "frames": len(timestamps), "size": size, "source_size": source_size, "unreadable": unreadable,
            "seconds": seconds, "fps": (len(timestamps) - 1) / seconds if seconds else None,
        }
    )  # fmt: skip


def _window(timestamps: Array, source: ClipSource) -> range:
    """Indices of the frames in [start_s, end_s)."""
    start = int(np.searchsorted(timestamps, source.start_s - 1e-6)) if source.start_s > 0 else 0
    end = len(timestamps) if source.end_s is None else int(np.searchsorted(timestamps, source.end_s - 1e-6))
    return range(start, end)


def _written_size(source_size: list[int], long_side: int) -> list[int]:
    """Even width and height, longer side at most `long_side`."""
    scale = min(1.0, long_side / max(source_size))
    return [max(2, 2 * round(side * scale / 2)) for side in source_size]


def _poses(source: ClipSource, total: int, wanted: range, unreadable: int) -> list[Any] | None:
    """Known camera poses for the written frames."""
    poses = source.world_from_cam
    if poses is None or not isinstance(poses[0][0], list):
        return poses  # none, or one fixed pose
    if len(poses) != total or unreadable:
        raise FootfallError(
            f"clip {source.id}: world_from_cam", got=f"{len(poses)} poses for {total} frames ({unreadable} unreadable)",
            expected="one pose per frame of the video", do="correct the calibration",
        )  # fmt: skip
    return poses[wanted.start : wanted.stop]


class _Lens:
    """A known lens: undistorts frames to a pinhole camera with the same K."""

    def __init__(self, intrinsics: dict[str, Any], source_size: list[int], size: list[int]) -> None:
        K = torch.eye(3, dtype=torch.float64)
        K[0, 0], K[1, 1], K[0, 2], K[1, 2] = (float(intrinsics[key]) for key in ("fx", "fy", "cx", "cy"))
        check_intrinsics("intrinsics", K.numpy(), (source_size[0], source_size[1]))
        scaled = resize_intrinsics(K, (source_size[0], source_size[1]), (size[0], size[1]))
        self.K: list[list[float]] = scaled.tolist()
        distortion = np.asarray(intrinsics.get("distortion", []), np.float64)
        self._maps: tuple[Array, Array] | None = None
        if distortion.any():
            cv2 = require("cv2", extra="teacher")
            matrix = intrinsics_to_integer_centres(K).numpy()
            shape = (source_size[0], source_size[1])
            self._maps = cv2.initUndistortRectifyMap(matrix, distortion, None, matrix, shape, cv2.CV_32FC1)

    def undistort(self, frame: Array) -> Array:
        """[H, W, 3] uint8 -> the same picture through a pinhole."""
        if self._maps is None:
            return frame
        cv2 = require("cv2", extra="teacher")
        return cv2.remap(frame, *self._maps, cv2.INTER_LINEAR)
