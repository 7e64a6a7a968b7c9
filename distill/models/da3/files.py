"""Reading the published files of Depth Anything 3: `config.json` and `model.safetensors`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from distill.errors import FootfallError
from distill.files import read_json
from distill.models.da3.config import Da3Config, config_from_words
from distill.models.da3.model import Da3
from distill.models.mast3r_files import read_weights

_PREFIX: Final = "model."
"""The published class wraps the network once more."""
_SHARED_NORM: Final = re.compile(r"(head\.scratch\.output_conv2_aux)\.[1-3]\.2\.(weight|bias)")
"""Other names of one norm that all levels share: the Hub's file drops them, a saved state dict keeps them."""


def fit_weights(config: Da3Config, weights: dict[str, Tensor], source: str) -> Da3:
    """Build the network around given weights, without initialising any; the names may keep the wrapper's prefix.

    Raises:
        FootfallError: a name or shape does not fit; nothing is loaded partly.
    """
    with torch.device("meta"):
        model = Da3(config)
    given = {name.removeprefix(_PREFIX): tensor for name, tensor in weights.items()}
    for name in model.state_dict():
        if (alias := _SHARED_NORM.fullmatch(name)) and (first := f"{alias[1]}.0.2.{alias[2]}") in given:
            given.setdefault(name, given[first])
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    wrong = sorted(wanted.keys() ^ given.keys())
    wrong += [name for name, shape in wanted.items() if name in given and given[name].shape != shape]
    if wrong:
        raise FootfallError(
            f"backbone weights {source}", got=f"{len(wrong)} wrong tensors, e.g. {wrong[0]}",
            expected="exactly those of its config.json", do="take both files from the same revision",
        )  # fmt: skip
    model.load_state_dict(given, assign=True)
    return model


def load_da3(folder: Path) -> Da3:
    """Load a folder with `config.json` and `model.safetensors`.

    Raises:
        FootfallError: missing or damaged files, another variant, weights that do not fit.
    """
    config = config_from_words(read_json(folder / "config.json"))
    path = folder / "model.safetensors"
    return fit_weights(config, read_weights(path), str(path))
