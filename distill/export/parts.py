"""A student cut into graphs: what each computes, an example of what goes in, and what may vary in number."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from distill.models.backbones import Backbone, Tokens
from distill.models.prediction import PairPrediction, Prompts
from distill.models.student import Student

PAIR_INPUTS: Final = ("features_a", "features_b", "K", "K_known", "seconds", "boxes", "valid", "looks")
PAIR_OUTPUTS: Final = tuple(f.name for f in fields(PairPrediction) if f.name not in ("points_a", "conf_a"))
MAX_PAIRS: Final = 64
"""Upper end of a dynamic dimension of the exported graphs."""
MAX_PEOPLE: Final = 64
"""Upper end of a dynamic dimension of the exported graphs."""

Run = Callable[..., Any]
"""From tensors to a tensor or a tuple of tensors."""


class _EncoderGraph(nn.Module):
    """The backbone's encoder as a plain module with its weights inside; features leave in float32."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone.encode(images).features.float()


class _LookGraph(nn.Module):
    """The closer look at people."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.closeup = student.closeup

    def forward(self, images: Tensor, boxes: Tensor) -> Tensor:
        return self.closeup(images, boxes)


class _OfTokens(nn.Module):
    """A graph that reads features of one image size."""

    def __init__(self, student: Student, tokens: Tokens, dtype: torch.dtype) -> None:
        super().__init__()
        self.backbone, self.student = student.backbone.module, student
        self.grid, self.size, self.dtype = tokens.grid, tokens.size, dtype

    def tokens(self, features: Tensor) -> Tokens:
        """Features as they leave the encoder graph -> as the backbone takes them."""
        return Tokens(features=features.to(self.dtype), grid=self.grid, size=self.size)


class _DetectGraph(_OfTokens):
    """Candidate people of one frame, with their scores."""

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        found = self.student.detection(self.tokens(features))
        return found.logit, found.boxes


class _IdentifyGraph(_OfTokens):
    """Who is in boxes."""

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        return self.student.identity(self.tokens(features), boxes)


class _PointsGraph(_OfTokens):
    """The backbone's points of the first frame and their confidence."""

    def forward(self, features_a: Tensor, features_b: Tensor) -> tuple[Tensor, Tensor]:
        pair = self.backbone.decode(self.tokens(features_a), self.tokens(features_b))
        assert pair.points_a is not None and pair.conf_a is not None
        return pair.points_a, pair.conf_a


