"""Rotations, transforms, cameras and alignment: round trips, compositions, hand-worked values, gradients."""

import math

import pytest
import torch
from torch import Tensor

from distill.geometry import alignment, cameras, rotations, transforms
from tests.conftest import TOLERANCES

DTYPES = [torch.float32, torch.float64]
WIDE = (640, 480)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, **TOLERANCES[actual.dtype])


def random_rotation(*batch: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return rotations.matrix_from_quat(torch.randn(*batch, 4, dtype=dtype))


def random_rigid(*batch: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return transforms.make_transform(random_rotation(*batch, dtype=dtype), torch.randn(*batch, 3, dtype=dtype))


def make_K(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor([[500.0, 0.0, 311.0], [0.0, 520.0, 244.0], [0.0, 0.0, 1.0]], dtype=dtype)


def points_in_front(count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    points = torch.randn(count, 3, dtype=dtype)
    return torch.cat((points[:, :2], points[:, 2:].abs() + 1.0), dim=-1)


# Rotations


def test_quaternion_is_the_matrix_of_the_conventions() -> None:
    w, x, y, z = 0.5, -0.1, 0.7, 0.5  # norm 1
    expected = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    quat = torch.tensor([w, x, y, z], dtype=torch.float64)
    close(rotations.matrix_from_quat(quat), torch.tensor(expected, dtype=torch.float64))
    close(rotations.matrix_from_quat(3 * quat), rotations.matrix_from_quat(quat))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rotation_round_trips(dtype: torch.dtype) -> None:
    matrix = random_rotation(5, 7, dtype=dtype)
    quat = rotations.quat_from_matrix(matrix)
    assert (quat[..., 0] >= 0).all()
    close(quat.norm(dim=-1), torch.ones(5, 7, dtype=dtype))
    close(rotations.matrix_from_quat(quat), matrix)
    close(rotations.matrix_from_sixd(rotations.sixd_from_matrix(matrix)), matrix)
    close(rotations.matrix_from_rotvec(rotations.rotvec_from_matrix(matrix)), matrix)
    close(matrix @ matrix.transpose(-1, -2), torch.eye(3, dtype=dtype).expand(5, 7, 3, 3))
    close(torch.linalg.det(matrix), torch.ones(5, 7, dtype=dtype))


def test_half_turns_survive_the_round_trip() -> None:
    """The angle where the axis is only known up to its sign."""
    matrix = torch.diag_embed(torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64))
    close(rotations.matrix_from_quat(rotations.quat_from_matrix(matrix)), matrix)
    rotvec = rotations.rotvec_from_matrix(matrix)
    close(rotvec.norm(dim=-1), torch.full((3,), math.pi, dtype=torch.float64))
    close(rotations.matrix_from_rotvec(rotvec), matrix)


def test_rotvec_of_a_quarter_turn() -> None:
    """About z, x goes to y."""
    matrix = rotations.matrix_from_rotvec(torch.tensor([0.0, 0.0, math.pi / 2], dtype=torch.float64))
    close(matrix @ torch.tensor([1.0, 0, 0], dtype=torch.float64), torch.tensor([0.0, 1, 0], dtype=torch.float64))


def test_sixd_is_the_first_two_rows_and_forgives_their_length() -> None:
    matrix = random_rotation()
    sixd = rotations.sixd_from_matrix(matrix)
    assert torch.equal(sixd, torch.cat((matrix[0], matrix[1])))
    skewed = torch.cat((2 * matrix[0], 0.3 * matrix[1] + 0.9 * matrix[0]))
    close(rotations.matrix_from_sixd(skewed), matrix)


@pytest.mark.parametrize(
    "function", [rotations.matrix_from_quat, rotations.matrix_from_sixd, rotations.matrix_from_rotvec]
)
def test_gradients_of_rotations(function: object) -> None:
    size = {"matrix_from_quat": 4, "matrix_from_sixd": 6, "matrix_from_rotvec": 3}[function.__name__]
    inputs = torch.randn(3, size, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, inputs)


def test_gradient_of_rotvec_at_rest_is_finite() -> None:
    rotvec = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    rotations.matrix_from_rotvec(rotvec)[:, 0, 1].sum().backward()
    assert rotvec.grad is not None
    close(rotvec.grad, torch.tensor([[0.0, 0, -1]] * 2, dtype=torch.float64))


def test_angle_and_slerp() -> None:
    a = random_rotation(4)
    step = rotations.matrix_from_rotvec(torch.tensor([0.6, 0.0, 0.0], dtype=torch.float64))
    b = a @ step
    close(rotations.rotation_angle(a, b), torch.full((4,), 0.6, dtype=torch.float64))
    third = rotations.slerp(a, b, torch.full((4,), 1 / 3, dtype=torch.float64))
    close(rotations.rotation_angle(a, third), torch.full((4,), 0.2, dtype=torch.float64))
    close(rotations.slerp(a, b, torch.ones(4, dtype=torch.float64)), b)


# Transforms


@pytest.mark.parametrize("dtype", DTYPES)
def test_invert_and_compose(dtype: torch.dtype) -> None:
    a_from_b, b_from_c = random_rigid(6, dtype=dtype), random_rigid(6, dtype=dtype)
    points = torch.randn(6, 9, 3, dtype=dtype)
    close(transforms.invert(a_from_b) @ a_from_b, torch.eye(4, dtype=dtype).expand(6, 4, 4))
    stepwise = transforms.transform_points(a_from_b, transforms.transform_points(b_from_c, points))
    close(transforms.transform_points(a_from_b @ b_from_c, points), stepwise)


def test_transform_by_hand() -> None:
    """A camera 2 m above the world's origin that looks along world x sees a point 3 m ahead of it at depth 3."""
    axes = torch.tensor([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # columns: right, down, forward
    world_from_cam = transforms.make_transform(axes, torch.tensor([0.0, 0.0, 2.0]))
    point = transforms.transform_points(transforms.invert(world_from_cam), torch.tensor([[3.0, 0.0, 0.0]]))
    close(point, torch.tensor([[0.0, 2.0, 3.0]]))


def test_make_transform_broadcasts() -> None:
    made = transforms.make_transform(random_rotation(), torch.randn(5, 2, 3, dtype=torch.float64))
    assert made.shape == (5, 2, 4, 4)
    close(made[..., 3, :], torch.tensor([0.0, 0, 0, 1], dtype=torch.float64).expand(5, 2, 4))


def test_stored_form_round_trip() -> None:
    rigid = random_rigid(8)
    close(transforms.from_quat_trans(*transforms.to_quat_trans(rigid)), rigid)


def test_interpolate_missing() -> None:
    rigid = random_rigid(6)
    valid = torch.tensor([False, True, False, False, True, False])
    filled = transforms.interpolate_missing(rigid, valid)
    close(filled[[0, 1, 4, 5]], rigid[[1, 1, 4, 4]])  # kept, or the nearest repeated at the ends
    turn = rotations.rotation_angle(rigid[1, :3, :3], rigid[4, :3, :3])
    close(rotations.rotation_angle(rigid[1, :3, :3], filled[2, :3, :3]), turn / 3)
    close(filled[3, :3, 3], rigid[1, :3, 3] + 2 / 3 * (rigid[4, :3, 3] - rigid[1, :3, 3]))
    with pytest.raises(ValueError, match="no valid transform"):
        transforms.interpolate_missing(rigid, torch.zeros(6, dtype=torch.bool))


def test_similarity_scales_then_turns_then_moves() -> None:
    rotation, translation = random_rotation(), torch.randn(3, dtype=torch.float64)
    points = torch.randn(4, 3, dtype=torch.float64)
    moved = transforms.transform_points(
        transforms.make_sim3(torch.tensor(2.5, dtype=torch.float64), rotation, translation), points
    )
    close(moved, 2.5 * points @ rotation.T + translation)


# Cameras


def test_projection_by_hand() -> None:
    points = torch.tensor([[1.0, -2.0, 4.0], [0.0, 0.0, 5.0]], dtype=torch.float64)
    expected = torch.tensor([[311 + 500 / 4, 244 - 520 / 2], [311.0, 244.0]], dtype=torch.float64)
    close(cameras.project(points, make_K()), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_unproject_undoes_project(dtype: torch.dtype) -> None:
    points, K = points_in_front(50, dtype), make_K(dtype)
    close(cameras.unproject(cameras.project(points, K), points[:, 2], K), points)


def test_gradients_of_projection() -> None:
    K = make_K().requires_grad_()
    points = points_in_front(4).requires_grad_()
    assert torch.autograd.gradcheck(cameras.project, (points, K))
    assert torch.autograd.gradcheck(lambda p, d, k: cameras.unproject(100 * p, d, k), (points[:, :2], points[:, 2], K))


def test_points_behind_the_camera_stay_finite() -> None:
    points = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, -3.0]], requires_grad=True)
    pixels = cameras.project(points, make_K(torch.float32))
    pixels.sum().backward()
    assert torch.isfinite(pixels).all()
    assert points.grad is not None
    assert torch.isfinite(points.grad).all()


def test_resize_moves_pixels_as_it_moves_the_image() -> None:
    """The image's corners stay its corners, so every pixel is scaled about (0, 0)."""
    points, small = points_in_front(20), (224, 120)
    pixels = cameras.project(points, make_K())
    resized = cameras.project(points, cameras.resize_intrinsics(make_K(), WIDE, small))
    close(resized, pixels * torch.tensor([224 / 640, 120 / 480], dtype=torch.float64))
    depth = points[:, 2]
    close(cameras.unproject(resized, depth, cameras.resize_intrinsics(make_K(), WIDE, small)), points)


def test_resize_of_an_image_agrees_with_resize_of_intrinsics() -> None:
    """Halving by averaging 2x2 pixels: the mean of the four centres is the centre of the new pixel."""
    grid = cameras.pixel_grid((8, 6)).permute(2, 0, 1)[None]
    halved = torch.nn.functional.avg_pool2d(grid, 2)[0].permute(1, 2, 0)
    K = make_K(torch.float32)
    rays = cameras.unproject(halved, torch.ones(3, 4), K)
    K_half = cameras.resize_intrinsics(K, (8, 6), (4, 3))
    close(cameras.unproject(cameras.pixel_grid((4, 3)), torch.ones(3, 4), K_half), rays)


def test_crop_moves_pixels_by_its_corner() -> None:
    points = points_in_front(20)
    cropped = cameras.project(points, cameras.crop_intrinsics(make_K(), 17.0, 5.5))
    close(cropped, cameras.project(points, make_K()) - torch.tensor([17.0, 5.5], dtype=torch.float64))


def test_integer_centres_are_half_a_pixel_away_and_back() -> None:
    points = points_in_front(20)
    theirs = cameras.intrinsics_to_integer_centres(make_K())
    close(cameras.project(points, theirs), cameras.project(points, make_K()) - 0.5)
    close(cameras.intrinsics_from_integer_centres(theirs), make_K())


def test_pixel_grid_starts_at_half() -> None:
    grid = cameras.pixel_grid((3, 2))
    assert grid.shape == (2, 3, 2)
    assert grid[0, 0].tolist() == [0.5, 0.5]
    assert grid[1, 2].tolist() == [2.5, 1.5]


def test_intrinsics_look_at_the_middle() -> None:
    K = cameras.make_intrinsics(torch.tensor([500.0, 600.0]), WIDE)
    assert K.shape == (2, 3, 3)
    assert K[1].tolist() == [[600.0, 0.0, 320.0], [0.0, 600.0, 240.0], [0.0, 0.0, 1.0]]


# Alignment


@pytest.mark.parametrize("with_scale", [True, False])
def test_alignment_recovers_a_known_similarity(with_scale: bool) -> None:
    source = torch.randn(4, 30, 3, dtype=torch.float64)
    scale = torch.rand(4, dtype=torch.float64) + 0.5 if with_scale else torch.ones(4, dtype=torch.float64)
    rotation, translation = random_rotation(4), torch.randn(4, 3, dtype=torch.float64)
    target = transforms.transform_points(transforms.make_sim3(scale, rotation, translation), source)
    found = alignment.align_points(target, source, with_scale=with_scale)
    for got, truth in zip(found, (scale, rotation, translation), strict=True):
        close(got, truth)


def test_alignment_of_noisy_points_moves_with_them() -> None:
    """Turning and moving the target turns and moves the answer: nothing depends on the choice of axes."""
    source, target = torch.randn(2, 25, 3, dtype=torch.float64)
    extra = random_rigid()
    s0, r0, t0 = alignment.align_points(target, source, with_scale=True)
    s1, r1, t1 = alignment.align_points(transforms.transform_points(extra, target), source, with_scale=True)
    close(s1, s0)
    close(transforms.make_sim3(s1, r1, t1), extra @ transforms.make_sim3(s0, r0, t0))


def test_alignment_is_the_least_squares_answer() -> None:
    source, target = torch.randn(2, 25, 3, dtype=torch.float64)
    weights = torch.rand(25, dtype=torch.float64)

    def cost(scale: Tensor, rotation: Tensor, translation: Tensor) -> Tensor:
        moved = transforms.transform_points(transforms.make_sim3(scale, rotation, translation), source)
        return (weights * (moved - target).square().sum(-1)).sum()

    scale, rotation, translation = alignment.align_points(target, source, with_scale=True, weights=weights)
    best = cost(scale, rotation, translation)
    for _ in range(20):
        nudge = rotations.matrix_from_rotvec(0.05 * torch.randn(3, dtype=torch.float64))
        moved = translation + 0.05 * torch.randn(3, dtype=torch.float64)
        assert cost(scale * (1 + 0.05 * torch.randn(1, dtype=torch.float64)[0]), nudge @ rotation, moved) > best


def test_alignment_ignores_points_of_no_weight() -> None:
    source = torch.randn(20, 3, dtype=torch.float64)
    rotation = random_rotation()
    target = source @ rotation.T
    target[15:] = 100.0
    weights = torch.cat((torch.ones(15), torch.zeros(5))).double()
    _, found, _ = alignment.align_points(target, source, with_scale=True, weights=weights)
    close(found, rotation)


def test_alignment_never_mirrors() -> None:
    source = torch.randn(30, 3, dtype=torch.float64)
    mirrored = source * torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    _, rotation, _ = alignment.align_points(mirrored, source, with_scale=True)
    close(torch.linalg.det(rotation), torch.tensor(1.0, dtype=torch.float64))


def test_alignment_of_flat_points_is_still_a_rotation() -> None:
    """Footsteps lie in a plane; their covariance has rank 2."""
    source = torch.randn(30, 3, dtype=torch.float64)
    source[:, 2] = 0.0
    rotation, translation = random_rotation(), torch.randn(3, dtype=torch.float64)
    _, found, moved = alignment.align_points(source @ rotation.T + translation, source, with_scale=True)
    close(found, rotation)
    close(moved, translation)


def test_alignment_refuses_what_has_no_answer() -> None:
    points = torch.randn(5, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="coincide"):
        alignment.align_points(points, torch.ones(5, 3, dtype=torch.float64), with_scale=True)
    with pytest.raises(ValueError, match="not finite"):
        alignment.align_points(points, torch.full((5, 3), float("nan"), dtype=torch.float64), with_scale=False)
    with pytest.raises(ValueError, match="differ"):
        alignment.align_points(points, points[:4], with_scale=False)


def test_gradient_of_alignment() -> None:
    source, target = torch.randn(2, 6, 3, dtype=torch.float64)
    source.requires_grad_()

    def residual(moving: Tensor) -> Tensor:
        sim3 = transforms.make_sim3(*alignment.align_points(target, moving, with_scale=True))
        return transforms.transform_points(sim3, moving) - target

    assert torch.autograd.gradcheck(residual, source)
