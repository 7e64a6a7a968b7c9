"""Export a student to graphs that run without this package's training code or configs.

    encoder.pt2 | .onnx    images [1, 3, H, W] -> features [1, N, C]
    pair.pt2 | .onnx       features of two frames, K, boxes, valid -> the fields of PairPrediction
    export.json            sizes, names, backbone and licence: all that `load_exported` needs
    parity.json            largest difference from eager execution, per output
    latency.json           milliseconds per graph, with hardware and versions

Two graphs, so that a stream encodes each frame once. Image size is fixed; the numbers of pairs and people are not.
"""

from __future__ import annotations

import copy
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from distill.errors import FootfallError, require
from distill.files import atomic_path, read_json, write_json
from distill.models.backbones import Backbone, Tokens
from distill.models.prediction import PairPrediction, Prompts
from distill.models.student import Student

EXPORT_FORMAT: Final = "footfall-export/1"
FORMATS: Final = ("pt2", "onnx")
PAIR_INPUTS: Final = ("features_a", "features_b", "K", "boxes", "valid")
PAIR_OUTPUTS: Final = tuple(f.name for f in fields(PairPrediction) if f.name not in ("points_a", "conf_a"))
MAX_PAIRS: Final = 64
"""Upper end of a dynamic dimension of the exported pair graph."""
MAX_PEOPLE: Final = 64
"""Upper end of a dynamic dimension of the exported pair graph."""

PARITY_TOLERANCE: Final = 1e-4
"""Largest accepted |exported - eager| / max(1, |eager|) in float32."""


@dataclass(kw_only=True)
class ExportConfig:
    """Settings of `footfall export`."""

    size: list[int] | None = None
    """Width and height of the network's images; None takes 16:9 at the backbone's size."""
    video: str | None = None
    """Frames 0 and 10 of this video are the parity input; None takes a generated picture."""
    runs: int = 20
    """Timed calls per graph."""

    def __post_init__(self) -> None:
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise ValueError(f"size is {self.size}, expected width and height")
        if self.runs < 1:
            raise ValueError(f"runs is {self.runs}, expected 1 or more")


class _EncoderGraph(nn.Module):
    """The backbone's encoder as a plain module with its weights inside."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone.encode(images).features


class _PairGraph(nn.Module):
    """The backbone's pair decoder and the heads, for one image size."""

    def __init__(self, student: Student, tokens: Tokens) -> None:
        super().__init__()
        self.backbone, self.student = student.backbone.module, student
        self.grid, self.size = tokens.grid, tokens.size

    def forward(
        self, features_a: Tensor, features_b: Tensor, K: Tensor, boxes: Tensor, valid: Tensor
    ) -> tuple[Tensor, ...]:
        a = Tokens(features=features_a, grid=self.grid, size=self.size)
        b = Tokens(features=features_b, grid=self.grid, size=self.size)
        decoded = self.backbone.decode(a, b, points=False)
        people = Prompts(boxes=boxes, valid=valid, K=K)
        prediction = self.student.heads(decoded.tokens_a[-1], decoded.tokens_b[-1], a, b, people)
        return tuple(getattr(prediction, name) for name in PAIR_OUTPUTS)


Run = Callable[..., Any]


