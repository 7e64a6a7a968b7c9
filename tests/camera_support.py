"""Clip folders as the stages before `cameras` leave them, from pictures and masks that a test draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.files import load_arrays
from distill.results import Result, load_result
from distill.synthetic import ClipSpec, write_clip
from distill.video import Decoder
from teacher.stagefiles import Frames, People, read_image, write_image
from teacher.workspace import ClipFolder, ClipSource, StageRecord

Array = NDArray[Any]
SMALL = {"size": [384, 216], "frames": 24, "fps": 12.0, "supersample": 1}
"""A clip that is drawn in seconds and still has corners."""


def quiet(fraction: float, text: str) -> None:
    """A report that nobody reads."""


def finish(clip: ClipFolder, stage: str) -> None:
    """Record a stage as done."""
    clip.finish(StageRecord(stage=stage, status="done", implementation="test", config_hash="c", inputs={}))


def clip_of(root: Path, images: Array, masks: Array, *, K: Array | None = None, poses: Any = None) -> ClipFolder:
    """Stages frames and people, from [T, H, W, 3] uint8 pictures and [T, H, W] identity maps."""
    count, height, width = masks.shape
    clip = ClipFolder(root)
    clip.write_source(ClipSource(id=root.name, path="drawn", sha256=""))
    clip.begin("frames")
    clip.begin("people")
    for index in range(count):
        write_image(Frames.image_path(clip.stage_dir("frames"), index), images[index])
        write_image(People.mask_path(clip.stage_dir("people"), index), masks[index])
    Frames(
        timestamps=np.arange(count) / 12, size=[width, height], source_size=[width, height], unreadable=0,
        K=None if K is None else K.tolist(), world_from_cam=poses,
    ).save(clip.stage_dir("frames"))  # fmt: skip
    finish(clip, "frames")
    finish(clip, "people")
    return clip


def synthetic_clip(folder: Path, *, K: bool = False, **fields: Any) -> tuple[ClipFolder, Result, Array]:
    """A drawn clip with true masks: (folder, truth, depth [T, H, W] in metres); `K`: the lens is known."""
    spec = ClipSpec(id="drawn", **{**SMALL, **fields})
    write_clip(folder / "drawn", spec)
    truth = load_result(folder / "drawn" / "truth")
    images = [image for _, image in Decoder(folder / "drawn" / "video.mp4", fps=None).frames(range(spec.frames))]
    masks = [read_image(folder / "drawn" / "masks" / f"{index:06d}.png") for index in range(spec.frames)]
    lens = truth.cameras.K.astype(np.float64) if K else None
    clip = clip_of(folder / "clip", np.stack([i for i in images if i is not None]), np.stack(masks), K=lens)
    return clip, truth, load_arrays(folder / "drawn" / "depth.npz")[0]["depth"].astype(np.float64)


def rotation_error_deg(estimate: Array, truth: Array) -> Array:
    """[T] angle between two rotation paths [T, 3, 3], both taken relative to their first frame, degrees."""
    a, b = (np.swapaxes(r[:1], 1, 2) @ r for r in (estimate, truth))
    cosine = (np.trace(np.swapaxes(a, 1, 2) @ b, axis1=1, axis2=2) - 1) / 2
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))
