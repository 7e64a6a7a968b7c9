"""Clips whose frames can be compared with rendered ones: where frames and masks lie, and which frames are held out.

    ID/frames/ or ID/video.mp4    the clip's own pictures, in order
    ID/masks/%06d.png             identity maps: 0 background, k+1 person k; optional
    ID/images.json                splits, their rule, and where the masks come from; optional

The collections of `datasets/synthetic` have this form (their masks are exact), and recipes write it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from distill.errors import FootfallError
from distill.files import read_json, write_json
from distill.metrics.renders import neuman_split

IMAGES_FORMAT: Final = "footfall-images/1"
PARTS: Final = ("train", "val", "test")


@dataclass(kw_only=True)
class ImageTarget:
    """One clip."""

    id: str
    frames: Path
    """A video, or a folder of images."""
    masks: Path | None
    """Folder of identity maps, or None."""
    mask_source: str
    """"truth" for synthetic clips; else what the recipe says; "none" without masks."""
    parts: dict[str, list[int]] | None
    """Frames of train, val and test, or None: NeuMan's rule is used."""
    rule: str
    """What made the parts."""

    def split(self, count: int) -> dict[str, list[int]]:
        """Frames of train, val and test.

        Raises:
            FootfallError: a frame beyond the `count` that the clip has, or too few frames for NeuMan's rule.
        """
        try:
            parts = self.parts or neuman_split(count)
        except ValueError as error:
            raise FootfallError(
                f"clip {self.id}", got=f"{count} frames", expected="10 or more", do=f"{error}: use split=all"
            ) from error
        if any(not 0 <= frame < count for part in parts.values() for frame in part):
            raise FootfallError(
                f"clip {self.id}, images.json", got="a frame that is not there", expected=f"0 to {count - 1}",
                do="run the recipe again",
            )  # fmt: skip
        return parts


def write_image_target(folder: Path, *, parts: Mapping[str, Sequence[int]], rule: str, mask_source: str) -> None:
    """Write `images.json` of a clip's folder."""
    write_json(
        folder / "images.json",
        {
            "format": IMAGES_FORMAT,
            "parts": {name: [int(frame) for frame in parts[name]] for name in PARTS},
            "rule": rule,
            "mask_source": mask_source,
        },
    )


def find_image_targets(data: Path) -> dict[str, ImageTarget]:
    """Clip id -> target, of a collection or of one clip's folder.

    Raises:
        FootfallError: none is there, or an `images.json` is damaged.
    """
    folders = [data] if _frames_of(data) else sorted(path for path in data.glob("*") if _frames_of(path))
    if not folders:
        raise FootfallError(
            f"--data {data}", got="no ID/frames and no ID/video.mp4 in it" if data.is_dir() else "no such folder",
            expected="clips with their frames (datasets/synthetic, neuman or emdb make them)", do="check the path",
        )  # fmt: skip
    return {folder.name: _target(folder) for folder in folders}


def _frames_of(folder: Path) -> Path | None:
    found = [path for path in (folder / "frames", folder / "video.mp4") if path.exists()]
    return found[0] if found else None


def _target(folder: Path) -> ImageTarget:
    frames, masks = _frames_of(folder), folder / "masks"
    assert frames is not None
    about: Any = {}
    if (folder / "images.json").is_file():
        about = read_json(folder / "images.json")
        if not _is_valid(about):
            raise FootfallError(
                str(folder / "images.json"), got="something else", expected=f"the splits of a clip ({IMAGES_FORMAT})",
                do="run the recipe again",
            )  # fmt: skip
    has_masks = masks.is_dir()
    exact = (folder / "truth" / "meta.json").is_file() and not about
    return ImageTarget(
        id=folder.name,
        frames=frames,
        masks=masks if has_masks else None,
        mask_source=about.get("mask_source", "truth" if exact else "not stated") if has_masks else "none",
        parts=about.get("parts"),
        rule=about.get("rule", "NeuMan's, of all frames"),
    )


def _is_valid(about: Any) -> bool:
    if not isinstance(about, dict) or about.get("format") != IMAGES_FORMAT:
        return False
    parts = about.get("parts")
    if not isinstance(parts, dict) or set(parts) != set(PARTS):
        return False
    numbers = all(isinstance(part, list) and all(type(k) is int for k in part) for part in parts.values())
    return numbers and all(isinstance(about.get(name), str) for name in ("rule", "mask_source"))
