"""Every term of the joint objective: a value worked by hand, and its gradient against finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from distill.geometry.rotations import matrix_from_rotvec
from teacher.optimise import terms
from teacher.optimise.config import TermWeights
from teacher.optimise.objective import TERMS, certainty, reduce
from teacher.optimise.robust import rho, rho_slope, smoothed
from tests.conftest import TOLERANCES

EXACT = TOLERANCES[torch.float64]
K = torch.tensor([[100.0, 0, 50], [0, 100, 40], [0, 0, 1]], dtype=torch.float64)
HALF = torch.tensor([0.5, 0.5], dtype=torch.float64)
"""Two steps of half a second."""


def vec(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_rho_has_the_published_values_and_unit_slope_at_zero() -> None:
    # facts/josh.md 2.2: gamma 1.1 -> rho(0.1) = 0.101, rho(1) = 1.081, rho(5) = 6.02; gamma 0.4 -> 0.089, 0.539
    torch.testing.assert_close(rho(vec(0, 0.1, 1, 5), 1.1), vec(0, 0.101, 1.081, 6.02), rtol=0, atol=5e-3)
    torch.testing.assert_close(rho(vec(0.1, 1, 20), 0.4), vec(0.089, 0.539, 2.79), rtol=0, atol=5e-3)
    for gamma in (0.4, 1.1):
        at_zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        rho(at_zero, gamma).sum().backward()
        torch.testing.assert_close(at_zero.grad, vec(1.0), **EXACT)


def test_smoothed_lengths_are_round_at_zero_and_true_far_away() -> None:
    x = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    smoothed(x, 0.1).sum().backward()
    assert torch.equal(x.grad, torch.zeros(2, 3, dtype=torch.float64))
    torch.testing.assert_close(smoothed(vec(3, 4)[None], 0.0), vec(5), **EXACT)
    torch.testing.assert_close(smoothed(vec(3, 4)[None], 12.0), vec(13), **EXACT)


def test_slope_of_rho_is_its_derivative() -> None:
    distance = vec(0.0, 0.3, 4.0).requires_grad_()
    for gamma in (0.4, 1.1):
        (derivative,) = torch.autograd.grad(rho(distance, gamma).sum(), distance)
        torch.testing.assert_close(rho_slope(distance.detach(), gamma), derivative, **EXACT)


def test_scene_3d_is_the_difference_of_the_points_in_units_of_the_scale() -> None:
    points = torch.stack((vec(1, 2, 3), vec(4, 6, 3)))
    residual = terms.scene_3d(points, torch.tensor([1]), torch.tensor([0]), torch.tensor(2.0, dtype=torch.float64))
    torch.testing.assert_close(residual, vec(1.5, 2, 0)[None], **EXACT)


def test_scene_3d_is_indifferent_to_the_scale_of_the_world() -> None:
    points = torch.randn(6, 3, dtype=torch.float64)
    a, b = torch.tensor([0, 1, 2]), torch.tensor([3, 4, 5])
    one = terms.scene_3d(points, a, b, torch.ones((), dtype=torch.float64))
    torch.testing.assert_close(one, terms.scene_3d(0.3 * points, a, b, vec(0.3)), **EXACT)


def test_scene_2d_projects_each_point_into_the_other_view() -> None:
    # Observation 0: camera at the origin. Observation 1: camera one metre to the right, both look along z.
    points = torch.stack((vec(0, 0, 4), vec(0.5, 0, 4)))
    px = torch.stack((vec(50, 40), vec(30, 40)))
    rotation = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    centre = torch.stack((vec(0, 0, 0), vec(1, 0, 0)))
    residual = terms.scene_2d(points, px, (rotation, centre), K, (torch.tensor([0]), torch.tensor([1])))
    # Point 0 is seen by camera 1 at x = 50 + 100 * (0 - 1) / 4 = 25: p - pi = 30 - 25.
    # Point 1 is seen by camera 0 at x = 50 + 100 * 0.5 / 4 = 62.5: 50 - 62.5.
    torch.testing.assert_close(residual, torch.stack((vec(5, 0), vec(-12.5, 0))), **EXACT)


def test_contact_align_is_the_vector_from_the_scene_to_the_site() -> None:
    # Pixel (70, 20) at depth 5: x = 5 * 20 / 100 = 1, y = 5 * -20 / 100 = -1.
    residual = terms.contact_align(vec(1, -1, 5.5), vec(70, 20), torch.tensor(5.0, dtype=torch.float64), K)
    torch.testing.assert_close(residual, vec(0, 0, 0.5), **EXACT)


def test_contact_still_is_the_displacement_over_the_reference_time() -> None:
    sites = torch.zeros(3, 1, 6, 3, dtype=torch.float64)
    sites[1:, 0, 2] = vec(0.2, 0, 0)
    residual = terms.contact_still(sites, HALF)
    assert residual.shape == (2, 1, 6, 3)
    # 0.2 m in 0.5 s is 0.4 m/s, or 0.04 m in a tenth of a second.
    torch.testing.assert_close(residual[0, 0, 2], vec(0.04, 0, 0), **EXACT)
    assert residual[1].abs().max() == 0


def test_ground_plane_is_the_signed_height() -> None:
    residual = terms.ground_plane(vec(3, 0, 0.7)[None], vec(0, 0, 1), torch.tensor(0.5, dtype=torch.float64))
    torch.testing.assert_close(residual, vec(0.2)[None], **EXACT)


def test_ground_up_is_the_chord_between_the_directions() -> None:
    tilted = vec(math.sin(0.01), 0, math.cos(0.01))
    torch.testing.assert_close(
        smoothed(terms.ground_up(tilted, vec(0, 0, 1)), 0.0), torch.tensor(2 * math.sin(0.005)).double(), **EXACT
    )


@pytest.mark.parametrize(("depth", "expected"), [(5.3, 0.3), (4.9, 0.0)])
def test_penetration_counts_only_what_lies_behind_the_surface(depth: float, expected: float) -> None:
    site = vec(0, 0, depth)
    surface = vec(50, 40), torch.tensor(5.0, dtype=torch.float64)
    residual = terms.penetration(site, surface, vec(0, 0, -1), K)
    torch.testing.assert_close(residual, vec(expected), **EXACT)


@pytest.mark.parametrize(("height", "expected"), [(-0.1, 0.1), (0.3, 0.0)])
def test_plane_penetration_counts_only_what_lies_below(height: float, expected: float) -> None:
    residual = terms.plane_penetration(vec(0, 0, height)[None], vec(0, 0, 1), torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(residual, vec(expected)[None], **EXACT)


def test_priors_are_the_differences_from_the_initial_values() -> None:
    torch.testing.assert_close(terms.prior_position(vec(1, 2, 3), vec(0, 2, 5)), vec(1, 0, -2), **EXACT)
    torch.testing.assert_close(terms.prior_shape(vec(1, -1), vec(0.5, 0)), vec(0.5, -1), **EXACT)
    torch.testing.assert_close(terms.prior_rotation(vec(0, 0.3, 0)), vec(0, 0.3, 0), **EXACT)
    assert terms.prior_pose(torch.zeros(4, 2, 23, 3)).shape == (4, 2, 69)
    torch.testing.assert_close(terms.stature_prior(vec(1.89), 1.69, 0.1), vec(2.0)[None], **EXACT)
    torch.testing.assert_close(terms.log_prior(vec(0.3), 0.15), vec(2.0)[None], **EXACT)


def test_smooth_is_the_acceleration_over_the_reference_time() -> None:
    times = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    fall = 0.5 * 9.81 * times.square()
    joints = fall[:, None, None, None] * vec(0, 0, -1).expand(3, 1, 24, 3)
    torch.testing.assert_close(terms.smooth(joints, HALF), vec(0, 0, -0.0981).expand(1, 1, 24, 3), **EXACT)


def test_smooth_is_zero_for_steady_motion_at_uneven_times() -> None:
    times = vec(0, 0.1, 0.4, 0.5)
    joints = times[:, None, None, None] * vec(1, 2, 3).expand(4, 2, 24, 3)
    torch.testing.assert_close(terms.smooth(joints, times.diff()), torch.zeros(2, 2, 24, 3).double(), **EXACT)


def test_camera_smooth_sees_turns_and_shifts() -> None:
    rotation = matrix_from_rotvec(torch.stack((vec(0, 0, 0), vec(0, 0, 0), vec(0, 0.5, 0))))
    centre = torch.stack((vec(0, 0, 0), vec(1, 0, 0), vec(2, 0, 0)))
    residual = terms.camera_smooth(rotation, centre, HALF, pivot=4.0)
    # Turning speed goes from 0 to 1 rad/s within 0.5 s: 2 rad/s2 * 0.01 s2 * 4 m. The shift is steady.
    torch.testing.assert_close(residual, vec(0, 0, 0, 0, 0.08, 0)[None], **EXACT)


def test_keypoints_2d_are_metres_at_the_body() -> None:
    keypoints = torch.zeros(1, 1, 23, 3, dtype=torch.float64)
    keypoints[..., 2] = 5.0
    target = torch.tensor([50.0, 40.0], dtype=torch.float64).expand(1, 1, 23, 2).clone()
    target[0, 0, 4] = vec(46, 40)
    residual = terms.keypoints_2d(keypoints, K, target, vec(0.05)[None])
    torch.testing.assert_close(residual[0, 0, 4], vec(0.2, 0), **EXACT)  # 4 px, each 5 cm
    assert residual[0, 0, :4].abs().max() == 0


def test_scale_tie_holds_values_and_steps() -> None:
    residual = terms.scale_tie(vec(0, 0.03), 0.03, 0.003)
    torch.testing.assert_close(residual, vec(0, 1, 10)[:, None], **EXACT)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def _gradient_cases() -> dict[str, Callable[[], tuple[Callable[..., Tensor], tuple[Tensor, ...]]]]:
    index = torch.tensor([0, 1]), torch.tensor([2, 3])
    rotation = matrix_from_rotvec(0.2 * random(4, 3))
    away = vec(0, 0, 6)
    return {
        "scene_3d": lambda: (lambda x, s: terms.scene_3d(x, *index, s), (random(4, 3), vec(0.7))),
        "scene_2d": lambda: (
            lambda x, c, k: terms.scene_2d(x, random(4, 2) * 0 + 50, (rotation, c), k, index),
            (random(4, 3) + away, 0.1 * random(4, 3), K.clone()),
        ),
        "contact_align": lambda: (terms.contact_align, (random(2, 3) + away, 40 + random(2, 2), 5 + vec(0.1, 0.2), K)),
        "contact_still": lambda: (lambda x: terms.contact_still(x, HALF), (random(3, 2, 6, 3),)),
        "ground_plane": lambda: (terms.ground_plane, (random(4, 3), random(3), vec(0.1))),
        "ground_up": lambda: (terms.ground_up, (random(3), random(3))),
        "penetration": lambda: (
            lambda x, d: terms.penetration(x, (vec(50, 40), d), vec(0, 0, -1), K),
            (vec(0.1, 0.2, 5.4), torch.tensor(5.0, dtype=torch.float64)),
        ),
        "plane_penetration": lambda: (terms.plane_penetration, (vec(0, 0, -0.3)[None], vec(0, 0.1, 1), vec(0.1))),
        "prior_rotation": lambda: (terms.prior_rotation, (random(2, 3),)),
        "prior_pose": lambda: (terms.prior_pose, (random(2, 23, 3),)),
        "prior_position": lambda: (terms.prior_position, (random(2, 3), random(2, 3))),
        "prior_shape": lambda: (terms.prior_shape, (random(1, 10), random(1, 10))),
        "stature_prior": lambda: (lambda x: terms.stature_prior(x, 1.7, 0.1), (vec(1.6, 1.9),)),
        "smooth": lambda: (lambda x: terms.smooth(x, HALF), (random(3, 1, 24, 3),)),
        "camera_smooth": lambda: (
            lambda w, c: terms.camera_smooth(matrix_from_rotvec(w), c, HALF, 5.0),
            (0.3 * random(3, 3), random(3, 3)),
        ),
        "keypoints_2d": lambda: (
            lambda x, k: terms.keypoints_2d(x, k, torch.zeros(1, 2, 23, 2).double(), vec(0.01, 0.02)[None]),
            (random(1, 2, 23, 3) + away, K.clone()),
        ),
        "scale_tie": lambda: (lambda x: terms.scale_tie(x, 0.03, 0.003), (random(4),)),
        "log_prior": lambda: (lambda x: terms.log_prior(x, 0.1), (vec(0.3),)),
    }


@pytest.mark.parametrize("name", sorted(_gradient_cases()))
def test_gradient(name: str) -> None:
    term, inputs = _gradient_cases()[name]()
    # Through rho as well, as the solve sees it.
    robust = lambda *x: rho(smoothed(term(*x), 0.01), 0.4)  # noqa: E731
    assert torch.autograd.gradcheck(robust, tuple(x.detach().clone().requires_grad_() for x in inputs))


def test_every_public_term_is_checked_and_used() -> None:
    public = {n for n, f in vars(terms).items() if callable(f) and getattr(f, "__module__", "") == terms.__name__}
    apart = {"flat_feet", "people_apart"}  # in tests of their own
    assert {n for n in public if not n.startswith("_")} == set(_gradient_cases()) | apart
    assert {term.name for term in TERMS} == set(vars(TermWeights()))


def test_reduce_is_the_weighted_mean_and_zero_without_weight() -> None:
    residual = torch.stack((vec(3, 4), vec(0, 0), vec(0, 1)))
    expected = (rho(vec(5.0), 1.1) + 3 * rho(vec(1.0), 1.1)) / 6
    torch.testing.assert_close(reduce(residual, vec(1, 2, 3), 1.1, 0.0), expected[0], **EXACT)
    assert reduce(residual, vec(0, 0, 0), 1.1, 0.0) == 0


def test_an_uncertain_contact_has_no_weight() -> None:
    torch.testing.assert_close(certainty(vec(0.2, 0.5, 0.75, 1)), vec(0, 0, 0.5, 1), **EXACT)


def test_flat_feet_compare_heights_along_the_normal() -> None:
    heel, toe, up = vec(0, 0, 0.03), vec(0.2, 0, 0.01), vec(0, 0, 1)
    torch.testing.assert_close(terms.flat_feet(heel, toe, up), vec(0.02), **EXACT)
    slope = vec(-math.sin(0.1), 0, math.cos(0.1))  # toes up the slope: flat on it
    foot = 0.2 * vec(math.cos(0.1), 0, math.sin(0.1))
    torch.testing.assert_close(terms.flat_feet(vec(0, 0, 0), foot, slope), vec(0.0), **EXACT)
    inputs = tuple(torch.randn(3, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda a, b: terms.flat_feet(a, b, up), inputs)


def test_people_overlap_by_what_their_spheres_share() -> None:
    radius = vec(0.2, 0.1)
    joints = torch.zeros(1, 2, 2, 3, dtype=torch.float64)
    joints[0, 0, 1, 2] = joints[0, 1, 1, 2] = 1.0
    joints[0, 1, :, 0] = 0.25  # a quarter of a metre beside: the large spheres overlap by 0.15, the small ones do not
    overlap = terms.people_apart(joints, radius).reshape(2, 2, 2, 2)  # p, q, i, j
    torch.testing.assert_close(overlap[0, 1], torch.tensor([[0.15, 0.0], [0.0, 0.0]]).double(), **EXACT)
    torch.testing.assert_close(overlap[1, 0], overlap[0, 1].T, **EXACT)
    moving = joints.clone().requires_grad_()
    terms.people_apart(moving, radius).reshape(2, 2, 2, 2)[0, 1].sum().backward()
    torch.testing.assert_close(moving.grad[0, 0, 0], vec(1, 0, 0), **EXACT)  # away from the other
    assert torch.equal(moving.grad[0, 1], torch.zeros(2, 3).double())  # who moves in the twin row
