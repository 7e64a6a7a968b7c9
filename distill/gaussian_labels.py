"""Avatars of the teacher as labels: `FOLDER/CLIP/**/*.npz`, as `distill.avatar.save_avatar` writes them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Final

from torch import Tensor

from distill.avatar import AVATAR_FORMAT, Avatar, load_avatar
from distill.errors import FootfallError
from distill.files import load_arrays

SAME_SHAPE: Final = 0.5
"""Two avatars are of one person if no shape coefficient differs by more than this."""


class TeacherAvatars:
    """Avatars by clip. Who is who is told by shape: the teacher keeps one shape per person, and labels carry it."""

    def __init__(self, folder: Path) -> None:
        """Look for the folder, not yet into it.

        Raises:
            FootfallError: no such folder.
        """
        if not folder.is_dir():
            raise FootfallError(
                "gaussians.teacher_avatars", got=folder, expected="a folder of clips with avatars",
                do="give the folder `clips` of labels made with the Gaussian stage, or leave it empty",
            )  # fmt: skip
        self.folder = folder
        self._of_clip = lru_cache(maxsize=16)(self._read)

    def find(self, clip: str, betas: Tensor) -> Avatar | None:
        """The avatar of the person of this shape [B] in a clip, on its device; None if there is none.

        Raises:
            FootfallError: a damaged avatar.
        """
        found: Avatar | None = None
        nearest = SAME_SHAPE
        for avatar in self._of_clip(clip):
            if avatar.betas.shape == betas.shape:
                distance = float((avatar.betas - betas.cpu()).abs().max())
                if distance <= nearest:
                    found, nearest = avatar, distance
        return None if found is None else found.to(str(betas.device))

    def _read(self, clip: str) -> tuple[Avatar, ...]:
        paths = sorted((self.folder / clip).rglob("*.npz")) if clip else []
        return tuple(load_avatar(path)[0] for path in paths if load_arrays(path)[1].get("format") == AVATAR_FORMAT)
