"""The last stage: pictures of a solved clip, so that anybody can see at once whether to believe it.

pictures/overlay.jpg    the solved bodies over six frames (licensed models as skeletons)
pictures/above.png      paths of camera and people seen from above (with matplotlib)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from distill.body import load_body_model
from distill.errors import is_installed
from distill.files import atomic_path
from distill.pictures.overlay import overlay, sheet
from distill.pictures.plots import plot_top_down
from distill.results import load_result
from teacher.initialisers.registry import Outcome, Report
from teacher.stagefiles import Frames, read_image
from teacher.workspace import ClipFolder


@dataclass(kw_only=True)
class PicturesConfig:
    """Pictures of each solved clip."""

    frames: int = 6
    """Frames shown, evenly over the clip."""

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"pictures.frames: got {self.frames}, expected at least 1")


def run(clip: ClipFolder, config: PicturesConfig, report: Report) -> Outcome:
    """Draw the pictures."""
    result = load_result(clip.require("joint"))
    # A licensed body's file is named to the solve only; skeletons need no mesh.
    body = load_body_model("anny") if result.motion.body_model == "anny" else None
    folder = clip.stage_dir("pictures")
    tiles: list[Image.Image] = []
    for index in np.linspace(0, len(result.cameras.timestamps) - 1, config.frames).round().astype(int):
        report(len(tiles) / config.frames, f"frame {index}")
        frame = read_image(Frames.image_path(clip.require("frames"), int(index)))
        tiles.append(overlay(frame, result, int(index), body, label=f"frame {index}"))
    with atomic_path(folder / "overlay.jpg") as temporary:
        sheet(tiles).save(temporary, quality=90)
    if is_installed("matplotlib"):
        plot_top_down(folder / "above.png", {"teacher": result})
    return Outcome()
