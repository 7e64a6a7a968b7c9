"""The scene of a stream: moments are kept, size is bounded, and the order of the frames does not matter."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from distill.gaussian_map import GaussianMap, MapConfig
from distill.geometry.rotations import matrix_from_quat
from distill.render import Gaussians


def cloud(count: int, seed: int, *, spread: float = 1.0, size: float = 0.01) -> Gaussians:
    draw = torch.Generator().manual_seed(seed)
    return Gaussians(
        means=spread * torch.randn(count, 3, generator=draw), quats=torch.randn(count, 4, generator=draw),
        scales=size * (0.5 + torch.rand(count, 3, generator=draw)), opacities=torch.rand(count, generator=draw),
        colors=torch.rand(count, 3, generator=draw),
    )  # fmt: skip


def covariances(gaussians: Gaussians) -> Tensor:
    spread = matrix_from_quat(gaussians.quats) * gaussians.scales[:, None]
    return spread @ spread.transpose(1, 2)


def sorted_by_place(gaussians: Gaussians) -> Gaussians:
    return gaussians[(gaussians.means * torch.tensor([1.0, 17.0, 301.0])).sum(-1).argsort()]


def test_what_stays_alone_in_its_cell_stays_as_it_is() -> None:
    given = sorted_by_place(cloud(40, 0, spread=10.0))
    scene = GaussianMap(MapConfig(cell_m=0.05))
    scene.add(given, torch.rand(40) + 1)
    found = sorted_by_place(scene.gaussians())
    torch.testing.assert_close(found.means, given.means)
    torch.testing.assert_close(found.opacities, given.opacities)
    torch.testing.assert_close(found.colors, given.colors)
    torch.testing.assert_close(covariances(found), covariances(given), rtol=1e-3, atol=1e-9)


def test_two_in_a_cell_become_one_with_their_moments() -> None:
    pair = Gaussians(
        means=torch.tensor([[0.01, 0.02, 0.02], [0.03, 0.02, 0.02]]), quats=torch.tensor([[1.0, 0, 0, 0]] * 2),
        scales=torch.full((2, 3), 0.01), opacities=torch.tensor([0.5, 1.0]),
        colors=torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]),
    )  # fmt: skip
    scene = GaussianMap(MapConfig(cell_m=0.05))
    scene.add(pair[:1], torch.tensor([4.0]))  # weight 4 * 0.5 = 2
    scene.add(pair[1:], torch.tensor([2.0]))  # weight 2 * 1 = 2
    one = scene.gaussians()
    torch.testing.assert_close(one.means, torch.tensor([[0.02, 0.02, 0.02]]))
    torch.testing.assert_close(one.colors, torch.tensor([[0.5, 0.5, 0]]))
    torch.testing.assert_close(one.opacities, torch.tensor([4 / 6]))
    wanted = torch.diag(torch.tensor([1e-4 + 1e-4, 1e-4, 1e-4]))  # along x the two are apart
    torch.testing.assert_close(covariances(one)[0], wanted, rtol=1e-3, atol=1e-8)


def test_the_order_of_frames_does_not_matter() -> None:
    frames = [cloud(300, seed, spread=0.4, size=0.01 * (1 + seed)) for seed in range(3)]
    confidence = [1 + torch.rand(300) for _ in frames]
    found = []
    for order in itertools.permutations(range(3)):
        scene = GaussianMap(MapConfig(cell_m=0.02, most=150))
        for number in order:
            scene.add(frames[number], confidence[number])
        found.append((scene.level, sorted_by_place(scene.gaussians())))
    assert found[0][0] > 0  # some had to be merged
    for level, gaussians in found[1:]:
        assert level == found[0][0]
        torch.testing.assert_close(gaussians.means, found[0][1].means)
        torch.testing.assert_close(covariances(gaussians), covariances(found[0][1]), rtol=1e-3, atol=1e-8)


def test_one_large_frame_is_many_small_ones() -> None:
    every, confidence = cloud(900, 0, spread=0.4), 1 + torch.rand(900)
    whole, parts = GaussianMap(MapConfig(most=100)), GaussianMap(MapConfig(most=100))
    whole.add(every, confidence)
    for start in range(0, 900, 90):
        parts.add(every[start : start + 90], confidence[start : start + 90])
    assert whole.level == parts.level
    torch.testing.assert_close(sorted_by_place(whole.gaussians()).means, sorted_by_place(parts.gaussians()).means)


def test_memory_is_bounded_however_long_the_stream() -> None:
    scene = GaussianMap(MapConfig(cell_m=0.02, most=200))
    total = torch.zeros(4, dtype=torch.float64)
    for seed in range(12):
        frame = cloud(150, seed, spread=2.0 + seed)
        confidence = torch.ones(150)
        scene.add(frame, confidence)
        assert len(scene) <= 200
        weight = frame.opacities.double().clamp(min=1e-6)
        total += torch.cat(((weight[:, None] * frame.means).sum(0), weight.sum()[None]))
    drawn = scene._sums[:, 1:5]
    torch.testing.assert_close(torch.cat((drawn[:, 1:].sum(0), drawn[:, :1].sum(0))), total)  # nothing was lost


def test_sizes_of_different_levels_do_not_mix_until_they_must() -> None:
    fine, coarse = cloud(1, 0, spread=0.0, size=0.005), cloud(1, 0, spread=0.0, size=0.2)
    scene = GaussianMap(MapConfig(cell_m=0.02, most=10))
    scene.add(fine, torch.ones(1))
    scene.add(coarse, torch.ones(1))
    assert len(scene) == 2
    tight = GaussianMap(MapConfig(cell_m=0.02, most=1))
    tight.add(coarse, torch.ones(1))
    tight.add(fine, torch.ones(1))
    assert len(tight) == 1


def test_nothing_and_what_is_too_far_away() -> None:
    scene = GaussianMap(MapConfig(cell_m=0.02))
    assert len(scene.gaussians()) == 0
    scene.add(cloud(0, 0), torch.zeros(0))
    far = cloud(3, 1)
    far.means[1] = 1e5
    far.means[2] = torch.nan
    scene.add(far, torch.ones(3))
    assert len(scene) == 1
    for wrong in ({"cell_m": 0.0}, {"most": 0}):
        with pytest.raises(ValueError, match="gaussian map"):
            MapConfig(**wrong)
