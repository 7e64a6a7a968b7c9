"""Observations on disk as they come, to be read again in order: what the pass over the whole clip needs."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from distill.fuser.observation import FrameObservation
from distill.fuser.record import load_observations, save_observations

CHUNK: Final = 100
"""Frames per file."""


class ObservationLog(Sequence[FrameObservation]):
    """A list that holds at most two files' worth of frames in memory; its folder goes with it."""

    def __init__(self, folder: Path | None = None) -> None:
        """Empty; files lie in a folder of their own in `folder`, which must exist (None: where temporary files are)."""
        self._folder = tempfile.TemporaryDirectory(prefix=".observations-", dir=folder)
        self._open: list[FrameObservation] = []
        self._chunks = 0
        self._loaded: tuple[int, list[FrameObservation]] = (-1, [])

    def __len__(self) -> int:
        return self._chunks * CHUNK + len(self._open)

    def add(self, observation: FrameObservation) -> None:
        """Append a frame."""
        self._open.append(observation)
        if len(self._open) == CHUNK:
            save_observations(self._path(self._chunks), self._open)
            self._chunks, self._open = self._chunks + 1, []

    def __getitem__(self, index: Any) -> Any:
        """One frame, counted from the first."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        chunk, row = divmod(index, CHUNK)
        if chunk == self._chunks:
            return self._open[row]
        if chunk != self._loaded[0]:
            self._loaded = chunk, load_observations(self._path(chunk))[0]
        return self._loaded[1][row]

    def _path(self, chunk: int) -> Path:
        return Path(self._folder.name) / f"{chunk:06d}.npz"
