"""Matches between two images: pixels whose descriptors find each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MOST_ROUNDS = 10
"""Alternations after which a seed that has not settled is dropped."""


@dataclass(kw_only=True)
class Matches:
    """N matches between a first and a second image."""

    first: Tensor
    """[N, 2] x, y, whole pixels."""
    second: Tensor
    """[N, 2] x, y, whole pixels."""
    confidence: Tensor
    """[N]."""

    def swapped(self) -> Matches:
        """The same matches seen from the second image."""
        return Matches(first=self.second, second=self.first, confidence=self.confidence)


def reciprocal_neighbours(a: Tensor, b: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Pixels of two descriptor maps that are each other's nearest neighbours (MASt3R, section 3.3).

    From seeds on a grid of A, go to the nearest neighbour in B and back, again and again, until a step returns to
    where it came from.

    Args:
        a, b: [H, W, D] descriptors. stride: of the grid, pixels.

    Returns:
        Flat pixel indices in A and in B, each pair once, sorted by the pixel in A.
    """
    flat_a, flat_b = a.flatten(0, 1), b.flatten(0, 1)
    rows = torch.arange(stride // 2, a.shape[0], stride)
    columns = torch.arange(stride // 2, a.shape[1], stride)
    in_a = (rows[:, None] * a.shape[1] + columns).flatten().to(a.device)
    in_b = _nearest(flat_a[in_a], flat_b)
    settled = torch.zeros_like(in_a, dtype=torch.bool)
    for _ in range(MOST_ROUNDS):
        back = _nearest(flat_b[in_b], flat_a)
        settled |= back == in_a
        in_a = torch.where(settled, in_a, back)
        forth = _nearest(flat_a[in_a], flat_b)
        settled |= forth == in_b
        in_b = torch.where(settled, in_b, forth)
        if bool(settled.all()):
            break
    pairs = torch.unique(torch.stack((in_a, in_b), -1)[settled], dim=0)
    return pairs[:, 0], pairs[:, 1]


def _nearest(query: Tensor, database: Tensor) -> Tensor:
    """Index of the largest dot product in the database, for each query."""
    return torch.cat([(part @ database.T).argmax(-1) for part in query.split(4096)])


@dataclass(kw_only=True)
class Decoded:
    """Descriptors and their confidences of both images, from one decoding of a pair."""

    first: Tensor
    """[H, W, D]."""
    second: Tensor
    """[H, W, D]."""
    first_confidence: Tensor
    """[H, W]."""
    second_confidence: Tensor
    """[H, W]."""


def match_pair(decodings: list[Decoded], *, stride: int = 8, least_confidence: float = 0.0) -> Matches:
    """Union of the reciprocal neighbours of all decodings of a pair, from either side; sorted by the first pixel.

    A match has the confidence sqrt(Q_a Q_b) of the first decoding that found it.

    Args:
        decodings: usually two, with either image as the reference. stride: of the seeds. least_confidence: matches
            below are dropped (people's pixels, whose confidence was set to 0); 0 keeps all.
    """
    found, values = [], []
    for decoded in decodings:
        forth = torch.stack(reciprocal_neighbours(decoded.first, decoded.second, stride), -1)
        back = torch.stack(reciprocal_neighbours(decoded.second, decoded.first, stride)[::-1], -1)
        pairs = torch.cat((forth, back))
        quality = decoded.first_confidence.flatten()[pairs[:, 0]] * decoded.second_confidence.flatten()[pairs[:, 1]]
        found.append(pairs)
        values.append(quality.sqrt())
    pairs, place = torch.unique(torch.cat(found), dim=0, return_inverse=True)
    every = torch.cat(values)
    order = torch.arange(len(every), device=every.device).flip(0)
    confidence = every.new_zeros(len(pairs))
    confidence[place.flip(0)] = every[order]  # the first one found is written last
    keep = confidence >= least_confidence
    width_a, width_b = decodings[0].first.shape[1], decodings[0].second.shape[1]
    return Matches(first=_xy(pairs[keep, 0], width_a), second=_xy(pairs[keep, 1], width_b), confidence=confidence[keep])


def _xy(flat: Tensor, width: int) -> Tensor:
    return torch.stack((flat % width, flat // width), -1)
