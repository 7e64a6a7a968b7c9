"""Where mixed precision must stop: exponentials, depths and composed rotations are computed in float32."""

from __future__ import annotations

import contextlib

import torch


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Switch autocast off inside, where it is on. (Where it is off, nothing enters an exported graph.)"""
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)
