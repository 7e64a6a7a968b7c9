"""The state of a fit on disk: written atomically now and then, so that a killed run goes on to the same result."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from distill.files import atomic_path


def save_state(path: Path, tensors: dict[str, Tensor], *, step: int, key: str, trace: list[dict[str, float]]) -> None:
    """Write all tensors, the number of steps done, and what the fit depends on (`key`)."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    about = {"step": str(step), "key": key, "trace": json.dumps(trace)}
    with atomic_path(path) as temporary:
        safetensors.torch.save_file(plain, temporary, metadata=about)


def load_state(
    path: Path, key: str, device: torch.device
) -> tuple[dict[str, Tensor], int, list[dict[str, float]]] | None:
    """What `save_state` wrote; None if there is nothing, or it belongs to other inputs or settings."""
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, framework="pt", device=str(device)) as stream:
            about = stream.metadata() or {}
            if about.get("key") != key:
                return None
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - not a mapping
            return tensors, int(about["step"]), json.loads(about["trace"])
    except (OSError, ValueError, safetensors.SafetensorError):
        return None  # a damaged state costs its time, not the clip
