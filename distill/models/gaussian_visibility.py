"""Which vertices of a body a camera sees, and what the picture and the backbone say there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.body import BodyModel
from distill.body.surface import vertex_normals
from distill.geometry.cameras import project
from distill.models.backbones import Tokens
from distill.models.sampling import in_image

DEPTH_SLACK: Final = 0.05
"""Metres behind the foremost vertex of its cell at which a vertex still counts as seen."""
SPACINGS: Final = 2.0
"""Width of a cell of the depth buffer in spacings of the largest body's vertices: no cell in front stays empty."""
FILLED: Final = 0.35
"""Share of its box in the picture that a body covers, about; and it shows half of its vertices."""
NEAREST: Final = 0.1
"""Metres from the camera below which nothing is seen."""


@dataclass(kw_only=True)
class Sight:
    """What one frame says of the A anchors of P people."""

    weight: Tensor
    """[P, A] 0 where an anchor is hidden, else the squared cosine between its normal and the view times trust."""
    features: Tensor
    """[P, A, C] of the backbone's encoder."""
    colors: Tensor
    """[P, A, 3] RGB, 0..1."""


def posed_vertices(body: BodyModel, betas: Tensor, body_rot: Tensor, cam_from_body: Tensor) -> Tensor:
    """All vertices [P, V, 3] of P people in the camera, metres."""
    vertices = body(betas, body_rot, cam_from_body, body.all_vertices).vertices
    assert vertices is not None
    return vertices


def see_anchors(
    vertices: Tensor, faces: Tensor, anchors: Tensor, K: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Where anchors are in the picture and how well they are seen; people hide each other.

    Args:
        vertices: [P, V, 3] of all people in the camera, metres. faces: [F, 3].
        anchors: [A] vertices asked about.
        K: [3, 3] pixels. size: (width, height).

    Returns:
        Pixels [P, A, 2], and [P, A] the squared cosine of normal and view, 0 where hidden.
    """
    pixels = project(vertices, K)
    cell = _cell_size(pixels, size)
    columns, rows = math.ceil(size[0] / cell), math.ceil(size[1] / cell)
    at = (pixels / cell).floor().long()
    inside = (at >= 0).all(-1) & (at[..., 0] < columns) & (at[..., 1] < rows) & (vertices[..., 2] > NEAREST)
    where = torch.where(inside, at[..., 1] * columns + at[..., 0], columns * rows)
    depth = vertices[..., 2]
    buffer = depth.new_full((columns * rows + 1,), torch.inf)
    buffer = buffer.scatter_reduce(0, where.flatten(), depth.flatten(), "amin")
    seen = (inside & (depth <= buffer[where] + DEPTH_SLACK))[:, anchors]
    normals = torch.stack([vertex_normals(person, faces) for person in vertices])[:, anchors]
    cosine = -(normals * F.normalize(vertices[:, anchors], dim=-1)).sum(-1)
    return pixels[:, anchors], torch.where(seen, cosine.clamp(min=0).square(), 0.0)


def _cell_size(pixels: Tensor, size: tuple[int, int]) -> float:
    """Pixels across a cell of the depth buffer for bodies with vertices at pixels [P, V, 2]: 1 to an eighth of both."""
    extent = (pixels.amax(1) - pixels.amin(1)).prod(-1).amax()
    spacing = (FILLED * extent / (0.5 * pixels.shape[1])).sqrt()
    return float((SPACINGS * spacing).clamp(1, max(size) / 8))


def look_at_anchors(
    frame: Tokens, vertices: Tensor, faces: Tensor, anchors: Tensor, K: Tensor, *, trust: Tensor | None = None,
    masks: Tensor | None = None,
) -> Sight:  # fmt: skip
    """Sample one image at the anchors of the people in it.

    Args:
        frame: encoder tokens of one image, with the image.
        vertices: [P, V, 3] of its people in the camera, metres. faces: [F, 3]. anchors: [A].
        K: [3, 3] in pixels of the image.
        trust: [P] 0 to 1, how far each pose is trusted; None: fully.
        masks: [P, H, W] each person's pixels, 0 to 1; anchors outside are not seen. None: the body decides alone.
    """
    assert frame.images is not None
    pixels, weight = see_anchors(vertices, faces, anchors, K, frame.size)
    points = in_image(pixels, frame.size)[:, :, None]  # [P, A, 1, 2]
    grid = frame.features[:1].transpose(1, 2).unflatten(-1, frame.grid)
    colors = _sample(frame.images[:1].float(), points)
    features = _sample(grid.float(), points)
    if masks is not None:
        inside = F.grid_sample(masks[:, None].float(), points, align_corners=False)[:, 0, :, 0]
        weight = weight * (inside > 0.5)
    if trust is not None:
        weight = weight * trust[:, None]
    return Sight(weight=weight, features=features, colors=colors)


def _sample(picture: Tensor, points: Tensor) -> Tensor:
    """Maps [1, C, h, w] at points [P, A, 1, 2] -> [P, A, C]."""
    maps = picture.expand(len(points), -1, -1, -1)
    return F.grid_sample(maps, points, padding_mode="border", align_corners=False)[..., 0].transpose(1, 2)


def body_mask(vertices: Tensor, K: Tensor, size: tuple[int, int], spread: int) -> Tensor:
    """Pixels [H, W] bool that bodies cover: their vertices [P, V, 3] splatted over (2 spread + 1) pixels squared."""
    pixels = project(vertices, K)[vertices[..., 2] > NEAREST].floor().long()
    inside = (pixels >= 0).all(-1) & (pixels[..., 0] < size[0]) & (pixels[..., 1] < size[1])
    mask = torch.zeros(size[1], size[0], device=vertices.device)
    mask[pixels[inside][:, 1], pixels[inside][:, 0]] = 1
    return F.max_pool2d(mask[None, None], 2 * spread + 1, stride=1, padding=spread)[0, 0] > 0
