"""Augmentation: what lay under a projected joint before lies under it afterwards."""

from __future__ import annotations

import io
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from distill.augment import WHOLE, Plan, apply_plan, change_pixels, cut_boxes, draw_plan
from distill.data import DataConfig, Window, make_window
from distill.geometry.cameras import project
from distill.geometry.conventions import SMPL_JOINTS
from distill.shards.schema import Sample
from tests.shard_support import encode, make_sample
from tests.student_support import one_thread  # noqa: F401 (a fixture)

SIZE, NETWORK, FRAMES = (321, 203), (160, 112), [2, 5, 11]
"""Odd sides: a JPEG decoded at half its size is not exactly half as large."""
PLANS = {
    "plain": Plan(),
    "flip": Plan(flip=True),
    "reverse": Plan(reverse=True),
    "crop": Plan(view=(0.21, 0.13, 0.87, 0.79)),
    "narrow crop": Plan(view=(0.3, 0.3, 0.71, 0.71)),
    "blur": Plan(blur=1.5),
    "compression": Plan(quality=40),
    "all": Plan(flip=True, reverse=True, view=(0.11, 0.2, 0.83, 0.92), blur=1.0, quality=60),
}


def make_map(size: tuple[int, int], time: float) -> Image.Image:
    """A picture whose colours say where (red, green) and when (blue) it is."""
    x, y = np.meshgrid((np.arange(size[0]) + 0.5) / size[0], (np.arange(size[1]) + 0.5) / size[1])
    return Image.fromarray((np.stack((x, y, np.full_like(x, time)), -1) * 255).round().astype(np.uint8))


@pytest.fixture(scope="module")
def sample() -> Sample:
    made = make_sample("map-000000", size=SIZE)
    pictures, masks = [], []
    for k in range(12):
        stream = io.BytesIO()
        make_map(SIZE, k / 12).save(stream, "JPEG", quality=98, subsampling=0)
        pictures.append(stream.getvalue())
        identities = np.zeros(SIZE[::-1], np.uint8)
        x0, y0, x1, y1 = (max(0, int(edge)) for edge in made.arrays["box_xyxy"][k, 1])
        identities[y0:y1, x0:x1] = 2
        masks.append(encode(identities, "PNG"))
    return replace(made, frames=pictures, masks=masks)


def augmented(sample: Sample, plan: Plan, *, patch: int = 16) -> Window:
    return apply_plan(make_window(sample, FRAMES, NETWORK, 4, patch=patch, plan=plan), plan)


def colours_at(window: Window, pixels: Tensor) -> Tensor:
    """Colours [P, V, J, 3] in [0, 1] under pixels [P, V, J, 2], bilinear."""
    images = window["images"].float() / 255
    grid = pixels / torch.tensor(NETWORK) * 2 - 1
    sampled = F.grid_sample(images, grid.transpose(0, 1), align_corners=False, padding_mode="border")
    return sampled.permute(2, 0, 3, 1)


@pytest.mark.parametrize("name", PLANS)
def test_the_pixel_under_a_joint_stays_under_it(sample: Sample, name: str) -> None:
    plan = PLANS[name]
    window = augmented(sample, plan)
    found = project(window["joints_cam"], window["K"])
    colours = colours_at(window, found)
    inner = (found > 4).all(-1) & (found < torch.tensor(NETWORK) - 4).all(-1)
    assert inner.sum() > 30
    order = FRAMES[::-1] if plan.reverse else FRAMES
    names = [j.replace("left", "?").replace("right", "left").replace("?", "right") for j in SMPL_JOINTS]
    swap = [SMPL_JOINTS.index(j) for j in names] if plan.flip else list(range(24))
    by_shape = [torch.from_numpy(b) for b in sample.arrays["betas"]]
    for row, betas in enumerate(window["betas"]):
        person = next(k for k, b in enumerate(by_shape) if torch.equal(b, betas))
        joints = torch.from_numpy(sample.arrays["joints_cam"][order, person])[:, swap]
        was = project(joints, torch.from_numpy(sample.arrays["K"])) / torch.tensor(SIZE)
        # 1.2 % of the frame is 2 pixels of the network's 160; compression changes colours by a little more.
        atol = 0.012 if plan.quality is None else 0.03
        torch.testing.assert_close(colours[row][inner[row]][:, :2], was[inner[row]], rtol=0, atol=atol)
        when = (torch.tensor(order) / 12)[:, None].expand(-1, 24)
        torch.testing.assert_close(colours[row][inner[row]][:, 2], when[inner[row]], rtol=0, atol=0.03)


