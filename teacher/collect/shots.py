"""Cutting a video at its shots, by PySceneDetect (Castellano; BSD-3-Clause)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distill.errors import FootfallError, require
from distill.video import Decoder
from teacher.collect.config import ShotsConfig
from teacher.video import VideoConfig, split_shots


@dataclass(kw_only=True)
class Stream:
    """What a video's container says."""

    seconds: float
    width: int
    height: int


def probe(path: Path) -> Stream:
    """Length and size, without decoding the video.

    Raises:
        FootfallError: it cannot be opened.
    """
    cv2 = require("cv2", extra="collect")
    if path.is_dir():
        decoder = Decoder(path, fps=None)
        first = next(iter(decoder.frames(range(1))))[1] if len(decoder) else None
        if first is None:
            raise FootfallError(f"folder {path}", got="no readable image", expected="images", do="leave it out")
        return Stream(seconds=len(decoder) / 30.0, width=first.shape[1], height=first.shape[0])
    capture = cv2.VideoCapture(str(path))
    count, fps = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
    width, height = (int(capture.get(prop)) for prop in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    capture.release()
    if min(count, fps, width, height) <= 0:
        raise FootfallError(
            f"video {path}", got="a file that cannot be opened", expected="a video that plays", do="download it again"
        )
    return Stream(seconds=float(count / fps), width=width, height=height)


def find_shots(path: Path, config: ShotsConfig, seconds: float) -> list[tuple[float, float]]:
    """[start, end) in seconds of every shot of a video; a folder of images is cut by `distill.cuts`.

    Raises:
        FootfallError: it cannot be decoded.
    """
    if path.is_dir():
        return [(start, seconds if end is None else end) for start, end in split_shots(path, VideoConfig())]
    scenedetect = require("scenedetect", extra="collect")
    try:
        detector = scenedetect.AdaptiveDetector(
            adaptive_threshold=config.threshold, min_content_val=config.least_change, min_scene_len=config.min_s
        )
        scenes = scenedetect.detect(str(path), detector, start_in_scene=True)
    except (scenedetect.VideoOpenFailure, OSError) as error:
        raise FootfallError(
            f"video {path}", got=error, expected="a video that plays from start to end", do="download it again"
        ) from error
    return [(float(start.seconds), float(end.seconds)) for start, end in scenes] or [(0.0, seconds)]
