"""The container of glTF 2.0 (Khronos, https://registry.khronos.org/glTF/specs/2.0/): JSON and one binary chunk.

Arrays are kept as they are given and written one after another: nothing is copied into one buffer.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from distill.errors import FootfallError

Array = NDArray[Any]
COMPONENT: Final = {"float32": 5126, "uint32": 5125, "uint16": 5123, "uint8": 5121}
SHAPE: Final = {(): "SCALAR", (2,): "VEC2", (3,): "VEC3", (4,): "VEC4", (4, 4): "MAT4"}
VERTICES: Final = 34962
"""Use of a buffer view: attributes of vertices."""
INDICES: Final = 34963
LIMIT: Final = (1 << 32) - 1
"""Bytes of a whole file: its length is a 32-bit number."""


class Glb:
    """A document being built. Indices that its methods give back are those of the file."""

    def __init__(self, generator: str) -> None:
        self.json: dict[str, Any] = {
            "asset": {"version": "2.0", "generator": generator},
            "scene": 0,
            "scenes": [{"nodes": []}],
        }
        self._arrays: list[Array] = []
        self._bytes = 0

    def add(self, kind: str, value: dict[str, Any]) -> int:
        """Append to the list `kind` of the document ("nodes", "meshes", ...); returns its index there."""
        self.json.setdefault(kind, []).append(value)
        return len(self.json[kind]) - 1

    def add_root(self, node: dict[str, Any]) -> int:
        """Append a node that stands directly in the scene."""
        index = self.add("nodes", node)
        self.json["scenes"][0]["nodes"].append(index)
        return index

    def accessor(
        self, array: Array, *, target: int | None = None, bounds: bool = False, normalised: bool = False
    ) -> int:
        """Store an array [N, ...] of one of `COMPONENT`'s types; matrices are given by rows as usual.

        Args:
            array: values.
            target: `VERTICES`, `INDICES` or None.
            bounds: state minimum and maximum (needed for positions and for times).
            normalised: whole numbers that stand for 0 to 1.
        """
        if array.shape[1:] == (4, 4):
            array = np.swapaxes(array, -1, -2)  # glTF stores columns
        array = np.ascontiguousarray(array)
        view: dict[str, Any] = {"buffer": 0, "byteOffset": self._bytes, "byteLength": array.nbytes}
        if target is not None:
            view["target"] = target
        entry: dict[str, Any] = {
            "bufferView": self.add("bufferViews", view),
            "componentType": COMPONENT[array.dtype.name],
            "count": len(array),
            "type": SHAPE[array.shape[1:]],
        }
        if normalised:
            entry["normalized"] = True
        if bounds:
            flat = array.reshape(len(array), -1)
            entry["min"], entry["max"] = flat.min(0).tolist(), flat.max(0).tolist()
        self._arrays.append(array)
        self._bytes += array.nbytes + -array.nbytes % 4
        return self.add("accessors", entry)

    def write(self, path: Path) -> None:
        """Write the file.

        Raises:
            FootfallError: it would be larger than 4 GiB, which the format cannot hold.
        """
        if self._bytes:
            self.json["buffers"] = [{"byteLength": self._bytes}]
        text = json.dumps(self.json, separators=(",", ":"), allow_nan=False).encode()
        text += b" " * (-len(text) % 4)
        total = 12 + 8 + len(text) + (8 + self._bytes if self._bytes else 0)
        if total > LIMIT:
            raise FootfallError(
                str(path), got=f"{total} bytes", expected="less than 4 GiB, the limit of GLB",
                do="convert to usd, or a shorter result",
            )  # fmt: skip
        with path.open("wb") as stream:
            stream.write(struct.pack("<4sII", b"glTF", 2, total))
            stream.write(struct.pack("<I4s", len(text), b"JSON") + text)
            if self._bytes:
                stream.write(struct.pack("<I4s", self._bytes, b"BIN\0"))
            for array in self._arrays:
                stream.write(array.data if array.nbytes else b"")
                stream.write(bytes(-array.nbytes % 4))
