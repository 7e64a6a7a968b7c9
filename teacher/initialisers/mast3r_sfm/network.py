"""What a pointmap network says about pairs of keyframes, with people taken out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from distill.errors import FootfallError
from distill.models.backbones import Backbone, Tokens
from distill.models.backbones import Pair as Decoding
from teacher.initialisers.mast3r_sfm.alignment import Pair
from teacher.initialisers.mast3r_sfm.canonical import Canonical, canonical_view
from teacher.initialisers.mast3r_sfm.matching import Decoded, match_pair

Decode = Callable[[int, int], Decoding]
"""Keyframes (a, b) -> points of both in camera a, confidences and descriptors, batch of one."""


class Shrink:
    """From the clip's images to the network's: the longer side as trained, then a centred crop to whole patches."""

    def __init__(self, size: tuple[int, int], long_side: int, multiple: int) -> None:
        """`size`: width, height of the clip's images."""
        self.factor = long_side / max(size)
        self.resized = (round(size[0] * self.factor), round(size[1] * self.factor))
        self.cropped = tuple(side // multiple * multiple for side in self.resized)
        self.offset = tuple((full - kept) // 2 for full, kept in zip(self.resized, self.cropped, strict=True))
        if min(self.cropped) == 0:
            raise FootfallError(
                "images for mast3r", got=f"{size[0]} x {size[1]}", expected=f"a shape of at least {multiple} pixels",
                do="use another cameras initialiser for such narrow images",
            )  # fmt: skip

    def __call__(self, image: np.ndarray, resample: Image.Resampling = Image.Resampling.LANCZOS) -> np.ndarray:
        """uint8 image or map -> the same, small."""
        small = np.asarray(Image.fromarray(image).resize(self.resized, resample))
        (left, top), (width, height) = self.offset, self.cropped
        return small[top : top + height, left : left + width]

    def to_clip(self, pixels: np.ndarray) -> np.ndarray:
        """Whole pixels [n, 2] of the small image, centres at integers -> pixels of the clip, centres at one half."""
        return (pixels + 0.5 + np.array(self.offset)) / self.factor


def decoder_of(backbone: Backbone, images: list[np.ndarray]) -> Decode:
    """A network that encodes each image [h, w, 3] once.

    Raises:
        FootfallError: the network has no descriptors to match by.
    """

    def batch(image: np.ndarray) -> Tensor:
        return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255

    device = next(backbone.parameters()).device
    with torch.inference_mode():
        tokens: list[Tokens] = [backbone.encode(batch(image).to(device)) for image in images]

    def decode(a: int, b: int) -> Decoding:
        with torch.inference_mode():
            pair = backbone.decode(tokens[a], tokens[b], points=True, descriptors=True)
        if pair.desc_a is None or pair.points_a is None:
            raise FootfallError(
                f"backbone {backbone.provenance.id}", got="no points or no descriptors", expected="both",
                do="take a MASt3R checkpoint (catmlp+dpt)",
            )  # fmt: skip
        return pair

    return decode


def ask_pairs(
    decode: Decode, people: list[Tensor], edges: list[tuple[int, int]], *, least_confidence: float
) -> tuple[list[Canonical], list[Pair]]:
    """Canonical views, and pairs in both orders (those without any match left out).

    People's pixels get no confidence, and descriptors of zero, so that no pixel of the background finds them first.

    Args:
        decode: the network. people: per keyframe [h, w] bool. edges: pairs (a, b), each once.
    """
    points: list[list[Tensor]] = [[] for _ in people]
    confidence: list[list[Tensor]] = [[] for _ in people]
    pairs: list[Pair] = []
    for a, b in edges:
        forth, back = _masked(decode(a, b), people[a], people[b]), _masked(decode(b, a), people[b], people[a])
        for image, decoding in ((a, forth), (b, back)):
            points[image].append(decoding[0])
            confidence[image].append(decoding[1])
        turned = Decoded(
            first=back[2].second, second=back[2].first, first_confidence=back[2].second_confidence,
            second_confidence=back[2].first_confidence,
        )  # fmt: skip
        matches = match_pair([forth[2], turned], least_confidence=least_confidence)
        if len(matches.first):
            pairs.append(Pair(first=a, second=b, matches=matches))
            pairs.append(Pair(first=b, second=a, matches=matches.swapped()))
    return [canonical_view(X, C) for X, C in zip(points, confidence, strict=True)], pairs


def _masked(pair: Decoding, people_a: Tensor, people_b: Tensor) -> tuple[Tensor, Tensor, Decoded]:
    """Points and confidence of the reference view, and descriptors of both, people taken out; on the CPU."""
    parts = (pair.points_a, pair.conf_a, pair.desc_a, pair.desc_b, pair.desc_conf_a, pair.desc_conf_b)
    plain = [part[0].float().cpu().clone() for part in parts if part is not None]
    points, confidence, desc_a, desc_b, quality_a, quality_b = plain
    confidence[people_a] = 1.0
    desc_a[people_a], quality_a[people_a] = 0.0, 0.0
    desc_b[people_b], quality_b[people_b] = 0.0, 0.0
    decoded = Decoded(first=desc_a, second=desc_b, first_confidence=quality_a, second_confidence=quality_b)
    return points, confidence, decoded
