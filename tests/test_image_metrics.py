"""Rendered frames against real ones: conventions by hand, NeuMan's split, LPIPS against its own package."""

from __future__ import annotations

import math
from collections import OrderedDict
from pathlib import Path

import lpips as package
import numpy as np
import pytest
import torch

from distill.errors import FootfallError
from distill.metrics.lpips import BACKBONE, HEADS, AlexLpips, load_lpips
from distill.metrics.renders import crop_box, frames_of, mean_scores, neuman_split, score_frame

RNG = np.random.default_rng(5)


def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A frame of 40 x 60, a rendering that is 0.1 off on a person of 20 x 15 and 0.2 elsewhere, and the mask."""
    target = RNG.random((40, 60, 3)) * 0.5
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:35] = True
    return target, target + np.where(mask, 0.1, 0.2)[..., None], mask


def decibels(error: float) -> float:
    return -10 * math.log10(error)


# Conventions


def test_each_convention_looks_where_it_says() -> None:
    target, rendered, mask = scene()
    values = score_frame(target, rendered, mask).values
    share = 300 / 2400
    assert values["full"]["psnr"] == pytest.approx(decibels(share * 0.01 + (1 - share) * 0.04))
    assert values["crop"]["psnr"] == pytest.approx(decibels(0.01))  # the box is the mask here
    assert values["white"]["psnr"] == pytest.approx(decibels(0.01 * share))
    assert values["masked"]["psnr"] == pytest.approx(decibels(0.01 * share))
    gap = values["white"]["psnr"] - values["crop"]["psnr"]
    assert gap == pytest.approx(10 * math.log10(2400 / 300))  # frame over box


def test_the_crop_holds_its_background() -> None:
    target, rendered, mask = scene()
    mask[:, 27:35] = False
    mask[10, 34] = True  # one pixel far out keeps the box as wide as before
    values = score_frame(target, rendered, mask).values
    assert crop_box(mask) == (slice(10, 30), slice(20, 35))
    assert values["crop"]["psnr"] == pytest.approx(decibels(0.01))  # 0.1 off in all of the box
    assert values["white"]["psnr"] == pytest.approx(decibels(0.01 * mask.mean()))  # and in less than half of it


def test_white_takes_the_person_alone_where_one_was_rendered() -> None:
    target, rendered, mask = scene()
    alone = np.where(mask[..., None], target + 0.05, 0.3)  # what was spilled outside the mask is whitened
    values = score_frame(target, rendered, mask, person=alone).values
    assert values["white"]["psnr"] == pytest.approx(decibels(0.0025 * 300 / 2400))
    assert values["full"] == score_frame(target, rendered, mask).values["full"]


def test_a_perfect_frame_has_no_finite_ratio_and_says_so() -> None:
    target, _, mask = scene()
    scores = score_frame(target, target, mask)
    assert "psnr" not in scores.values["full"]
    assert scores.undefined["full.psnr"].startswith("equal")
    assert scores.values["white"]["ssim"] == pytest.approx(1)


@pytest.mark.parametrize("mask", [None, np.zeros((40, 60), bool)])
def test_without_a_person_only_the_frame_is_scored(mask: np.ndarray | None) -> None:
    target, rendered, _ = scene()
    scores = score_frame(target, rendered, mask)
    assert list(scores.values) == ["full"]
    assert set(scores.undefined) >= {"crop", "white", "masked"}


def test_missing_lpips_is_said() -> None:
    target, rendered, mask = scene()
    scores = score_frame(target, rendered, mask)
    for convention in ("full", "crop", "white", "masked"):
        assert "missing" in scores.undefined[f"{convention}.lpips"]


def test_lpips_gets_what_each_convention_gives_it() -> None:
    target, rendered, mask = scene()
    seen: list[tuple[tuple[int, ...], bool]] = []

    def network(true: np.ndarray, predicted: np.ndarray, *, rescale: bool) -> float:
        seen.append((true.shape, rescale))
        return 0.25

    scores = score_frame(target, rendered, mask, lpips=network)
    assert seen == [((40, 60, 3), True), ((20, 15, 3), True), ((40, 60, 3), True), ((40, 60, 3), False)]
    assert scores.values["crop"]["lpips"] == 0.25


@pytest.mark.parametrize("corner", [(0, 0), (39, 59), (20, 30)])
def test_a_tiny_person_gets_a_box_that_ssim_can_see(corner: tuple[int, int]) -> None:
    mask = np.zeros((40, 60), bool)
    mask[corner] = True
    rows, columns = crop_box(mask)
    assert (rows.stop - rows.start, columns.stop - columns.start) == (11, 11)
    assert rows.start <= corner[0] < rows.stop
    assert columns.start <= corner[1] < columns.stop
    assert mask[rows, columns].shape == (11, 11)


def test_means_are_over_the_frames_that_have_a_value() -> None:
    target, rendered, mask = scene()
    both = [score_frame(target, rendered, mask), score_frame(target, rendered, None)]
    means = mean_scores(both)
    assert means["crop"]["psnr"] == both[0].values["crop"]["psnr"]
    assert means["full"]["psnr"] == pytest.approx(both[1].values["full"]["psnr"])
    assert means["full"]["lpips"] is None


def test_frames_of_other_sizes_are_refused() -> None:
    target, rendered, mask = scene()
    with pytest.raises(ValueError, match="expected equal"):
        score_frame(target, rendered[1:], mask)
    with pytest.raises(ValueError, match="mask"):
        score_frame(target, rendered, mask[1:])


# NeuMan's split


def test_neumans_split_by_hand() -> None:
    split = neuman_split(25)
    assert split["test"] == [2, 7]
    assert split["val"] == [12, 17, 22]
    assert split["train"] == [k for k in range(25) if k % 5 != 2]
    assert neuman_split(30)["test"] == [2, 7, 12]


@pytest.mark.parametrize(
    ("frames", "held"),
    [
        (10, [2, 7]),  # 2 parts of 5
        (14, [3, 10]),  # 14 / 2 = 7
        (19, [3, 9, 15]),  # int(19 / 3) = 6
        (28, [2, 7, 12, 17, 22, 27]),  # int(28 / 5) = 5: more than a fifth
        (103, list(range(2, 103, 5))),
    ],
)
def test_what_neuman_holds_out(frames: int, held: list[int]) -> None:
    split = neuman_split(frames)
    assert split["test"] + split["val"] == held
    assert len(split["test"]) == len(held) // 2
    assert sorted(frame for part in split.values() for frame in part) == list(range(frames))
    assert frames_of("held_out", split) == held
    assert frames_of("all", split) == list(range(frames))


def test_the_published_code_rounds_in_floating_point() -> None:
    held = frames_of("held_out", neuman_split(1245))
    assert held[:3] == [2, 6, 10]  # 1 / 249 * 1245 is 4.999...
    assert frames_of("held_out", neuman_split(1244))[:3] == [2, 7, 12]


def test_splits_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="10 or more"):
        neuman_split(9)
    with pytest.raises(ValueError, match="none of train, val, test, held_out, all"):
        frames_of("tests", neuman_split(10))


# LPIPS


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    """The package's own network with its heads and an untrained AlexNet, and the same as files."""
    torch.manual_seed(1)
    network = package.LPIPS(net="alex", pnet_rand=True, lpips=True, verbose=False).eval()
    folder = tmp_path_factory.mktemp("lpips")
    slices = OrderedDict()
    for name, tensor in network.net.state_dict().items():
        _, position, kind = name.split(".")
        slices[f"features.{position}.{kind}"] = tensor
    torch.save(slices, folder / BACKBONE)
    (folder / HEADS).write_bytes((Path(package.__file__).parent / "weights/v0.1/alex.pth").read_bytes())
    return folder, network


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("size", [(64, 64), (35, 80)])
def test_lpips_is_the_packages(weights: tuple[Path, torch.nn.Module], rescale: bool, size: tuple[int, int]) -> None:
    folder, network = weights
    a, b = (torch.rand(1, 3, *size) for _ in range(2))
    with torch.no_grad():
        expected = float(network(a, b, normalize=rescale))
    ours = load_lpips(folder)
    images = [x[0].permute(1, 2, 0).numpy() for x in (a, b)]
    # The package divides by (length + 1e-10), we by the root of (length squared + 1e-8).
    assert ours(*images, rescale=rescale) == pytest.approx(expected, rel=1e-4)
    assert ours(images[0], images[0]) == 0


