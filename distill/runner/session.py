"""Open an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill.errors import FootfallError, require


def open_session(path: Path, *, threads: int) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU.

    Args:
        threads: that one call may use.

    Raises:
        FootfallError: onnxruntime is not installed, or no such graph.
    """
    onnxruntime = require("onnxruntime", extra="onnx")
    if not path.is_file():
        raise FootfallError(
            str(path), got="no such file", expected="an exported graph", do="run: footfall export --format onnx"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that wait busily take the processor from the next stage of the pipeline.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds are private
        raise FootfallError(
            str(path), got=str(error).split("\n")[0], expected="an exported graph", do="export the checkpoint again"
        ) from error
