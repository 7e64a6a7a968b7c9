"""The first stage: decode a clip into numbered images with their time stamps.

Time stamps come from the container (phones write variable frame rates), rotation metadata is applied by the
decoder, and no frame is dropped or repeated: frames that cannot be decoded are counted and left out. A video
with hard cuts is split at them, because no camera path crosses a cut. With `blur_faces` heads are blurred here, before
anything is written: every later stage, its labels and its pictures know blurred frames only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from distill.cuts import CORRELATION, HISTOGRAM, Look, is_cut, look_at
from distill.errors import FootfallError, require
from distill.geometry.cameras import intrinsics_to_integer_centres, resize_intrinsics
from distill.people.blur import blur_heads
from distill.people.heads import HEAD_WEIGHTS, HeadsConfig, find_heads
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
    cut_correlation: float = CORRELATION
    """A cut is where consecutive thumbnails correlate less than this ..."""
    cut_histogram: float = HISTOGRAM
    """... and their colour histograms differ by more than this share of the pixels."""

    blur_faces: bool = False
    """Whether heads are blurred in the images that are written, so in all that is made of them; also --blur-faces."""
    heads: HeadsConfig = field(default_factory=HeadsConfig)
    """How heads are found for that."""

    def __post_init__(self) -> None:
        if self.long_side < 64 or self.min_frames < 2 or self.max_frames < self.min_frames or self.image_fps <= 0:
            raise ValueError("video: long_side >= 64, 2 <= min_frames <= max_frames and image_fps > 0 are expected")


def split_shots(
    path: Path, config: VideoConfig, fps: float | None = None, *, window: tuple[float, float | None] = (0.0, None)
) -> list[tuple[float, float | None]]:
    """[start, end) in seconds of every shot (`distill.cuts`) within a window; the last end is the window's."""
    decoder = Decoder(path, fps=fps or (config.image_fps if path.is_dir() else None), size=(64, 36))
    wanted = _frames_within(decoder.timestamps, *window)
    starts = [wanted.start]
    before: Look | None = None
    for index, frame in decoder.frames(wanted):
        if frame is None:
            continue
        now = look_at(frame)
        cut = before is not None and is_cut(
            before, now, correlation=config.cut_correlation, histogram=config.cut_histogram
        )
        if cut and index - starts[-1] >= config.min_frames:
            starts.append(index)
        if index - starts[-1] >= config.max_frames:
            starts.append(index)
        before = now
    times = [window[0], *(float(decoder.timestamps[start]) for start in starts[1:])]
    return list(zip(times, [*times[1:], window[1]], strict=True))


def run(clip: ClipFolder, config: VideoConfig, report: Report) -> Outcome:
    """Write `frames/`: images and `frames.npz`.

    Raises:
        FootfallError: not decodable, too few frames, or calibration that does not fit the video.
    """
    source = clip.source
    folder = clip.stage_dir("frames")
    fps = source.fps or (config.image_fps if Path(source.path).is_dir() else None)
    decoder = Decoder(Path(source.path), fps=fps)
    wanted = _frames_within(decoder.timestamps, source.start_s, source.end_s)
    poses = _poses(source, len(decoder), wanted, unreadable=0)
    pictures = _Pictures(decoder, source.intrinsics, config.long_side)
    heads: list[Array] | None = None
    if config.blur_faces:  # found in a pass of their own, so that no clear face is ever written
        followed = pictures.read(wanted, lambda f, text: report(0.8 * f, f"faces, {text}"))
        heads = find_heads((picture for _, picture in followed), config.heads)
    timestamps: list[float] = []
    unreadable, found_in = 0, 0.0 if heads is None else 0.8
    for index, picture in pictures.read(wanted, lambda f, text: report(found_in + (1 - found_in) * f, text)):
        if picture is None:
            unreadable += 1
            continue
        if heads is not None:
            picture = blur_heads(picture, heads[index - wanted.start])
        write_image(Frames.image_path(folder, len(timestamps)), picture)
        timestamps.append(decoder.timestamps[index])
    if len(timestamps) < config.min_frames:
        raise FootfallError(
            f"video {source.path}", got=f"{len(timestamps)} frame{'s' if len(timestamps) != 1 else ''}",
            expected=f"at least {config.min_frames}", do="give a longer clip",
        )  # fmt: skip
    _poses(source, len(decoder), wanted, unreadable)
    Frames(
        timestamps=np.asarray(timestamps, np.float64), size=pictures.size, source_size=pictures.source_size,
        unreadable=unreadable, K=pictures.lens.K if pictures.lens else None, world_from_cam=poses,
    ).save(folder)  # fmt: skip
    seconds = float(timestamps[-1] - timestamps[0])
    return Outcome(
        summary={
            "frames": len(timestamps), "size": pictures.size, "source_size": pictures.source_size,
            "unreadable": unreadable, "seconds": seconds, "fps": (len(timestamps) - 1) / seconds if seconds else None,
            "blurred": heads is not None, "heads": sum(map(len, heads or [])),
        },
        weights={} if heads is None else {w.id: {"sha256": w.sha256, "licence": w.licence} for w in HEAD_WEIGHTS},
    )  # fmt: skip


class _Pictures:
    """The frames of a clip as they are written: through a pinhole, and small."""

    def __init__(self, decoder: Decoder, intrinsics: dict[str, Any] | None, long_side: int) -> None:
        self._decoder, self._intrinsics, self._long_side = decoder, intrinsics, long_side
        self.source_size, self.size = [0, 0], [0, 0]
        self.lens: _Lens | None = None

    def read(self, wanted: range, report: Report) -> Iterator[tuple[int, Array | None]]:
        """(index, [H, W, 3] uint8, or None where it cannot be decoded)."""
        for index, frame in self._decoder.frames(wanted):
            report((index - wanted.start) / len(wanted), f"frame {index}")
            if frame is None:
                yield index, None
                continue
            if self.source_size == [0, 0]:
                self.source_size = [frame.shape[1], frame.shape[0]]
                self.size = _written_size(self.source_size, self._long_side)
                self.lens = _Lens(self._intrinsics, self.source_size, self.size) if self._intrinsics else None
            image = Image.fromarray(self.lens.undistort(frame) if self.lens else frame)
            small = image.resize((self.size[0], self.size[1]), Image.Resampling.LANCZOS, reducing_gap=2.0)
            yield index, np.asarray(small)


def _frames_within(timestamps: Array, start_s: float, end_s: float | None) -> range:
    """Indices of the frames in [start_s, end_s)."""
    start = int(np.searchsorted(timestamps, start_s - 1e-6)) if start_s > 0 else 0
    end = len(timestamps) if end_s is None else int(np.searchsorted(timestamps, end_s - 1e-6))
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
