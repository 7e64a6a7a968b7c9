"""Dataclasses of tensors in another precision, or on another device."""

from __future__ import annotations

import copy
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from teacher.optimise.bodies import BodyParts

T = TypeVar("T")


def moved_tensors(value: T, dtype: torch.dtype, device: torch.device) -> T:
    """A copy of a dataclass whose floating tensors, body models included, have this type and device."""
    return _moved(value, dtype, device)  # type: ignore[no-any-return]


def _moved(value: Any, dtype: torch.dtype, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device=device, dtype=dtype if value.is_floating_point() else value.dtype)
    if isinstance(value, BodyParts):
        return BodyParts(copy.deepcopy(value.model).to(device=device, dtype=dtype), dtype)
    if isinstance(value, tuple):
        return tuple(_moved(part, dtype, device) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _moved(getattr(value, f.name), dtype, device) for f in fields(value)})
    return value
