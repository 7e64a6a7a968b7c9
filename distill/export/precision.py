"""Backbones in other precisions than float32. The heads stay as they are: they say metres."""

from __future__ import annotations

import copy
from typing import Final

import torch

from distill.export.config import Precision
from distill.models.backbones import FrozenBackbone
from distill.models.student import Student

_DTYPES: Final = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def in_precision(student: Student, precision: Precision, file_format: str) -> Student:
    """A student whose eager execution is what the graphs must agree with.

    pt2 and aoti compute in the precision that they store. Of onnxruntime's kernels for CPUs hardly any computes in
    float16: there the weights are stored rounded, and the computing is done in float32.
    """
    if precision not in _DTYPES:
        return student
    student = copy.deepcopy(student)
    backbone = copy.deepcopy(student.backbone.module)  # copies of a student share it
    student.backbone = FrozenBackbone(backbone)
    backbone.set_trunk_dtype(_DTYPES[precision])
    if file_format == "onnx":
        backbone.set_trunk_dtype(torch.float32)
    return student
