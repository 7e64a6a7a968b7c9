"""Witnesses of scale: each alone on a case worked by hand, and what is made of several."""

from __future__ import annotations

import math

import pytest
import torch

from teacher.optimise.scale import Witness, combine, depth_witness, spread, still_witness, weighted_quantile


def test_weighted_quantile() -> None:
    values = torch.tensor([3.0, 1.0, 2.0])
    assert weighted_quantile(values, torch.tensor([1.0, 1.0, 1.0])) == 2
    assert weighted_quantile(values, torch.tensor([10.0, 1.0, 1.0])) == 3
    assert weighted_quantile(values, torch.ones(3), 0.9) == 3
    assert spread(values, torch.tensor(2.0), torch.ones(3)) == 1


def test_depth_tells_the_scale_through_outliers() -> None:
    scene = torch.linspace(2, 5, 60)
    site = 3.0 * scene
    site[::7] = 40.0  # contacts that were none
    witness = depth_witness(site, scene, torch.ones(60))
    assert witness is not None
    assert math.exp(witness.log_scale) == pytest.approx(3.0, rel=1e-4)
    assert witness.sd == pytest.approx(0.05, abs=1e-3)  # the floor: the others agree exactly


def test_depth_that_agrees_on_nothing_is_no_witness() -> None:
    scene = torch.tensor([0.05, 90.0] * 15)
    assert depth_witness(torch.full((30,), 3.0), scene, torch.ones(30)) is None
    assert depth_witness(torch.ones(30), torch.ones(30), torch.zeros(30)) is None


def travelling(scale: float, noise: float) -> tuple[torch.Tensor, ...]:
    """A foot that stands at (0, 0, 5) while a turning camera moves 1 unit a second to the right."""
    frames = 31
    angle = torch.linspace(0, 0.3, frames)
    rotation = torch.eye(3).repeat(frames, 1, 1)
    rotation[:, 0, 0], rotation[:, 0, 2] = angle.cos(), angle.sin()
    rotation[:, 2, 0], rotation[:, 2, 2] = -angle.sin(), angle.cos()
    centre = torch.zeros(frames, 3)
    centre[:, 0] = torch.linspace(0, 1, frames)
    foot = torch.tensor([0.0, 0.0, 5.0]) + noise * torch.randn(frames, 1, 6, 3)
    sites = torch.einsum("tji,tpsj->tpsi", rotation, foot - scale * centre[:, None, None])
    return sites, rotation, centre, torch.ones(frames, 1, 6), torch.full((frames - 1,), 1 / 30)


def test_standing_feet_tell_the_scale_of_a_travelling_camera() -> None:
    exact = still_witness(*travelling(2.5, 0.0))
    assert exact is not None
    assert math.exp(exact.log_scale) == pytest.approx(2.5, rel=1e-4)
    noisy = still_witness(*travelling(2.5, 0.05))
    assert noisy is not None
    assert abs(noisy.log_scale - math.log(2.5)) < 3 * noisy.sd
    assert noisy.sd > exact.sd


def test_a_camera_that_does_not_travel_is_no_witness() -> None:
    sites, rotation, centre, weight, dt = travelling(2.5e-4, 0.02)
    assert still_witness(sites, rotation, centre, weight, dt) is None
    assert still_witness(sites, rotation, centre, 0 * weight, dt) is None
    assert still_witness(sites[:3], rotation[:3], centre[:3], weight[:3], dt[:2]) is None


def test_agreeing_witnesses_are_averaged_by_certainty() -> None:
    both, names = combine({"depth": Witness(log_scale=0.0, sd=0.1), "still": Witness(log_scale=0.1, sd=0.2)})
    assert both is not None
    assert both.log_scale == pytest.approx(0.02)  # weights 100 and 25
    assert both.sd == pytest.approx(125**-0.5)
    assert names == "depth+still"


def test_of_witnesses_that_contradict_the_surer_one_is_taken() -> None:
    best, names = combine({"depth": Witness(log_scale=3.0, sd=0.5), "still": Witness(log_scale=0.1, sd=0.1)})
    assert best == Witness(log_scale=pytest.approx(0.1), sd=pytest.approx(0.1))
    assert names == "still"
    assert combine({"depth": None, "still": None}) == (None, "")
