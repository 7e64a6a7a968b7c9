"""Terms of the fuser: derivatives against differences, values worked by hand, linear algebra against the whole."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from distill.fuser import so3
from distill.fuser.observation import VARIANCE_PER_AXIS
from distill.fuser.robust import least_opposed, student_weight, whitening
from distill.fuser.scale import in_one_scale, smooth_log_scale
from distill.fuser.so3 import Array
from distill.fuser.solver import Part, assemble, factorise, marginalise, solve
from distill.fuser.terms import (
    Linear,
    Pose,
    constant_velocity,
    contact_stillness,
    no_motion,
    relative_motion,
    root_in_camera,
    slow_factor,
)
from distill.geometry.rotations import matrix_from_rotvec, right_jacobian_inverse, rotvec_from_matrix

RNG = np.random.default_rng(0)
COUNT = 5


def poses(spread: float = 0.5) -> Pose:
    return so3.exp(spread * RNG.standard_normal((COUNT, 3))), RNG.standard_normal((COUNT, 3))


def moved(pose: Pose, step: Array) -> Pose:
    return pose[0] @ so3.exp(step[:, :3]), pose[1] + so3.turn(pose[0], step[:, 3:])


def check(term: Callable[..., Linear], unknowns: list[Pose | Array], *rest: object) -> None:
    """Columns of the Jacobian, in the order of the unknowns, against central differences."""
    found = term(*unknowns, *rest)
    widths = [6 if isinstance(x, tuple) else x.reshape(COUNT, -1).shape[1] for x in unknowns]
    assert found.jacobian.shape == (COUNT, found.residual.shape[1], sum(widths))
    column, small = 0, 1e-6
    for k, (unknown, width) in enumerate(zip(unknowns, widths, strict=True)):
        for axis in range(width):
            ends = []
            for sign in (1, -1):
                step = np.zeros((COUNT, width))
                step[:, axis] = sign * small
                new = moved(unknown, step) if isinstance(unknown, tuple) else unknown + step.reshape(unknown.shape)
                ends.append(term(*unknowns[:k], new, *unknowns[k + 1 :], *rest).residual)
            difference = (ends[0] - ends[1]) / (2 * small)
            np.testing.assert_allclose(found.jacobian[:, :, column], difference, rtol=1e-5, atol=1e-6)
            column += 1


def test_derivatives_of_relative_motion() -> None:
    check(relative_motion, [poses(), poses()], poses())
    check(no_motion, [poses(), poses()])


def test_derivatives_of_the_root_in_the_camera() -> None:
    camera = poses()
    ahead = np.array([0.3, -0.2, 4.0]) + 0.3 * RNG.standard_normal((COUNT, 3))
    body = camera[0] @ poses()[0], camera[1] + so3.turn(camera[0], ahead)
    measured = poses()[0], np.array([0.0, 0.1, 4.2]) + 0.2 * RNG.standard_normal((COUNT, 3))
    check(lambda c, b, o: root_in_camera(c, b, o, measured), [camera, body, RNG.standard_normal(COUNT)])


def test_derivatives_of_a_standing_foot() -> None:
    def by_scale_last(body: Pose, foothold: Array, log_scale: Array) -> Linear:
        return contact_stillness(body, foothold, log_scale, feet)

    feet = RNG.standard_normal((COUNT, 3))
    check(by_scale_last, [poses(), RNG.standard_normal((COUNT, 3)), 0.2 * RNG.standard_normal(COUNT)])


def test_derivatives_of_acceleration_and_of_slow_factors() -> None:
    dt = RNG.uniform(0.03, 0.1, (COUNT, 2))
    check(lambda a, b, c: constant_velocity(a, b, c, dt), [(r, 0.1 * t) for r, t in (poses(0.1) for _ in range(3))])
    decay = RNG.uniform(0.9, 1, COUNT)
    check(lambda a, b: slow_factor(a, b, decay), [RNG.standard_normal(COUNT), RNG.standard_normal(COUNT)])


def one(rotvec: list[float], place: list[float]) -> Pose:
    return so3.exp(np.array([rotvec])), np.array([place])


def test_a_motion_by_hand() -> None:
    """From a camera turned a quarter about z, one metre along the world's y is one metre along its own x."""
    a, b = one([0, 0, np.pi / 2], [2, 0, 0]), one([0, 0, np.pi / 2 + 0.1], [2, 1, 0])
    term = relative_motion(a, b, one([0, 0, 0.03], [0.9, 0, 0]))
    np.testing.assert_allclose(term.residual, [[0, 0, 0.07, 0.1, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(no_motion(a, a).residual, np.zeros((1, 6)), atol=1e-12)


def test_a_root_by_hand() -> None:
    """5 m ahead where 4 m were seen, along the same ray: only the logarithm of the depth is off, less the offset."""
    here, seen = one([0, 0, 0], [0, 0, 0]), one([0, 0, 0], [0, 0, 4])
    term = root_in_camera(one([0, 0, 0], [0, 0, 1]), one([0, 0, 0], [0, 0, 6]), np.array([0.1]), seen)
    np.testing.assert_allclose(term.residual, [[0, 0, 0, 0, 0, np.log(5 / 4) + 0.1]], atol=1e-12)
    aside = root_in_camera(here, one([0, 0, 0], [3, 0, 4]), np.zeros(1), seen)
    assert np.linalg.norm(aside.residual[0, 3:5]) == pytest.approx(0.6)  # sine of the angle 3-4-5
    assert aside.residual[0, 5] == pytest.approx(0.0)


def test_a_standing_foot_by_hand() -> None:
    """In a world twice too big (s = log 2) a foothold two of its metres below the pelvis is one true metre below."""
    foothold, foot = np.array([[1.0, 0, 3]]), np.array([[0, -0.9, 0.0]])
    term = contact_stillness(one([0, 0, 0], [1, 2, 3]), foothold, np.log([2.0]), foot)
    np.testing.assert_allclose(term.residual, [[0, -0.1, 0]], atol=1e-12)


def test_a_steady_motion_has_no_acceleration() -> None:
    dt = np.array([[0.1, 0.2]])
    track = [one([0, 0.5 * t, 0], [1 * t, 0, 2 * t]) for t in (0.0, 0.1, 0.3)]
    np.testing.assert_allclose(constant_velocity(*track, dt).residual, np.zeros((1, 6)), atol=1e-12)
    faster = constant_velocity(track[0], track[1], one([0, 0.15, 0], [0.6, 0, 0.6]), dt).residual
    # velocities 1 and 2.5 m/s along x, mean time 0.15 s
    np.testing.assert_allclose(faster, [[0, 0, 0, 10, 0, 0]], atol=1e-9)
    np.testing.assert_allclose(slow_factor(np.array([0.2]), np.array([0.1]), np.array([0.9])).residual, [[-0.08]])


def test_rotations_agree_with_the_library_for_tensors() -> None:
    v = np.concatenate((RNG.standard_normal((50, 3)), 1e-7 * RNG.standard_normal((5, 3)), np.zeros((1, 3))))
    matrices = matrix_from_rotvec(torch.from_numpy(v))
    np.testing.assert_allclose(so3.exp(v), matrices, atol=1e-12)
    np.testing.assert_allclose(so3.log(so3.exp(v)), rotvec_from_matrix(matrices), atol=1e-9)
    inverse = right_jacobian_inverse(torch.from_numpy(v[:50]))
    np.testing.assert_allclose(so3.right_jacobian_inverse(v[:50]), inverse, atol=1e-9)
    np.testing.assert_allclose(so3.right_jacobian_inverse(v[50:]), np.tile(np.eye(3), (6, 1, 1)), atol=1e-6)


@pytest.mark.parametrize("angle", [np.pi, np.pi - 1e-7, np.pi - 1e-3])
def test_half_a_turn_keeps_its_axis(angle: float) -> None:
    axis = np.array([0.6, -0.8, 0.0])
    back = so3.exp(so3.log(so3.exp(angle * axis)))
    np.testing.assert_allclose(back, so3.exp(angle * axis), atol=1e-5)


def test_weights_by_hand() -> None:
    """With 5 degrees of freedom in 3 dimensions: 1 at the expected square 3, 8/105 at 10 standard deviations."""
    np.testing.assert_allclose(student_weight(np.array([3.0, 100.0]), 3, 5.0), [1.0, 8 / 105])
    by = whitening(np.array([[1.0, 1, 1, 20]]), np.array([[1.0, 1, 1, 4]]), (3, 1), 5.0)
    np.testing.assert_allclose(by**2, [[1, 1, 1, 6 / 105 / 4]])


def test_what_students_mean_by_a_variance() -> None:
    """The Laplace likelihood of |e| for Gaussian e is best at the stated multiple of the variance per axis."""
    draws = np.random.default_rng(1).standard_normal((400_000, 3))
    for dims, factor in VARIANCE_PER_AXIS.items():
        norm = np.linalg.norm(draws[:, :dims], axis=1).mean()
        log_var = np.linspace(-1, 3, 4001)
        likelihood = np.sqrt(2) * norm * np.exp(-0.5 * log_var) + 0.5 * log_var  # losses.laplace_nll
        assert np.exp(log_var[likelihood.argmin()]) == pytest.approx(factor, rel=0.01)


def random_parts(size: int) -> list[Part]:
    return [
        Part(np.stack([RNG.choice(size, k, replace=False) for _ in range(f)]), RNG.standard_normal((f, r)),
             RNG.standard_normal((f, r, k)))
        for f, r, k in ((9, 3, 4), (6, 2, 5))
    ]  # fmt: skip


def test_assembly_is_the_normal_equations_of_the_stacked_rows() -> None:
    parts, size = random_parts(11), 11
    rows, right = [], []
    for part in parts:
        for columns, residual, jacobian in zip(*part, strict=True):
            dense = np.zeros((len(residual), size))
            dense[:, columns] = jacobian
            rows.append(dense)
            right.append(residual)
    J, r = np.concatenate(rows), np.concatenate(right)
    H, g = assemble(parts, size)
    np.testing.assert_allclose(H, J.T @ J, atol=1e-12)
    np.testing.assert_allclose(g, J.T @ r, atol=1e-12)


def test_what_is_left_after_marginalisation_gives_the_same_solution_and_covariance() -> None:
    H, g = assemble(random_parts(11), 11)
    H += np.eye(11)
    whole = solve(factorise(H), -g)
    drop = np.isin(np.arange(11), (0, 3, 4, 8))
    reduced, slope = marginalise(H, g, drop)
    np.testing.assert_allclose(solve(factorise(reduced), -slope), whole[~drop], atol=1e-10)
    np.testing.assert_allclose(np.linalg.inv(reduced), np.linalg.inv(H)[~drop][:, ~drop], atol=1e-10)


def test_a_matrix_that_is_far_from_positive_is_refused() -> None:
    with pytest.raises(FloatingPointError, match="not positive"):
        factorise(-np.eye(3))


def test_a_first_guess_is_the_one_that_most_can_live_with() -> None:
    """Two agree within their deviations, one is two metres away, however sure it claims to be."""
    guesses = np.tile(np.eye(4), (3, 1, 1))
    guesses[0, 0, 3], guesses[2, 0, 3] = 2.0, 0.02
    variance = np.full((3, 6), 0.01**2)
    variance[0] = 0.001**2
    assert least_opposed(guesses, variance, 5.0) in (1, 2)
    assert least_opposed(guesses[:1], variance[:1], 5.0) == 0


def test_log_scales_are_averaged_by_certainty_and_time() -> None:
    """Half as sure counts a quarter; a time constant away counts 1/e."""
    found = smooth_log_scale(np.array([0.0, 0.2]), np.array([2.0, 1.0]), np.array([0.0, 3.0]), 3.0)
    decay = np.exp(-1)
    np.testing.assert_allclose(found, [0.2 * decay / (0.25 + decay), 0.2 / (0.25 * decay + 1)])


def test_a_clip_in_another_scale_is_that_clip_times_the_ratio() -> None:
    path = so3.rigid(so3.exp(RNG.standard_normal((6, 3))), np.cumsum(RNG.standard_normal((6, 3)), axis=0))
    inside = RNG.standard_normal((6, 2, 3))
    cameras, places = in_one_scale(path, inside, np.full(6, 0.3), np.full(6, 0.1))
    np.testing.assert_allclose(cameras[:, :3, 3] - path[0, :3, 3], np.exp(0.2) * (path[:, :3, 3] - path[0, :3, 3]))
    np.testing.assert_allclose(places, np.exp(0.2) * inside)
    uneven = RNG.uniform(-0.2, 0.2, 6)
    there, far = in_one_scale(path, inside, np.zeros(6), uneven)
    back, near = in_one_scale(there, far, uneven, np.zeros(6))
    np.testing.assert_allclose(back, path, atol=1e-12)
    np.testing.assert_allclose(near, inside, atol=1e-12)
