"""Terms of the student's objective: hand-worked values, zero at the truth, gradients, and the masking."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from distill.geometry.rotations import matrix_from_rotvec
from distill.geometry.transforms import make_transform
from distill.losses import (
    SMOOTH,
    Loss,
    Term,
    composition_error,
    contact_divergence,
    direction_error,
    joints_error,
    laplace_nll,
    log_depth_error,
    reprojection_error,
    rotation_error,
    scene_scale_error,
    smooth_norm,
    translation_error,
)
from distill.models.trajectory_head import LOG_VAR_FLOOR
from distill.pointmap_task import confident_regression, scene_distance

D = torch.float64
K = torch.tensor([[100.0, 0, 50], [0, 100.0, 40], [0, 0, 1]], dtype=D)


def points(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=D)


def close(value: Tensor, wanted: float | list[float], *, atol: float = 2 * SMOOTH) -> None:
    """Smoothing lowers each norm by at most `SMOOTH`."""
    torch.testing.assert_close(value, torch.tensor(wanted, dtype=D).expand_as(value), rtol=0, atol=atol)


def test_distances_by_hand() -> None:
    close(translation_error(points((1, 2, 3)), points((1, 5, 7))), 5.0)
    close(log_depth_error(points((9, 9, 4 * math.e)), points((0, 0, 4))), 1.0)
    close(direction_error(points((2, 0, 2)), points((0, 0, 7))), 2 * math.sin(math.pi / 8))
    quarter = matrix_from_rotvec(points((0, math.pi / 2, 0)))
    close(rotation_error(quarter, torch.eye(3, dtype=D)[None]), 2 * math.sin(math.pi / 4))
    close(rotation_error(matrix_from_rotvec(points((0.1, 0, 0))), torch.eye(3, dtype=D)[None]), 0.1)


def test_joints_are_compared_pelvis_on_pelvis() -> None:
    target = points((0, 0, 4), (0, 1, 4), (1, 0, 4))
    close(joints_error(target + points((5, 6, 7)), target), 0.0)
    moved = target + points((0, 0, 0), (0.3, 0, 0.4), (0, 0, 0))
    close(joints_error(moved, target), [0.0, 0.5, 0.0])


def test_reprojection_is_relative_to_the_box() -> None:
    predicted, target = points((0.2, 0, 4), (0, 0, 4)), points((0, 0, 4), (0, 0, 4))
    box = torch.tensor([0.0, 10, 20, 60], dtype=D)  # 50 pixels high; 0.2 m at 4 m and f = 100 are 5 pixels
    close(reprojection_error(predicted, target, K, box), [0.1, 0.0])
    behind = reprojection_error(points((1, 1, -3), (0, 0, 0)), target, K, box)
    assert behind.isfinite().all()


def test_contacts_diverge_from_labels_by_hand() -> None:
    probability = torch.tensor([0.25, 1.0, 0.5], dtype=D)
    logit = torch.tensor([math.log(1 / 3), 0.0, 0.0], dtype=D)  # 0.25, 0.5, 0.5
    torch.testing.assert_close(
        contact_divergence(logit, probability), torch.tensor([0, math.log(2), 0], dtype=D), rtol=0, atol=1e-4
    )


def test_composition_of_two_steps_by_hand() -> None:
    step = make_transform(matrix_from_rotvec(points((0, 0, math.pi / 2))), points((1, 0, 0)))[0]
    twice = make_transform(matrix_from_rotvec(points((0, 0, math.pi))), points((1, 1, 0)))[0]
    close(composition_error(step, step, twice), [0.0, 0.0])
    drifted = make_transform(twice[:3, :3], twice[:3, 3] + points((0, 0, 0.5))[0])
    close(composition_error(step, step, drifted), [0.0, 0.5])


def test_uncertainty_costs_least_when_it_is_true() -> None:
    log_var = torch.linspace(LOG_VAR_FLOOR, 4, 2001, dtype=D)
    for error in (0.02, 0.3, 2.0):
        values = laplace_nll(torch.tensor(error, dtype=D), log_var)
        assert (values >= 0).all()
        # d/ds [sqrt2 e exp(-s/2) + s/2] = 0 at sigma = sqrt2 e: the scale b of the Laplace law equals the error.
        assert float((log_var[values.argmin()] / 2).exp()) == pytest.approx(math.sqrt(2) * error, rel=0.01)


def test_scene_scale_by_hand() -> None:
    # All points at half the depth of the joint: log 2 with scale 1, zero with scale 2.
    scene = torch.zeros(1, 80, 100, 3, dtype=D)
    scene[..., 2] = 2.0
    joints = torch.tensor([[[[0.0, 0, 4], [9.0, 0, 4], [0, 0, -4]]]], dtype=D)  # seen, outside, behind
    for scale, wanted in ((1.0, math.log(2)), (2.0, 0.0)):
        error, counts = scene_scale_error(torch.tensor([math.log(scale)], dtype=D), scene, joints, K[None])
        assert counts.tolist() == [[[True, False, False]]]
        close(error[0, 0, 0], wanted)


def test_scene_scale_reads_the_pixel_under_the_joint() -> None:
    scene = torch.ones(1, 80, 100, 3, dtype=D)
    scene[0, 30, 70, 2] = 8.0  # pixel (70.5, 30.5)
    joint = torch.tensor([(70.5 - 50) / 100, (30.5 - 40) / 100, 1.0], dtype=D) * 8
    error, counts = scene_scale_error(torch.zeros(1, dtype=D), scene, joint[None, None, None], K[None])
    assert counts.all()
    close(error[0, 0, 0], 0.0)


TERMS: dict[str, Callable[..., Tensor]] = {
    "translation": lambda x: translation_error(x, points((1, 2, 3), (0, 1, 4))),
    "rotation": lambda x: rotation_error(matrix_from_rotvec(x), torch.eye(3, dtype=D)),
    "direction": lambda x: direction_error(x, points((1, 2, 3), (0, 1, 4))),
    "log_depth": lambda x: log_depth_error(x, points((1, 2, 3), (0, 1, 4))),
    "joints": lambda x: joints_error(x, points((1, 2, 3), (0, 1, 4))),
    "reprojection": lambda x: reprojection_error(x, points((1, 2, 3), (0, 1, 4)), K, torch.tensor([0.0, 0, 9, 30])),
    "contact": lambda x: contact_divergence(x, torch.full((2, 3), 0.3, dtype=D)),
    "composition": lambda x: composition_error(
        make_transform(matrix_from_rotvec(x[0]), x[1]), torch.eye(4, dtype=D), torch.eye(4, dtype=D)
    ),
    "nll": lambda x: laplace_nll(x.square(), x),
    "scene_scale": lambda x: scene_scale_error(
        x[0], torch.ones(3, 4, 4, 3, dtype=D), torch.ones(3, 1, 2, 3, dtype=D) * 3, K.expand(3, 3, 3)
    )[0],
    "pointmap": lambda x: confident_regression(x, 1 + x[:, 0].exp(), points((1, 2, 3), (0, 1, 4)), torch.ones(2)),
}


@pytest.mark.parametrize("name", sorted(TERMS))
def test_gradients(name: str) -> None:
    x = points((0.3, -0.4, 2.0), (0.5, 0.7, 3.0)).requires_grad_()
    assert torch.autograd.gradcheck(TERMS[name], (x,))


@pytest.mark.parametrize("name", ["translation", "log_depth", "joints", "direction", "reprojection"])
def test_truth_costs_nothing_and_has_a_finite_gradient(name: str) -> None:
    x = points((1, 2, 3), (0, 1, 4)).requires_grad_()
    value = TERMS[name](x)
    close(value, 0.0, atol=1e-12)
    value.sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_smooth_norm_is_below_the_norm_by_no_more_than_its_scale() -> None:
    x = torch.randn(100, 3, dtype=D) * torch.logspace(-6, 2, 100, dtype=D)[:, None]
    gap = x.norm(dim=-1) - smooth_norm(x)
    assert (gap >= 0).all() and (gap <= SMOOTH).all()


def test_a_term_is_averaged_over_what_counts() -> None:
    values = torch.tensor([[1.0, 3.0], [5.0, math.nan]], requires_grad=True)
    term = Term(values, torch.tensor([[True, True], [True, False]]))
    assert float(term.mean().detach()) == pytest.approx(3.0)
    term.mean().backward()
    torch.testing.assert_close(values.grad, torch.tensor([[1, 1], [1, 0]]) / 3)
    assert float(Term(values.detach()[:1], torch.tensor([0.25])).mean()) == pytest.approx(2.0)  # per row
    assert float(Term(values.detach(), torch.zeros(2)).mean()) == 0.0


def test_losses_are_weighted_and_zero_weights_left_out() -> None:
    terms = {name: Term(torch.full((2,), 3.0), torch.ones(2)) for name in ("a", "b", "c")}
    losses = Loss({"a": 2.0, "b": 0.0, "absent": 1.0})(terms)
    assert losses.keys() == {"a"} and float(losses["a"]) == 6.0


def test_confident_regression_by_hand() -> None:
    # |X - X*| = 2 m, scale 4 m, C = e: e * 0.5 - 0.2 * 1.
    value = confident_regression(
        points((0, 0, 3)), torch.tensor([math.e], dtype=D), points((0, 0, 5)), torch.tensor(4.0)
    )
    torch.testing.assert_close(value, torch.tensor([math.e / 2 - 0.2], dtype=D))
    valid = torch.zeros(1, 2, 1, 2, dtype=torch.bool)
    valid[0, 0, 0, 0] = valid[0, 1, 0, 1] = True
    scene = torch.tensor([3.0, 9, 9, 5]).reshape(1, 2, 1, 2, 1) * torch.tensor([0, 0.6, 0.8])
    torch.testing.assert_close(scene_distance(scene, valid), torch.tensor([4.0]))
