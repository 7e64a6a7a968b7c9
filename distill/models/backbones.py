"""What every frozen geometric backbone offers, and how one is loaded by name.

    backbone = load_backbone("tiny")
    a, b = backbone.encode(image_a), backbone.encode(image_b)     # each frame once
    pair = backbone.decode(a, b)                                  # once for each ordered pair

Nothing outside an adapter may assume a patch size, or that a backbone predicts points.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from distill.errors import FootfallError
from distill.models.held import Held


@dataclass(kw_only=True)
class Tokens:
    """Encoder features of B images of one size."""

    features: Tensor
    """[B, h*w, C], row-major."""
    grid: tuple[int, int]
    """Tokens down and across, (h, w)."""
    size: tuple[int, int]
    """Width and height of the images in pixels."""
    images: Tensor | None = None
    """[B, 3, H, W] in [0, 1] that the features were made from, for heads that look closer; None: not kept."""

    def __getitem__(self, index: slice | Tensor) -> Tokens:
        """Some of the images."""
        images = None if self.images is None else self.images[index]
        return replace(self, features=self.features[index], images=images)

    def detach(self) -> Tokens:
        """The same features outside any graph."""
        return replace(self, features=self.features.detach())


@dataclass(kw_only=True)
class Pair:
    """What a backbone says about ordered pairs (a, b). Points of both views are in camera a, metres.

    Some backbones (Depth Anything 3) know no scale: their points are in a unit of their own, one per pair.
    """

    tokens_a: list[Tensor]
    """Per decoder layer [B, N, D]; the last is normalised and has `token_dim` channels."""
    tokens_b: list[Tensor]
    points_a: Tensor | None = None
    """[B, H, W, 3] points of view a's pixels."""
    points_b: Tensor | None = None
    """[B, H, W, 3] points of view b's pixels, also in camera a."""
    conf_a: Tensor | None = None
    """[B, H, W], 1 and above."""
    conf_b: Tensor | None = None
    desc_a: Tensor | None = None
    """[B, H, W, channels] unit descriptors for matching."""
    desc_b: Tensor | None = None
    desc_conf_a: Tensor | None = None
    """[B, H, W], above 0."""
    desc_conf_b: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image must be prepared; it travels with the weights."""

    long_side: int
    """Longer side in pixels that the weights were trained at."""
    multiple: int
    """Both sides must be multiples of this (the patch size)."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Subtracted from RGB in [0, 1], inside the backbone."""
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Divided by afterwards, inside the backbone."""

    def network_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Network (width, height) for an image of (width, height): longer side as trained, aspect kept
        as nearly as the multiple allows."""
        scale = self.long_side / max(size)
        width, height = (max(self.multiple, round(side * scale / self.multiple) * self.multiple) for side in size)
        return width, height


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a backbone's weights come from. A student's checkpoint holds this in place of the weights."""

    id: str
    """Registered name, Hub id or folder."""
    revision: str | None
    """Commit on the Hub; None for weights that are shipped, local or random."""
    sha256: str
    """Of the weights file; for a seeded initialisation "seed:N"."""
    licence: str
    """Licence of the weights."""


class Backbone(nn.Module, abc.ABC):
    """A geometric network with a Siamese encoder and a decoder for ordered pairs."""

    patch_size: int
    feature_dim: int
    """Channels of `Tokens.features`."""
    token_dim: int
    """Channels of the last decoder layer."""
    has_points: bool
    """Whether `decode` predicts points."""
    preprocessing: Preprocessing
    provenance: Provenance

    @abc.abstractmethod
    def encode(self, images: Tensor) -> Tokens:
        """Images [B, 3, H, W] in [0, 1], sides multiples of `patch_size` -> features."""

    @abc.abstractmethod
    def decode(self, a: Tokens, b: Tokens, *, points: bool = True, descriptors: bool = False) -> Pair:
        """Ordered pairs; points and descriptors are None where not asked for or not predicted.

        The two views may differ in size, not in batch.
        """

    @abc.abstractmethod
    def set_trunk_dtype(self, dtype: torch.dtype) -> None:
        """Cast encoder and decoder; dense heads stay float32."""


def check_image_size(images: Tensor, patch: int) -> None:
    """Raise `FootfallError` unless images [B, 3, H, W] have sides that are multiples of `patch`."""
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % patch or images.shape[3] % patch:
        raise FootfallError(
            "images for the backbone", got=f"shape {tuple(images.shape)}",
            expected=f"[B, 3, H, W] with H and W multiples of {patch}",
            do="resize with backbone.preprocessing.network_size",
        )  # fmt: skip


class FrozenBackbone(Held[Backbone]):
    """A backbone that cannot be trained, saved or put into train mode by the module that owns it."""

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tokens:
        """`Backbone.encode`, without gradients; the images are kept beside the features."""
        return replace(self.module.encode(images), images=images)

    @torch.no_grad()
    def decode(self, a: Tokens, b: Tokens, *, points: bool = True, descriptors: bool = False) -> Pair:
        """`Backbone.decode`, without gradients."""
        return self.module.decode(a, b, points=points, descriptors=descriptors)


def load_backbone(
    id_or_folder: str | Path,
    revision: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Backbone:
    """Load a backbone by registered name, `timm:MODEL`, Hub id, or folder of official files; in eval mode.

    Args:
        id_or_folder: a name of `registry.list_backbones()`, "timm:NAME", "ORG/NAME" on the Hub, or a folder
            with `config.json` (official words) and `model.safetensors`.
        revision: commit, tag or branch on the Hub; None takes the one pinned in the registry.
        device: where to put it; None leaves it on the CPU.
        dtype: of encoder and decoder; dense heads stay float32. None keeps float32.

    Raises:
        FootfallError: unknown name, missing or wrong files, a hash that differs from the registry's.
    """
    from distill.models.registry import build

    backbone = build(str(id_or_folder), revision)
    if dtype is not None:
        backbone.set_trunk_dtype(dtype)
    if device is not None:
        backbone.to(device)
    return backbone.requires_grad_(False).eval()
