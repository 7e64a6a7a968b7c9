"""MASt3R-SfM in our own code against the numbers of the published one, and against truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.geometry.alignment import align_points
from teacher.initialisers.mast3r_sfm.alignment import AlignConfig, Alignment, Pair, align
from teacher.initialisers.mast3r_sfm.canonical import Canonical, canonical_view, weiszfeld_focal
from teacher.initialisers.mast3r_sfm.matching import Decoded, Matches, match_pair, reciprocal_neighbours
from teacher.initialisers.mast3r_sfm.tree import Tree, spanning_tree, ward_tree
from teacher.optimise.robust import rho

VIEWS = 5


class Case:
    """The five views of `parity/mast3r/ga`."""

    def __init__(self, folder: Path) -> None:
        self.given: dict[str, Any] = dict(np.load(folder / "inputs.npz"))
        self.expected: dict[str, Any] = dict(np.load(folder / "outputs.npz"))

    def tensor(self, key: str) -> Tensor:
        return torch.from_numpy(self.given[key])

    def view(self, image: int) -> Canonical:
        others = [k for k in range(VIEWS) if k != image]
        names = [
            f"pair_{image}_{k}" if f"pair_{image}_{k}/pts3d_11" in self.given else f"pair_{k}_{image}" for k in others
        ]
        ends = ["11" if name.startswith(f"pair_{image}_") else "22" for name in names]
        points = [self.tensor(f"{name}/pts3d_{end}") for name, end in zip(names, ends, strict=True)]
        return canonical_view(
            points, [self.tensor(f"{name}/conf_{end}") for name, end in zip(names, ends, strict=True)]
        )

    def pairs(self) -> list[Pair]:
        ordered = [(i, j) for i in range(VIEWS) for j in range(VIEWS) if i != j]
        matches = {
            pair: Matches(**{
                name: torch.from_numpy(self.expected[f"corres_{pair[0]}_{pair[1]}/{key}"])
                for name, key in (("first", "xy1"), ("second", "xy2"), ("confidence", "conf"))
            })
            for pair in ordered
        }  # fmt: skip
        return [Pair(first=i, second=j, matches=matches[i, j]) for i, j in ordered]

    def tree(self, run: str) -> Tree:
        return int(self.expected[f"{run}/mst_root"]), [(a, b) for a, b in self.expected[f"{run}/mst_edges"].tolist()]


@pytest.fixture(scope="module")
def case() -> Case:
    folder = Path(__file__).resolve().parents[2] / "shared" / "parity" / "mast3r" / "ga"
    if not folder.is_dir():
        pytest.skip(f"no {folder}: parity numbers of the published code are not here")
    return Case(folder)


def test_robust_function(case: Case) -> None:
    distance = torch.from_numpy(case.expected["gamma/d"])
    for gamma in (0.4, 0.5, 1.1, 1.5):
        np.testing.assert_allclose(rho(distance, gamma), case.expected[f"gamma/{gamma}"], atol=2e-6)


@pytest.mark.parametrize("stride", [4, 8])
def test_reciprocal_neighbours(case: Case, stride: int) -> None:
    found = reciprocal_neighbours(case.tensor("pair_1_0/desc_11"), case.tensor("pair_1_0/desc_21"), stride)
    for flat, key in zip(found, ("xy1", "xy2"), strict=True):
        xy = torch.stack((flat % 64, flat // 64), -1)
        np.testing.assert_array_equal(xy, case.expected[f"fastnn_S{stride}/{key}"])


def test_matches_of_a_pair(case: Case) -> None:
    def decoded(first: str, second: str) -> Decoded:
        return Decoded(
            first=case.tensor(f"pair_1_0/desc_{first}"), second=case.tensor(f"pair_1_0/desc_{second}"),
            first_confidence=case.tensor(f"pair_1_0/desc_conf_{first}"),
            second_confidence=case.tensor(f"pair_1_0/desc_conf_{second}"),
        )  # fmt: skip

    found = match_pair([decoded("11", "21"), decoded("12", "22")])
    np.testing.assert_array_equal(found.first, case.expected["corres_1_0/xy1"])
    np.testing.assert_array_equal(found.second, case.expected["corres_1_0/xy2"])
    np.testing.assert_allclose(found.confidence, case.expected["corres_1_0/conf"], rtol=1e-5)
    np.testing.assert_array_equal(found.swapped().first, case.expected["corres_0_1/xy1"])


@pytest.mark.parametrize("image", range(VIEWS))
def test_canonical_views(case: Case, image: int) -> None:
    view = case.view(image)
    np.testing.assert_allclose(view.points, case.expected[f"canon_{image}/pts3d"], atol=1e-5)
    np.testing.assert_allclose(view.confidence, case.expected[f"canon_{image}/conf"], atol=1e-5)
    np.testing.assert_allclose(view.ratio, case.expected[f"canon_{image}/rel_depth"], atol=1e-5)
    np.testing.assert_allclose(view.focal, case.expected[f"canon_{image}/focal"], rtol=1e-6)
    np.testing.assert_allclose(view.anchors, case.expected["condensed/core_depth"][image], atol=1e-5)


def test_trees(case: Case) -> None:
    matches = case.expected["condensed/pairwise_scores"]
    assert spanning_tree(matches) == case.tree("mst")
    assert ward_tree(matches, np.full(VIEWS, 48)) == case.tree("default")


RUNS = {
    "default": AlignConfig(),
    "josh_like": AlignConfig(
        rates=(0.07, 0.014), steps=(500, 200), gammas=(1.1, 0.4), free_centre=False, free_depth=False, least_match=0.0
    ),
}


@pytest.fixture(scope="module", params=[pytest.param("default", marks=pytest.mark.slow), "josh_like"])
def run(request: pytest.FixtureRequest, case: Case) -> tuple[str, Alignment]:
    views = [case.view(image) for image in range(VIEWS)]
    return request.param, align(views, case.pairs(), case.tree(request.param), RUNS[request.param])


def test_alignment_takes_the_published_way(case: Case, run: tuple[str, Alignment]) -> None:
    """The first losses are those of the published code; the last ones agree as far as rounding lets Adam agree."""
    name, found = run
    expected = case.expected[f"{name}/losses"]
    np.testing.assert_allclose(found.losses[:10], expected[:10], rtol=1e-5)
    np.testing.assert_allclose(found.losses, expected, rtol=5e-2)
    np.testing.assert_allclose(found.losses[-1], expected[-1], rtol=1e-3)
    for stage, solved in (("coarse", found.coarse), ("fine", found.fine)):
        np.testing.assert_allclose(solved.K, case.expected[f"{name}/{stage}/intrinsics"], rtol=1e-2, atol=0.1)
        anchors = torch.stack(solved.anchors)
        np.testing.assert_allclose(anchors, case.expected[f"{name}/{stage}/depthmaps"], rtol=5e-3)
        # The whole world may turn: nothing in the losses holds it, and Adam follows rounding.
        pose = torch.from_numpy(case.expected[f"{name}/{stage}/cam2w"])
        ours = torch.linalg.inv(solved.world_from_cam[0]) @ solved.world_from_cam
        np.testing.assert_allclose(ours, torch.linalg.inv(pose[0]) @ pose, atol=5e-3)


def test_cameras_are_those_of_the_truth(case: Case, run: tuple[str, Alignment]) -> None:
    truth = case.tensor("gt_cam2w").double()[:, :3, 3]
    solved = run[1].fine.world_from_cam.double()[:, :3, 3]
    scale, rotation, shift = align_points(truth, solved, with_scale=True)
    error = (truth - scale * solved @ rotation.T - shift).norm(dim=-1)
    assert error.max() < 0.1 * (truth - truth.mean(0)).norm(dim=-1).max()


def test_one_shared_focal_length_is_one_parameter(case: Case) -> None:
    views = [case.view(image) for image in range(VIEWS)]
    few = AlignConfig(steps=(3, 3), shared_focal=True)
    found = align(views, case.pairs(), case.tree("mst"), few)
    focal = found.fine.K[:, 0, 0]
    assert torch.equal(focal, focal[:1].expand(VIEWS))
    # Two steps of one parameter at that rate, not of five copies of it (facts: the published code counts it N times).
    assert abs(float((focal[0] / found.coarse.K[0, 0, 0]).log())) < 2.5 * few.rates[1]


def test_matches_without_confidence_are_dropped() -> None:
    generator = torch.Generator().manual_seed(0)
    descriptors = torch.nn.functional.normalize(torch.randn(16, 24, 12, generator=generator), dim=-1)
    quality = torch.ones(16, 24)
    quality[:, 12:] = 0  # a person on the right half
    same = Decoded(first=descriptors, second=descriptors, first_confidence=quality, second_confidence=quality)
    found = match_pair([same], stride=2, least_confidence=1e-3)
    assert torch.equal(found.first, found.second)
    assert int(found.first[:, 0].max()) < 12
    assert len(match_pair([same], stride=2).first) > len(found.first)


def test_focal_length_of_a_known_pointmap() -> None:
    x, y = np.meshgrid(np.arange(64.0), np.arange(48.0))
    depth = 2 + 0.5 * np.sin(x / 9) + 0.3 * np.cos(y / 7)
    points = np.stack(((x - 32) / 70 * depth, (y - 24) / 70 * depth, depth), -1)
    points[:4, :4] += 3  # outliers
    assert weiszfeld_focal(torch.from_numpy(points)) == pytest.approx(70, rel=1e-3)
