"""A student's two calls as CUDA graphs: in a video every shape is fixed, so thousands of launches become one replay.

    fast = GraphedStudent(prepare_student(student, "cuda"))
    tokens = fast.encode(image)             # each frame once
    answer = fast.pair(past, now, people)   # all gaps in one batch

It offers what `stream.Stream` asks of a network. A graph is captured on the first call with a new shape and
kept. Capturing allows no value to pass between host and device inside, which tests/test_cuda_graphs.py checks
without a GPU as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from distill.errors import FootfallError
from distill.models.backbones import Tokens
from distill.models.closeup import look_at_both
from distill.models.prediction import PairPrediction, Prompts
from distill.models.student import Student

WARM_UPS: Final = 3
"""Calls before a capture: libraries choose algorithms and allocate their work space in them."""
Inputs = Mapping[str, Tensor]


def prepare_student(student: Student, device: torch.device | str, dtype: torch.dtype = torch.bfloat16) -> Student:
    """Move a student to a device and cast it for inference, in place; points stay float32.

    On CUDA, convolutions of the dense heads get channels-last weights, and float32 products may use TF32.
    """
    device = torch.device(device)
    student.to(device=device, dtype=dtype).eval().requires_grad_(False)  # the held backbone keeps its dtype
    backbone = student.backbone.module
    backbone.set_trunk_dtype(dtype)
    if device.type == "cuda":
        for module in backbone.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True  # shapes are fixed: the quickest convolution is looked for once
    return student


class Graph:
    """A function of named tensors, captured once for their shapes and replayed."""

    def __init__(self, function: Callable[[Inputs], Tensor], inputs: Inputs, device: torch.device, pool: Any) -> None:
        """Capture `function` on copies of `inputs`, which become the static input buffers.

        Args:
            function: tensors on `device` by name -> one tensor; may neither allocate on nor wait for the host.
            inputs: examples, on any device.
            device: a CUDA device.
            pool: memory pool shared by graphs that are replayed one after the other
                (`torch.cuda.graph_pool_handle`).
        """
        self.inputs = {name: tensor.to(device, copy=True) for name, tensor in inputs.items()}
        side, current = torch.cuda.Stream(device), torch.cuda.current_stream(device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                function(self.inputs)
        current.wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool):
            self.output = function(self.inputs)

    def __call__(self, inputs: Inputs) -> Tensor:
        """Replay on new values of the same shapes. The result is overwritten by any graph's next replay."""
        for name, buffer in self.inputs.items():
            buffer.copy_(inputs[name], non_blocking=True)
        self.graph.replay()
        return self.output


class GraphedStudent:
    """A prepared student on CUDA whose `encode` and `pair` are replayed from graphs."""

    def __init__(self, student: Student, *, compiled: bool = False, answers_on: torch.device | str = "cpu") -> None:
        """Graphs are captured later, when shapes are known.

        Args:
            student: from `prepare_student`.
            compiled: fuse operations by torch.compile before capturing; the first call takes minutes.
            answers_on: where `pair` leaves its answer; on the CPU it arrives in one copy.

        Raises:
            FootfallError: the student is not on a CUDA device.
        """
        self.student, self.answers_on = student, torch.device(answers_on)
        self.device = next(student.parameters()).device
        if self.device.type != "cuda":
            raise FootfallError(
                "CUDA graphs", got=f"a student on {self.device}", expected="one on a CUDA device",
                do="call the student itself on other devices",
            )  # fmt: skip
        self._wrap: Callable[[Any], Any] = torch.compile if compiled else lambda function: function
        self._graphs: dict[Any, tuple[Graph, Any]] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def network_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """See `Student.network_size`."""
        return self.student.network_size(size)

    @property
    def look_width(self) -> int:
        """See `Student.look_width`."""
        return self.student.look_width

    @torch.inference_mode()
    def look(self, images: Tensor, boxes: Tensor) -> Tensor:
        """See `Student.look`; the answer is on the student's device and stays as it is."""
        inputs = {"images": images, "boxes": boxes}
        key = ("look", tuple(images.shape), tuple(boxes.shape))
        if key not in self._graphs:
            function = self._wrap(lambda given: self.student.look(given["images"], given["boxes"]))
            self._graphs[key] = Graph(function, inputs, self.device, self._pool), None
        return self._graphs[key][0](inputs).clone()

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tokens:
        """See `Student.encode`; features are on the student's device and stay as they are."""
        key = ("encode", tuple(images.shape))
        if key not in self._graphs:
            like = replace(self.student.encode(images.to(self.device)), images=None)
            function = self._wrap(lambda inputs: self.student.encode(inputs["images"]).features)
            self._graphs[key] = Graph(function, {"images": images}, self.device, self._pool), like
        graph, like = self._graphs[key]
        return replace(like, features=graph({"images": images}).clone(), images=images)

    @torch.inference_mode()
    def pair(self, a: Tokens, b: Tokens, people: Prompts, *, points: bool = False) -> PairPrediction:
        """See `Student.pair`. Points, asked for once in a while, are computed without a graph."""
        if points:
            return self.student.pair(a, b, people.to(self.device), points=True)
        if people.looks is None:
            people = replace(people, looks=look_at_both(self.look, a, b, people.boxes))
        inputs = {"a": a.features, "b": b.features, **present_fields(people)}
        key = ("pair", a.grid, b.grid, *((name, tuple(tensor.shape)) for name, tensor in inputs.items()))
        if key not in self._graphs:
            moved = {name: tensor.to(self.device) for name, tensor in inputs.items()}
            shapes = shapes_of(answer(self.student, a, b, people, moved))
            function = self._wrap(lambda given: pack(answer(self.student, a, b, people, given)))
            self._graphs[key] = Graph(function, inputs, self.device, self._pool), shapes
        graph, shapes = self._graphs[key]
        return unpack(graph(inputs).to(self.answers_on, copy=True), shapes)


def answer(student: Student, a: Tokens, b: Tokens, people: Prompts, given: Inputs) -> PairPrediction:
    """`Student.pair` of inputs by name, which replace the tensors of `a` ("a"), `b` ("b") and `people`."""
    prompts = {name: tensor for name, tensor in given.items() if name not in ("a", "b")}
    return student.pair(replace(a, features=given["a"]), replace(b, features=given["b"]), replace(people, **prompts))


def present_fields(of: Any) -> dict[str, Tensor]:
    """Tensors of a dataclass by name; what is None is left out."""
    values = {field.name: getattr(of, field.name) for field in fields(of)}
    return {name: value for name, value in values.items() if value is not None}


def shapes_of(prediction: PairPrediction) -> dict[str, torch.Size]:
    """What `unpack` needs to know."""
    return {name: tensor.shape for name, tensor in present_fields(prediction).items()}


def pack(prediction: PairPrediction) -> Tensor:
    """All tensors of a prediction as one float32 vector."""
    return torch.cat([tensor.float().flatten() for tensor in present_fields(prediction).values()])


def unpack(vector: Tensor, shapes: Mapping[str, torch.Size]) -> PairPrediction:
    """The inverse of `pack`, as views of the vector."""
    parts = vector.split([shape.numel() for shape in shapes.values()])
    return PairPrediction(**{name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)})
