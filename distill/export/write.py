"""Export a student: graphs, the body that its answers pose, and records of parity and latency."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from distill.body import load_body_model
from distill.errors import FootfallError
from distill.export.body import write_body
from distill.export.config import Precision
from distill.export.files import OPSET, SUFFIXES, check_format, open_graph, write_graph
from distill.export.parts import PAIR_INPUTS, PAIR_OUTPUTS, Part, Run, cut_student, without_unused
from distill.export.precision import in_precision
from distill.files import write_json
from distill.models.prediction import Prompts
from distill.models.student import Student
from distill.provenance import code_commit, hardware, versions
from distill.runner.network import EXPORT_FORMAT

TOLERANCES: Final[dict[Precision, float]] = {"float32": 1e-4, "float16": 1e-3, "bfloat16": 1e-3, "int8": 0.02}
"""Largest accepted |exported - eager| / max(1, |eager|), both in the same precision. PyTorch has no such int8: there
the answers of the pair graph alone count (radians, metres and their like), against float32."""

_LICENSED_BODIES: Final = ("smpl", "smplx")


def export_student(
    student: Student, folder: Path, *, file_format: str, images: Tensor, people: Prompts, runs: int = 20,
    precision: Precision = "float32",
) -> dict[str, float]:  # fmt: skip
    """Export, check against eager execution on the given input, time, and write all records.

    Args:
        student: any student; the backbone's weights go into the graphs, under their licence.
        folder: written to; an older export there is replaced.
        file_format: one of `config.PRECISIONS`.
        images: [2, 3, H, W] in [0, 1]; H and W become the fixed size.
        people: prompts of that one pair, for at least two people.
        runs: timed calls per graph.
        precision: of the backbone, one that the format has.

    Returns:
        Largest difference from eager execution in the same precision, per output.

    Raises:
        FootfallError: unknown format or precision, or the graphs do not agree with eager execution.
    """
    check_format(file_format, precision)
    student = in_precision(student.eval().cpu(), precision, file_format)
    (folder / "export.json").unlink(missing_ok=True)  # a half-written export must not look whole
    differences: dict[str, float] = {}
    latency: dict[str, dict[str, float]] = {}
    with torch.no_grad():
        parts = cut_student(student, images, people)
        for name, part in parts.items():
            path = folder / f"{name}{SUFFIXES[file_format]}"
            part.module = without_unused(part.module.eval(), part.inputs)
            write_graph(part, path, file_format, precision)
            graph = open_graph(path)
            differences |= compare(part, graph)
            latency[f"{name}_eager"] = time_calls(lambda p=part: p.module(*p.inputs), runs)  # type: ignore[misc]
            latency[name] = time_calls(lambda p=part, g=graph: g(*p.inputs), runs)  # type: ignore[misc]
    if student.config.body_model.partition(":")[0] not in _LICENSED_BODIES:
        write_body(folder / "body.npz", load_body_model(student.config.body_model))
    write_json(folder / "latency.json", {
        "ms": latency, "runs": runs, "people": people.valid.shape[1], "threads": torch.get_num_threads(),
        "hardware": hardware(), "versions": versions("torch", "onnx", "onnxruntime"), "commit": code_commit(),
    })  # fmt: skip
    record_parity(folder, differences, precision)
    record = _record(student, (images.shape[-1], images.shape[-2]), list(parts))
    write_json(folder / "export.json", record | {"file_format": file_format, "precision": precision})
    return differences


def record_parity(folder: Path, differences: dict[str, float], precision: Precision = "float32") -> None:
    """Write `parity.json`.

    Raises:
        FootfallError: a difference is above that of `TOLERANCES`, or not a number.
    """
    tolerance, quantised = TOLERANCES[precision], precision == "int8"
    stored = {name: value if math.isfinite(value) else str(value) for name, value in differences.items()}
    against = f"eager in {'float32' if quantised else precision}"
    write_json(folder / "parity.json", {"max_difference": stored, "tolerance": tolerance, "against": against})
    judged = {name: value for name, value in differences.items() if not quantised or name in PAIR_OUTPUTS}
    wrong = [name for name, difference in judged.items() if not difference <= tolerance]
    if wrong:
        raise FootfallError(
            f"export {folder}", got=f"{wrong[0]} off by {differences[wrong[0]]:.2g}",
            expected=f"at most {tolerance}", do="do not use these graphs; see parity.json",
        )  # fmt: skip


def compare(part: Part, graph: Run) -> dict[str, float]:
    """Per output, the largest difference from eager execution, over several numbers of pairs and people."""
    worst = dict.fromkeys(part.output_names, 0.0)
    for pairs, count in ((1, 1), (1, 2), (3, 5)):
        inputs = part.sized(pairs, count)
        eager, exported = part.outputs(inputs, part.module), part.outputs(inputs, graph)
        for name in worst:
            difference = (eager[name] - exported[name]).abs() / eager[name].abs().clamp(min=1)
            worst[name] = max(worst[name], float(difference.max()))
    return worst


def time_calls(call: Callable[[], object], runs: int) -> dict[str, float]:
    """Milliseconds of a call after a first one: p50, p95, p99."""
    call()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return {f"p{share}": round(float(1e3 * np.percentile(seconds, share)), 3) for share in (50, 95, 99)}


def _record(student: Student, size: tuple[int, int], graphs: list[str]) -> dict[str, Any]:
    backbone = student.backbone.module
    grid = (size[1] // backbone.patch_size, size[0] // backbone.patch_size)
    return {
        "format": EXPORT_FORMAT,
        "graphs": graphs,
        "size": size,
        "grid": grid,
        "images": "RGB in [0, 1]; the graph normalises",
        "opset": OPSET,
        "pair_inputs": PAIR_INPUTS,
        "pair_outputs": PAIR_OUTPUTS,
        "look_width": student.look_width,
        "body_model": student.config.body_model,
        "num_betas": student.config.num_betas,
        "backbone": asdict(backbone.provenance),
    }
