"""An avatar moves as the body does, in every derivative, tiles the skin, and comes back from its file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import roma
import torch
from torch import Tensor

from distill.avatar import Avatar, load_avatar, make_avatar, nearest_rotation, quat_product, save_avatar
from distill.avatar_motion import animate, fitted_roots
from distill.body import BodyModel
from distill.body.surface import mesh_edges, vertex_areas, vertex_normals
from distill.errors import FootfallError
from distill.files import load_arrays, save_arrays
from distill.geometry.rotations import matrix_from_quat, matrix_from_rotvec
from distill.geometry.transforms import make_transform
from distill.render.gaussians import Gaussians
from distill.results import Result
from tests.conftest import TOLERANCES
from tests.test_body import KNEE, identity_pose, leg_arrays, random_pose, random_root
from tests.test_files_results_config import make_result


def covariances(gaussians: Gaussians) -> Tensor:
    spread = matrix_from_quat(gaussians.quats) * gaussians.scales[:, None]
    return spread @ spread.transpose(-1, -2)


def leg_avatar(*, correctives: bool = False, dtype: torch.dtype = torch.float32) -> tuple[BodyModel, Avatar]:
    """Three Gaussians on three vertices of a leg that hangs down, random in every attribute."""
    arrays = leg_arrays()
    arrays.shapedirs = torch.randn(3, 3, 1) * 0.05
    if correctives:
        arrays.posedirs = torch.randn(3, 3, 207) * 1e-2
    body = BodyModel(arrays).to(dtype)
    avatar = Avatar(
        body_model="leg", betas=torch.tensor([0.7]), anchors=torch.tensor([2, 0, 1]),
        skinning=body.weights[[2, 0, 1]], offsets=torch.randn(3, 3) * 0.02, quats=torch.randn(3, 4),
        scales=torch.rand(3, 3) * 0.02 + 0.01, opacities=torch.rand(3), colors=torch.rand(3, 3),
    )  # fmt: skip
    return body, avatar.to(dtype)


# Posing


@pytest.mark.parametrize("correctives", [False, True])
def test_centres_without_offsets_are_the_bodys_vertices(correctives: bool) -> None:
    body, avatar = leg_avatar(correctives=correctives)
    avatar = replace(avatar, offsets=torch.zeros(3, 3))
    pose, root = random_pose(()), random_root(())
    vertices = body(avatar.betas, pose, root, avatar.anchors).vertices
    torch.testing.assert_close(avatar.posed(body, pose, root).means, vertices, **TOLERANCES[torch.float32])


def test_the_free_body_wears_its_gaussians(body: BodyModel) -> None:
    avatar = make_avatar(body, 0.5 * torch.randn(body.num_betas))
    pose, root = random_pose(()), random_root(())
    vertices = body(avatar.betas, pose, root, body.all_vertices).vertices
    torch.testing.assert_close(avatar.posed(body, pose, root).means, vertices, **TOLERANCES[torch.float32])


def test_a_bent_knee_turns_a_gaussian_by_hand() -> None:
    body, avatar = leg_avatar()
    flat = torch.tensor([[0.3, 0.2, 0.1]]).expand(3, 3)
    still = torch.tensor([[1.0, 0, 0, 0]]).expand(3, 4)
    offset = torch.tensor([[0.0, -0.1, 0.0]]).expand(3, 3)
    avatar = replace(avatar, betas=torch.zeros(1), quats=still, scales=flat, offsets=offset)
    pose = identity_pose().clone()
    pose[KNEE - 1] = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # 90 degrees about x: down becomes back
    posed = avatar.posed(body, pose, torch.eye(4))
    # Anchors are vertices 2 (half of each), 0 (pelvis) and 1 (knee, 0.3 m below it; with its offset 0.4 m behind it).
    torch.testing.assert_close(posed.means[1], torch.tensor([0.1, -0.1, 0.0]), **TOLERANCES[torch.float32])
    torch.testing.assert_close(posed.means[2], torch.tensor([0.0, -0.5, -0.4]), **TOLERANCES[torch.float32])
    expected = covariances(posed)
    torch.testing.assert_close(expected[1], torch.diag(torch.tensor([0.09, 0.04, 0.01])), **TOLERANCES[torch.float32])
    torch.testing.assert_close(expected[2], torch.diag(torch.tensor([0.09, 0.01, 0.04])), **TOLERANCES[torch.float32])
    half = matrix_from_rotvec(torch.tensor([torch.pi / 4, 0, 0]))  # half and half: 45 degrees, and no smaller
    between = half @ torch.diag(torch.tensor([0.09, 0.04, 0.01])) @ half.T
    torch.testing.assert_close(expected[0], between, **TOLERANCES[torch.float32])


def test_the_root_moves_all_as_one(body: BodyModel) -> None:
    avatar = make_avatar(body, torch.zeros(body.num_betas), anchors=50)
    avatar = replace(avatar, quats=torch.randn(50, 4), offsets=0.1 * torch.randn(50, 3))
    pose, root = random_pose(()), random_root(())
    moved = avatar.posed(body, pose, torch.eye(4)).moved(root)
    posed = avatar.posed(body, pose, root)
    torch.testing.assert_close(posed.means, moved.means, **TOLERANCES[torch.float32])
    torch.testing.assert_close(covariances(posed), covariances(moved), **TOLERANCES[torch.float32])


def test_autocast_changes_nothing(body: BodyModel) -> None:
    avatar = make_avatar(body, torch.zeros(body.num_betas), anchors=50)
    pose, root = random_pose(()), random_root(())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = avatar.posed(body, pose, root)
    assert torch.equal(under.means, avatar.posed(body, pose, root).means)
    assert under.quats.dtype == torch.float32


def test_canonical_is_the_rest_pose(body: BodyModel) -> None:
    avatar = make_avatar(body, torch.randn(body.num_betas), anchors=50)
    rest, posed = avatar.canonical(body), avatar.posed(body, identity_pose(), torch.eye(4))
    torch.testing.assert_close(rest.means, posed.means, **TOLERANCES[torch.float32])
    torch.testing.assert_close(covariances(rest), covariances(posed), **TOLERANCES[torch.float32])


@pytest.mark.parametrize("correctives", [False, True])
def test_derivatives_by_everything(correctives: bool) -> None:
    body, avatar = leg_avatar(correctives=correctives, dtype=torch.float64)
    names = [name for name, tensor in avatar.tensors().items() if tensor.is_floating_point()]
    values = [avatar.tensors()[name].requires_grad_() for name in names]
    turns = (0.4 * torch.randn(2, 3, dtype=torch.float64)).requires_grad_()
    root = torch.randn(2, 3, dtype=torch.float64).requires_grad_()

    fixed = random_pose((), dtype=torch.float64)

    def pose(turns: Tensor, root: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        body_rot = torch.cat(
            (matrix_from_rotvec(turns[:1]), fixed[1 : KNEE - 1], matrix_from_rotvec(turns[1:]), fixed[KNEE:])
        )
        changed: Any = dict(zip(names, values, strict=True))
        posed = replace(avatar, **changed).posed(body, body_rot, make_transform(matrix_from_rotvec(root[0]), root[1]))
        return posed.means, covariances(posed), posed.opacities, posed.colors

    assert torch.autograd.gradcheck(pose, (turns, root, *values), fast_mode=True)


@pytest.mark.parametrize("kind", ["another name", "fewer coefficients", "fewer vertices"])
def test_another_body_is_refused(body: BodyModel, kind: str) -> None:
    leg, avatar = leg_avatar()
    if kind == "fewer coefficients":
        avatar = replace(avatar, betas=torch.zeros(2))
    elif kind == "fewer vertices":
        avatar = replace(avatar, anchors=torch.tensor([0, 1, 3]))
    with pytest.raises(FootfallError, match="load the body model that the avatar was made with"):
        avatar.posed(body if kind == "another name" else leg, identity_pose(), torch.eye(4))


# Blended rotations


def test_nearest_rotation_is_the_polar_factor() -> None:
    angle = torch.tensor([0.0, 0.5, 2.0, 3.0], dtype=torch.float64)  # 3 rad: singular values of 0.07
    axis = torch.nn.functional.normalize(torch.randn(4, 3, dtype=torch.float64), dim=-1)
    blend = 0.5 * (torch.eye(3, dtype=torch.float64) + matrix_from_rotvec(axis * angle[:, None]))
    half = matrix_from_rotvec(axis * angle[:, None] / 2)
    torch.testing.assert_close(nearest_rotation(blend), half, rtol=1e-6, atol=1e-6)
    several = torch.einsum(
        "nj,jab->nab", torch.rand(6, 5).double().softmax(-1), random_pose((), 0.7, torch.float64)[:5]
    )
    torch.testing.assert_close(nearest_rotation(several), roma.special_procrustes(several), **TOLERANCES[torch.float64])


def test_nearest_rotation_is_smooth_at_a_rotation_and_finite_everywhere() -> None:
    rotation = random_pose((), dtype=torch.float64)[:2].requires_grad_()
    assert torch.autograd.gradcheck(nearest_rotation, (rotation,))
    opposite = torch.diag(torch.tensor([1.0, 0.0, 0.0]))  # half of no turn and half of a turn by 180 degrees
    assert torch.isfinite(nearest_rotation(opposite)).all()


def test_quaternions_multiply_as_matrices_do() -> None:
    a, b = torch.randn(2, 5, 4)
    product = matrix_from_quat(quat_product(a, b))
    torch.testing.assert_close(product, matrix_from_quat(a) @ matrix_from_quat(b), **TOLERANCES[torch.float32])


# The start


def test_the_start_is_a_grey_skin(body: BodyModel) -> None:
    betas = torch.zeros(body.num_betas)
    avatar = make_avatar(body, betas)
    assert len(avatar) == body.num_vertices
    edges = mesh_edges(body.faces)
    length = (body.v_template[edges[:, 0]] - body.v_template[edges[:, 1]]).norm(dim=1)
    around = torch.zeros(body.num_vertices).index_add(0, edges.flatten(), length.repeat_interleave(2))
    half = 0.5 * around / torch.bincount(edges.flatten())
    assert ((avatar.scales[:, 0] / half).median() - 1).abs() < 0.1  # half the mean edge around each vertex
    outward = matrix_from_quat(avatar.quats)[..., 2]
    torch.testing.assert_close(outward, vertex_normals(body.v_template, body.faces), **TOLERANCES[torch.float32])
    assert (avatar.scales[:, 2] < avatar.scales[:, 0]).all()
    assert not avatar.offsets.any()
    assert (avatar.colors == 0.5).all()


@pytest.mark.parametrize(("anchors", "per_anchor"), [(None, 3), (800, 1), (400, 4)])
def test_any_number_of_gaussians_tiles_the_same_skin(body: BodyModel, anchors: int | None, per_anchor: int) -> None:
    betas = torch.zeros(body.num_betas)
    avatar = make_avatar(body, betas, anchors=anchors, per_anchor=per_anchor)
    assert len(avatar) == (anchors or body.num_vertices) * per_anchor
    tiled = (4 * avatar.scales[:, 0] * avatar.scales[:, 1] * 3**0.5 / 2).sum()
    surface = vertex_areas(body.v_template, body.faces).sum()
    torch.testing.assert_close(tiled, surface, rtol=1e-4, atol=0.0)
    torch.testing.assert_close(avatar.skinning.sum(1), torch.ones(len(avatar)), **TOLERANCES[torch.float32])
    shifted = avatar.offsets.reshape(-1, per_anchor, 3).norm(dim=-1) / avatar.scales[::per_anchor, :1]
    expected = torch.full_like(shifted, 2.0)
    expected[:, 0] = 0  # the first lies on the anchor, the others one spacing (two scales) away
    torch.testing.assert_close(shifted, expected, **TOLERANCES[torch.float32])


def test_neighbours_join_the_same_gaussian_of_adjacent_anchors(body: BodyModel) -> None:
    whole = make_avatar(body, torch.zeros(body.num_betas))
    assert torch.equal(whole.edges(body), mesh_edges(body.faces))
    thin = make_avatar(body, torch.zeros(body.num_betas), anchors=300, per_anchor=2)
    edges = thin.edges(body)
    assert ((edges[:, 0] - edges[:, 1]) % 2 == 0).all()
    assert torch.bincount(edges.flatten(), minlength=600).min() >= 1
    centres = thin.canonical(body).means
    assert (centres[edges[:, 0]] - centres[edges[:, 1]]).norm(dim=1).median() < 0.1


@pytest.mark.parametrize("wrong", [{"per_anchor": 0}, {"opacity": 1.0}, {"anchors": 10**6}])
def test_a_start_that_cannot_be(body: BodyModel, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"make_avatar|even_vertices"):
        make_avatar(body, torch.zeros(body.num_betas), **wrong)


# Files


def test_an_avatar_reads_back_as_written(tmp_path: Path) -> None:
    _, avatar = leg_avatar(dtype=torch.float64)
    save_avatar(tmp_path / "a.npz", avatar, {"clip": "drawn", "frames": 3})
    read, meta = load_avatar(tmp_path / "a.npz")
    assert meta == {"clip": "drawn", "frames": 3}
    assert read.body_model == "leg"
    for name, tensor in avatar.to(torch.float32).tensors().items():
        assert torch.equal(read.tensors()[name], tensor)


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("anchors", np.array([0.5, 1, 2]), "no vertices"),
        ("anchors", np.array([-1, 1, 2]), "no vertices"),
        ("scales", np.zeros((3, 3), np.float32), "out of range"),
        ("opacities", np.full(3, 1.5, np.float32), "out of range"),
        ("colors", np.full((3, 3), np.nan, np.float32), "not finite"),
        ("quats", np.zeros((3, 4), np.float32), "without length"),
        ("skinning", np.ones((3, 22), np.float32), "shape"),
        ("offsets", None, "no array 'offsets'"),
        ("format", None, "format"),
    ],
)
def test_a_file_that_is_no_avatar(tmp_path: Path, name: str, value: Any, word: str) -> None:
    save_avatar(tmp_path / "a.npz", leg_avatar()[1])
    arrays, meta = load_arrays(tmp_path / "a.npz")
    if name == "format":
        meta["format"] = "else"
    elif value is None:
        del arrays[name]
    else:
        arrays[name] = value
    save_arrays(tmp_path / "a.npz", arrays, meta)
    with pytest.raises(FootfallError, match=word):
        load_avatar(tmp_path / "a.npz")


# Motion


def moving(body: BodyModel, stature: float) -> Result:
    result = make_result(frames=5, people=2)
    result.motion.stature = np.full(2, stature)
    result.motion.present = np.array([[True, True], [True, False], [True, True], [True, True], [True, True]])
    return result


def test_its_own_motion_is_followed_exactly(body: BodyModel) -> None:
    avatar = make_avatar(body, torch.zeros(body.num_betas), anchors=40)
    result = moving(body, float(body.stature(avatar.betas)))
    frames = dict(animate(avatar, body, result, 1))
    assert sorted(frames) == [0, 2, 3, 4]
    for frame, gaussians in frames.items():
        pose = torch.from_numpy(result.motion.body_rot[frame, 1]).float()
        posed = avatar.posed(body, pose, torch.from_numpy(result.world_from_body[frame, 1]).float())
        torch.testing.assert_close(gaussians.means, posed.means, **TOLERANCES[torch.float32])


def test_a_child_takes_a_childs_steps() -> None:
    roots = torch.eye(4).repeat(2, 1, 1)
    roots[:, :3, 3] = torch.tensor([[1.0, 2.0, 0.9], [2.0, 2.0, 1.0]])
    on_ground = fitted_roots(roots, 0.5, ground=True)[:, :3, 3]
    torch.testing.assert_close(on_ground, torch.tensor([[1.0, 2.0, 0.45], [1.5, 2.0, 0.5]]))
    floating = fitted_roots(roots, 0.5, ground=False)[:, :3, 3]
    torch.testing.assert_close(floating, torch.tensor([[1.0, 2.0, 0.9], [1.5, 2.0, 0.95]]))
    assert len(fitted_roots(roots[:0], 0.5, ground=True)) == 0


def test_a_person_who_is_not_there(body: BodyModel) -> None:
    avatar = make_avatar(body, torch.zeros(body.num_betas), anchors=10)
    with pytest.raises(FootfallError, match="2 people"):
        next(animate(avatar, body, moving(body, 1.7), 2))
