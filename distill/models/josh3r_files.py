"""Loading JOSH3R: the official state dict, or a folder that says its sizes in `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from distill.errors import FootfallError
from distill.files import read_json
from distill.models.josh3r import Josh3r, Josh3rConfig, Josh3rHead
from distill.models.josh3r_student import backbone_of
from distill.models.mast3r import PATCH, Mast3rConfig
from distill.models.mast3r_files import assign_weights, check_tensors, config_from_words, without_aliases
from distill.models.torch_files import find_weights, read_tensors

BACKBONE: Final = "mast3r."
"""Prefix of MASt3R's names in the state dict."""
BODY: Final = "smpl."
"""Prefix of a licensed body model's buffers, which the published class holds and no answer needs."""


def josh3r_config(words: Mapping[str, Any]) -> tuple[Josh3rConfig, Mast3rConfig]:
    """The words of a `config.json` -> sizes of both halves; words that are not there have the official values.

    `mast3r_dim`, `num_heads`, `mlp_ratio`, `roi_size`, `roi_conv_channels`, `n_rel_rot`, `patch_size`, and below
    `mast3r` those of `mast3r_files.config_from_words`, whose `hooks` may also stand beside `mast3r`.

    Raises:
        FootfallError: a word with a value that this model cannot have.
    """
    if not isinstance(words, Mapping):
        raise _bad_config("content", type(words).__name__)
    try:
        if int(words.get("patch_size", PATCH)) != PATCH:
            raise _bad_config("patch_size", words["patch_size"])
        official = Josh3rConfig()
        roi = words.get("roi_size", official.roi_points)
        down, across = (roi, roi) if isinstance(roi, int) else roi
        head = Josh3rConfig(
            dim=int(words.get("mast3r_dim", official.dim)),
            heads=int(words.get("num_heads", official.heads)),
            mlp_ratio=float(words.get("mlp_ratio", official.mlp_ratio)),
            roi_points=(int(down), int(across)),
            roi_channels=int(words.get("roi_conv_channels", official.roi_channels)),
            rot_dim=int(words.get("n_rel_rot", official.rot_dim)),
        )
    except (TypeError, ValueError) as error:
        if isinstance(error, FootfallError):
            raise
        raise _bad_config("values", error) from error
    backbone = words.get("mast3r")
    if backbone is None:
        return head, Mast3rConfig()
    if isinstance(backbone, Mapping) and "hooks" in words:
        backbone = {"hooks": words["hooks"], **backbone}
    return head, config_from_words(backbone)


def _bad_config(word: str, got: object) -> FootfallError:
    return FootfallError(
        f"JOSH3R config.json: {word}", got=got, expected="the sizes of a JOSH3R model (docs/josh3r.md)",
        do="take config.json from the same place as the weights, or remove it for the official sizes",
    )  # fmt: skip


def load_josh3r(
    folder_or_file: str | Path, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Josh3r:
    """Load JOSH3R, in eval mode; MASt3R inside it is frozen, the rest can be trained.

    Args:
        folder_or_file: a safetensors or PyTorch file with the official state dict, or a folder with one of them
            (`torch_files.find_weights`). A `config.json` beside it says the sizes; without one they are the official.
            `smpl.*` buffers and second names of MASt3R's tensors are skipped. What footfall trained itself holds no
            backbone; its `config.json` names it.
        device: where to put it; None leaves it on the CPU.
        dtype: of MASt3R's trunk and the two decoder blocks; all heads stay float32. None keeps float32.

    Raises:
        FootfallError: no such file, damaged, another model's weights, or a config that does not fit them.
    """
    given = Path(folder_or_file)
    if not given.exists():
        raise FootfallError(
            f"JOSH3R {given}", got="no such file or folder", expected="the official checkpoint", do="check the path"
        )
    path = find_weights(given) if given.is_dir() else given
    words = path.parent / "config.json"
    said = read_json(words) if words.is_file() else {}
    head, backbone = josh3r_config(said)
    stored = {name: tensor for name, tensor in read_tensors(path)[0].items() if not name.startswith(BODY)}
    if isinstance(said.get("backbone"), dict):
        named = backbone_of(said["backbone"])
        backbone = named.config
        stored |= {f"{BACKBONE}{name}": tensor for name, tensor in named.state_dict().items()}
    with torch.device("meta"):
        model = Josh3r(head, backbone)
    assign_weights(model, without_aliases(stored, BACKBONE), f"JOSH3R weights {path}")
    for parameter in model.mast3r.parameters():
        parameter.requires_grad_(False)  # assigned tensors come with their own flags
    if dtype is not None:
        model.set_trunk_dtype(dtype)
    if device is not None:
        model.to(device)
    return model.eval()


def head_weights(folder_or_file: str | Path, model: Josh3rHead) -> dict[str, Tensor]:
    """Tensors of a JOSH3R's trained half, with or without its backbone in the same file, checked against `model`.

    Raises:
        FootfallError: no such file, damaged, or of other sizes than `model`.
    """
    given = Path(folder_or_file)
    path = find_weights(given) if given.is_dir() else given
    stored = read_tensors(path)[0]
    heads = {name: tensor for name, tensor in stored.items() if not name.startswith((BODY, BACKBONE))}
    check_tensors(model.state_dict(), heads, f"JOSH3R weights {path}")
    return heads
