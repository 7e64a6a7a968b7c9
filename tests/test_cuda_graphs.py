"""CUDA graphs of a student: what can be known without a GPU, and, on one, the same answers as without graphs."""

from __future__ import annotations

import traceback
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from distill.cuda_graphs import GraphedStudent, answer, pack, prepare_student, present_fields, shapes_of, unpack
from distill.errors import FootfallError
from distill.models.mast3r import Mast3r, Mast3rConfig, initialise
from distill.models.student import Student, StudentConfig
from distill.models.trunk import HeadConfig
from tests.student_support import SIZE, make_prompts, one_thread, wake  # noqa: F401 (a fixture)

SMALL = Mast3rConfig(
    enc_dim=64, enc_depth=2, enc_heads=2, dec_dim=48, dec_depth=4, dec_heads=2, hooks=(0, 2, 3, 4), dpt_dim=16,
    dpt_last_dim=8, dpt_layer_dims=(8, 8, 8, 8), descriptor_dim=0, long_side=96,
)  # fmt: skip


def make_student() -> Student:
    backbone = Mast3r(SMALL)
    initialise(backbone, 0)
    return wake(Student(StudentConfig(head=HeadConfig(width=48, layers=1, attention_heads=2)), backbone))


T = torch.Tensor
TRAFFIC = {
    torch.tensor, torch.as_tensor, torch.from_numpy, torch.nonzero, T.new_tensor, T.nonzero, T.item, T.tolist, T.cpu,
    T.numpy, T.__bool__, T.__int__, T.__float__, T.__index__, T.is_nonzero, torch.masked_select, T.masked_select,
}  # fmt: skip
"""What makes tensors from Python's numbers, or numbers from tensors; also indexing by a mask (`HostTraffic`)."""


class HostTraffic(TorchFunctionMode):
    """Notes calls that pass values between host and device, wherever the tensors are."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        masks = [leaf for leaf in tree_leaves(args[1:2]) if isinstance(leaf, T) and leaf.dtype == torch.bool]
        if function in TRAFFIC or (function in (T.__getitem__, T.__setitem__) and masks):
            own = [frame for frame in traceback.extract_stack() if "/distill/" in frame.filename]
            where = f"{own[-1].filename}:{own[-1].lineno} {own[-1].line}" if own else "test"
            self.found.append(f"{function.__name__}: {where}")
        return function(*args, **(kwargs or {}))


def test_nothing_passes_between_host_and_device() -> None:
    """A capture would fail on any such call; the second round finds the tables of positions in their cache."""
    student, people, images = make_student(), make_prompts(2), torch.rand(1, 3, SIZE[1], SIZE[0])
    for _ in range(2):
        with HostTraffic() as watch, torch.inference_mode():
            tokens = student.encode(images)
            student.pair(tokens, tokens, people)
    assert watch.found == []


def test_traffic_is_seen() -> None:
    with HostTraffic() as watch:
        ones = torch.ones(2).new_tensor([1.0, 2.0])
        ones[ones > 1]
        float(ones.sum())
    assert [line.split(":")[0] for line in watch.found] == ["new_tensor", "__getitem__", "__float__"]


def test_both_calls_are_one_graph_for_the_compiler() -> None:
    """Traced as torch.compile does before it generates code, without a break; the answers stay the same."""
    student, people, images = make_student(), make_prompts(2), torch.rand(1, 3, SIZE[1], SIZE[0])
    with torch.inference_mode():
        tokens = student.encode(images)
        encode = torch.compile(lambda x: student.encode(x).features, backend="eager", fullgraph=True)
        torch.testing.assert_close(encode(images), tokens.features, rtol=1e-4, atol=1e-5)
        inputs = {"a": tokens.features, "b": tokens.features, **present_fields(people)}
        pair = torch.compile(
            lambda given: pack(answer(student, tokens, tokens, people, given)), backend="eager", fullgraph=True
        )
        wanted = pack(student.pair(tokens, tokens, people))
        torch.testing.assert_close(pair(inputs), wanted, rtol=1e-4, atol=1e-5)


def test_a_packed_prediction_comes_back() -> None:
    student = make_student()
    tokens = student.encode(torch.rand(1, 3, SIZE[1], SIZE[0]))
    wanted = student.pair(tokens, tokens, make_prompts(2))
    found = unpack(pack(wanted), shapes_of(wanted))
    for field in fields(wanted):
        a, b = getattr(wanted, field.name), getattr(found, field.name)
        assert (a is None and b is None) or torch.equal(a.float(), b), field.name


def test_prepared_in_bfloat16_a_student_answers_nearly_the_same() -> None:
    images, people = torch.rand(1, 3, SIZE[1], SIZE[0]), make_prompts(2)
    student = make_student()
    tokens = student.encode(images)
    wanted = student.pair(tokens, tokens, people)
    prepared = prepare_student(student, "cpu", torch.bfloat16)
    assert prepared.backbone.module.patch_embed.proj.weight.dtype == torch.bfloat16
    tokens = prepared.encode(images)
    found = prepared.pair(tokens, tokens, people)
    assert found.cam_a_from_cam_b.dtype == torch.float32  # composed in full precision
    # Two roundings to 8 bits per layer, over six layers of the backbone and the heads.
    torch.testing.assert_close(found.cam_a_from_cam_b, wanted.cam_a_from_cam_b, rtol=0.1, atol=0.1)
    torch.testing.assert_close(found.cam_from_body_b, wanted.cam_from_body_b, rtol=0.1, atol=0.2)


def test_graphs_are_for_cuda() -> None:
    with pytest.raises(FootfallError, match="got a student on cpu; expected one on a CUDA device"):
        GraphedStudent(make_student())


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_a_replay_gives_what_the_student_gives(compiled: bool) -> None:
    """Two frames, so that static buffers would show; another number of people, so that a second graph is captured."""
    student = prepare_student(make_student(), "cuda")
    fast = GraphedStudent(student, compiled=compiled)
    images = torch.rand(2, 1, 3, SIZE[1], SIZE[0])
    tokens = [fast.encode(image) for image in images]
    with torch.inference_mode():
        plain = [student.encode(image.cuda()) for image in images]
        for a, b in zip(tokens, plain, strict=True):
            torch.testing.assert_close(a.features, b.features, rtol=1.6e-2, atol=1e-2)
        for people in (make_prompts(1), make_prompts(3, seed=1), make_prompts(1, seed=2)):
            found = fast.pair(tokens[0], tokens[1], people)
            wanted = student.pair(plain[0], plain[1], people.to("cuda"))
            for name, value in present_fields(wanted).items():
                torch.testing.assert_close(getattr(found, name), value.float().cpu(), rtol=1.6e-2, atol=1e-2)
