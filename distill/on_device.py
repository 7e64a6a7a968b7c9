"""A student on its device for a stream on the CPU: inputs go there, answers come back, features stay."""

from __future__ import annotations

from dataclasses import fields
from typing import TypeVar

import torch
from torch import Tensor

from distill.cuda_graphs import GraphedStudent
from distill.models.backbones import Tokens
from distill.models.detection_head import Candidates
from distill.models.prediction import PairPrediction, Prompts
from distill.models.student import Student

Answer = TypeVar("Answer", Candidates, PairPrediction)


class OnDevice:
    """Has what `stream.Network` and `stream.Finder` ask for."""

    def __init__(self, student: Student, *, graphs: bool = False) -> None:
        """Use a student where it is.

        Args:
            student: in eval mode.
            graphs: replay its calls as CUDA graphs; its weights must stay as they are then.

        Raises:
            FootfallError: graphs of a student that is not on a CUDA device.
        """
        self.student, self.device = student, next(student.parameters()).device
        self._fast = GraphedStudent(student) if graphs else student

    @property
    def look_width(self) -> int:
        """See `Student.look_width`."""
        return self.student.look_width

    @property
    def has_points(self) -> bool:
        """See `Student.has_points`."""
        return self.student.has_points

    def network_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """See `Student.network_size`."""
        return self.student.network_size(size)

    def encode(self, images: Tensor) -> Tokens:
        """See `Student.encode`; features and images stay on the device."""
        return self._fast.encode(images.to(self.device))

    def look(self, images: Tensor, boxes: Tensor) -> Tensor:
        """See `Student.look`."""
        return self._fast.look(images.to(self.device), boxes.to(self.device)).float().cpu()

    def pair(self, a: Tokens, b: Tokens, people: Prompts, *, points: bool = False) -> PairPrediction:
        """See `Student.pair`."""
        return _on_cpu(self._fast.pair(a, b, people.to(self.device), points=points))

    def detect(self, tokens: Tokens) -> Candidates:
        """See `Student.detect`."""
        return _on_cpu(self.student.detect(tokens))

    def identify(self, tokens: Tokens, boxes: Tensor) -> Tensor:
        """See `Student.identify`."""
        return self.student.identify(tokens, boxes.to(self.device)).cpu()

    def points(self, a: Tokens, b: Tokens) -> tuple[Tensor, Tensor]:
        """See `Student.points`."""
        points, confidence = self.student.points(a, b)
        return points.cpu(), confidence.cpu()


def place_student(student: Student, device: torch.device | str | None = None) -> Student | OnDevice:
    """A student ready for a stream: itself on the CPU; on CUDA with the backbone in bfloat16, as graphs.

    Heads stay float32: they say metres, and are a small part of the work.

    Args:
        student: moved, in place.
        device: None takes a CUDA device if there is one.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    student.to(device).eval().requires_grad_(False)
    if device.type == "cpu":
        return student
    if device.type == "cuda":
        student.backbone.module.set_trunk_dtype(torch.bfloat16)
    return OnDevice(student, graphs=device.type == "cuda")


def _on_cpu(answer: Answer) -> Answer:
    """All its tensors as float32 on the CPU."""
    values = {field.name: getattr(answer, field.name) for field in fields(answer)}
    return type(answer)(**{k: v.float().cpu() if isinstance(v, Tensor) else v for k, v in values.items()})
