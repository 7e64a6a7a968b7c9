"""JOSH3R as something to train and to publish: its heads on a frozen backbone that no checkpoint holds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from safetensors.torch import save_file
from torch import Tensor

from distill.errors import FootfallError
from distill.files import atomic_path, write_json
from distill.models.backbones import Backbone, FrozenBackbone, Tokens, load_backbone
from distill.models.josh3r import Josh3rConfig, Josh3rHead, Josh3rOutput, check_width
from distill.models.josh3r_images import network_size
from distill.models.mast3r import Mast3r

JOSH3R_FORMAT: Final = "footfall-josh3r/1"


class Josh3rStudent(Josh3rHead):
    """The trained half on a frozen MASt3R (or `tiny`, of the same architecture)."""

    def __init__(self, config: Josh3rConfig, backbone: Backbone) -> None:
        """Fresh heads.

        Raises:
            FootfallError: a backbone that is not of MASt3R's architecture, or of another width.
        """
        if not isinstance(backbone, Mast3r):
            raise FootfallError(
                "backbone for JOSH3R", got=type(backbone).__name__, expected="MASt3R's architecture: mast3r, tiny",
                do="choose another backbone",
            )  # fmt: skip
        check_width(config, backbone.token_dim)
        super().__init__(config)
        self.backbone = FrozenBackbone(backbone)

    def network_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Network (width, height) for an image of (width, height)."""
        return network_size(size, self.backbone.module.preprocessing.long_side)

    def encode(self, images: Tensor) -> Tokens:
        """Images [B, 3, H, W] in [0, 1] -> features, without gradients."""
        return self.backbone.encode(images)

    def pair(self, a: Tokens, b: Tokens, boxes_a: Tensor, boxes_b: Tensor, *, points: bool = True) -> Josh3rOutput:
        """As `Josh3r.pair`."""
        return self.answer(self.backbone.decode(a, b, points=points), a, b, boxes_a, boxes_b)

    def save_pretrained(self, folder: Path | str) -> None:
        """Write `model.safetensors` (the heads, under their published names) and `config.json`, which comes last and
        says sizes and the backbone's id, revision and hash. `load_josh3r` reads the folder."""
        folder = Path(folder)
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        with atomic_path(folder / "model.safetensors") as temporary:
            save_file(weights, temporary, metadata={"format": JOSH3R_FORMAT})
        provenance = asdict(self.backbone.module.provenance)
        write_json(folder / "config.json", {"format": JOSH3R_FORMAT, **words_of(self.config), "backbone": provenance})


def words_of(config: Josh3rConfig) -> dict[str, Any]:
    """Sizes in the words of the published class (`josh3r_files.josh3r_config` reads them)."""
    return {
        "mast3r_dim": config.dim, "num_heads": config.heads, "mlp_ratio": config.mlp_ratio,
        "roi_size": list(config.roi_points), "roi_conv_channels": config.roi_channels, "n_rel_rot": config.rot_dim,
    }  # fmt: skip


def backbone_of(stored: dict[str, Any]) -> Mast3r:
    """The backbone that `save_pretrained` named.

    Raises:
        FootfallError: not found, or other weights than those it was trained on.
    """
    backbone = load_backbone(str(stored.get("id")), stored.get("revision"))
    if backbone.provenance.sha256 != stored.get("sha256") or not isinstance(backbone, Mast3r):
        raise FootfallError(
            f"JOSH3R's backbone {stored.get('id')}", got=f"weights {backbone.provenance.sha256}",
            expected=stored.get("sha256"), do="use the weights that it was trained with, or train again",
        )  # fmt: skip
    return backbone
