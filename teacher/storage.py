"""Is it the disk? A full or read-only file system is nobody's clip's fault, and one line must say so.

Libraries hide the reason: PIL raises "encoder error -2", zipfile leaves half a file, OpenCV returns False. So a stage
that failed is followed by a probe: can a megabyte still be written beside it?
"""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Final

from distill.errors import FootfallError

PROBE_BYTES: Final = 1 << 20
STORAGE_ERRORS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
"""Errors of the file system itself, not of one file."""


class StorageFaultError(OSError):
    """The file system, not the clip, made a stage fail."""


def storage_fault(folder: Path) -> str:
    """Why nothing can be written into `folder` any more ("No space left on device"), or ""."""
    try:
        with tempfile.TemporaryFile(prefix=".probe-", dir=folder) as probe:
            probe.write(os.urandom(PROBE_BYTES))  # zeros would cost nothing on a file system that compresses
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        return os.strerror(error.errno) if error.errno else str(error)
    return ""


def is_storage_error(error: BaseException | None) -> bool:
    """Whether an exception, or one that it was raised from, is an error of the file system."""
    while error is not None:
        if isinstance(error, StorageFaultError) or (isinstance(error, OSError) and error.errno in STORAGE_ERRORS):
            return True
        error = error.__cause__ or error.__context__
    return False


def storage_error(folder: Path, reason: str) -> FootfallError:
    """The one line for the user."""
    return FootfallError(
        f"folder {folder}", got=reason, expected="room and the right to write",
        do="mend that and run the same command: what is recorded is whole, and work goes on from there",
    )  # fmt: skip


def require_writable(folder: Path) -> None:
    """Make `folder` and check that it can be written.

    Raises:
        FootfallError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = storage_fault(folder)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
    if reason:
        raise FootfallError(
            f"output folder {folder}", got=reason, expected="a folder that can be written",
            do="make room or mend its rights, or choose another --out",
        )  # fmt: skip