@pytest.mark.parametrize("name", PLANS)
def test_the_depth_in_the_middle_of_a_token_stays_there(sample: Sample, name: str) -> None:
    """Depth that grows to the right says where in the frame each token lies."""
    plan, columns = PLANS[name], 200
    ramp = np.tile(np.linspace(0, 1, columns, dtype=np.float16) + 1, (12, 100, 1))
    window = augmented(replace(sample, arrays={**sample.arrays, "depth": ramp}), plan)
    x = (torch.arange(NETWORK[0] // 16) + 0.5) * 16 / NETWORK[0]
    x = 1 - x if plan.flip else x
    wanted = 1 + plan.view[0] + x * (plan.view[2] - plan.view[0])
    torch.testing.assert_close(window["depth"], wanted.expand_as(window["depth"]), rtol=0, atol=0.01)


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("patch", [14, 16])
def test_masks_go_with_their_person(sample: Sample, name: str, patch: int) -> None:
    if NETWORK[0] % patch:
        patch_size = (154, 112)
        window = apply_plan(make_window(sample, FRAMES, patch_size, 4, patch=patch, plan=PLANS[name]), PLANS[name])
    else:
        patch_size, window = NETWORK, augmented(sample, PLANS[name])
    masks = window["masks"]
    assert masks.shape[1:] == (3, patch_size[1] // patch, patch_size[0] // patch)
    who = [torch.equal(b, torch.from_numpy(sample.arrays["betas"][1])) for b in window["betas"]]
    for row, is_masked in enumerate(who):
        if not is_masked:
            assert masks[row].sum() == 0
            continue
        for view in range(3):
            x0, y0, x1, y1 = window["boxes"][row, view].clamp(min=0).tolist()
            x1, y1 = min(x1, patch_size[0]), min(y1, patch_size[1])
            wanted = max(x1 - x0, 0) * max(y1 - y0, 0) / patch**2
            assert masks[row, view].sum().item() == pytest.approx(wanted, rel=0.08)
            weights = masks[row, view] / masks[row, view].sum()
            centre = (torch.arange(weights.shape[1]) + 0.5) * patch
            assert (weights.sum(0) * centre).sum().item() == pytest.approx((x0 + x1) / 2, abs=2)
    assert any(who)


def test_cut_people() -> None:
    boxes = np.array([[[10, 10, 30, 50], [0, 0, 40, 40], [60, 60, 90, 90]]], np.float32)
    cut, seen = cut_boxes(boxes, np.array([[True, True, True]]), (20.0, 0.0, 60.0, 60.0))
    assert seen.tolist() == [[True, True, False]]
    assert cut[0, 0].tolist() == [20, 10, 30, 50]
    _, seen = cut_boxes(boxes, np.array([[True, False, True]]), (27.0, 0.0, 60.0, 60.0))
    assert seen.tolist() == [[False, False, False]]  # 15 % of the first is left; the second was not there


def test_a_crop_without_anybody_is_not_made(sample: Sample) -> None:
    corner = Plan(view=(0.0, 0.9, 0.05, 0.95))
    window = make_window(sample, FRAMES, NETWORK, 4, plan=corner)
    whole = make_window(sample, FRAMES, NETWORK, 4)
    assert torch.equal(window["K"], whole["K"])
    assert torch.equal(window["images"], whole["images"])


def test_people_that_a_crop_removes_have_no_weight_of_their_own(sample: Sample) -> None:
    for seed in range(30):
        plan = draw_plan(DataConfig(zoom=3.0), random.Random(seed))
        window = make_window(sample, FRAMES, NETWORK, 4, plan=plan)
        assert torch.isfinite(window["weight"]).all()
        assert window["valid"].any(1).all()
        assert (window["boxes"][window["valid"]][:, 2:] <= torch.tensor(NETWORK) + 1e-3).all()


def test_pictures_decoded_small_are_the_same_pictures() -> None:
    """A smooth picture at half, a quarter and an eighth of its size, odd sides included, lies where it should."""
    stream = io.BytesIO()
    make_map((641, 483), 0.5).save(stream, "JPEG", quality=98, subsampling=0)
    big = replace(make_sample("big-000000", size=(641, 483)), frames=[stream.getvalue()] * 12)
    factors = set()
    for network in ((640, 480), (320, 240), (160, 112), (64, 48)):
        _, factor = big.picture(0, network)
        factors.add(factor)
        image = make_window(big, [0], network, 1)["images"][0].permute(1, 2, 0).float() / 255
        wanted = torch.tensor(np.asarray(make_map(network, 0.5))).float() / 255
        assert (image - wanted).abs().max() < 0.012, factor
    assert factors == {1, 2, 4, 8}


def test_pixels_change_alike_in_all_frames() -> None:
    picture = make_map((64, 48), 0.3)
    for plan in (Plan(colour=(1.2, 0.8, 1.1)), Plan(blur=1.0), Plan(quality=30)):
        first, second = (np.asarray(image) for image in change_pixels([picture, picture], plan))
        assert (first == second).all()
        assert (first != np.asarray(picture)).any()
    grey = Image.new("RGB", (8, 8), (100, 100, 100))
    assert np.asarray(change_pixels([grey], Plan(colour=(1.2, 0.5, 2.0)))[0]).tolist() == [[[120] * 3] * 8] * 8


def test_plans_repeat_and_each_setting_is_its_own() -> None:
    config = DataConfig()
    assert draw_plan(config, random.Random("a")) == draw_plan(config, random.Random("a"))
    off = DataConfig(flip=0, reverse=0, colour=0, zoom=0, blur=0, compression=0)
    assert draw_plan(off, random.Random("a")) == Plan()
    drawn = [draw_plan(DataConfig(zoom=1.0), random.Random(seed)) for seed in range(300)]
    sides = [plan.view[2] - plan.view[0] for plan in drawn]
    assert 0.5 <= min(sides) < 0.55
    assert max(sides) > 0.95
    assert all(plan.view[0] >= 0 and plan.view[3] <= 1 + 1e-9 for plan in drawn)
    assert 0.1 < sum(plan.quality is not None for plan in drawn) / 300 < 0.3
    assert draw_plan(replace(config, zoom=0), random.Random("a")).view == WHOLE


@pytest.mark.parametrize("setting", [{"flip": 1.5}, {"zoom": -1}, {"colour": 1.0}, {"blur": -1}, {"compression": 2}])
def test_bad_settings(setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="data:"):
        DataConfig(**setting)