def test_a_picture_too_small_for_the_network_has_no_lpips(weights: tuple[Path, torch.nn.Module]) -> None:
    target, rendered, mask = scene()
    network: AlexLpips = load_lpips(weights[0])
    scores = score_frame(target, rendered, mask, lpips=network)
    assert scores.values["full"]["lpips"] > 0
    assert "35" in scores.undefined["crop.lpips"]


@pytest.mark.parametrize("kind", ["missing", "damaged", "other tensors", "other shapes", "a list"])
def test_bad_weights_are_one_clear_error(kind: str, weights: tuple[Path, torch.nn.Module], tmp_path: Path) -> None:
    for name in (BACKBONE, HEADS):
        (tmp_path / name).write_bytes((weights[0] / name).read_bytes())
    if kind == "missing":
        (tmp_path / HEADS).unlink()
    elif kind == "damaged":
        (tmp_path / BACKBONE).write_bytes(b"PK\x03\x04 no weights")
    elif kind == "other shapes":
        state = torch.load(tmp_path / BACKBONE, weights_only=True)
        state["features.3.weight"] = state["features.3.weight"][:, :5]
        torch.save(state, tmp_path / BACKBONE)
    else:
        torch.save({"weight": torch.zeros(3)} if kind == "other tensors" else [1, 2], tmp_path / BACKBONE)
    with pytest.raises(FootfallError, match="LPIPS weights"):
        load_lpips(tmp_path)
