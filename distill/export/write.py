"""Export a student to graphs that run without this package's training code or configs.

    encoder.pt2 | .onnx    images [1, 3, H, W] -> features [1, N, C]
    look.pt2 | .onnx       images, boxes of people -> looks, what their own pixels show
    pair.pt2 | .onnx       features of two frames and prompts (`PAIR_INPUTS`) -> the fields of PairPrediction
    export.json            sizes, names, backbone and licence: all that `load_exported` needs
    parity.json            largest difference from eager execution, per output
    latency.json           milliseconds per graph, with hardware and versions

Three graphs, so that a stream encodes each frame and looks at each person once. Image size is fixed; the numbers of
pairs and people are not.
"""

from __future__ import annotations

import copy
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from distill.errors import FootfallError, require
from distill.files import atomic_path, read_json, write_json
from distill.models.backbones import Backbone, Tokens
from distill.models.closeup import look_at_both
from distill.models.prediction import PairPrediction, Prompts
from distill.models.student import Student

EXPORT_FORMAT: Final = "footfall-export/3"
FORMATS: Final = ("pt2", "onnx")
PAIR_INPUTS: Final = ("features_a", "features_b", "K", "K_known", "seconds", "boxes", "valid", "looks")
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


class _LookGraph(nn.Module):
    """The closer look at people."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.closeup = student.closeup

    def forward(self, images: Tensor, boxes: Tensor) -> Tensor:
        return self.closeup(images, boxes)


class _PairGraph(nn.Module):
    """The backbone's pair decoder and the heads, for one image size."""

    def __init__(self, student: Student, tokens: Tokens) -> None:
        super().__init__()
        self.backbone, self.student = student.backbone.module, student
        self.grid, self.size = tokens.grid, tokens.size

    def forward(
        self, features_a: Tensor, features_b: Tensor, K: Tensor, K_known: Tensor, seconds: Tensor, boxes: Tensor,
        valid: Tensor, looks: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        a = Tokens(features=features_a, grid=self.grid, size=self.size)
        b = Tokens(features=features_b, grid=self.grid, size=self.size)
        decoded = self.backbone.decode(a, b, points=False)
        people = Prompts(boxes=boxes, valid=valid, K=K, K_known=K_known, seconds=seconds, looks=looks)
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
    look_width: int
    encoder: Run
    look_graph: Run
    pair_graph: Run

    def network_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The one size that it was exported for."""
        return self.size

    def encode(self, images: Tensor) -> Tokens:
        """Images [1, 3, H, W] in [0, 1] -> features."""
        return Tokens(features=self.encoder(images), grid=self.grid, size=self.size, images=images)

    def look(self, images: Tensor, boxes: Tensor) -> Tensor:
        """See `Student.look`: images [1, 3, H, W], boxes [1, P, 4]."""
        return self.look_graph(images, boxes)

    def pair(self, a: Tokens, b: Tokens, people: Prompts) -> PairPrediction:
        """See `Student.pair`.

        Raises:
            FootfallError: without the time between the frames, or with masks, which the graphs do not take.
        """
        if people.seconds is None or people.masks is not None:
            raise FootfallError(
                "prompts for exported graphs", got="no seconds" if people.seconds is None else "masks",
                expected="seconds between the frames, and boxes alone",
                do="give seconds, or take the checkpoint itself",
            )  # fmt: skip
        if people.looks is None:
            people = replace(people, looks=look_at_both(self.look, a, b, people.boxes))
        outputs = self.pair_graph(a.features, b.features, *_pair_inputs(people))
        return PairPrediction(**dict(zip(PAIR_OUTPUTS, outputs, strict=True)))


def _pair_inputs(people: Prompts) -> tuple[Tensor, ...]:
    """The pair graph's inputs after the features."""
    assert people.looks is not None and people.seconds is not None
    known = torch.ones(len(people.K), dtype=torch.bool) if people.K_known is None else people.K_known
    return people.K, known, people.seconds, people.boxes, people.valid, people.looks


@dataclass(kw_only=True)
class _Part:
    """One graph to be: its module, an example of what goes in, and what that may vary in."""

    module: nn.Module
    inputs: tuple[Tensor, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    dynamic: tuple[dict[int, Any] | None, ...]

    def example(self) -> tuple[Tensor, ...]:
        """Inputs to trace: a dimension of 1 would be taken for fixed."""
        return tuple(torch.cat((x, x)) if vary else x for x, vary in zip(self.inputs, self.dynamic, strict=True))

    def outputs(self, inputs: tuple[Tensor, ...], run: Run) -> dict[str, Tensor]:
        """By name, of the module or of its graph."""
        found = run(*inputs)
        return dict(zip(self.output_names, (found,) if isinstance(found, Tensor) else found, strict=True))


def _parts(student: Student, images: Tensor, people: Prompts) -> dict[str, _Part]:
    """The graphs of a student for images [2, 3, H, W] and prompts of that one pair."""
    tokens = student.encode(images)
    boxes = people.boxes[:, :, 0]
    looks = torch.stack([student.look(images[k : k + 1], people.boxes[:, :, k]) for k in range(2)], dim=2)
    inputs = (tokens[:1].features, tokens[1:].features, *_pair_inputs(replace(people, looks=looks)))
    pairs, count = torch.export.Dim("pairs", max=MAX_PAIRS), torch.export.Dim("people", max=MAX_PEOPLE)
    many = {0: pairs, 1: count}
    return {
        "encoder": _Part(
            module=_EncoderGraph(student.backbone.module), inputs=(images[:1],), dynamic=(None,),
            input_names=("images",), output_names=("features",),
        ),
        "look": _Part(
            module=_LookGraph(student), inputs=(images[:1], boxes), dynamic=({0: pairs}, many),
            input_names=("images", "boxes"), output_names=("looks",),
        ),
        "pair": _Part(
            module=_PairGraph(student, tokens), inputs=inputs, dynamic=({0: pairs},) * 5 + (many,) * 3,
            input_names=PAIR_INPUTS, output_names=PAIR_OUTPUTS,
        ),
    }  # fmt: skip


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
    (folder / "export.json").unlink(missing_ok=True)  # a half-written export must not look whole
    differences: dict[str, float] = {}
    latency: dict[str, float] = {}
    with torch.no_grad():
        for name, part in _parts(student, images, people).items():
            path = folder / f"{name}.{file_format}"
            part.module = _without_unused(part.module.eval(), part.inputs)
            (_write_pt2 if file_format == "pt2" else _write_onnx)(part, path)
            graph = _open_graph(path)
            differences |= _differences(part, graph)
            latency[f"{name}_eager"] = _median_ms(lambda p=part: p.module(*p.inputs), runs)  # type: ignore[misc]
            latency[name] = _median_ms(lambda p=part, g=graph: g(*p.inputs), runs)  # type: ignore[misc]
    write_json(
        folder / "latency.json", {"median_ms": latency, "runs": runs, "people": people.valid.shape[1], **_hardware()}
    )
    record_parity(folder, differences)
    write_json(folder / "export.json", _record(student, (images.shape[-1], images.shape[-2]), file_format))
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
        look_width=record["look_width"],
        encoder=_open_graph(folder / f"encoder.{suffix}"),
        look_graph=_open_graph(folder / f"look.{suffix}"),
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
    return Prompts(
        boxes=boxes[None, :, None].repeat(1, 1, 2, 1), valid=torch.ones(1, 2, 2, dtype=torch.bool), K=K,
        K_known=torch.tensor([True]), seconds=torch.tensor([0.4]),
    )  # fmt: skip


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


def _write_pt2(part: _Part, path: Path) -> None:
    program = torch.export.export(part.module, part.example(), dynamic_shapes=part.dynamic)
    with atomic_path(path) as temporary:
        torch.export.save(program, temporary)


def _write_onnx(part: _Part, path: Path) -> None:
    require("onnxscript", extra="export")
    program = torch.onnx.export(
        part.module, part.example(), dynamo=True, verbose=False, dynamic_shapes=part.dynamic,
        input_names=part.input_names, output_names=part.output_names,
    )  # fmt: skip
    assert program is not None
    with atomic_path(path) as temporary:
        program.save(temporary)


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


def _differences(part: _Part, graph: Run) -> dict[str, float]:
    """Per output, the largest difference from eager execution, over several numbers of pairs and people."""
    worst = dict.fromkeys(part.output_names, 0.0)
    for pairs, count in ((1, 1), (1, 2), (3, 5)):
        inputs = tuple(_sized(x, vary or {}, pairs, count) for x, vary in zip(part.inputs, part.dynamic, strict=True))
        eager, exported = part.outputs(inputs, part.module), part.outputs(inputs, graph)
        for name in worst:
            worst[name] = max(worst[name], _difference(eager[name], exported[name]))
    return worst


def _sized(example: Tensor, vary: dict[int, Any], pairs: int, people: int) -> Tensor:
    """An example's rows repeated to these numbers, where they may vary."""
    if 1 in vary:
        example = example[:, torch.arange(people) % example.shape[1]]
    return torch.cat([example] * pairs) if 0 in vary else example


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


def _record(student: Student, size: tuple[int, int], file_format: str) -> dict[str, Any]:
    backbone = student.backbone.module
    grid = (size[1] // backbone.patch_size, size[0] // backbone.patch_size)
    return {
        "format": EXPORT_FORMAT,
        "file_format": file_format,
        "size": size,
        "grid": grid,
        "images": "RGB in [0, 1]; the graph normalises",
        "pair_inputs": PAIR_INPUTS,
        "pair_outputs": PAIR_OUTPUTS,
        "look_width": student.look_width,
        "body_model": student.config.body_model,
        "num_betas": student.config.num_betas,
        "backbone": asdict(backbone.provenance),
    }
