"""Score rendered frames against a clip's own: PSNR, SSIM and LPIPS in each published convention (`metrics.renders`).

Every number is bound to what it depends on: the split and its rule, the resolution, where the masks come from, and
whether cameras and poses of the scored frames were given or fitted to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill.errors import FootfallError
from distill.image_targets import PARTS, ImageTarget, find_image_targets
from distill.metrics.lpips import load_lpips
from distill.metrics.renders import CONVENTIONS, METRICS, ImageScores, Lpips, frames_of, mean_scores, score_frame
from distill.renders import (
    PERSON,
    POSES,
    about_renders,
    draw_result,
    find_renders,
    how_made,
    read_picture,
    write_renders,
)
from distill.video import Decoder

Array = NDArray[Any]
IMAGE_REPORT_FORMAT: Final = "footfall-image-report/1"
SPLITS: Final = (*PARTS, "held_out", "all")


@dataclass(kw_only=True)
class ImagesConfig:
    """Rendered frames against real ones."""

    split: str = "test"
    """Which frames: train, val, test, held_out (val and test, as JOintGS tests) or all."""
    poses: str = "not stated"
    """Cameras and bodies of the rendered frames: given (before these frames were seen) or fitted (to them); what a
    `renders.json` says goes first."""
    lpips_weights: str = ""
    """Folder with the weights of LPIPS (docs/metrics.md); empty: reports say that LPIPS is missing."""
    render: bool = False
    """Also draw the Gaussians of predicted results with their own cameras, and score the pictures."""

    def __post_init__(self) -> None:
        if self.split not in SPLITS or self.poses not in POSES:
            raise ValueError(f"images: split is one of {', '.join(SPLITS)}, poses one of {', '.join(POSES)}")


def evaluate_renders(
    renders: Path, data: Path, config: ImagesConfig, *, provenance: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Score folders of rendered frames (`distill.renders`) against clips (`distill.image_targets`).

    Returns:
        The report: {format, provenance, settings, lpips, data, renders, overall, clips}. A clip without renders is
        listed as missed; `overall` is the mean over the clips that were scored.

    Raises:
        FootfallError: nothing to score, damaged files, pictures of another shape, or LPIPS weights that are none.
    """
    targets = find_image_targets(data)
    found = find_renders(renders, list(targets))
    if not set(found) & set(targets):
        raise FootfallError(
            f"renders {renders}", got=f"clips {sorted(found)}", expected=f"some of {sorted(targets)}",
            do="name the folders after the clips of --data",
        )  # fmt: skip
    lpips = load_lpips(Path(config.lpips_weights)) if config.lpips_weights else None
    clips = [_score_clip(target, found.get(clip_id), config, lpips) for clip_id, target in targets.items()]
    scored = [clip for clip in clips if clip["status"] == "evaluated"]
    if not scored:
        raise FootfallError(
            f"renders {renders}", got=clips[0]["reason"], expected=f"frames of the split {config.split}",
            do="render those frames, or choose another images.split",
        )  # fmt: skip
    return {
        "format": IMAGE_REPORT_FORMAT,
        "provenance": dict(provenance or {}),
        "settings": {**asdict(config), "definitions": "docs/metrics.md", "averages": "over frames, then over clips"},
        "lpips": "AlexNet, version 0.1" if lpips else "missing: images.lpips_weights names no weights",
        "data": str(data),
        "renders": str(renders),
        "overall": _mean_of_clips(scored) | {"clips": len(clips), "clips_evaluated": len(scored)},
        "clips": clips,
        "unknown_renders": sorted(set(found) - set(targets)),
    }


