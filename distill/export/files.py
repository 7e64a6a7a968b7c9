"""Write a graph in each of the formats, and open it again as a function of tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

from distill.errors import FootfallError, require
from distill.export.config import PRECISIONS, Precision
from distill.export.onnx_weights import quantise, store_as_float16
from distill.export.parts import Part, Run
from distill.files import atomic_path

SUFFIXES: Final = {"pt2": ".pt2", "onnx": ".onnx", "aoti": ".aoti.pt2"}
"""Kind of graph -> what its files end in."""
OPSET: Final = 20
"""Of the ONNX files: the first with the form of GridSample that boxes need."""


def check_format(file_format: str, precision: Precision) -> None:
    """Whether this is built.

    Raises:
        FootfallError: an unknown format, or a precision that it does not have.
    """
    if file_format not in PRECISIONS:
        raise FootfallError(
            f"export format {file_format}", got="an unknown one", expected=f"one of {', '.join(PRECISIONS)}",
            do="choose one of these",
        )  # fmt: skip
    if precision not in PRECISIONS[file_format]:
        raise FootfallError(
            f"export format {file_format}", got=f"precision={precision}",
            expected=f"one of {', '.join(PRECISIONS[file_format])}", do="choose one of these, or another format",
        )  # fmt: skip


def write_graph(part: Part, path: Path, file_format: str, precision: Precision = "float32") -> None:
    """Write a part to `path`, atomically."""
    _WRITERS[file_format](part, path)
    if file_format == "onnx" and precision == "float16":
        store_as_float16(path)
    if precision == "int8":
        quantise(path)


def open_graph(path: Path) -> Run:
    """A callable from tensors to a tensor or a tuple of tensors.

    Raises:
        FootfallError: no such file.
    """
    if not path.is_file():
        raise FootfallError(
            str(path), got="no such file", expected="an exported graph", do="export the checkpoint again"
        )
    if path.suffix == ".onnx":
        return _open_onnx(path)
    if path.name.endswith(SUFFIXES["aoti"]):
        return _open_aoti(path)
    return torch.export.load(path).module()


def _write_pt2(part: Part, path: Path) -> None:
    program = torch.export.export(part.module, part.example(), dynamic_shapes=part.dynamic)
    with atomic_path(path) as temporary:
        torch.export.save(program, temporary)


def _write_aoti(part: Part, path: Path) -> None:
    program = torch.export.export(part.module, part.example(), dynamic_shapes=part.dynamic)
    with atomic_path(path) as temporary:
        torch._inductor.aoti_compile_and_package(program, package_path=str(temporary))


def _write_onnx(part: Part, path: Path) -> None:
    require("onnxscript", extra="export")
    program = torch.onnx.export(
        part.module, part.example(), dynamo=True, verbose=False, dynamic_shapes=part.dynamic, opset_version=OPSET,
        input_names=part.input_names, output_names=part.output_names,
    )  # fmt: skip
    assert program is not None
    with atomic_path(path) as temporary:
        program.save(temporary)


_WRITERS: Final[dict[str, Callable[[Part, Path], None]]] = {
    "pt2": _write_pt2, "onnx": _write_onnx, "aoti": _write_aoti,
}  # fmt: skip


def _open_aoti(path: Path) -> Run:
    """Compiled code reads memory by the strides that it was traced with, and never looks whether they are the same."""
    compiled = torch._inductor.aoti_load_package(str(path))
    return lambda *inputs: compiled(*(x.contiguous() for x in inputs))


def _open_onnx(path: Path) -> Run:
    from distill.runner.session import open_session

    session = open_session(path, threads=torch.get_num_threads())  # as eager execution, so that timings compare
    names = [value.name for value in session.get_inputs()]

    def run(*inputs: torch.Tensor) -> Any:
        outputs = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)})
        tensors = tuple(torch.from_numpy(output) for output in outputs)
        return tensors[0] if len(tensors) == 1 else tensors

    return run