@dataclass(kw_only=True)
class ExportedStudent:
    """An exported folder, with the interface of `Student` that a stream uses."""

    size: tuple[int, int]
    """Width and height of the images that it takes."""
    grid: tuple[int, int]
    body_model: str
    num_betas: int
    encoder: Run
    pair_graph: Run

    def network_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The one size that it was exported for."""
        return self.size

    def encode(self, images: Tensor) -> Tokens:
        """Images [1, 3, H, W] in [0, 1] -> features."""
        return Tokens(features=self.encoder(images), grid=self.grid, size=self.size)

    def pair(self, a: Tokens, b: Tokens, people: Prompts) -> PairPrediction:
        """See `Student.pair`."""
        outputs = self.pair_graph(a.features, b.features, people.K, people.boxes, people.valid)
        return PairPrediction(**dict(zip(PAIR_OUTPUTS, outputs, strict=True)))


def export_student(
    student: Student, folder: Path, *, file_format: str, images: Tensor, people: Prompts, runs: int = 20
) -> dict[str, float]:
    """Export, check against eager execution on the given input, time, and write all records.

    Args:
        student: any student; the backbone's weights go into the graphs, under their licence.
        folder: written to; an older export there is replaced.
        file_format: one of `FORMATS`.
        images: [2, 3, H, W] in [0, 1]; H and W become the fixed size.
        people: prompts of that one pair, for at least two people.
        runs: timed calls per graph.

    Returns:
        Largest difference from eager execution, per output.

    Raises:
        FootfallError: unknown format, or the graphs do not agree with eager execution.
    """
    if file_format not in FORMATS:
        raise FootfallError(
            f"export format {file_format}", got="not built yet", expected=f"one of {FORMATS}", do="choose one of these"
        )
    student = student.eval().cpu()
    with torch.no_grad():
        tokens = student.encode(images)
        encoder, pair = _EncoderGraph(student.backbone.module).eval(), _PairGraph(student, tokens).eval()
        inputs = (tokens[:1].features, tokens[1:].features, people.K, people.boxes, people.valid)
        write = _write_pt2 if file_format == "pt2" else _write_onnx
        (folder / "export.json").unlink(missing_ok=True)  # a half-written export must not look whole
        write(_without_unused(encoder, (images[:1],)), (images[:1],), folder / f"encoder.{file_format}", people=False)
        two_pairs = tuple(torch.cat((x, x)) for x in inputs)  # a dimension of 1 would be taken for fixed
        write(_without_unused(pair, inputs), two_pairs, folder / f"pair.{file_format}", people=True)
        runners = {name: _open_graph(folder / f"{name}.{file_format}") for name in ("encoder", "pair")}
        differences = dict(_differences(encoder, pair, runners, images, inputs))
        latency = {
            "encoder_eager": _median_ms(lambda: encoder(images[:1]), runs),
            "pair_eager": _median_ms(lambda: pair(*inputs), runs),
            "encoder": _median_ms(lambda: runners["encoder"](images[:1]), runs),
            "pair": _median_ms(lambda: runners["pair"](*inputs), runs),
        }
    write_json(
        folder / "latency.json", {"median_ms": latency, "runs": runs, "people": people.valid.shape[1], **_hardware()}
    )
    record_parity(folder, differences)
    write_json(folder / "export.json", _record(student, tokens, file_format))
    return differences


def record_parity(folder: Path, differences: dict[str, float]) -> None:
    """Write `parity.json`.

    Raises:
        FootfallError: a difference is above `PARITY_TOLERANCE`, or not a number.
    """
    stored = {name: value if math.isfinite(value) else str(value) for name, value in differences.items()}
    write_json(folder / "parity.json", {"max_difference": stored, "tolerance": PARITY_TOLERANCE})
    wrong = [name for name, difference in differences.items() if not difference <= PARITY_TOLERANCE]
    if wrong:
        raise FootfallError(
            f"export {folder}", got=f"{wrong[0]} off by {differences[wrong[0]]:.2g}",
            expected=f"at most {PARITY_TOLERANCE}", do="do not use these graphs; see parity.json",
        )  # fmt: skip


def load_exported(folder: Path) -> ExportedStudent:
    """Open an exported folder.

    Raises:
        FootfallError: incomplete, or of another format.
    """
    record = read_json(folder / "export.json")
    if record.get("format") != EXPORT_FORMAT:
        raise FootfallError(
            str(folder / "export.json"), got=f"format {record.get('format')!r}", expected=EXPORT_FORMAT,
            do="export the checkpoint again",
        )  # fmt: skip
    suffix = record["file_format"]
    return ExportedStudent(
        size=(record["size"][0], record["size"][1]),
        grid=(record["grid"][0], record["grid"][1]),
        body_model=record["body_model"],
        num_betas=record["num_betas"],
        encoder=_open_graph(folder / f"encoder.{suffix}"),
        pair_graph=_open_graph(folder / f"pair.{suffix}"),
    )


def example_input(size: tuple[int, int]) -> tuple[Tensor, Prompts]:
    """A generated pair of pictures [2, 3, H, W] and prompts for two people, for parity without a video.

    The pictures have the spectrum of natural images (amplitude 1/f); the second is the first, shifted.
    """
    width, height = size
    generator = torch.Generator().manual_seed(0)
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]).clamp(min=1 / width)
    noise = torch.fft.rfft2(torch.randn(3, height, width, generator=generator))
    picture = torch.fft.irfft2(noise / frequency, s=(height, width))
    picture = (picture / (4 * picture.std()) + 0.5).clamp(0, 1)
    return torch.stack((picture, picture.roll(4, dims=-1))), example_prompts(size)


def example_prompts(size: tuple[int, int]) -> Prompts:
    """Two standing people in both frames of one pair, at a plausible lens."""
    width, height = size
    K = torch.tensor([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]]).expand(1, 2, 3, 3)
    boxes = torch.tensor([[0.2, 0.2, 0.4, 0.9], [0.6, 0.3, 0.75, 0.8]]) * torch.tensor([width, height, width, height])
    return Prompts(boxes=boxes[None, :, None].repeat(1, 1, 2, 1), valid=torch.ones(1, 2, 2, dtype=torch.bool), K=K)


def read_parity_input(student: Student, config: ExportConfig) -> tuple[Tensor, Prompts]:
    """Images and prompts at the size to export: from the configured video, or generated.

    Raises:
        FootfallError: the video cannot be read, or the size does not fit the backbone.
    """
    size = student.network_size((1920, 1080)) if config.size is None else (config.size[0], config.size[1])
    multiple = student.backbone.module.preprocessing.multiple
    if size[0] % multiple or size[1] % multiple:
        raise FootfallError(
            f"export size {size}", got="no multiple", expected=f"multiples of {multiple}", do="mend size"
        )
    if config.video is None:
        return example_input(size)
    decord = require("decord", extra="dev")
    try:
        reader = decord.VideoReader(config.video, width=size[0], height=size[1])
        frames = reader.get_batch([0, min(10, len(reader) - 1)]).asnumpy()
    except (RuntimeError, OSError, IndexError) as error:
        raise FootfallError(f"video {config.video}", got=error, expected="a video", do="check the file") from error
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255, example_prompts(size)


def _without_unused(module: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """A copy in which parameters that do not reach the output are empty, so that a graph's file holds only its own.

    Export keeps every parameter of a module: the encoder's file would carry the decoder, and the reverse.
    """
    module = copy.deepcopy(module).requires_grad_(True)
    with torch.enable_grad():
        outputs = module(*inputs)
        total = torch.stack([output.sum() for output in ([outputs] if isinstance(outputs, Tensor) else outputs)])
        names, parameters = zip(*module.named_parameters(), strict=True)
        gradients = torch.autograd.grad(total.sum(), parameters, allow_unused=True)
    for name, gradient in zip(names, gradients, strict=True):
        if gradient is None:
            owner, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(owner), leaf, nn.Parameter(torch.empty(0)))
    return module.requires_grad_(False)


def _write_pt2(module: nn.Module, inputs: tuple[Tensor, ...], path: Path, *, people: bool) -> None:
    program = torch.export.export(module, inputs, dynamic_shapes=_dynamic_shapes(people))
    with atomic_path(path) as temporary:
        torch.export.save(program, temporary)


def _write_onnx(module: nn.Module, inputs: tuple[Tensor, ...], path: Path, *, people: bool) -> None:
    require("onnxscript", extra="export")
    program = torch.onnx.export(
        module,
        inputs,
        dynamo=True,
        verbose=False,
        dynamic_shapes=_dynamic_shapes(people),
        input_names=PAIR_INPUTS if people else ("images",),
        output_names=PAIR_OUTPUTS if people else ("features",),
    )
    assert program is not None
    with atomic_path(path) as temporary:
        program.save(temporary)


def _dynamic_shapes(people: bool) -> tuple[dict[int, Any] | None, ...]:
    """The pair graph takes any number of pairs and of people; the encoder one image."""
    if not people:
        return (None,)
    pairs, count = torch.export.Dim("pairs", max=MAX_PAIRS), torch.export.Dim("people", max=MAX_PEOPLE)
    return ({0: pairs}, {0: pairs}, {0: pairs}, {0: pairs, 1: count}, {0: pairs, 1: count})


def _open_graph(path: Path) -> Run:
    """A callable from tensors to a tensor or a tuple of tensors."""
    if not path.is_file():
        raise FootfallError(
            str(path), got="no such file", expected="an exported graph", do="export the checkpoint again"
        )
    if path.suffix == ".pt2":
        return torch.export.load(path).module()
    onnxruntime = require("onnxruntime", extra="export")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # as eager execution, so that timings compare
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def run(*inputs: Tensor) -> Any:
        outputs = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)})
        tensors = tuple(torch.from_numpy(output) for output in outputs)
        return tensors[0] if len(tensors) == 1 else tensors

    return run


def _differences(
    encoder: nn.Module, pair: nn.Module, runners: dict[str, Run], images: Tensor, inputs: tuple[Tensor, ...]
) -> Iterator[tuple[str, float]]:
    """Per output, the largest difference from eager execution, over several numbers of pairs and people."""
    yield "features", _difference(encoder(images[:1]), runners["encoder"](images[:1]))
    worst = dict.fromkeys(PAIR_OUTPUTS, 0.0)
    for pairs, count in ((1, 1), (1, inputs[3].shape[1]), (3, 5)):
        rows = torch.arange(count) % inputs[3].shape[1]
        chosen = (*inputs[:3], inputs[3][:, rows], inputs[4][:, rows])
        repeated = tuple(torch.cat([x] * pairs) for x in chosen)
        for name, eager, exported in zip(PAIR_OUTPUTS, pair(*repeated), runners["pair"](*repeated), strict=True):
            worst[name] = max(worst[name], _difference(eager, exported))
    yield from worst.items()


def _difference(eager: Tensor, exported: Tensor) -> float:
    return float(((eager - exported).abs() / eager.abs().clamp(min=1)).max())


def _median_ms(call: Callable[[], object], runs: int) -> float:
    call()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return round(1e3 * statistics.median(seconds), 3)


def _hardware() -> dict[str, Any]:
    """What the latencies were measured on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].split(":", 1)[1].strip() if lines else model
    return {
        "device": "cpu",
        "processor": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _record(student: Student, tokens: Tokens, file_format: str) -> dict[str, Any]:
    backbone = student.backbone.module
    return {
        "format": EXPORT_FORMAT,
        "file_format": file_format,
        "size": tokens.size,
        "grid": tokens.grid,
        "images": "RGB in [0, 1]; the graph normalises",
        "pair_inputs": PAIR_INPUTS,
        "pair_outputs": PAIR_OUTPUTS,
        "body_model": student.config.body_model,
        "num_betas": student.config.num_betas,
        "backbone": asdict(backbone.provenance),
    }
