"""Reading MASt3R's published files: `config.json` in its constructor's words, and `model.safetensors`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from distill.errors import FootfallError
from distill.files import read_json
from distill.models.mast3r import Mast3r, Mast3rConfig

_ALIAS: Final = re.compile(r"downstream_head[12]\.dpt\.scratch\.layer_rn\.[0-3]\.weight")
"""Second names of `layer{1..4}_rn.weight`: some files keep them, the Hub's drops them."""


def config_from_words(words: Mapping[str, Any]) -> Mast3rConfig:
    """The official constructor's words -> `Mast3rConfig`.

    Besides them, widths that the official factory fixes may be given: `hooks`, `dpt_feature_dim`,
    `dpt_last_dim`, `dpt_layer_dims`. A file may also nest the words under `constructor` and the widths under
    `width_overrides`.

    Raises:
        FootfallError: a missing word, or a variant that this implementation does not have.
    """
    flat = {**words, **words.get("constructor", {}), **words.get("width_overrides", {})}
    try:
        depth = int(flat["dec_depth"])
        features = _descriptor_dim(flat)
        side = flat.get("img_size", (512, 512))
        return Mast3rConfig(
            enc_dim=int(flat["enc_embed_dim"]),
            enc_depth=int(flat["enc_depth"]),
            enc_heads=int(flat["enc_num_heads"]),
            dec_dim=int(flat["dec_embed_dim"]),
            dec_depth=depth,
            dec_heads=int(flat["dec_num_heads"]),
            rope_base=_rope_base(str(flat["pos_embed"])),
            hooks=tuple(flat.get("hooks", (0, depth // 2, depth * 3 // 4, depth))),
            dpt_dim=int(flat.get("dpt_feature_dim", 256)),
            dpt_last_dim=int(flat.get("dpt_last_dim", 128)),
            dpt_layer_dims=tuple(flat.get("dpt_layer_dims", (96, 192, 384, 768))),
            descriptor_dim=features,
            conf_min=_exp_from(flat["conf_mode"], "conf_mode"),
            desc_conf_min=_exp_from(flat["desc_conf_mode"], "desc_conf_mode") if features else 0.0,
            long_side=max(side) if isinstance(side, list | tuple) else int(side),
        )
    except KeyError as error:
        raise FootfallError(
            "backbone config.json", got=f"no word {error}", expected="the constructor's words of MASt3R",
            do="take config.json from the same place as the weights",
        ) from error  # fmt: skip
    except (TypeError, ValueError) as error:
        if isinstance(error, FootfallError):
            raise
        raise _unsupported("values", error) from error


def _unsupported(word: str, got: object) -> FootfallError:
    return FootfallError(
        f"backbone config.json: {word}", got=got, expected="a MASt3R or DUSt3R model with RoPE and a DPT head",
        do="use a checkpoint of that family, or add a builder to distill/models/registry.py",
    )  # fmt: skip


def _rope_base(word: str) -> float:
    if not word.startswith("RoPE"):
        raise _unsupported("pos_embed", word)
    return float(word.removeprefix("RoPE"))


def _exp_from(mode: Any, word: str) -> float:
    """Lower bound of ["exp", low, inf]; infinities may be strings."""
    kind, low, high = mode
    if kind != "exp" or float(high) != float("inf"):
        raise _unsupported(word, mode)
    return float(low)


def _descriptor_dim(words: Mapping[str, Any]) -> int:
    """Channels of the local features, 0 without them; checks the words that select the head."""
    if _exp_from(words["depth_mode"], "depth_mode") != float("-inf"):
        raise _unsupported("depth_mode", words["depth_mode"])
    if words.get("patch_embed_cls", "PatchEmbedDust3R") not in ("PatchEmbedDust3R", "ManyAR_PatchEmbed"):
        raise _unsupported("patch_embed_cls", words["patch_embed_cls"])
    head, output = str(words["head_type"]), str(words["output_mode"])
    if (head, output) == ("dpt", "pts3d"):
        return 0
    if head != "catmlp+dpt" or not output.startswith("pts3d+desc"):
        raise _unsupported("head_type, output_mode", (head, output))
    if words.get("desc_mode", "norm") != "norm" or not words.get("two_confs"):
        raise _unsupported("desc_mode, two_confs", (words.get("desc_mode"), words.get("two_confs")))
    return int(output.removeprefix("pts3d+desc"))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, float32, aliases dropped.

    Raises:
        FootfallError: missing, truncated or not safetensors.
    """
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise FootfallError(
            str(path), got=error, expected="weights as safetensors", do="download the file again"
        ) from error
    return {name: tensor.float() for name, tensor in stored.items() if not _ALIAS.fullmatch(name)}


def model_from_weights(config: Mast3rConfig, weights: dict[str, Tensor], source: str) -> Mast3r:
    """Build the network around given weights, without initialising any.

    Raises:
        FootfallError: a name or shape does not fit; nothing is loaded partly.
    """
    with torch.device("meta"):
        model = Mast3r(config)
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    wrong = sorted(wanted.keys() ^ weights.keys())
    wrong += [name for name, shape in wanted.items() if name in weights and weights[name].shape != shape]
    if wrong:
        raise FootfallError(
            f"backbone weights {source}", got=f"{len(wrong)} wrong tensors, e.g. {wrong[0]}",
            expected="exactly those of its config.json", do="take both files from the same revision",
        )  # fmt: skip
    model.load_state_dict(weights, assign=True)
    return model


def load_mast3r(folder: Path) -> Mast3r:
    """Load a folder with `config.json` and `model.safetensors`."""
    config = config_from_words(read_json(folder / "config.json"))
    path = folder / "model.safetensors"
    return model_from_weights(config, read_weights(path), str(path))
