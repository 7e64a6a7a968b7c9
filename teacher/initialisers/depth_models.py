"""Dense depth by a network for single images (ZoeDepth, Depth Anything, Depth Pro) through `transformers`.

Two kinds of output are kept apart. *Metric* networks give metres; only one factor is missing to the units of the
cameras, and none where the cameras are in metres. *Relative* ones give a x (1 / depth) + b with unknown a and b
(Ranftl et al., "Towards robust monocular depth estimation", TPAMI 2022, section 5). What is missing is fitted to the
triangulated points, robustly; without points a relative network tells nothing and the stage is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill.errors import FootfallError, require
from teacher.initialisers.background import FrameReader
from teacher.initialisers.pretrained import Pretrained, find_pretrained
from teacher.initialisers.registry import Outcome, Report, StageMissingError
from teacher.stagefiles import CameraInit, DepthInit
from teacher.workspace import ClipFolder

Array = NDArray[Any]
FEWEST_POINTS: Final = 8
"""A frame with fewer triangulated points takes the fit of its neighbours."""
Kind = Literal["metric", "relative"]


@dataclass(kw_only=True)
class DepthModelConfig:
    """Which network, and how its depth is fitted to the cameras."""

    model: str = "depth-anything/Depth-Anything-V2-Small-hf"
    """Folder, or repository on the Hub, of a ZoeDepth, Depth Anything or Depth Pro model."""
    revision: str = ""
    """Commit, tag or branch on the Hub; empty takes the newest."""
    fit: str = "frame"
    """frame: scale (and shift) of each frame, smoothed over time; clip: one for all frames."""
    smooth_frames: int = 9
    """Frames whose fits are averaged, for fit=frame."""

    def __post_init__(self) -> None:
        if self.fit not in ("frame", "clip") or self.smooth_frames < 1:
            raise ValueError("depth.network: fit of frame or clip, and smooth_frames of at least 1, are expected")


def run_depth_model(clip: ClipFolder, config: DepthModelConfig, long_side: int, report: Report) -> Outcome:
    """Depth [T, h, w] of the background in the units of the cameras.

    Raises:
        StageMissingError: a relative network, and too few triangulated points to fit it to.
        FootfallError: the model cannot be found or is of another kind.
    """
    cameras = CameraInit.load(clip.require("cameras"))
    source = find_pretrained(config.model, config.revision)
    kind = kind_of(source)
    if kind == "relative" and len(cameras.points) < 20:
        raise StageMissingError(f"{config.model} gives relative depth and there are only {len(cameras.points)} points")
    reader = FrameReader(clip)
    scale = long_side / max(reader.size)
    size = (round(reader.size[0] * scale), round(reader.size[1] * scale))
    network = DepthNetwork(source, size, focal_share=float(cameras.K[0, 0]) / reader.size[0])
    raw = np.empty((len(reader), size[1], size[0]), np.float32)
    for index in range(len(reader)):
        report(0.95 * index / len(reader), f"{source.model_type}, frame {index}")
        raw[index] = network(reader.rgb(index))
    inverse = raw if kind == "relative" else 1 / np.maximum(raw, 1e-6)
    samples = [points_of(cameras, index, inverse[index], reader.size) for index in range(len(reader))]
    fits = (
        fit_frames(samples, shift=kind == "relative", config=config)
        if not cameras.metric or kind == "relative"
        else None
    )
    maps = _in_units(inverse, fits, samples, kind)
    on_people = np.zeros_like(maps)
    for index in range(len(reader)):
        background = _background(reader, index, size)
        on_people[index][~background] = maps[index][~background]
        maps[index][~background] = 0
    stored = DepthInit(depth=maps.astype(np.float16), person_depth=on_people.astype(np.float16))
    stored.save(clip.stage_dir("depth"))
    summary: dict[str, Any] = {"kind": kind, "coverage": round(float((maps > 0).mean()), 3)}
    if kind == "metric" and fits is not None:
        summary["metres_per_unit"] = round(float(np.median(fits[:, 0])), 5)
    summary["agreement_with_points"] = round(_agreement(samples, fits), 4)
    return Outcome(summary=summary, weights=source.record())


def kind_of(source: Pretrained) -> Kind:
    """What a network's numbers mean.

    Raises:
        FootfallError: an architecture that is not known here.
    """
    if source.model_type in ("zoedepth", "depth_pro"):
        return "metric"
    if source.model_type == "depth_anything":
        return "metric" if source.config.get("depth_estimation_type") == "metric" else "relative"
    raise FootfallError(
        f"depth model {source.name}", got=f"model_type {source.model_type}",
        expected="zoedepth, depth_anything or depth_pro", do="take one of these",
    )  # fmt: skip


class DepthNetwork:
    """A network, ready to be asked."""

    def __init__(self, source: Pretrained, size: tuple[int, int], *, focal_share: float) -> None:
        """`size`: width, height of the maps; `focal_share`: focal length over image width, for Depth Pro."""
        import torch

        transformers = require("transformers", extra="neural")
        self._torch, self._size, self._share, self._type = torch, size, focal_share, source.model_type
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._processor = transformers.AutoImageProcessor.from_pretrained(source.folder, local_files_only=True)
        model = transformers.AutoModelForDepthEstimation.from_pretrained(
            source.folder, local_files_only=True, use_safetensors=True
        )
        self._model = model.to(self._device).eval()

    def __call__(self, rgb: Array) -> Array:
        """uint8 [H, W, 3] -> [h, w] float32: metres, or relative inverse depth."""
        torch = self._torch
        inputs = self._processor(images=Image.fromarray(rgb), return_tensors="pt").to(self._device)
        with torch.inference_mode():
            outputs = self._model(pixel_values=inputs["pixel_values"])
            if self._type == "zoedepth":  # the processor pads; it also knows how to take that away
                done = self._processor.post_process_depth_estimation(outputs, source_sizes=[rgb.shape[:2]])
                raw = done[0]["predicted_depth"]
            elif self._type == "depth_pro":  # canonical inverse depth c: depth = (f / W) / c, with our focal length
                raw = self._share / outputs.predicted_depth[0].clamp(min=1e-4)
            else:
                raw = outputs.predicted_depth[0]
            small = torch.nn.functional.interpolate(
                raw[None, None].float(), size=self._size[::-1], mode="bilinear", align_corners=False, antialias=True
            )
        return small[0, 0].cpu().numpy()


def points_of(cameras: CameraInit, index: int, inverse: Array, size: tuple[int, int]) -> tuple[Array, Array]:
    """At the triangulated points seen in a frame: the network's inverse depth [n], and the points' own [n]."""
    seen = cameras.obs_frame == index
    cam_from_world = np.linalg.inv(cameras.world_from_cam[index])
    depth = cameras.points[cameras.obs_point[seen]] @ cam_from_world[2, :3] + cam_from_world[2, 3]
    stretch = np.array([inverse.shape[1] / size[0], inverse.shape[0] / size[1]])
    column, row = np.floor(cameras.obs_px[seen] * stretch).astype(int).T
    inside = (depth > 1e-6) & (column >= 0) & (column < inverse.shape[1]) & (row >= 0) & (row < inverse.shape[0])
    return inverse[row[inside], column[inside]].astype(np.float64), 1 / depth[inside].astype(np.float64)


def fit_line(x: Array, y: Array, *, shift: bool, rounds: int = 30) -> tuple[float, float]:
    """a and b that minimise sum |a x + b - y| / y, by reweighted least squares; b = 0 unless `shift`.

    Relative residuals, because an error in inverse depth counts in proportion to the depth that it spoils.
    """
    design = np.stack((x, np.ones_like(x) if shift else np.zeros_like(x)), -1)
    weight: Array = np.ones_like(y)
    solution: Array = np.zeros(2)
    for _ in range(rounds):
        root = np.sqrt(weight)[:, None] / y[:, None]
        solution = np.linalg.lstsq(design * root, y * root[:, 0], rcond=None)[0]
        weight = 1 / np.maximum(np.abs(design @ solution - y) / y, 1e-4)
    return float(solution[0]), float(solution[1])


def fit_frames(samples: list[tuple[Array, Array]], *, shift: bool, config: DepthModelConfig) -> Array | None:
    """[T, 2] a and b of every frame; None if no frame has points enough.

    A frame's fit with a <= 0 (near and far exchanged) is not believed. Fits are averaged over `smooth_frames`.
    """
    enough = [index for index, (x, _) in enumerate(samples) if len(x) >= FEWEST_POINTS]
    if not enough:
        return None
    if config.fit == "clip":
        x, y = (np.concatenate([samples[index][k] for index in enough]) for k in (0, 1))
        fits = np.array([fit_line(x, y, shift=shift)])
        return np.repeat(fits, len(samples), 0) if fits[0, 0] > 0 else None
    found = {index: fit_line(*samples[index], shift=shift) for index in enough}
    good = np.array([index for index in enough if found[index][0] > 0])
    if len(good) == 0:
        return None
    values = np.array([found[index] for index in good])
    frames = np.arange(len(samples))
    dense = np.stack([np.interp(frames, good, values[:, k]) for k in (0, 1)], -1)
    half = config.smooth_frames // 2
    return np.stack([np.median(dense[max(0, t - half) : t + half + 1], axis=0) for t in frames])


def _in_units(inverse: Array, fits: Array | None, samples: list[tuple[Array, Array]], kind: Kind) -> Array:
    """Depth [T, h, w] in the units of the cameras; 0 where it would lie far behind every point."""
    if fits is None:
        if kind == "relative":
            raise StageMissingError("too few triangulated points fit the relative depth")
        return 1 / inverse
    fitted = fits[:, 0, None, None] * inverse + fits[:, 1, None, None]
    least = min(float(y.min()) for _, y in samples if len(y)) / 10
    return np.where(fitted > least, 1 / np.maximum(fitted, least), 0.0)


def _background(reader: FrameReader, index: int, size: tuple[int, int]) -> Array:
    cv2 = require("cv2", extra="teacher")
    return cv2.resize(reader.background(index), size, interpolation=cv2.INTER_NEAREST) > 0


def _agreement(samples: list[tuple[Array, Array]], fits: Array | None) -> float:
    """Median relative difference of depth at the triangulated points; NaN without points."""
    if not any(len(x) for x, _ in samples):
        return float("nan")
    lines = np.tile([1.0, 0.0], (len(samples), 1)) if fits is None else fits
    errors = [np.abs((a * x + b) / y - 1) for (x, y), (a, b) in zip(samples, lines, strict=True)]
    return float(np.median(np.concatenate(errors)))
