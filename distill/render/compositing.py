"""Alpha compositing of 2D Gaussians, tile by tile, with its own backward pass.

Nothing of the size pixels x splats outlives a step, forward or backward: the backward pass computes alphas again. It
needs no pass from the back: what lies behind a splat is the finished pixel less what has been drawn so far.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from distill.render.projection import MIN_ALPHA
from distill.render.tiles import DEPTH, TILE, TileLists

MAX_ALPHA: Final = 0.999
"""No splat covers a pixel more than this."""
OPAQUE: Final = 1e-4
"""A pixel is finished before the splat after which less light than this would pass."""


@dataclass
class _Step:
    """Some splats of some tiles: B tiles, L splats each, P pixels in a tile."""

    tiles: Tensor
    """[B]"""
    index: Tensor
    """[B, L] rows of the table of splats."""
    offset: Tensor
    """[B, L, 2] from the middle of the tile to the splat, pixels."""
    conics: Tensor
    """[B, L, 3]"""
    linear: Tensor
    """[B, L, 2] conic times offset."""
    raw: Tensor
    """[B, L, P] opacity times the Gaussian."""
    alpha: Tensor
    """[B, L, P] what of it counts."""
    weight: Tensor
    """[B, L, P] share of a pixel that a splat makes up."""


class Composite(torch.autograd.Function):
    """Pixels from splats: sums of features weighted by visibility. Differentiable once."""

    @staticmethod
    def forward(
        ctx: Any, means: Tensor, conics: Tensor, opacities: Tensor, features: Tensor, lists: TileLists, work: int
    ) -> Tensor:
        """Draw.

        Args:
            ctx: of autograd.
            means: [V, 2] pixels.
            conics: [V, 3] xx, xy, yy, 1/square pixels.
            opacities: [V] above 0.
            features: [V, D] what is summed.
            lists: which splats are in which tile.
            work: alphas held at once.

        Returns:
            [tiles, D, P] with the P pixels of a tile row by row.
        """
        pixels = means.new_zeros(len(lists.length), features.shape[1], TILE * TILE)
        padded = _pad(features)
        for step in _steps(means, conics, opacities, lists, work):
            pixels[step.tiles] += _take(padded, step.index).transpose(1, 2) @ step.weight
        ctx.save_for_backward(means, conics, opacities, features, pixels)
        ctx.lists, ctx.work = lists, work
        return pixels

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None, None]:
        """Gradients of all four, from those of the pixels [tiles, D, P].

        Raises:
            RuntimeError: a graph of the gradients is asked for.
        """
        if torch.is_grad_enabled():  # torch's own once_differentiable lets it pass where `grad` is constant
            raise RuntimeError("rendering has no second derivatives: leave out create_graph=True")
        means, conics, opacities, features, pixels = ctx.saved_tensors
        padded = _pad(features)
        slopes = means.new_zeros(len(padded), 6 + features.shape[1])
        behind = (pixels * grad).sum(1)  # [tiles, P] of the splats not yet passed, times their gradients
        for step in _steps(means, conics, opacities, ctx.lists, ctx.work):
            here = grad[step.tiles]
            value = _take(padded, step.index) @ here  # [B, L, P] d loss / d weight
            share = value * step.weight
            passed = share.cumsum(1)
            rest = behind[step.tiles, None] - passed
            behind[step.tiles] = rest[:, -1]
            # weight_k = alpha_k before_k, and every later weight has the factor 1 - alpha_k.
            slope = share - step.alpha * rest / (1 - step.alpha)  # d loss / d log alpha
            slope *= (step.weight > 0) & (step.raw <= MAX_ALPHA)
            moments = slope @ _basis(slope)
            parts = (*_pull_back(step, moments), step.weight @ here.transpose(1, 2))
            slopes.index_add_(0, step.index.flatten(), torch.cat(parts, -1).flatten(0, 1))
        to_means, to_conics, to_log, to_features = slopes[:-1].split([2, 3, 1, features.shape[1]], 1)
        return to_means, to_conics, to_log[:, 0] / opacities, to_features, None, None


def _steps(means: Tensor, conics: Tensor, opacities: Tensor, lists: TileLists, work: int) -> Iterator[_Step]:
    """Everything that is drawn, each tile front to back; tiles without any light left are passed over."""
    means, conics = _pad(means), _pad(conics)
    logs = torch.cat((opacities.log(), opacities.new_full((1,), -torch.inf)))
    for tiles, length in lists.batches(work):
        middle = lists.centres(tiles).to(means)
        light = means.new_ones(len(tiles), 1, TILE * TILE)
        for begin in range(0, length, DEPTH):
            index = lists.splats_of(tiles, begin, min(begin + DEPTH, length), len(means) - 1)
            offset = _take(means, index) - middle[:, None]
            conic, log = _take(conics, index), _take(logs[:, None], index)
            linear, raw = _expand(offset, conic, log)
            alpha = torch.threshold(raw, MIN_ALPHA, 0).clamp_(max=MAX_ALPHA)
            after = (1 - alpha).cumprod(1).mul_(light)
            before = torch.cat((light, after[:, :-1]), 1)  # light that reaches a splat
            light = after[:, -1:].clone()
            weight = after.gt_(OPAQUE).mul_(alpha).mul_(before)
            yield _Step(tiles, index, offset, conic, linear, raw, alpha, weight)
            if light.max() <= OPAQUE:
                break


def _expand(offset: Tensor, conic: Tensor, log: Tensor) -> tuple[Tensor, Tensor]:
    """Opacity times the Gaussian, its exponent written as a polynomial in the pixel: one matrix product for all."""
    dx, dy = offset.unbind(-1)
    xx, xy, yy = conic.unbind(-1)
    linear = torch.stack((xx * dx + xy * dy, xy * dx + yy * dy), -1)
    constant = log - 0.5 * (linear * offset).sum(-1, keepdim=True)
    square = torch.stack((-0.5 * xx, -xy, -0.5 * yy), -1)
    polynomial = torch.cat((constant, linear, square), -1)
    return linear, (polynomial @ _basis(offset).t()).exp_()


def _pull_back(step: _Step, moments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `_expand`: to means [B, L, 2], conics [B, L, 3] and log opacities [B, L, 1].

    Args:
        step: where.
        moments: [B, L, 6] d loss / d coefficient of the polynomial.
    """
    one, first, second = moments.split([1, 2, 3], -1)
    dx, dy = step.offset.unbind(-1)
    xx, xy, yy = step.conics.unbind(-1)
    fx, fy = first.unbind(-1)
    to_means = torch.stack((xx * fx + xy * fy, xy * fx + yy * fy), -1) - one * step.linear
    squares = torch.stack((dx * dx, 2 * dx * dy, dy * dy), -1)
    crosses = torch.stack((dx * fx, dy * fx + dx * fy, dy * fy), -1)
    halves = second * second.new_tensor([0.5, 1.0, 0.5])
    return to_means, crosses - 0.5 * one * squares - halves, one


def _basis(like: Tensor) -> Tensor:
    """[P, 6] 1, x, y, xx, xy, yy of the pixels of a tile, from its middle."""
    line = torch.arange(TILE, device=like.device).to(like) + 0.5 - TILE / 2
    y, x = (grid.flatten() for grid in torch.meshgrid(line, line, indexing="ij"))
    return torch.stack((torch.ones_like(x), x, y, x * x, x * y, y * y), -1)


def _pad(table: Tensor) -> Tensor:
    """One more row, of nothing, for lists shorter than their neighbours'."""
    return torch.cat((table, table.new_zeros(1, table.shape[1])))


def _take(table: Tensor, index: Tensor) -> Tensor:
    """Rows [..., D] of a table [V, D] by number [...]; quicker than indexing."""
    return table.index_select(0, index.flatten()).unflatten(0, index.shape)
