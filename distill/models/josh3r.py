"""JOSH3R (Liu et al., "Joint Optimization for 4D Human-Scene Reconstruction in the Wild", arXiv 2501.02158).

Two frames and one person's box in each -> how the person moved, where they are in each camera, and the scale of
MASt3R's points. Names and numbers are those of the published checkpoint; the code is our own (docs/josh3r.md).

    model = load_josh3r(FOLDER)
    a, b = model.encode(image_a), model.encode(image_b)          # each frame once
    answer = model.pair(a, b, boxes_a, boxes_b)                   # once for each pair
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from distill.errors import FootfallError
from distill.models.backbones import Pair, Tokens
from distill.models.blocks import DecoderBlock
from distill.models.josh3r_heads import HumanFeatures, MlpHead, sample_boxes
from distill.models.mast3r import Mast3r, Mast3rConfig
from distill.models.precision import full_precision
from distill.models.rope import Rope, grid_positions, rope_from_positions

ROPE_BASE: Final = 100.0
PERSON_POSITION: Final = -1
"""Row and column of the person's token for the rotary embedding: outside the image's grid."""
EPS: Final = 1e-5
"""LayerNorm epsilon of JOSH3R's own layers; MASt3R's is 1e-6."""


@dataclass(frozen=True, kw_only=True)
class Josh3rConfig:
    """Shape of the trained half. The defaults are the published model's."""

    dim: int = 768
    """Channels of the backbone's decoder tokens."""
    heads: int = 12
    """Attention heads of the decoder blocks."""
    mlp_ratio: float = 4.0
    """Hidden channels of the decoder blocks' MLP, in `dim`."""
    roi_points: tuple[int, int] = (7, 7)
    """Points sampled in a box, down and across."""
    roi_channels: int = 256
    """Channels of the convolutions over a box."""
    rot_dim: int = 6
    """Numbers of the relative rotation."""

    def __post_init__(self) -> None:
        if min(self.dim, self.heads, self.roi_channels, self.rot_dim, *self.roi_points) < 1 or self.mlp_ratio <= 0:
            raise ValueError("sizes of JOSH3R must be positive")
        if len(self.roi_points) != 2 or self.dim % (4 * self.heads):
            raise ValueError(f"{self.dim} channels do not split into {self.heads} heads of a multiple of 4")


@dataclass(kw_only=True)
class Josh3rOutput:
    """Answer about B pairs; iterating gives the eight tensors in the published model's order."""

    rel_trans: Tensor
    """[B, 3] metres: the person's root in frame b, in the person's own axes in frame a."""
    rel_rot6d: Tensor
    """[B, 6] first two rows of the rotation from person b to person a, not normalised."""
    trans_a: Tensor
    """[B, 3] metres: the body model's `transl` in camera a."""
    trans_b: Tensor
    """[B, 3] metres, as trained in camera a's or b's frame: the published files leave it open."""
    points_a: Tensor | None
    """[B, H*W, 3] view a's pixels, row-major, in camera a, not yet scaled; None where not asked for."""
    points_b: Tensor | None
    """[B, H*W, 3] view b's pixels, also in camera a."""
    scale_a: Tensor
    """[B, 1] factor from `points_a` to metres."""
    scale_b: Tensor
    """[B, 1] factor from `points_b` to metres."""
    conf_a: Tensor | None = None
    """[B, H*W] MASt3R's confidence in `points_a`."""
    conf_b: Tensor | None = None

    def __iter__(self) -> Iterator[Tensor | None]:
        return iter(
            (self.rel_trans, self.rel_rot6d, self.trans_a, self.trans_b)
            + (self.points_a, self.points_b, self.scale_a, self.scale_b)
        )


