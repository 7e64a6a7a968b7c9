"""Weights as tensors, from safetensors or from PyTorch's own files, without running anything that is stored in them.

A `.pth` is a pickle, and a pickle is a program. It is read with PyTorch's restricted reader (`weights_only=True`),
which makes tensors and plain containers and refuses every other name; of the published files' extras only
`argparse.Namespace` (a bag of settings) is let through.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from distill.errors import FootfallError

WEIGHTS_NAME: Final = "model.safetensors"
TORCH_SUFFIXES: Final = (".pth", ".pt", ".ckpt")
_STATE_NAMES: Final = ("model", "state_dict", "model_state_dict")
"""Where training scripts put a state dict inside a checkpoint."""


def find_weights(folder: Path) -> Path:
    """The weights of a folder: `model.safetensors`, or else its only PyTorch file.

    Raises:
        FootfallError: neither.
    """
    named = folder / WEIGHTS_NAME
    if named.is_file():
        return named
    found = sorted(p for p in folder.iterdir() if p.suffix in TORCH_SUFFIXES) if folder.is_dir() else []
    if len(found) == 1:
        return found[0]
    raise FootfallError(
        f"weights in {folder}", got=[p.name for p in found] or "none",
        expected=f"config.json and {WEIGHTS_NAME}, or one file of {', '.join(TORCH_SUFFIXES)}", do="download both",
    )  # fmt: skip


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Tensors by name, as stored, and what else a PyTorch file says of its model (`args`), or None.

    Raises:
        FootfallError: missing, truncated, or holding more than tensors and settings.
    """
    if path.suffix in TORCH_SUFFIXES:
        return _read_torch(path)
    try:
        return load_file(path), None
    except (OSError, SafetensorError) as error:
        raise FootfallError(
            str(path), got=error, expected="weights as safetensors", do="download the file again"
        ) from error


def _read_torch(path: Path) -> tuple[dict[str, Tensor], Any]:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a dozen kinds for damaged bytes, one more for names that it refuses
        reason = str(error).split("\n")[0]
        raise FootfallError(
            str(path), got=reason, expected="tensors and settings, nothing that would have to be run",
            do="download the file again, or save its state dict alone",
        ) from error  # fmt: skip
    state = stored
    if isinstance(stored, Mapping):
        state = next((stored[name] for name in _STATE_NAMES if isinstance(stored.get(name), Mapping)), stored)
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise FootfallError(
            str(path), got="no state dict", expected=f"tensors by name, or below one of {', '.join(_STATE_NAMES)}",
            do="save the model's state dict",
        )  # fmt: skip
    return _unwrapped(state), stored.get("args") if state is not stored else None


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without the "module." that a model wrapped for many processes was saved with."""
    wrapped = all(name.startswith("module.") for name in state)
    return {name.removeprefix("module.") if wrapped else name: tensor.detach() for name, tensor in state.items()}
