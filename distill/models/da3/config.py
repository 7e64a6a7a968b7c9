"""Shape of a Depth Anything 3 network, and the words in which its published `config.json` states it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from distill.errors import FootfallError

PATCH: Final = 14
_VITS: Final = {"vits": (384, 12, 6), "vitb": (768, 12, 12), "vitl": (1024, 24, 16)}
"""DINOv2's sizes by name: channels, blocks, attention heads. (The giant one has another MLP.)"""


@dataclass(frozen=True, kw_only=True)
class Da3Config:
    """Shape of the network. The defaults are those of the published DA3-BASE."""

    dim: int = 768
    """Channels of a token inside the transformer."""
    depth: int = 12
    """Blocks."""
    heads: int = 12
    """Attention heads per block."""
    cross_view_start: int = 4
    """From this block on: a camera token in place of the class token, normalised queries and keys, rotary
    positions, and every block of odd number reads all views."""
    out_layers: tuple[int, int, int, int] = (5, 7, 9, 11)
    """Blocks whose outputs the dense head reads."""
    position_side: int = 37
    """Learnt positions lie on a square of so many tokens and are interpolated to other grids."""
    dpt_dim: int = 128
    """Channels of the dense head."""
    dpt_layer_dims: tuple[int, int, int, int] = (96, 192, 384, 768)
    """Channels of its four levels before they are brought to `dpt_dim`."""
    rope_base: float = 100.0
    """Base of the rotary frequencies."""
    long_side: int = 504
    """Longer image side of the published inference, pixels."""

    def __post_init__(self) -> None:
        if self.dim % (4 * self.heads) or self.dim % CAMERA_HEADS or self.dpt_dim % 8:
            raise ValueError(f"{self.dim} channels, {self.heads} heads, dpt_dim {self.dpt_dim} do not divide")
        layers = list(self.out_layers)
        if layers != sorted(set(layers)) or layers[0] < self.cross_view_start or layers[-1] >= self.depth:
            raise ValueError(f"out_layers {layers} must ascend from {self.cross_view_start} to below {self.depth}")
        if self.cross_view_start < 1:
            raise ValueError(f"cross_view_start is {self.cross_view_start}, expected 1 or more")


CAMERA_HEADS: Final = 16
"""Attention heads of the camera encoder, in every published size."""


def is_da3(words: object) -> bool:
    """Whether a parsed `config.json` is one of Depth Anything 3."""
    return isinstance(words, Mapping) and str(words.get("model_name", "")).startswith("da3")


def config_from_words(words: Mapping[str, Any]) -> Da3Config:
    """The words of the published file -> `Da3Config`.

    Besides them, sizes that the official factory fixes by name may be given in `config.net`: `embed_dim`, `depth`,
    `num_heads`, and `img_size`, the pixels that the learnt positions span; and `process_res`, the longer image side.

    Raises:
        FootfallError: a missing word, or a variant that this implementation does not have.
    """
    try:
        parts = words["config"]
        net, head = parts["net"], parts["head"]
        _check_variant(words, parts)
        dim, depth, heads = _VITS[net["name"]]
        start = {int(net[word]) for word in ("alt_start", "qknorm_start", "rope_start")}
        if len(start) != 1:
            raise _unsupported("alt_start, qknorm_start, rope_start", sorted(start))
        return Da3Config(
            dim=int(net.get("embed_dim", dim)),
            depth=int(net.get("depth", depth)),
            heads=int(net.get("num_heads", heads)),
            cross_view_start=start.pop(),
            out_layers=_four(net["out_layers"]),
            position_side=int(net.get("img_size", 518)) // PATCH,
            dpt_dim=int(head["features"]),
            dpt_layer_dims=_four(head["out_channels"]),
            long_side=int(words.get("process_res", 504)),
        )
    except KeyError as error:
        raise FootfallError(
            "backbone config.json", got=f"no word {error}", expected="the words of Depth Anything 3",
            do="take config.json from the same place as the weights",
        ) from error  # fmt: skip
    except (TypeError, ValueError, AttributeError) as error:
        if isinstance(error, FootfallError):
            raise
        raise _unsupported("values", error) from error


def _four(values: Sequence[int]) -> tuple[int, int, int, int]:
    first, second, third, fourth = (int(value) for value in values)
    return first, second, third, fourth


def _check_variant(words: Mapping[str, Any], parts: Mapping[str, Any]) -> None:
    """Refuse the published variants that have other parts: one view, metric, with Gaussians, nested, giant."""
    net, head = parts["net"], parts["head"]
    if head["__object__"]["name"] != "DualDPT" or parts.get("cam_enc") is None or parts.get("cam_dec") is None:
        raise _unsupported("model_name", words["model_name"])
    if parts.get("gs_head") is not None or net["name"] not in _VITS:
        raise _unsupported("model_name", words["model_name"])
    if not net.get("cat_token") or int(head["output_dim"]) != 2:
        raise _unsupported("cat_token, output_dim", (net.get("cat_token"), head["output_dim"]))


def _unsupported(word: str, got: object) -> FootfallError:
    return FootfallError(
        f"backbone config.json: {word}", got=got,
        expected="an any-view Depth Anything 3 of size small, base or large with a dual DPT head",
        do="use da3-base or da3-small, or add a builder to distill/models/registry.py",
    )  # fmt: skip
