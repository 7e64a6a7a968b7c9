"""How well rendered frames match a clip's own, in each published convention, and which frames count.

    full     the whole frame, people and scene                   NeuMan, HUGS, JOintGS, ODHSR
    crop     the box around the person's mask in that picture, background included    HUGS, JOintGS (table S1)
    white    the person alone on white, whole frame; outside the mask both are white  ExAvatar, ODHSR, JOintGS
    masked   both pictures times the mask, LPIPS of [0, 1]        the released code of JOintGS

The white background counts as matched perfectly: `white` exceeds `crop` by about 10 log10(frame / box) dB. Never
compare numbers of different rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from distill.metrics.images import psnr, ssim
from distill.metrics.inputs import DegenerateError

Array = NDArray[Any]
Lpips = Callable[..., float]
"""`AlexLpips`, or anything called as it is."""
CONVENTIONS: Final = ("full", "crop", "white", "masked")
METRICS: Final = ("psnr", "ssim", "lpips")
LEAST_CROP: Final = 11
"""Pixels a side, the window of SSIM: a smaller box is widened to it, within the frame."""


@dataclass(kw_only=True)
class ImageScores:
    """Scores of one frame: convention -> metric -> value; what has none says why."""

    values: dict[str, dict[str, float]] = field(default_factory=dict)
    undefined: dict[str, str] = field(default_factory=dict)
    """"convention.metric", or "convention" where all of it is missing -> reason."""


def score_frame(
    target: Array, rendered: Array, mask: Array | None, *, person: Array | None = None, lpips: Lpips | None = None
) -> ImageScores:
    """Compare one rendered frame with the real one.

    Args:
        target, rendered: [H, W, 3] RGB in 0..1; `rendered` shows people and scene.
        mask: [H, W] bool, where people are in `target`; None: only "full" is scored.
        person: [H, W, 3] people alone, rendered on white, for "white"; whitened outside the mask all the same (as
            ExAvatar does). None takes `rendered`: scene in front of a person then counts against the person.
        lpips: the network; None leaves LPIPS out, and says so.
    """
    if target.shape != rendered.shape or target.shape[-1] != 3:
        raise ValueError(f"frames {target.shape} and {rendered.shape}; expected equal [H, W, 3]")
    scores = ImageScores()
    _score(scores, "full", target, rendered, lpips, rescale=True)
    if mask is None or not mask.any():
        reason = "no mask" if mask is None else "nobody in the mask"
        scores.undefined.update(dict.fromkeys(CONVENTIONS[1:], reason))
        return scores
    if mask.shape != target.shape[:2]:
        raise ValueError(f"mask {mask.shape} of a frame {target.shape}")
    rows, columns = crop_box(mask)
    _score(scores, "crop", target[rows, columns], rendered[rows, columns], lpips, rescale=True)
    inside = mask[..., None].astype(bool)
    alone = rendered if person is None else person
    _score(scores, "white", np.where(inside, target, 1.0), np.where(inside, alone, 1.0), lpips, rescale=True)
    _score(scores, "masked", target * inside, alone * inside, lpips, rescale=False)
    return scores


def crop_box(mask: Array) -> tuple[slice, slice]:
    """Rows and columns of the tight box around a mask [H, W], at least `LEAST_CROP` each."""
    return _span(np.any(mask, axis=1)), _span(np.any(mask, axis=0))


def _span(taken: Any) -> slice:
    places = np.flatnonzero(taken)
    start, stop = int(places[0]), int(places[-1]) + 1
    if stop - start < LEAST_CROP:
        start = min(max(0, (start + stop - LEAST_CROP) // 2), max(0, len(taken) - LEAST_CROP))
        stop = min(len(taken), start + LEAST_CROP)
    return slice(start, stop)


def _score(
    scores: ImageScores, name: str, target: Array, rendered: Array, lpips: Lpips | None, *, rescale: bool
) -> None:
    found = scores.values.setdefault(name, {})
    ratio = float(psnr(target, rendered)[0])
    if np.isfinite(ratio):
        found["psnr"] = ratio
    else:
        scores.undefined[f"{name}.psnr"] = "equal pictures have no finite ratio"
    try:
        found["ssim"] = float(ssim(target, rendered)[0])
    except ValueError as error:
        scores.undefined[f"{name}.ssim"] = str(error)
    if lpips is None:
        scores.undefined[f"{name}.lpips"] = "missing: no weights were given"
        return
    try:
        found["lpips"] = lpips(target, rendered, rescale=rescale)
    except DegenerateError as error:
        scores.undefined[f"{name}.lpips"] = str(error)


def mean_scores(frames: list[ImageScores]) -> dict[str, dict[str, float | None]]:
    """Mean over frames of each metric in each convention; None where no frame has it."""
    return {
        convention: {metric: _mean([s.values.get(convention, {}).get(metric) for s in frames]) for metric in METRICS}
        for convention in CONVENTIONS
    }


def _mean(values: list[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None


def neuman_split(frames: int) -> dict[str, list[int]]:
    """Frame numbers of NeuMan's split (Jiang et al., ECCV 2022, released code): train, val and test.

    A fifth is held out, every `step`-th frame from the middle of the first step (2, 7, 12, ... of 25 frames or more);
    the first half of those is the test set, so it lies in the first half of the clip. The step is computed as the
    published code does, in floating point: with 1245 frames that gives 4.

    Raises:
        ValueError: fewer than 10 frames, which leave one of the parts empty.
    """
    if frames < 10:
        raise ValueError(f"NeuMan's split of {frames} frames: 10 or more are needed")
    step = int(1 / (frames // 5) * frames)
    held = list(range(frames))[step // 2 :: step]
    half = len(held) // 2
    return {"train": sorted(set(range(frames)) - set(held)), "val": held[half:], "test": held[:half]}


def frames_of(split: str, parts: Mapping[str, list[int]]) -> list[int]:
    """Frames of "train", "val", "test", "held_out" (val and test, as JOintGS's code tests) or "all".

    Raises:
        ValueError: another name.
    """
    if split == "all":
        return sorted({frame for part in parts.values() for frame in part})
    if split == "held_out":
        return sorted([*parts["val"], *parts["test"]])
    if split not in parts:
        raise ValueError(f"split {split!r} is none of {', '.join([*parts, 'held_out', 'all'])}")
    return list(parts[split])
