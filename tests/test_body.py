"""The body: skinning by hand, against smplx, under rigid motion; its sites, keypoints and stature."""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.body import BodyModel, load_body_model
from distill.body.model import BodyArrays, forward_kinematics
from distill.body.pieces import BodyPieces, keypoint_rows, site_rows
from distill.errors import FootfallError
from distill.geometry.conventions import CONTACT_SITES, KEYPOINTS, SMPL_JOINTS, SMPL_PARENTS
from distill.geometry.rotations import matrix_from_quat, matrix_from_rotvec
from distill.geometry.transforms import make_transform, transform_points
from tests.conftest import TOLERANCES

KNEE, ANKLE = SMPL_JOINTS.index("left_knee"), SMPL_JOINTS.index("left_ankle")


def random_pose(batch: tuple[int, ...], angle: float = 0.5, dtype: torch.dtype = torch.float32) -> Tensor:
    """Joint rotations [*batch, 23, 3, 3] of about `angle` radians."""
    half = torch.randn(*batch, 23, 3, dtype=dtype) * angle / 2
    return matrix_from_quat(torch.cat((torch.ones(*batch, 23, 1, dtype=dtype), half), -1))


def random_root(batch: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    return make_transform(matrix_from_quat(torch.randn(*batch, 4, dtype=dtype)), torch.randn(*batch, 3, dtype=dtype))


def identity_pose(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.eye(3, dtype=dtype).expand(23, 3, 3)


@pytest.fixture(scope="module")
def exact() -> BodyModel:
    """The free body in float64, its weights summing to 1 as exactly as that (the file holds float32)."""
    body = load_body_model("anny").double()
    body.weights /= body.weights.sum(-1, keepdim=True)
    body.keypoint_weights /= body.keypoint_weights.sum(-1, keepdim=True)
    return body


def leg_arrays() -> BodyArrays:
    """A body of three vertices whose left leg hangs straight down: knee 0.5 m, ankle 1 m below the pelvis."""
    joints = torch.zeros(24, 3)
    joints[KNEE:, 1] = -0.5
    joints[ANKLE:, 1] = -1.0
    weights = torch.zeros(3, 24)
    weights[0, 0], weights[1, KNEE] = 1, 1
    weights[2, 0] = weights[2, KNEE] = 0.5
    vertices = torch.tensor([[0.1, 0.0, 0.0], [0.0, -0.8, 0.0], [0.0, -0.5, 0.1]])
    return BodyArrays(
        name="leg", v_template=vertices, shapedirs=torch.zeros(3, 3, 1), weights=weights,
        faces=torch.tensor([[0, 1, 2]]), joint_template=joints, joint_shapedirs=torch.zeros(24, 3, 1),
        keypoint_ids=torch.zeros(23, 1, dtype=torch.long), keypoint_weights=torch.ones(23, 1),
    )  # fmt: skip


def test_a_bent_knee_by_hand() -> None:
    body = BodyModel(leg_arrays())
    pose = identity_pose().clone()
    pose[KNEE - 1] = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # 90 degrees about x: down becomes back
    out = body(torch.zeros(1), pose, torch.eye(4), body.all_vertices)
    assert out.vertices is not None
    expected = torch.tensor([
        [0.1, 0.0, 0.0],  # moves with the pelvis: stays
        [0.0, -0.5, -0.3],  # 0.3 m below the knee: 0.3 m behind it
        [0.0, -0.5 - 0.05, 0.05],  # half and half of (0, -0.5, 0.1) and of (0, -0.6, 0)
    ])  # fmt: skip
    torch.testing.assert_close(out.vertices, expected, **TOLERANCES[torch.float32])
    torch.testing.assert_close(out.joints[ANKLE], torch.tensor([0.0, -0.5, -0.5]), **TOLERANCES[torch.float32])


def test_pose_correctives_follow_the_rotations_entries() -> None:
    arrays = leg_arrays()
    arrays.posedirs = torch.zeros(3, 3, 207)
    arrays.posedirs[0, 2, 9 * (KNEE - 1) + 4] = 0.5  # entry (1, 1) of the knee moves vertex 0 along z
    pose = identity_pose().clone()
    pose[KNEE - 1] = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    out = BodyModel(arrays)(torch.zeros(1), pose, torch.eye(4), torch.tensor([0]))
    assert out.vertices is not None
    torch.testing.assert_close(out.vertices[0], torch.tensor([0.1, 0.0, 0.5 * (-1 - 1)]))


def test_kinematics_chain_rotations() -> None:
    rest = torch.randn(24, 3, dtype=torch.float64)
    pose = random_pose((), dtype=torch.float64)
    rotations, joints = forward_kinematics(rest, pose, torch.eye(4, dtype=torch.float64))
    for joint, parent in list(enumerate(SMPL_PARENTS))[1:]:
        torch.testing.assert_close(rotations[joint], rotations[parent] @ pose[joint - 1])
        bone = (rest[joint] - rest[parent]).norm()
        torch.testing.assert_close((joints[joint] - joints[parent]).norm(), bone)  # bones keep their length


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_some_vertices_equal_the_rows_of_all(dtype: torch.dtype) -> None:
    body = load_body_model("anny").to(dtype)
    batch = (2, 3)
    betas, pose, root = torch.randn(*batch, 10, dtype=dtype), random_pose(batch, dtype=dtype), random_root(batch, dtype)
    ids = torch.tensor([0, 7, 4000, body.num_vertices - 1])
    whole, some = body(betas, pose, root, body.all_vertices), body(betas, pose, root, ids)
    assert whole.vertices is not None and some.vertices is not None
    assert whole.vertices.dtype == dtype and whole.vertices.shape == (2, 3, body.num_vertices, 3)
    torch.testing.assert_close(some.vertices, whole.vertices[..., ids, :], **TOLERANCES[dtype])
    torch.testing.assert_close(some.joints, whole.joints, **TOLERANCES[dtype])
    assert body(betas, pose, root).vertices is None


def test_a_moved_root_moves_everything_rigidly(exact: BodyModel) -> None:
    betas, pose = torch.randn(10, dtype=torch.float64), random_pose((), dtype=torch.float64)
    eye, root = torch.eye(4, dtype=torch.float64), random_root((), torch.float64)
    for points in (exact.keypoints, exact.sites, lambda *a: exact(*a).joints):
        still, moved = points(betas, pose, eye), points(betas, pose, root)
        torch.testing.assert_close(moved, transform_points(root, still), **TOLERANCES[torch.float64])


def test_the_pelvis_is_the_origin_for_every_shape_and_pose(exact: BodyModel) -> None:
    betas, root = torch.randn(5, 10, dtype=torch.float64), random_root((5,), torch.float64)
    joints = exact(betas, random_pose((5,), dtype=torch.float64), root).joints
    torch.testing.assert_close(joints[:, 0], root[:, :3, 3], **TOLERANCES[torch.float64])


def test_gradients(exact: BodyModel) -> None:
    ids = torch.tensor([3, 9000])
    betas = torch.randn(10, dtype=torch.float64, requires_grad=True)
    quaternions = torch.randn(23, 4, dtype=torch.float64, requires_grad=True)
    place = torch.randn(3, dtype=torch.float64, requires_grad=True)

    def points(betas: Tensor, quaternions: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        root = make_transform(torch.eye(3, dtype=torch.float64), place)
        out = exact(betas, matrix_from_quat(quaternions), root, ids)
        assert out.vertices is not None
        return out.joints, out.vertices

    assert torch.autograd.gradcheck(points, (betas, quaternions, place), fast_mode=True)


def test_the_rest_pose_is_a_standing_t_pose(exact: BodyModel) -> None:
    joints = dict(zip(SMPL_JOINTS, exact.rest_joints(torch.zeros(10, dtype=torch.float64)), strict=True))
    assert joints["left_wrist"][0] > 0.5 and joints["right_wrist"][0] < -0.5  # x is the person's left
    assert joints["head"][1] > joints["pelvis"][1] > joints["left_knee"][1] > joints["left_ankle"][1]  # y is up
    assert joints["left_foot"][2] > joints["left_ankle"][2] + 0.05  # toes point along z
    for side in ("left", "right"):
        arm = joints[f"{side}_wrist"] - joints[f"{side}_shoulder"]
        assert abs(float(arm[0])) / float(arm.norm()) > math.cos(math.radians(5))


def test_statures_are_those_of_adults_and_grow_with_the_mesh(exact: BodyModel) -> None:
    generator = torch.Generator().manual_seed(1)
    betas = torch.randn(400, 10, generator=generator, dtype=torch.float64)
    statures = exact.stature(betas)
    assert 1.6 < float(statures.mean()) < 1.78 and 0.06 < float(statures.std()) < 0.14
    pose, root = identity_pose(torch.float64).expand(3, 23, 3, 3), torch.eye(4, dtype=torch.float64).expand(3, 4, 4)
    mesh = exact(betas[:3], pose, root, exact.all_vertices).vertices
    assert mesh is not None
    height = mesh[..., 1].amax(-1) - mesh[..., 1].amin(-1)
    # The ends are those of the mean body; another shape may have another highest hair by a few millimetres.
    torch.testing.assert_close(statures[:3], height, rtol=0, atol=5e-3)


def test_the_shape_prior_is_a_unit_normal(exact: BodyModel) -> None:
    mean, std = exact.shape_prior()
    assert mean.tolist() == [0.0] * exact.num_betas and std.tolist() == [1.0] * exact.num_betas


def test_keypoints_lie_near_the_joints_of_their_name(exact: BodyModel) -> None:
    betas, pose = torch.zeros(10, dtype=torch.float64), random_pose((), 0.3, torch.float64)
    root = random_root((), torch.float64)
    joints = dict(zip(SMPL_JOINTS, exact(betas, pose, root).joints, strict=True))
    keypoints = dict(zip(KEYPOINTS, exact.keypoints(betas, pose, root), strict=True))
    for name in set(SMPL_JOINTS) & set(KEYPOINTS):
        assert (keypoints[name] - joints[name]).norm() < 0.09, name
    assert (keypoints["nose"] - joints["head"]).norm() < 0.25
    assert (keypoints["left_big_toe"] - joints["left_foot"]).norm() < 0.15


def test_contact_sites_lie_on_the_sole_and_the_hand(exact: BodyModel) -> None:
    vertices, joints = exact.v_template, exact.joint_template
    floor = vertices[:, 1].min()
    for site in CONTACT_SITES:
        ids = exact.site_vertices[site]
        assert len(ids) > 0 and len(set(ids.tolist())) == len(ids)
        if "hand" in site:
            assert (vertices[ids] - joints[SMPL_JOINTS.index(site)]).norm(dim=-1).max() < 0.15
        else:
            assert (vertices[ids, 1] - floor).max() < 0.02, site  # within 2 cm of the lowest vertex
        side = 1 if site.startswith("left") else -1
        assert (vertices[ids, 0] * side > 0).all()
    heel, toe = (vertices[exact.site_vertices[f"left_{part}"], 2].mean() for part in ("heel", "toe"))
    assert 0.1 < float(toe - heel) < 0.3


def test_sites_are_the_means_of_their_vertices(exact: BodyModel) -> None:
    betas, pose = torch.randn(10, dtype=torch.float64), random_pose((), dtype=torch.float64)
    root = random_root((), torch.float64)
    mesh = exact(betas, pose, root, exact.all_vertices).vertices
    assert mesh is not None
    expected = torch.stack([mesh[exact.site_vertices[site]].mean(0) for site in CONTACT_SITES])
    torch.testing.assert_close(exact.sites(betas, pose, root), expected, **TOLERANCES[torch.float64])


def test_our_skinning_is_that_of_smplx(exact: BodyModel) -> None:
    smplx = pytest.importorskip("smplx", reason="the optional package smplx is the reference here")
    # smplx regresses joints from vertices, so every joint gets a vertex of its own, without any weight in the skin.
    joints, vertices = exact.joint_template, exact.v_template
    parents = np.array(SMPL_PARENTS)
    parents[0] = 0
    generator = torch.Generator().manual_seed(2)
    posedirs = torch.randn(len(vertices) + 24, 3, 207, generator=generator, dtype=torch.float64) * 1e-3
    skin = torch.cat((exact.weights, torch.eye(24, dtype=torch.float64)))
    data = smplx.utils.Struct(
        v_template=torch.cat((vertices, joints)).numpy(),
        shapedirs=torch.cat((exact.shapedirs, exact.joint_shapedirs)).numpy(),
        posedirs=posedirs.numpy(),
        J_regressor=torch.cat((torch.zeros(24, len(vertices)), torch.eye(24)), 1).numpy(),
        weights=skin.numpy(), kintree_table=np.stack((parents, np.arange(24))), f=exact.faces.numpy(),
    )  # fmt: skip
    reference = smplx.SMPL("unused", data_struct=data, dtype=torch.float64, batch_size=4)
    betas, pose = torch.randn(4, 10, dtype=torch.float64), random_pose((4,), dtype=torch.float64)
    root = random_root((4,), torch.float64)
    expected = reference(
        betas=betas, body_pose=pose, global_orient=root[:, None, :3, :3], transl=root[:, :3, 3], pose2rot=False
    )
    ours = copy.deepcopy(exact)
    ours.posedirs = posedirs[: len(vertices)]
    out = ours(betas, pose, root, ours.all_vertices)
    assert out.vertices is not None
    # The package rounds what it reads to float32, whatever dtype it is asked for.
    torch.testing.assert_close(out.joints, expected.joints[:, :24], **TOLERANCES[torch.float32])
    torch.testing.assert_close(out.vertices, expected.vertices[:, : len(vertices)], **TOLERANCES[torch.float32])


def test_sixty_frames_of_a_hundred_vertices_cost_little(body: BodyModel) -> None:
    ids = torch.arange(0, body.num_vertices, body.num_vertices // 100)[:100]
    batch = torch.zeros(60, 10), random_pose((60,)), random_root((60,))
    with torch.inference_mode():
        body(*batch, ids)
        started = time.process_time()
        for _ in range(5):
            body(*batch, ids)
    assert (time.process_time() - started) / 5 < 0.1  # milliseconds on an idle core; ten times that when shared


@pytest.mark.parametrize("spec", ["", "annie", "anny:file", "smpl", "smpl:", "smplx:/nowhere.npz", "smpl:/nowhere.pkl"])
def test_an_unknown_body_is_refused(spec: str) -> None:
    with pytest.raises(FootfallError):
        load_body_model(spec)


def test_the_shipped_file_is_small_and_has_its_notice() -> None:
    folder = Path(__file__).resolve().parent.parent / "distill" / "body" / "data"
    assert (folder / "anny24.npz").stat().st_size < 2_000_000
    notice = (folder / "NOTICE").read_text(encoding="utf-8")
    assert "Apache" in notice and "CC0" in notice


def test_the_shipped_body_agrees_with_the_one_made_for_the_facts(exact: BodyModel, shared_dir: Path) -> None:
    with np.load(shared_dir / "body" / "anny24_anny.npz", allow_pickle=False) as stored:
        other = {name: stored[name].astype(np.float64) for name in ("v_template", "J_template") if name in stored}
    assert len(other["v_template"]) == exact.num_vertices
    centred = other["J_template"] - other["J_template"][0]
    # Another sample of adults gives another mean body: centimetres apart, not decimetres.
    assert np.abs(centred - exact.joint_template.numpy()).max() < 0.04
    height = np.ptp(other["v_template"][:, 1])
    assert abs(height - float(exact.stature(torch.zeros(10, dtype=torch.float64)))) < 0.04


def test_pieces_are_joints_keypoints_and_sites_with_exact_derivatives(body: BodyModel) -> None:
    generator = torch.Generator().manual_seed(3)
    betas = torch.randn(2, body.num_betas, generator=generator, dtype=torch.float64)
    turns = 0.4 * torch.randn(4, 2, 24, 3, generator=generator, dtype=torch.float64)
    place = torch.randn(4, 2, 3, generator=generator, dtype=torch.float64)
    pieces = BodyPieces(body, [*keypoint_rows(body), *site_rows(body)], with_joints=True)

    def points(amount: Tensor, shape: Tensor) -> Tensor:
        """All rotations turned on the right by `amount` [24, 3]."""
        rotation = matrix_from_rotvec(turns) @ matrix_from_rotvec(amount)
        return pieces.points(betas + shape, rotation[..., 1:, :, :], make_transform(rotation[..., 0, :, :], place))

    zero, no_shape = torch.zeros(24, 3).double(), torch.zeros(body.num_betas).double()
    rotation = matrix_from_rotvec(turns)
    pose = make_transform(rotation[..., 0, :, :], place)
    single = betas.float().expand(4, 2, -1), rotation[..., 1:, :, :].float(), pose.float()
    expected = torch.cat((body(*single).joints, body.keypoints(*single), body.sites(*single)), -2)
    torch.testing.assert_close(points(zero, no_shape).float(), expected, **TOLERANCES[torch.float32])
    at = pieces.linearise(betas, rotation[..., 1:, :, :], pose)
    torch.testing.assert_close(at.points, points(zero, no_shape))
    by_turn, by_shape = torch.autograd.functional.jacobian(points, (zero, no_shape))
    own_axes = (at.by_turn @ at.rotations[..., None, :, :, :]).movedim(-3, -2)  # [T, P, K, 3, 24, 3]
    torch.testing.assert_close(own_axes, by_turn)
    torch.testing.assert_close(at.by_shape, by_shape)
