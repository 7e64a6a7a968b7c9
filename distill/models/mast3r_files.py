"""Reading MASt3R's published files: `config.json` in its constructor's words, and the weights."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from distill.errors import FootfallError
from distill.files import read_json
from distill.models.mast3r import PATCH, Mast3r, Mast3rConfig
from distill.models.torch_files import find_weights, read_tensors

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
    if not isinstance(words, Mapping):
        raise _unsupported("content", type(words).__name__)
    flat = {**words, **(words.get("constructor") or {}), **(words.get("width_overrides") or {})}
    if int(flat.get("patch_size", PATCH)) != PATCH:
        raise _unsupported("patch_size", flat["patch_size"])
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
    """Tensors of a file, float32, aliases dropped. See `torch_files.read_tensors` for its errors."""
    return without_aliases(read_tensors(path)[0])


def without_aliases(stored: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Floating tensors as float32 under their first names; `prefix` is where the backbone's names begin."""
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in stored.items()
        if not _ALIAS.fullmatch(name.removeprefix(prefix))
    }


def model_from_weights(config: Mast3rConfig, weights: dict[str, Tensor], source: str) -> Mast3r:
    """Build the network around given weights, without initialising any.

    Raises:
        FootfallError: a name or shape does not fit; nothing is loaded partly.
    """
    with torch.device("meta"):
        model = Mast3r(config)
    assign_weights(model, weights, f"backbone weights {source}")
    return model


def assign_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Give a model made on the meta device its tensors: all of them, and no other.

    Raises:
        FootfallError: a name or shape does not fit.
    """
    check_tensors(model.state_dict(), weights, source)
    model.load_state_dict(weights, assign=True)


def check_tensors(wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor], source: str) -> None:
    """Raise `FootfallError` unless `weights` have exactly the names and shapes that are wanted."""
    missing, extra = wanted.keys() - weights.keys(), weights.keys() - wanted.keys()
    shapes = {
        name: (tuple(weights[name].shape), tuple(tensor.shape))
        for name, tensor in wanted.items()
        if name in weights and weights[name].shape != tensor.shape
    }
    if missing or extra or shapes:
        parts = [f"{len(missing)} missing (e.g. {min(missing)})"] if missing else []
        parts += [f"{len(extra)} unknown (e.g. {min(extra)})"] if extra else []
        if shapes:
            name, (got, expected) = min(shapes.items())
            parts += [f"{len(shapes)} of another shape (e.g. {name}: {got} for {expected})"]
        raise FootfallError(
            source, got=f"tensors that do not fit: {', '.join(parts)}", expected="exactly those of its config.json",
            do="take weights and config.json of the same model and revision",
        )  # fmt: skip


def load_mast3r(folder: Path) -> Mast3r:
    """Load a folder with weights (`torch_files.find_weights`) and `config.json`.

    A PyTorch file without a `config.json` beside it may say itself, in its `args`, how the model was built.
    """
    words = folder / "config.json"
    if words.is_file():
        config = config_from_words(read_json(words))
        path = find_weights(folder)
        return model_from_weights(config, read_weights(path), str(path))
    path = find_weights(folder)
    stored, args = read_tensors(path)
    built = getattr(args, "model", None)
    if not isinstance(built, str):
        raise FootfallError(
            f"backbone {folder}", got="no config.json", expected="the constructor's words beside the weights",
            do="download the official config.json into the same folder",
        )  # fmt: skip
    return model_from_weights(config_from_words(words_of_constructor(built)), without_aliases(stored), str(path))


def words_of_constructor(text: str) -> dict[str, Any]:
    """The words of a constructor call written as text, `Name(word=literal, ...)`; `inf` is infinity. Nothing is run.

    Raises:
        FootfallError: something else.
    """
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError("not a call with words")
        return {word.arg: _literal(word.value) for word in call.keywords if word.arg is not None}
    except (SyntaxError, ValueError) as error:
        raise FootfallError(
            "model of a PyTorch file", got=error, expected="a constructor with literal words",
            do="put the official config.json beside the file",
        ) from error  # fmt: skip


def _literal(node: ast.expr) -> Any:
    """A Python literal in which `inf` and `-inf` may stand."""
    if isinstance(node, ast.Name) and node.id == "inf":
        return float("inf")
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_literal(node.operand)
    if isinstance(node, ast.Tuple | ast.List):
        return [_literal(item) for item in node.elts]
    return ast.literal_eval(node)
