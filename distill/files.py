"""Atomic files and named arrays: what every stage, result and shard is written with. No pickle."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from distill.errors import FootfallError
from distill.untrusted import MAX_ARRAY_BYTES, parse_json, read_json_file, read_npz

__all__ = [
    "MAX_ARRAY_BYTES", "atomic_path", "load_arrays", "read_json", "save_arrays", "sha256_of", "write_json",
    "write_text",
]  # fmt: skip
_META: Final = "meta_json"


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on failure nothing is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN is refused because other readers refuse it."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        FootfallError: missing or not JSON.
    """
    try:
        return read_json_file(path)
    except (OSError, ValueError) as error:  # ValueError: no JSON, no UTF-8, too large or too deep
        raise FootfallError(str(path), got=error, expected="a JSON file", do="write it again or restore it") from error


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any] | None = None) -> None:
    """Write named arrays and a JSON-able `meta` to a compressed .npz, atomically.

    Floating arrays must be finite where the format says nothing else; that is the caller's contract.
    """
    stored: dict[str, Any] = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    if any(array.dtype == object for array in stored.values()):
        raise TypeError(f"{path.name}: object arrays would need pickle")
    stored[_META] = np.frombuffer(json.dumps(dict(meta or {}), allow_nan=False).encode(), dtype=np.uint8)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **stored)


def load_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read what `save_arrays` wrote: (arrays, meta). Nothing is unpickled.

    Raises:
        FootfallError: missing, truncated, of another kind, or larger than `MAX_ARRAY_BYTES` unpacked.
    """
    try:
        arrays = read_npz(path)
        meta = parse_json(bytes(arrays.pop(_META, np.frombuffer(b"{}", np.uint8))).decode())
        if not isinstance(meta, dict):
            raise ValueError(f"meta that is {type(meta).__name__}")
    except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds for damaged bytes
        raise FootfallError(
            str(path), got=error, expected="arrays (.npz without pickle)", do="make the file again"
        ) from error
    return arrays, meta


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
