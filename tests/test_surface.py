"""Edges, normals, areas and neighbours of meshes small enough for a hand; an even choice on the real body."""

import pytest
import torch

from distill.body import BodyModel
from distill.body.surface import (
    coarse_edges,
    even_vertices,
    laplacian,
    mesh_edges,
    nearest_chosen,
    vertex_areas,
    vertex_normals,
)
from tests.conftest import TOLERANCES

FACES = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
CORNERS = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
"""The corner of a cube, cut off: three right triangles and one with sides sqrt(2)."""


def test_edges_of_a_tetrahedron() -> None:
    assert mesh_edges(FACES).tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]


def test_normals_point_outwards() -> None:
    normals = vertex_normals(CORNERS, FACES)
    torch.testing.assert_close(normals[0], -torch.full((3,), 3**-0.5), **TOLERANCES[torch.float32])
    # Faces at vertex 1, each of twice its area: (0, 0, -1), (0, -1, 0) and (1, 1, 1).
    torch.testing.assert_close(normals[1], torch.tensor([1.0, 0, 0]), **TOLERANCES[torch.float32])


def test_areas_sum_to_the_surface() -> None:
    areas = vertex_areas(CORNERS, FACES)
    torch.testing.assert_close(areas[0], torch.tensor(0.5), **TOLERANCES[torch.float32])  # a third of three halves
    torch.testing.assert_close(areas.sum(), torch.tensor(1.5 + 3**0.5 / 2), **TOLERANCES[torch.float32])


def test_laplacian_by_hand() -> None:
    values = torch.tensor([[0.0], [3.0], [6.0], [100.0]])
    edges = torch.tensor([[0, 1], [0, 2], [1, 2]])
    assert laplacian(values, edges).flatten().tolist() == [4.5, 0.0, -4.5, 0.0]  # the last has no neighbour


def test_laplacian_of_a_constant_is_nothing(body: BodyModel) -> None:
    values = torch.ones(body.num_vertices, 2)
    assert not laplacian(values, mesh_edges(body.faces)).any()


def test_cells_that_touch_are_neighbours() -> None:
    strip = torch.tensor([[0, 1, 2], [2, 1, 3], [2, 3, 4], [4, 3, 5]])
    assert coarse_edges(strip, torch.tensor([0, 0, 1, 1, 2, 2])).tolist() == [[0, 1], [1, 2]]


def test_an_even_choice_leaves_no_gaps_and_no_crowds(body: BodyModel) -> None:
    normals = vertex_normals(body.v_template, body.faces)
    chosen = even_vertices(body.v_template, normals, 500)
    assert chosen.unique().tolist() == chosen.tolist()
    between = torch.cdist(body.v_template[chosen], body.v_template[chosen])
    between.fill_diagonal_(10)
    gap = torch.cdist(body.v_template, body.v_template[chosen]).min(1).values.max()
    assert gap < 0.09  # 1.9 m2 among 500 is a disc of 3.5 cm radius each
    assert between.min(1).values.median() > 0.03
    again = even_vertices(body.v_template, normals, 500)
    assert torch.equal(chosen, again)


def test_both_sides_of_a_hand_are_chosen(body: BodyModel) -> None:
    normals = vertex_normals(body.v_template, body.faces)
    chosen = even_vertices(body.v_template, normals, 1000)
    hand = chosen[body.weights[chosen, 22] > 0.5]  # palm down in the T-pose
    assert (normals[hand, 1] > 0.5).any()
    assert (normals[hand, 1] < -0.5).any()


def test_every_chosen_vertex_is_its_own_nearest(body: BodyModel) -> None:
    normals = vertex_normals(body.v_template, body.faces)
    chosen = even_vertices(body.v_template, normals, 300)
    assert torch.equal(nearest_chosen(body.v_template, normals, chosen)[chosen], torch.arange(300))
    everything = torch.randperm(body.num_vertices)
    assert torch.equal(everything[nearest_chosen(body.v_template, normals, everything)], body.all_vertices)


@pytest.mark.parametrize("count", [0, 5])
def test_more_than_there_are_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="of 4 vertices"):
        even_vertices(CORNERS, CORNERS, count)
