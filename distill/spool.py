"""Frames of a stream on disk as they come, so that memory does not grow with them: two files of rows of fixed size.

The files have no names: they go when the process goes, however it ends.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Rows:
    """Rows of one type, appended to a file."""

    def __init__(self, kind: np.dtype[Any], folder: Path | None = None) -> None:
        """Empty; the file lies in `folder`, which must exist (None: where temporary files are)."""
        self.kind = kind
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed with the last reference)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, values: Mapping[str, Any]) -> None:
        """Append a row: a value for every field."""
        row = np.zeros(1, self.kind)
        for name, value in values.items():
            row[name] = value
        self._file.write(row.tobytes())
        self._count += 1

    def read(self) -> Array:
        """[N] all rows so far, mapped and not loaded."""
        self._file.flush()
        if not self._count:
            return np.zeros(0, self.kind)
        return np.memmap(self._file, self.kind, mode="r", shape=(self._count,))
