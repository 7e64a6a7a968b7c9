"""Which globals a pickle may name so that reading it makes numbers, text and plain containers, and runs nothing.

A pickle is a program: it names functions and calls them. The readers of foreign files allow the few names below, by
stand-ins of our own where numpy's or codecs' function could do more than was asked for, and refuse all others.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray


def _from_buffer(buffer: Any, dtype: Any, shape: Any, order: str) -> NDArray[Any]:
    """What numpy's pickles of protocol 5 call; object arrays are refused by `frombuffer` itself."""
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order="F" if order == "F" else "C")


def _encode(text: str, coding: str) -> bytes:
    """How bytes are written by pickles of old protocols."""
    return text.encode("latin1")


_ARRAY_MAKERS: Final[dict[str, Any]] = {
    "_reconstruct": np.empty(0).__reduce__()[0],
    "scalar": np.float64(0).__reduce__()[0],
}
"""How numpy's own pickles make arrays and numbers, wherever this version of numpy keeps them."""
_BUILTINS: Final[dict[str, Any]] = {
    kind.__name__: kind
    for kind in (dict, list, tuple, set, frozenset, int, float, complex, bool, str, bytes, bytearray, slice)
}


def harmless_global(module: str, name: str) -> Any | None:
    """The object that may stand for `module.name` in a pickle, or None if that name is not known to be harmless."""
    if module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        return _ARRAY_MAKERS.get(name)
    if module in ("numpy.core.numeric", "numpy._core.numeric") and name == "_frombuffer":
        return _from_buffer
    if module == "numpy":
        return {"ndarray": np.ndarray, "dtype": np.dtype}.get(name)
    if module in ("builtins", "__builtin__"):
        return _BUILTINS.get(name)
    if module == "collections":
        return {"OrderedDict": OrderedDict, "defaultdict": defaultdict}.get(name)
    return _encode if (module, name) == ("_codecs", "encode") else None
