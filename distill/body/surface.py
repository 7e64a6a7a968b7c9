"""The surface of a body as a triangle mesh: edges, normals, areas, neighbours, and an even choice of its vertices.

Everything takes a mesh as `vertices` [V, 3] (metres) and `faces` [F, 3] (long, counter-clockwise from outside).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SIDE_REACH = 0.05
"""Metres that two vertices with opposite normals count as further apart: the two sides of a hand are two places."""


def mesh_edges(faces: Tensor) -> Tensor:
    """Edges [E, 2] of a mesh, each once, the smaller vertex first."""
    ends = torch.cat((faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]))
    return torch.unique(ends.sort(1).values, dim=0)


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Outward unit normals [V, 3]: of the faces around each vertex, weighted by their areas."""
    return F.normalize(_gather_faces(vertices, faces, _face_crosses(vertices, faces)), dim=-1)


def vertex_areas(vertices: Tensor, faces: Tensor) -> Tensor:
    """[V] square metres: a third of the faces around each vertex, so that they sum to the whole surface."""
    doubled = _face_crosses(vertices, faces).norm(dim=-1, keepdim=True)
    return _gather_faces(vertices, faces, doubled)[:, 0] / 6


def laplacian(values: Tensor, edges: Tensor) -> Tensor:
    """Mean of the neighbours minus the value itself, [V, D]; zero where there is no neighbour.

    Args:
        values: [V, D] of any unit.
        edges: [E, 2] long, each once.
    """
    a, b = edges.unbind(1)
    total = torch.zeros_like(values).index_add(0, a, values[b]).index_add(0, b, values[a])
    count = torch.bincount(edges.flatten(), minlength=len(values)).to(values)[:, None]
    return torch.where(count > 0, total / count.clamp(min=1) - values, 0)


def even_vertices(vertices: Tensor, normals: Tensor, count: int) -> Tensor:
    """`count` vertices [count] spread evenly over the surface, ascending: each the furthest from those before it.

    Farthest point sampling (Gonzalez 1985) over places and normals, so that both sides of a hand are covered. Always
    the same choice for the same mesh.

    Args:
        vertices, normals: [V, 3]; metres, unit.
        count: 1..V.
    """
    if not 1 <= count <= len(vertices):
        raise ValueError(f"even_vertices: {count} of {len(vertices)} vertices")
    # In numpy: small steps, one after the other, that neither threads nor a GPU make faster.
    places = torch.cat((vertices, 0.5 * SIDE_REACH * normals), dim=1).double().cpu().numpy()
    chosen = [int(vertices[:, 1].argmax())]
    distance = np.full(len(places), np.inf)
    for _ in range(count - 1):
        distance = np.minimum(distance, ((places - places[chosen[-1]]) ** 2).sum(1))
        chosen.append(int(distance.argmax()))
    return torch.tensor(sorted(chosen), device=vertices.device)


def nearest_chosen(vertices: Tensor, normals: Tensor, chosen: Tensor) -> Tensor:
    """For each vertex the position [V] in `chosen` [A] of the nearest chosen vertex (distance as `even_vertices`)."""
    if len(chosen) == len(vertices):
        return chosen.argsort()
    places = torch.cat((vertices, 0.5 * SIDE_REACH * normals), dim=1)
    nearest = [torch.cdist(part, places[chosen]).argmin(1) for part in places.split(4096)]
    return torch.cat(nearest)


def coarse_edges(faces: Tensor, cell: Tensor) -> Tensor:
    """Edges [E, 2] between the cells that vertices belong to (`nearest_chosen`): cells that share a mesh edge."""
    ends = cell[mesh_edges(faces)].sort(1).values
    return torch.unique(ends[ends[:, 0] != ends[:, 1]], dim=0)


def _face_crosses(vertices: Tensor, faces: Tensor) -> Tensor:
    """[F, 3] normals of length twice the face's area."""
    a, b, c = vertices[faces].unbind(1)
    return torch.linalg.cross(b - a, c - a, dim=-1)


def _gather_faces(vertices: Tensor, faces: Tensor, of_face: Tensor) -> Tensor:
    """Sum over the faces around each vertex: [F, D] -> [V, D]."""
    total = vertices.new_zeros(len(vertices), of_face.shape[1])
    return total.index_add(0, faces.flatten(), of_face.repeat_interleave(3, dim=0))