class _PairGraph(_OfTokens):
    """The backbone's pair decoder and the heads."""

    def forward(
        self, features_a: Tensor, features_b: Tensor, K: Tensor, K_known: Tensor, seconds: Tensor, boxes: Tensor,
        valid: Tensor, looks: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        a, b = self.tokens(features_a), self.tokens(features_b)
        decoded = self.backbone.decode(a, b, points=False)
        people = Prompts(boxes=boxes, valid=valid, K=K, K_known=K_known, seconds=seconds, looks=looks)
        prediction = self.student.heads(decoded.tokens_a[-1], decoded.tokens_b[-1], a, b, people)
        return tuple(getattr(prediction, name) for name in PAIR_OUTPUTS)


@dataclass(kw_only=True)
class Part:
    """One graph to be: its module, an example of what goes in, and what that may vary in."""

    module: nn.Module
    inputs: tuple[Tensor, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    dynamic: tuple[dict[int, Any] | None, ...]

    def example(self) -> tuple[Tensor, ...]:
        """Inputs to trace: a dimension of 1 would be taken for fixed, and so are strides (by AOTInductor)."""
        twice = (self._twice(x, vary or {}) for x, vary in zip(self.inputs, self.dynamic, strict=True))
        return tuple(x.contiguous() for x in twice)

    def sized(self, pairs: int, people: int) -> tuple[Tensor, ...]:
        """The inputs with these numbers of pairs and people, where they may vary."""
        return tuple(_sized(x, vary or {}, pairs, people) for x, vary in zip(self.inputs, self.dynamic, strict=True))

    def outputs(self, inputs: tuple[Tensor, ...], run: Run) -> dict[str, Tensor]:
        """By name, of the module or of its graph."""
        found = run(*inputs)
        return dict(zip(self.output_names, (found,) if isinstance(found, Tensor) else found, strict=True))

    @staticmethod
    def _twice(x: Tensor, vary: dict[int, Any]) -> Tensor:
        return torch.cat((x, x)) if 0 in vary else x


def _sized(example: Tensor, vary: dict[int, Any], pairs: int, people: int) -> Tensor:
    if 1 in vary:
        example = example[:, torch.arange(people) % example.shape[1]]
    return torch.cat([example] * pairs) if 0 in vary else example


def pair_inputs(people: Prompts) -> tuple[Tensor, ...]:
    """The pair graph's inputs after the features."""
    assert people.looks is not None and people.seconds is not None
    known = torch.ones(len(people.K), dtype=torch.bool) if people.K_known is None else people.K_known
    return people.K, known, people.seconds, people.boxes, people.valid, people.looks


def cut_student(student: Student, images: Tensor, people: Prompts) -> dict[str, Part]:
    """The graphs of a student for images [2, 3, H, W] and prompts of that one pair, for at least two people."""
    tokens = student.encode(images)
    features = tokens.features.float()
    a, b = features[:1], features[1:]
    boxes = people.boxes[:, :, 0]
    looks = torch.stack([student.look(images[k : k + 1], people.boxes[:, :, k]) for k in range(2)], dim=2)
    dtype = tokens.features.dtype
    pairs, count = torch.export.Dim("pairs", max=MAX_PAIRS), torch.export.Dim("people", max=MAX_PEOPLE)
    many = {0: pairs, 1: count}
    parts = {
        "encoder": Part(
            module=_EncoderGraph(student.backbone.module), inputs=(images[:1],), dynamic=(None,),
            input_names=("images",), output_names=("features",),
        ),
        "detect": Part(
            module=_DetectGraph(student, tokens, dtype), inputs=(a,), dynamic=(None,), input_names=("features",),
            output_names=("logit", "candidates"),
        ),
        "identify": Part(
            module=_IdentifyGraph(student, tokens, dtype), inputs=(a, boxes), dynamic=(None, {1: count}),
            input_names=("features", "boxes"), output_names=("vectors",),
        ),
        "look": Part(
            module=_LookGraph(student), inputs=(images[:1], boxes), dynamic=({0: pairs}, many),
            input_names=("images", "boxes"), output_names=("looks",),
        ),
        "pair": Part(
            module=_PairGraph(student, tokens, dtype), dynamic=({0: pairs},) * 5 + (many,) * 3,
            inputs=(a, b, *pair_inputs(replace(people, looks=looks))),
            input_names=PAIR_INPUTS, output_names=PAIR_OUTPUTS,
        ),
    }  # fmt: skip
    if student.has_points:
        parts["points"] = Part(
            module=_PointsGraph(student, tokens, dtype), inputs=(a, b), dynamic=(None, None),
            input_names=("features_a", "features_b"), output_names=("points", "confidence"),
        )  # fmt: skip
    return parts


def without_unused(module: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """A copy in which parameters that do not reach the output are empty, so that a graph's file holds only its own.

    Export keeps every parameter of a module: the encoder's file would carry the decoder, and the reverse. Parameters of
    submodules that run, though to no avail, stay: running them needs their shapes.
    """
    module = copy.deepcopy(module).requires_grad_(True)
    ran: set[nn.Module] = set()
    hooks = [part.register_forward_pre_hook(lambda part, _: ran.add(part)) for part in module.modules()]
    with torch.enable_grad():
        outputs = module(*inputs)
        total = torch.stack([output.sum() for output in ([outputs] if isinstance(outputs, Tensor) else outputs)])
        names, parameters = zip(*module.named_parameters(), strict=True)
        gradients = torch.autograd.grad(total.sum(), parameters, allow_unused=True)
    for hook in hooks:
        hook.remove()
    for name, gradient in zip(names, gradients, strict=True):
        owner, _, leaf = name.rpartition(".")
        if gradient is None and module.get_submodule(owner) not in ran:
            setattr(module.get_submodule(owner), leaf, nn.Parameter(torch.empty(0)))
    return module.requires_grad_(False)
