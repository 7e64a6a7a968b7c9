"""Smaller weights in ONNX files: float16 that is read back as float32, and int8 that is multiplied as such."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from distill.errors import require
from distill.files import atomic_path

SMALLEST: Final = 1024
"""Weights with fewer entries stay as they are."""


def store_as_float16(path: Path) -> None:
    """Store every large weight that float16 holds exactly as such, with a cast to float32 behind it.

    Weights that were not rounded before (those of the heads) do not change.
    """
    onnx = require("onnx", extra="export")
    model = onnx.load(path)
    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < SMALLEST:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if not np.array_equal(halves.astype(np.float32), values):
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(halves, f"{name}.float16"))
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    for k, cast in enumerate(casts):
        graph.node.insert(k, cast)
    with atomic_path(path) as temporary:
        onnx.save(model, temporary)


def quantise(path: Path) -> None:
    """Make the backbone's products of activations and weights int8, the activations' scales found as they come.

    Weights have a scale for each output channel. What the heads say in metres stays float32.
    """
    onnx = require("onnx", extra="export")
    quantization = require("onnxruntime.quantization", extra="onnx")
    model = onnx.load(path)
    chosen = [node.name for node in model.graph.node if node.op_type == "MatMul" and _of_backbone(node)]
    if not chosen:
        return
    del model.graph.value_info[:]  # what the exporter says of shapes in between is not always right
    _give_each_gemm_its_own(model.graph)
    with atomic_path(path) as temporary:
        quantization.quantize_dynamic(
            model, temporary, per_channel=True, nodes_to_quantize=chosen, weight_type=quantization.QuantType.QInt8
        )


def _give_each_gemm_its_own(graph: Any) -> None:
    """Copy weights that several Gemm nodes share: the quantiser transposes a node's weights in place, each time."""
    stored, taken = {tensor.name: tensor for tensor in graph.initializer}, set()
    for k, node in enumerate(graph.node):
        if node.op_type != "Gemm" or node.input[1] not in stored:
            continue
        if node.input[1] in taken:
            copied = graph.initializer.add()
            copied.CopyFrom(stored[node.input[1]])
            copied.name = node.input[1] = f"{node.input[1]}.{k}"
        taken.add(node.input[1])


def _of_backbone(node: Any) -> bool:
    """Whether a node comes from the backbone, by the names of modules that the exporter leaves in it."""
    return any(entry.key == "namespace" and "/backbone." in entry.value for entry in node.metadata_props)