class Josh3rHead(nn.Module):
    """The trained half: 65.4 M parameters at the published size."""

    def __init__(self, config: Josh3rConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.human_feat_extractor_1, self.human_feat_extractor_2 = (
            HumanFeatures(dim, config.roi_channels, config.roi_points) for _ in range(2)
        )
        self.decoder_block_1, self.decoder_block_2 = (
            DecoderBlock(dim, config.heads, mlp_ratio=config.mlp_ratio, eps=EPS) for _ in range(2)
        )
        self.dec_norm = nn.LayerNorm(dim, eps=EPS)
        self.human_head_1, self.human_head_2 = (MlpHead(dim, dim, 3, bias=True) for _ in range(2))
        self.scene_head_1, self.scene_head_2 = (MlpHead(dim, dim, 1, bias=False) for _ in range(2))
        self.rel_trans_head = MlpHead(4 * dim, dim, 3, bias=False)
        self.rel_rot_head = MlpHead(4 * dim, dim, config.rot_dim, bias=True)
        for head in (self.scene_head_1, self.scene_head_2, self.rel_trans_head):
            head.start_at_zero()  # before training: nobody moves, and points keep their scale

    def answer(self, pair: Pair, a: Tokens, b: Tokens, boxes_a: Tensor, boxes_b: Tensor) -> Josh3rOutput:
        """The backbone's last tokens and a box [B, 4] (xyxy, pixels of the network's image) in each view."""
        check_boxes(boxes_a, boxes_b, len(a.features))
        last_a, last_b = pair.tokens_a[-1], pair.tokens_b[-1]
        with full_precision(last_a.device):
            person_a = self.human_feat_extractor_1(self._in_box(last_a, a, boxes_a))
            person_b = self.human_feat_extractor_2(self._in_box(last_b, b, boxes_b))
        trunk = self.decoder_block_1.norm1.weight.dtype
        x_a = torch.cat((last_a.to(trunk), person_a[:, None].to(trunk)), dim=1)
        x_b = torch.cat((last_b.to(trunk), person_b[:, None].to(trunk)), dim=1)
        rope_a, rope_b = self._rope(a), self._rope(b)
        # Both branches read the other view before its own block, its person included.
        y_a = self.decoder_block_1(x_a, x_b, rope_a, rope_b)
        y_b = self.decoder_block_2(x_b, x_a, rope_b, rope_a)
        with full_precision(last_a.device):
            output = self._heads(self.dec_norm(y_a.float()), self.dec_norm(y_b.float()))
            if pair.points_a is not None and pair.points_b is not None:
                output.points_a, output.points_b = pair.points_a.flatten(1, 2), pair.points_b.flatten(1, 2)
            if pair.conf_a is not None and pair.conf_b is not None:
                output.conf_a, output.conf_b = pair.conf_a.flatten(1, 2), pair.conf_b.flatten(1, 2)
        return output

    def _in_box(self, last: Tensor, tokens: Tokens, boxes: Tensor) -> Tensor:
        """[B, dim, points down, points across]."""
        grid = last.float().transpose(1, 2).unflatten(-1, tokens.grid)
        return sample_boxes(grid, boxes.float(), tokens.size, self.config.roi_points)

    def _rope(self, tokens: Tokens) -> Rope:
        """Positions of the grid, and the person's after them."""
        grid = grid_positions(tokens.grid, tokens.features.device)
        positions = torch.cat((grid, grid.new_full((1, 2), PERSON_POSITION)))
        return rope_from_positions(positions, self.config.dim // self.config.heads, ROPE_BASE)

    def _heads(self, y_a: Tensor, y_b: Tensor) -> Josh3rOutput:
        """Normalised tokens [B, N + 1, dim], the person last."""
        person_a, person_b = y_a[:, -1], y_b[:, -1]
        scene_a, scene_b = y_a[:, :-1].amax(1), y_b[:, :-1].amax(1)
        everything = torch.cat((person_a, person_b, scene_a, scene_b), dim=-1)
        return Josh3rOutput(
            rel_trans=self.rel_trans_head(everything),
            rel_rot6d=self.rel_rot_head(everything),
            trans_a=self.human_head_1(person_a),
            trans_b=self.human_head_2(person_b),
            points_a=None,
            points_b=None,
            scale_a=self.scene_head_1(scene_a).exp(),
            scale_b=self.scene_head_2(scene_b).exp(),
        )


class Josh3r(Josh3rHead):
    """MASt3R and the trained half, with the published checkpoint's names."""

    def __init__(self, config: Josh3rConfig | None = None, backbone: Mast3rConfig | None = None) -> None:
        """Fresh weights; both sizes default to the published ones."""
        config, backbone = config or Josh3rConfig(), backbone or Mast3rConfig()
        check_width(config, backbone.dec_dim)
        super().__init__(config)
        self.mast3r = Mast3r(backbone).requires_grad_(False)

    def train(self, mode: bool = True) -> Josh3r:
        """MASt3R is frozen, and has no layer that knows of training; everything else follows `mode`."""
        super().train(mode)
        self.mast3r.eval()
        return self

    def network_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Network (width, height) for an image of (width, height), as the published loader floors it."""
        from distill.models.josh3r_images import network_size

        return network_size(size, self.mast3r.config.long_side)

    def encode(self, images: Tensor) -> Tokens:
        """Images [B, 3, H, W] in [0, 1], sides multiples of 16 -> features to keep for any number of pairs."""
        return self.mast3r.encode(images)

    def pair(self, a: Tokens, b: Tokens, boxes_a: Tensor, boxes_b: Tensor, *, points: bool = True) -> Josh3rOutput:
        """B ordered pairs of frames; boxes [B, 4] as in `forward`. Without `points` the dense heads are spared."""
        return self.answer(self.mast3r.decode(a, b, points=points), a, b, boxes_a, boxes_b)

    def forward(self, images_a: Tensor, images_b: Tensor, boxes_a: Tensor, boxes_b: Tensor) -> Josh3rOutput:
        """One person in B pairs of frames.

        Args:
            images_a: [B, 3, H, W] RGB in [0, 1], sides multiples of 16.
            images_b: the same number; may differ in size.
            boxes_a: [B, 4] x0, y0, x1, y1 in pixels of `images_a`; may leave the image.
            boxes_b: [B, 4] in pixels of `images_b`.

        Raises:
            FootfallError: shapes that do not fit.
        """
        check_boxes(boxes_a, boxes_b, len(images_a))
        if images_a.shape == images_b.shape:
            both = self.encode(torch.cat((images_a, images_b)))
            return self.pair(both[: len(images_a)], both[len(images_a) :], boxes_a, boxes_b)
        return self.pair(self.encode(images_a), self.encode(images_b), boxes_a, boxes_b)

    def set_trunk_dtype(self, dtype: torch.dtype) -> None:
        """Cast MASt3R's trunk and the two decoder blocks; everything that answers stays float32."""
        self.mast3r.set_trunk_dtype(dtype)
        self.decoder_block_1.to(dtype)
        self.decoder_block_2.to(dtype)


def check_boxes(boxes_a: Tensor, boxes_b: Tensor, count: int) -> None:
    """Raise `FootfallError` unless there is one box [4] for each of `count` pairs in both views."""
    if boxes_a.shape != (count, 4) or boxes_b.shape != (count, 4):
        raise FootfallError(
            "boxes for JOSH3R", got=f"shapes {tuple(boxes_a.shape)} and {tuple(boxes_b.shape)}",
            expected=f"({count}, 4) twice: x0, y0, x1, y1 of one person in each pair",
            do="give one person at a time",
        )  # fmt: skip


def check_width(config: Josh3rConfig, token_dim: int) -> None:
    """Raise `FootfallError` unless the heads read tokens of the backbone's width."""
    if config.dim != token_dim:
        raise FootfallError(
            "JOSH3R's width", got=config.dim, expected=f"the backbone's {token_dim} token channels",
            do="take config.json from the same place as the weights",
        )  # fmt: skip
