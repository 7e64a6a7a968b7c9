"""Read result files (`.pkl`, joblib's, `.npy` of objects, `.pt`, `.npz`) without running anything that they hold.

Everything comes back as plain containers with numpy arrays. A file that names any other function or class is refused
with that name (`distill.unpickle`). joblib writes arrays as raw bytes behind a small description, the whole
optionally compressed; its package is not needed to read that.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import math
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray

from distill.errors import FootfallError
from distill.files import MAX_ARRAY_BYTES
from distill.unpickle import harmless_global
from distill.untrusted import read_npy, read_npz

_NUMPY_MAGIC: Final = b"\x93NUMPY"
_ZIP_MAGIC: Final = b"PK\x03\x04"
_LZ4_MAGIC: Final = b"\x04\x22\x4d\x18"
_ARRAYS: Final[list[Any]] = [
    np.ndarray, np.dtype, np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0],
    *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"},
]  # fmt: skip
"""What numpy arrays in torch's files name, besides what torch allows by itself."""


def load_pickled(path: Path) -> Any:
    """The content of a pickled file: containers, text, numbers and numpy arrays (tensors become arrays).

    Raises:
        FootfallError: missing, damaged, or it names something that is not known to be harmless.
    """
    if not path.is_file():
        raise FootfallError(str(path), got="no such file", expected="a result file", do="check the path")
    try:
        data = path.read_bytes()
        if data.startswith(_ZIP_MAGIC) or (path.suffix in (".pt", ".pth") and not data.startswith(_NUMPY_MAGIC)):
            with torch.serialization.safe_globals(_ARRAYS):
                return plain(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
        if data.startswith(_NUMPY_MAGIC):
            return _load_npy(data, path)
        return _Reader(io.BytesIO(_decompress(data)), path).load()
    except FootfallError:
        raise
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n")[0]
        if "weights" in str(error).lower() and "GLOBAL" in str(error):
            reason = f"a file that calls {str(error).split('GLOBAL ')[1].split(' ')[0]}"
        raise _damaged(path, reason) from error
    except Exception as error:  # damaged bytes make the interpreters of pickles raise a dozen kinds
        raise _damaged(path, f"unreadable ({type(error).__name__}: {error})") from error


def load_npz(file: Path, keys: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """The named arrays of an .npz; others stay unread, because foreign files may hold pickled objects beside them.

    Raises:
        FootfallError: damaged, or one of the arrays would need pickle.
    """
    try:
        data = file.read_bytes()
        return read_npz(io.BytesIO(data), keys)
    except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds for damaged bytes
        raise FootfallError(
            str(file), got=error, expected="arrays (.npz without pickle)", do="write it again"
        ) from error


def _damaged(path: Path, got: str) -> FootfallError:
    return FootfallError(
        str(path), got=got, expected="a complete file of numbers, text and arrays",
        do="write it again with the program it comes from",
    )  # fmt: skip


def plain(value: Any) -> Any:
    """`value` with every tensor turned into an array, in dictionaries, lists and tuples."""
    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu()
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return type(value)(map(plain, value)) if type(value) in (list, tuple) else value


def _load_npy(data: bytes, path: Path) -> Any:
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    _, _, dtype = header(stream)
    if not dtype.hasobject:
        return read_npy(data)
    content = _Reader(stream, path).load()
    return content.item() if isinstance(content, np.ndarray) and content.shape == () else content


def _decompress(data: bytes) -> bytes:
    """The pickle inside joblib's compressed files (zlib, gzip, bz2, xz, lzma); other data as it is."""
    if data.startswith(_LZ4_MAGIC):
        raise ValueError("compressed by lz4: dump it again with compress=3")
    if data[:1] == b"\x78":
        opened: Any = zlib.decompressobj()
        out = opened.decompress(data, MAX_ARRAY_BYTES)
        complete = opened.eof or not opened.unconsumed_tail
    else:
        kinds: dict[bytes, Any] = {b"\x1f\x8b": gzip, b"BZ": bz2, b"\xfd7": lzma, b"\x5d\x00": lzma}
        if data[:2] not in kinds:
            return data
        with kinds[data[:2]].open(io.BytesIO(data)) as stream:
            out = stream.read(MAX_ARRAY_BYTES)
        complete = len(out) < MAX_ARRAY_BYTES
    if not complete:
        raise ValueError(f"more than {MAX_ARRAY_BYTES} bytes unpacked")
    return out


class _StoredArray:
    """joblib's description of an array whose bytes follow in the file."""

    subclass: Any
    shape: tuple[int, ...]
    order: str
    dtype: np.dtype[Any]
    numpy_array_alignment_bytes: int | None = None

    def read(self, stream: io.BytesIO, path: Path) -> NDArray[Any]:
        """The array; the stream is left behind its last byte."""
        if self.dtype.hasobject:  # those follow as a pickle of their own
            return _Reader(stream, path).load()
        if self.numpy_array_alignment_bytes is not None:
            padding = stream.read(1)[0]  # its count does not include itself
            stream.read(padding)
        count = int(np.prod(self.shape, dtype=np.int64))
        if count < 0 or count * self.dtype.itemsize > MAX_ARRAY_BYTES:
            raise ValueError(f"an array of shape {self.shape}")
        data = stream.read(count * self.dtype.itemsize)
        array = np.frombuffer(data, self.dtype, count)
        return array.reshape(self.shape, order="F" if self.order == "F" else "C").copy()


def _storage_from_bytes(data: bytes) -> Any:
    """The storage of a tensor that was pickled whole; torch's own function would unpickle anything."""
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


MAX_REPEATED: Final = 1 << 24
"""Numbers that a tensor may have whose strides repeat a shorter storage."""


def _array_from_tensor(storage: Any, offset: int, size: Any, stride: Any, *rest: Any) -> NDArray[Any]:
    """The numbers of a pickled tensor; gradients and hooks are dropped. One that repeats itself may not unfold far."""
    held = getattr(storage, "_untyped_storage", storage).nbytes()
    if math.prod(size) > max(held, MAX_REPEATED):
        raise ValueError(f"a tensor of shape {tuple(size)} over {held} bytes")
    return plain(torch._utils._rebuild_tensor_v2(storage, offset, size, stride, False, None)).copy()


_TENSORS: Final[dict[tuple[str, str], Any]] = {
    ("torch._utils", "_rebuild_tensor_v2"): _array_from_tensor,
    ("torch.storage", "_load_from_bytes"): _storage_from_bytes,
    ("joblib.numpy_pickle", "NumpyArrayWrapper"): _StoredArray,
}


class _Reader(pickle._Unpickler):
    """An unpickler in Python (so that joblib's arrays can be read on the way) that knows few names."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, stream: io.BytesIO, path: Path) -> None:
        super().__init__(stream, encoding="latin1")
        self._stream, self._path = stream, path

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a global of the pickle.

        Raises:
            FootfallError: it is not known to be harmless.
        """
        found = _TENSORS.get((module, name)) or harmless_global(module, name)
        if found is None:
            raise FootfallError(
                str(self._path), got=f"a pickle that calls {module}.{name}", expected="numbers, text and arrays only",
                do="do not open this file with other tools unless you trust it; if you made it yourself, save its "
                "arrays as .npz and its dictionaries without classes",
            )  # fmt: skip
        return found

    def _load_build(self) -> None:
        pickle._Unpickler.load_build(self)  # type: ignore[attr-defined]
        if isinstance(self.stack[-1], _StoredArray):  # type: ignore[attr-defined]
            self.stack.append(self.stack.pop().read(self._stream, self._path))  # type: ignore[attr-defined]

    dispatch[pickle.BUILD[0]] = _load_build

    def _load_bytearray8(self) -> None:
        """As pickle's own, which takes memory for the stated length before it reads."""
        (length,) = struct.unpack("<Q", self.read(8))  # type: ignore[attr-defined]
        self.append(bytearray(self.read(length)))  # type: ignore[attr-defined]

    dispatch[pickle.BYTEARRAY8[0]] = _load_bytearray8
