"""Windows: whatever is done to the pixels is done to cameras, boxes and bodies too."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.augment import flip, reverse_time
from distill.batches import load_batches
from distill.body import BodyModel
from distill.data import DataConfig, Window, Windows, choose_frames, collate, make_window
from distill.geometry.cameras import project
from distill.geometry.conventions import CONTACT_SITES, SMPL_JOINTS
from distill.geometry.transforms import from_quat_trans, invert
from distill.models.student import Student, StudentConfig
from distill.models.trunk import HeadConfig
from distill.shards.reader import ShardReader, find_shards
from distill.shards.schema import Sample
from distill.shards.writer import write_shards
from distill.task import LossConfig, StudentTask
from tests.shard_support import SIZE, make_sample, make_shards
from tests.student_support import one_thread, wake  # noqa: F401 (a fixture)

NETWORK = (160, 128)
"""Not the aspect of the frames, so that mixed-up axes show."""
FRAMES = [2, 5, 11]


@pytest.fixture
def window() -> Window:
    return make_window(make_sample("clip-000000"), FRAMES, NETWORK, 4)


def same(a: Window, b: Window) -> None:
    """Equal up to the rounding of a mirror's products."""
    assert a.keys() == b.keys()
    for name, value in a.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(value, b[name], rtol=1e-6, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("count", [3, 7, 12, 32])
def test_frames_of_a_window(count: int) -> None:
    config = DataConfig(gaps=[1, 3, 10], window_frames=3)
    drawn = [choose_frames(count, config, random.Random(seed)) for seed in range(200)]
    gaps = np.diff(drawn, axis=1)
    assert min(map(min, drawn)) == 0  # the whole sample is used
    assert max(map(max, drawn)) == count - 1
    assert (gaps >= 1).all()
    if count > 2 * 10:
        assert set(gaps.flatten().tolist()) == {1, 3, 10}
    else:
        assert (gaps.sum(1) <= count - 1).all()


def test_window_longer_than_a_sample() -> None:
    with pytest.raises(ValueError, match="shorter than a window"):
        choose_frames(2, DataConfig(window_frames=3), random.Random(0))


def test_labels_are_those_of_the_chosen_frames_at_network_size(window: Window) -> None:
    arrays = make_sample("clip-000000").arrays
    order = [int(k) for k in (0, 1) if torch.equal(window["betas"][0], torch.from_numpy(arrays["betas"][k]))]
    order += [1 - order[0]]  # largest first
    assert window["images"].shape == (3, 3, NETWORK[1], NETWORK[0])
    assert window["images"].dtype == torch.uint8
    assert window["images"].min() < window["images"].max()
    scale = torch.tensor([NETWORK[0] / SIZE[0], NETWORK[1] / SIZE[1]])
    for row, person in enumerate(order):
        joints = torch.from_numpy(arrays["joints_cam"][FRAMES, person])
        torch.testing.assert_close(window["joints_cam"][row], joints)
        wanted = project(joints, torch.from_numpy(arrays["K"])) * scale
        torch.testing.assert_close(project(joints, window["K"]), wanted, rtol=1e-5, atol=1e-4)
        boxes = window["boxes"][row]
        torch.testing.assert_close(boxes[:, :2], wanted.amin(1) - 2 * scale, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(boxes[:, 2:], wanted.amax(1) + 2 * scale, rtol=1e-5, atol=1e-4)


def test_parameters_give_the_joints(window: Window, body: BodyModel) -> None:
    betas = window["betas"][:, None].expand(-1, 3, -1)
    joints = body(betas, window["body_rot"], window["cam_from_body"]).joints
    torch.testing.assert_close(joints, window["joints_cam"], rtol=1e-4, atol=1e-4)


def test_the_largest_people_are_kept() -> None:
    sample = make_sample("clip-000000", people=3)
    sample.arrays["box_xyxy"][:, 1] = [0, 0, 90, 60]
    sample.arrays["present"][FRAMES, 2] = False  # never seen in this window
    window = make_window(sample, FRAMES, NETWORK, 4)
    assert len(window["boxes"]) == 2
    torch.testing.assert_close(window["betas"][0], torch.from_numpy(sample.arrays["betas"][1]))
    assert len(make_window(sample, FRAMES, NETWORK, 1)["boxes"]) == 1


def test_weight_is_the_least_trust_where_the_person_is_seen() -> None:
    sample = make_sample("clip-000000", people=1)
    sample.arrays["frame_weight"][:, 0] = np.linspace(0, 1, 12)
    assert make_window(sample, FRAMES, NETWORK, 1)["weight"].item() == pytest.approx(2 / 11)
    sample.arrays["present"][2] = False
    assert make_window(sample, FRAMES, NETWORK, 1)["weight"].item() == pytest.approx(5 / 11)


def test_flip_twice_is_the_identity(window: Window) -> None:
    same(flip(flip(window)), window)
    assert not torch.equal(flip(window)["images"], window["images"])


def test_flipped_labels_lie_on_the_flipped_pixels(window: Window) -> None:
    mirrored = flip(window)
    pixels = project(window["joints_cam"], window["K"])
    wanted = torch.stack((NETWORK[0] - pixels[..., 0], pixels[..., 1]), dim=-1)
    swap = [SMPL_JOINTS.index("left_wrist"), SMPL_JOINTS.index("right_wrist"), SMPL_JOINTS.index("head")]
    found = project(mirrored["joints_cam"], mirrored["K"])
    torch.testing.assert_close(found[..., swap, :], wanted[..., [swap[1], swap[0], swap[2]], :], rtol=1e-5, atol=1e-3)
    corners = mirrored["boxes"]
    assert (corners[..., 0] < corners[..., 2]).all()
    torch.testing.assert_close(corners[..., 0], NETWORK[0] - window["boxes"][..., 2])
    torch.testing.assert_close(mirrored["images"][..., 0], window["images"][..., -1])
    heel, other = CONTACT_SITES.index("left_heel"), CONTACT_SITES.index("right_heel")
    torch.testing.assert_close(mirrored["contact_prob"][..., heel], window["contact_prob"][..., other])


def test_a_mirrored_body_is_posed_as_its_mirrored_joints(window: Window, body: BodyModel) -> None:
    """Mean shape: with it the free body's skeleton is symmetric."""
    betas = torch.zeros_like(window["betas"])[:, None].expand(-1, 3, -1)
    window["joints_cam"] = body(betas, window["body_rot"], window["cam_from_body"]).joints
    mirrored = flip(window)
    joints = body(betas, mirrored["body_rot"], mirrored["cam_from_body"]).joints
    torch.testing.assert_close(joints, mirrored["joints_cam"], rtol=0, atol=2e-3)  # the mesh is symmetric to 1 mm


def test_a_mirrored_camera_moves_as_the_mirrored_world(window: Window) -> None:
    def in_world(w: Window) -> Tensor:
        root = w["world_from_cam"] @ w["cam_from_body"]
        torch.testing.assert_close(torch.linalg.det(root[..., :3, :3]), torch.ones(root.shape[:-2]))
        return root[..., :3, 3]

    torch.testing.assert_close(in_world(flip(window)), in_world(window) * torch.tensor([-1.0, 1.0, 1.0]))


def test_time_reversed_twice_is_the_identity_and_once_inverts_motion(window: Window) -> None:
    turned = reverse_time(window)
    same(reverse_time(turned), window)
    motion = invert(window["world_from_cam"][0]) @ window["world_from_cam"][2]
    torch.testing.assert_close(invert(turned["world_from_cam"][0]) @ turned["world_from_cam"][2], invert(motion))
    torch.testing.assert_close(turned["boxes"][:, 0], window["boxes"][:, 2])


def windows_of(folder: Path, samples: list[Sample], config: DataConfig, *, training: bool = True) -> Windows:
    write_shards(folder, samples, max_bytes=1, provenance={})
    reader = ShardReader(find_shards(str(folder)).urls, seed=0, rank=0, world=1)
    return Windows(reader, config, lambda size: NETWORK, seed=0, training=training)


def test_windows_repeat_within_an_epoch_and_change_between_epochs(tmp_path: Path) -> None:
    data = windows_of(tmp_path, [make_sample(f"c{k}-000000") for k in range(3)], DataConfig(windows_per_sample=2))
    first, again = list(data), list(data)
    assert len(first) == 6
    for a, b in zip(first, again, strict=True):
        assert a["name"] == b["name"]
        assert torch.equal(a["images"], b["images"])
    data.reader.set_epoch(1)
    assert [w["name"] for w in data] != [w["name"] for w in first]


def test_held_out_windows_are_always_the_same_and_not_augmented(tmp_path: Path) -> None:
    config = DataConfig(windows_per_sample=2, flip=1.0, reverse=1.0, zoom=1.0, blur=2.0)
    data = windows_of(tmp_path, [make_sample("c-000000")], config, training=False)
    first = list(data)
    data.reader.set_epoch(1)
    assert [w["name"] for w in data] == [w["name"] for w in first]
    frames = [int(k) for k in first[0]["name"].split(":")[1].split(",")]
    same(first[0], make_window(make_sample("c-000000"), frames, NETWORK, config.max_people))


def test_damaged_pictures_and_short_samples_are_left_out_and_counted(tmp_path: Path) -> None:
    good, short = make_sample("a-000000"), make_sample("b-000000", frames=2)
    damaged = make_sample("c-000000")
    damaged = replace(damaged, frames=[b"not a picture"] * 12)
    data = windows_of(tmp_path, [good, short, damaged], DataConfig(windows_per_sample=3))
    assert [w["name"].split(":")[0] for w in data] == ["a-000000"] * 3
    assert data.reader.skipped == 2


def test_windows_without_people_or_with_guessed_cameras_are_left_out(tmp_path: Path) -> None:
    sample = make_sample("a-000000")
    sample.arrays["camera_valid"][:6] = False
    sample.arrays["present"][9:] = False
    config = DataConfig(windows_per_sample=60, window_frames=2, gaps=[1], flip=0, reverse=0)
    names = {w["name"].split(":")[1] for w in windows_of(tmp_path, [sample], config)}
    assert names == {"6,7", "7,8", "8,9"}


@pytest.mark.parametrize("per_shard", [1, 6], ids=["a shard per reader", "one shard for four readers"])
def test_each_window_once_over_processes_and_workers(tmp_path: Path, per_shard: int) -> None:
    """Two processes with two reading workers each."""
    keys = make_shards(tmp_path, samples=6, per_shard=per_shard)
    urls = find_shards(str(tmp_path)).urls
    assert len(urls) == 6 // per_shard
    seen, parts = [], []
    for rank in range(2):
        reader = ShardReader(urls, seed=0, rank=rank, world=2)
        windows = Windows(reader, DataConfig(windows_per_sample=2), lambda size: NETWORK, seed=0, training=True)
        part = [w["name"] for w in torch.utils.data.DataLoader(windows, batch_size=None, num_workers=2)]
        parts.append(len(part))
        seen += part
    assert sorted(name.split(":")[0] for name in seen) == sorted(keys * 2)
    assert min(parts) > 0


def test_windows_of_one_size_share_a_batch(tmp_path: Path) -> None:
    samples = [make_sample(f"c{k}-000000", size=(96, 64) if k % 2 else (64, 96)) for k in range(6)]
    write_shards(tmp_path, samples, max_bytes=1, provenance={})
    reader = ShardReader(find_shards(str(tmp_path)).urls, seed=0, rank=0, world=1)
    config = DataConfig(windows_per_sample=2)
    windows = Windows(reader, config, lambda size: size, seed=0, training=True, patch=16)
    batches = list(load_batches(windows, batch_size=3, workers=0))
    shapes = [tuple(batch["images"].shape) for batch in batches]
    assert sorted(shapes) == [(3, 3, 3, 64, 96)] * 2 + [(3, 3, 3, 96, 64)] * 2


def test_padding_is_finite_and_changes_no_loss() -> None:
    torch.manual_seed(1)
    one = make_window(make_sample("a-000000", people=1), FRAMES[:2], (96, 64), 4)
    three = make_window(make_sample("b-000000", people=3), FRAMES[:2], (96, 64), 4)
    batch: dict[str, Any] = collate([one, three])
    assert batch["weight"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert batch["valid"][0, 1:].sum() == 0
    assert all(torch.isfinite(value).all() for value in batch.values() if isinstance(value, Tensor))
    student = wake(Student(StudentConfig(head=HeadConfig(width=48, layers=1, attention_heads=2))))
    task = StudentTask(student, LossConfig())
    alone, _ = task(collate([one]))
    padded, _ = task({name: value[:1] for name, value in batch.items()})
    for name, value in alone.items():
        torch.testing.assert_close(padded[name], value, rtol=1e-4, atol=1e-5)


def test_stored_rotations_are_read_as_written() -> None:
    arrays = make_sample("a-000000").arrays
    window = make_window(make_sample("a-000000"), FRAMES, NETWORK, 4)
    cameras = from_quat_trans(
        torch.from_numpy(arrays["world_from_cam_quat"]), torch.from_numpy(arrays["world_from_cam_trans"])
    )
    torch.testing.assert_close(window["world_from_cam"], cameras[FRAMES])


@pytest.mark.parametrize(
    "setting", [{"gaps": []}, {"gaps": [0]}, {"window_frames": 1}, {"batch_size": 0}, {"workers": -1}]
)
def test_bad_settings(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="data:"):
        DataConfig(**setting)