def draw_and_evaluate(
    results: Mapping[str, Path], data: Path, config: ImagesConfig, out: Path, *,
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Draw the Gaussians of results (clip id -> result folder) for the frames of the split, then score them.

    Args:
        out: folder for the pictures, `out/ID/%06d.png`.

    Raises:
        FootfallError: as `evaluate_renders`; a result has no Gaussians.
    """
    for clip_id, target in find_image_targets(data).items():
        if clip_id in results:
            decoder = Decoder(target.frames, fps=None)
            frames = frames_of(config.split, target.split(len(decoder)))
            height, width = _frame(decoder, frames[0], target).shape[:2]
            drawn = draw_result(results[clip_id], (width, height), frames)
            made_by = f"the Gaussians of {results[clip_id]}"
            write_renders(out / clip_id, drawn, clip=clip_id, made_by=made_by, **how_made(results[clip_id]))
    return evaluate_renders(out, data, config, provenance=provenance)


def _score_clip(target: ImageTarget, folder: Path | None, config: ImagesConfig, lpips: Lpips | None) -> dict[str, Any]:
    decoder = Decoder(target.frames, fps=None)
    wanted = frames_of(config.split, target.split(len(decoder)))
    row: dict[str, Any] = {"id": target.id, "split": config.split, "rule": target.rule, "frames": len(wanted)}
    if folder is None:
        return row | {"status": "missed", "reason": "no rendered frames"}
    there = [frame for frame in wanted if (folder / f"{frame:06d}.png").is_file()]
    if not there:
        return row | {"status": "missed", "reason": f"no frame of the split {config.split} is rendered"}
    scores, sizes, alone = [], set(), 0
    for frame in there:
        rendered = read_picture(folder / f"{frame:06d}.png")
        person_path = folder / PERSON / f"{frame:06d}.png"
        person = read_picture(person_path) if person_path.is_file() else None
        alone += person is not None
        sizes.add((rendered.shape[1], rendered.shape[0]))
        real, mask = _target_frame(decoder, frame, target, (rendered.shape[1], rendered.shape[0]))
        scores.append(score_frame(real, rendered, mask, person=person, lpips=lpips))
    if len(sizes) > 1:
        raise FootfallError(
            f"renders {folder}", got=f"sizes {sorted(sizes)}", expected="one size per clip", do="render them alike"
        )
    about = about_renders(folder)
    return row | {
        "status": "evaluated",
        "frames_missing": len(wanted) - len(there),
        "size": list(sizes.pop()),
        "frame_size": list(_frame(decoder, there[0], target).shape[1::-1]),
        "mask_source": target.mask_source,
        "poses": about["poses"] if about["poses"] != "not stated" else config.poses,
        "made_by": about["made_by"],
        "unseen": "not stated" if about["unseen"] is None else f"{len({*there} & {*about['unseen']})} of {len(there)}",
        "person_alone": f"{alone} of {len(there)} frames",
        "values": mean_scores(scores),
        "undefined": _reasons(scores),
    }


def _frame(decoder: Decoder, frame: int, target: ImageTarget) -> Array:
    image = next(decoder.frames(range(frame, frame + 1)))[1]
    if image is None:
        raise FootfallError(
            f"clip {target.id}, frame {frame}", got="a frame that cannot be decoded", expected="a complete clip",
            do="copy its frames again",
        )  # fmt: skip
    return image


def _target_frame(
    decoder: Decoder, frame: int, target: ImageTarget, size: tuple[int, int]
) -> tuple[Array, Array | None]:
    """The real frame [H, W, 3] in 0..1 and its mask [H, W], at the size of the rendering (width, height)."""
    image = _frame(decoder, frame, target)
    height, width = image.shape[:2]
    if abs(size[0] * height - size[1] * width) > max(height, width):  # more than a pixel off the same shape
        raise FootfallError(
            f"clip {target.id}, frame {frame}", got=f"a rendering of {size[0]} x {size[1]}",
            expected=f"{width} x {height}, or smaller in the same shape", do="render whole frames",
        )  # fmt: skip
    shown = Image.fromarray(image)
    real = np.asarray(shown if shown.size == size else shown.resize(size, Image.Resampling.BOX), np.float64) / 255
    if target.masks is None:
        return real, None
    path = target.masks / f"{frame:06d}.png"
    if not path.is_file():
        raise FootfallError(str(path), got="no such mask", expected="one for every frame", do="run the recipe again")
    with Image.open(path) as mask:
        return real, np.asarray(mask if mask.size == size else mask.resize(size, Image.Resampling.NEAREST)) > 0


def _reasons(scores: list[ImageScores]) -> dict[str, str]:
    """Why values are missing, with the number of frames."""
    counted: dict[tuple[str, str], int] = {}
    for score in scores:
        for item in score.undefined.items():
            counted[item] = counted.get(item, 0) + 1
    return {name: f"{reason} ({count} of {len(scores)} frames)" for (name, reason), count in counted.items()}


def _mean_of_clips(clips: list[dict[str, Any]]) -> dict[str, Any]:
    overall: dict[str, Any] = {}
    for convention in CONVENTIONS:
        for metric in METRICS:
            values = [v for clip in clips if (v := clip["values"][convention][metric]) is not None]
            overall.setdefault(convention, {})[metric] = float(np.mean(values)) if values else None
    return overall


def images_table(report: Mapping[str, Any]) -> str:
    """The report as Markdown: a row per clip and convention, with all that the numbers depend on."""
    lines = [
        f"# {Path(report['renders']).name} against {Path(report['data']).name}: pictures",
        "",
        f"LPIPS: {report['lpips']}. Conventions and definitions: docs/metrics.md; never compare different rows.",
        "",
        "| clip | split | frames | unseen | size | masks | poses | convention | PSNR dB | SSIM | LPIPS |",
        "|---|---|---:|---|---|---|---|---|---:|---:|---:|",
    ]
    for clip in report["clips"]:
        if clip["status"] != "evaluated":
            lines.append(
                f"| {clip['id']} | {clip['split']} | 0 of {clip['frames']} |  |  |  | {clip['reason']} |  |  |  |"
            )
            continue
        done = clip["frames"] - clip["frames_missing"]
        size = f"{clip['size'][0]} x {clip['size'][1]}"
        facts = f"{clip['split']} | {done} of {clip['frames']} | {clip['unseen']} | {size} | {clip['mask_source']}"
        facts += f" | {clip['poses']}"
        for convention in CONVENTIONS:
            lines.append(f"| {clip['id']} | {facts} | {convention} | {_cells(clip['values'][convention])} |")
    for convention in CONVENTIONS:
        lines.append(f"| **all** | | | | | | | {convention} | {_cells(report['overall'][convention])} |")
    return "\n".join(lines) + "\n"


def _cells(values: Mapping[str, float | None]) -> str:
    formats = {"psnr": "{:.2f}", "ssim": "{:.3f}", "lpips": "{:.3f}"}
    return " | ".join("–" if (v := values[name]) is None else formats[name].format(v) for name in METRICS)
