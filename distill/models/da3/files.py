"""Reading the published files of Depth Anything 3: `config.json` and `model.safetensors`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from distill.files import read_json
from distill.models.da3.config import Da3Config, config_from_words
from distill.models.da3.model import Da3
from distill.models.mast3r_files import assign_weights
from distill.models.torch_files import find_weights, read_tensors

_PREFIX: Final = "model."
"""The published class wraps the network once more."""
_SHARED_NORM: Final = re.compile(r"(head\.scratch\.output_conv2_aux)\.[1-3]\.2\.(weight|bias)")
"""Other names of one norm that all levels share: the Hub's file drops them, a saved state dict keeps them."""


def model_from_weights(config: Da3Config, weights: Mapping[str, Tensor], source: str) -> Da3:
    """Build the network around given weights, without initialising any; the names may keep the wrapper's prefix.

    Raises:
        FootfallError: a name or shape does not fit; nothing is loaded partly.
    """
    with torch.device("meta"):
        model = Da3(config)
    given = {name.removeprefix(_PREFIX): tensor.float() for name, tensor in weights.items()}
    for name in model.state_dict():
        if (alias := _SHARED_NORM.fullmatch(name)) and (first := f"{alias[1]}.0.2.{alias[2]}") in given:
            given.setdefault(name, given[first])
    assign_weights(model, given, f"backbone weights {source}")
    return model


def load_da3(folder: Path) -> Da3:
    """Load a folder with `config.json` and weights (`torch_files.find_weights`).

    Raises:
        FootfallError: missing or damaged files, another variant, weights that do not fit.
    """
    config = config_from_words(read_json(folder / "config.json"))
    path = find_weights(folder)
    return model_from_weights(config, read_tensors(path)[0], str(path))
