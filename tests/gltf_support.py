"""A glTF file as a viewer sees it: read by pygltflib, animated and skinned here, after the specification alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pygltflib
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation, Slerp

Array = NDArray[Any]
TYPES = {5121: np.uint8, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
WIDTH = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


class Viewer:
    """A file at any time."""

    def __init__(self, path: Path) -> None:
        self.file = pygltflib.GLTF2().load(str(path))
        self.blob: bytes = self.file.binary_blob()
        self.names = {node.name: index for index, node in enumerate(self.file.nodes)}
        self.parents = {child: index for index, node in enumerate(self.file.nodes) for child in node.children}

    def array(self, index: int) -> Array:
        """Values of an accessor, [N, width]; the view must be as long as they are."""
        accessor = self.file.accessors[index]
        view = self.file.bufferViews[accessor.bufferView]
        dtype, width = TYPES[accessor.componentType], WIDTH[accessor.type]
        assert view.byteOffset % 4 == 0
        assert view.byteLength == accessor.count * width * np.dtype(dtype).itemsize
        values = np.frombuffer(self.blob, dtype, accessor.count * width, view.byteOffset).reshape(-1, width)
        if accessor.min:
            np.testing.assert_array_equal(values.min(0), np.array(accessor.min, dtype))
            np.testing.assert_array_equal(values.max(0), np.array(accessor.max, dtype))
        return values

    def globals(self, seconds: float) -> Array:
        """[nodes, 4, 4] scene from node."""
        moved = self._moved(seconds)
        local = []
        for index, node in enumerate(self.file.nodes):
            part = {
                "translation": node.translation or [0, 0, 0], "rotation": node.rotation or [0, 0, 0, 1],
                "scale": node.scale or [1, 1, 1], **moved.get(index, {}),
            }  # fmt: skip
            matrix = np.eye(4)
            matrix[:3, :3] = Rotation.from_quat(part["rotation"]).as_matrix() * np.asarray(part["scale"])
            matrix[:3, 3] = part["translation"]
            local.append(matrix)

        def whole(index: int) -> Array:
            return whole(self.parents[index]) @ local[index] if index in self.parents else local[index]

        return np.stack([whole(index) for index in range(len(local))])

    def _moved(self, seconds: float) -> dict[int, dict[str, Array]]:
        found: dict[int, dict[str, Array]] = {}
        for animation in self.file.animations:
            for channel in animation.channels:
                sampler = animation.samplers[channel.sampler]
                times, values = self.array(sampler.input)[:, 0].astype(float), self.array(sampler.output)
                assert (np.diff(times) > 0).all()
                found.setdefault(channel.target.node, {})[channel.target.path] = sample(
                    times, values, seconds, channel.target.path, sampler.interpolation
                )
        return found

    def joints(self, person: str, seconds: float) -> Array:
        """[24, 3] places of a person's joints, in the order of the skin."""
        skin = self.file.skins[self.file.nodes[self.names[f"{person}_mesh"]].skin]
        return self.globals(seconds)[skin.joints][:, :3, 3]

    def vertices(self, person: str, seconds: float) -> Array:
        """[V, 3] the skinned mesh."""
        node = self.file.nodes[self.names[f"{person}_mesh"]]
        skin = self.file.skins[node.skin]
        inverse = self.array(skin.inverseBindMatrices).reshape(-1, 4, 4).swapaxes(1, 2).astype(float)
        matrices = self.globals(seconds)[skin.joints] @ inverse
        attributes = self.file.meshes[node.mesh].primitives[0].attributes
        rest = np.column_stack((self.array(attributes.POSITION), np.ones(len(self.array(attributes.POSITION)))))
        total = np.zeros((len(rest), 3))
        for part in range(2):
            if getattr(attributes, f"JOINTS_{part}") is not None:
                joints = self.array(getattr(attributes, f"JOINTS_{part}"))
                weights = self.array(getattr(attributes, f"WEIGHTS_{part}")).astype(float)
                total += np.einsum("vs,vsab,vb->va", weights, matrices[joints], rest)[:, :3]
        return total

    def triangles(self, person: str) -> Array:
        """[F, 3] corners of the mesh."""
        node = self.file.nodes[self.names[f"{person}_mesh"]]
        return self.array(self.file.meshes[node.mesh].primitives[0].indices).reshape(-1, 3)


def sample(times: Array, values: Array, seconds: float, path: str, interpolation: str) -> Array:
    """A sampler's value (glTF 2.0, appendix C): held outside of the keys, stepped, slerped or linear in between."""
    if interpolation == "STEP":
        return values[max(0, int(np.searchsorted(times, seconds, side="right")) - 1)]
    inside = float(np.clip(seconds, times[0], times[-1]))
    if path == "rotation" and len(times) > 1:
        return Slerp(times, Rotation.from_quat(values))(inside).as_quat()
    return np.array([np.interp(inside, times, column) for column in values.T.astype(float)])
