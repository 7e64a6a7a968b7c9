"""Feature backbones from timm (any ViT): tokens of each image alone, no points, no pair decoder.

`timm` is imported inside the functions: it is heavy, and on some CPU builds it fails to import.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from distill.errors import FootfallError, require
from distill.models.backbones import Backbone, Pair, Preprocessing, Provenance, Tokens, check_image_size


class TimmBackbone(Backbone):
    """A timm vision transformer behind the backbone protocol. Its pair decoder is the identity."""

    has_points = False

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, *, long_side: int = 448) -> None:
        super().__init__()
        settings = model.pretrained_cfg
        self.model = model
        self.patch_size = int(model.patch_embed.patch_size[0])
        self.feature_dim = self.token_dim = int(model.num_features)
        self.preprocessing = Preprocessing(
            long_side=long_side // self.patch_size * self.patch_size,
            multiple=self.patch_size,
            mean=tuple(settings["mean"]),
            std=tuple(settings["std"]),
        )
        self.register_buffer("mean", torch.tensor(settings["mean"])[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(settings["std"])[:, None, None], persistent=False)

    def encode(self, images: Tensor) -> Tokens:
        """See `Backbone.encode`; class and register tokens are left out."""
        check_image_size(images, self.patch_size)
        height, width = images.shape[-2:]
        dtype = next(self.model.parameters()).dtype
        tokens = self.model.forward_features(((images - self.mean) / self.std).to(dtype))
        features = tokens[:, self.model.num_prefix_tokens :]
        return Tokens(
            features=features, grid=(height // self.patch_size, width // self.patch_size), size=(width, height)
        )

    def decode(self, a: Tokens, b: Tokens, *, points: bool = True, descriptors: bool = False) -> Pair:
        """See `Backbone.decode`: the views do not read each other here, the heads have to make them."""
        return Pair(tokens_a=[a.features], tokens_b=[b.features])

    def set_trunk_dtype(self, dtype: torch.dtype) -> None:
        """Cast the transformer."""
        self.model.to(dtype)


def build_timm(name: str, revision: str | None, *, pretrained: bool = True) -> TimmBackbone:
    """`timm:MODEL` -> backbone; `revision` pins the model's repository on the Hub.

    Raises:
        FootfallError: timm is missing, has no such ViT, or the weights cannot be had.
    """
    timm = require("timm", extra="dev")
    model_name = name.removeprefix("timm:") + (f"@{revision}" if revision else "")
    model_id = f"hf-hub:timm/{model_name}" if revision else model_name
    try:
        model = timm.create_model(model_id, pretrained=pretrained, num_classes=0, dynamic_img_size=True)
    except (RuntimeError, OSError, TypeError, ValueError) as error:
        raise FootfallError(
            f"backbone {name}", got=error, expected="a vision transformer of timm and its weights",
            do="check the name with timm.list_models, and go online once for the weights",
        ) from error  # fmt: skip
    backbone = TimmBackbone(model)
    licence = str(model.pretrained_cfg.get("license") or "unknown")
    digest = state_hash(model) if pretrained else "random"
    backbone.provenance = Provenance(id=name, revision=revision, sha256=digest, licence=licence)
    return backbone


def state_hash(model: nn.Module) -> str:
    """SHA-256 over names and bytes of all tensors: timm does not say which file it read."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
