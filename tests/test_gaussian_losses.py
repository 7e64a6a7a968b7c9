"""Terms of the Gaussian head, against other code and by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill.avatar import Avatar, make_avatar, save_avatar
from distill.body import BodyModel
from distill.errors import FootfallError
from distill.gaussian_crops import Crop, choose_crop, seen_by_sources
from distill.gaussian_labels import TeacherAvatars
from distill.gaussian_losses import (
    attribute_error,
    color_error,
    depth_error,
    inner,
    loose_error,
    match_avatars,
    needle_error,
    ssim_map,
)
from distill.metrics.images import ssim
from tests.conftest import TOLERANCES
from tests.student_support import one_thread  # noqa: F401 (a fixture)


def test_ssim_is_the_metric() -> None:
    target = torch.rand(3, 24, 31, dtype=torch.float64)
    picture = (target + 0.2 * torch.randn_like(target)).clamp(0, 1)
    wanted = ssim(target.permute(1, 2, 0), picture.permute(1, 2, 0))
    found = ssim_map(target, picture)
    assert found.shape == inner(target[0]).shape
    np.testing.assert_allclose(found.mean().item(), wanted[0], rtol=1e-9)
    torch.testing.assert_close(ssim_map(target, target), torch.ones_like(found))


def test_gradients_of_the_picture_terms() -> None:
    target = torch.rand(1, 12, 12, dtype=torch.float64)
    picture = torch.rand(1, 12, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: ssim_map(target, p), picture)
    depth = torch.rand(3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda d: depth_error(2 + target[0, :3, :3], 1 + d), depth)


def test_terms_by_hand() -> None:
    a, b = torch.zeros(3, 1, 1), torch.tensor([0.3, 0.0, 0.6])[:, None, None]
    torch.testing.assert_close(color_error(a, b), torch.tensor([[0.3]]))
    torch.testing.assert_close(
        depth_error(torch.tensor([[2.0]]), torch.tensor([[4.0]])), torch.tensor([[0.6922]]), rtol=0, atol=1e-3
    )
    offsets = torch.tensor([[0.05, 0, 0], [0, 0.1, 0], [0, 0, 0.0]])
    torch.testing.assert_close(loose_error(offsets), torch.tensor([0.0, 0.044, 0]), rtol=0, atol=1e-6)
    scales = torch.tensor([[1.0, 2, 4], [1, 1, 7]])
    torch.testing.assert_close(needle_error(scales), torch.tensor([0.0, 2.0]))


@pytest.fixture(scope="module")
def avatar(body: BodyModel) -> Avatar:
    return make_avatar(body, torch.zeros(10), anchors=40, per_anchor=2)


def test_attributes_of_the_same_avatar_agree(avatar: Avatar) -> None:
    ours, theirs = match_avatars(avatar, avatar)
    assert torch.equal(ours, torch.arange(80))
    assert torch.equal(theirs, ours)
    torch.testing.assert_close(attribute_error(avatar, avatar), torch.zeros(80, 5), rtol=0, atol=1e-6)


def test_attributes_are_compared_where_anchors_match(avatar: Avatar) -> None:
    keep = torch.arange(80) % 7 != 0  # the teacher dropped some, and moved, grew and turned the others
    tensors: dict[str, Any] = {n: tensor[keep].flip(0) for n, tensor in avatar.tensors().items() if n != "betas"}
    teacher = replace(avatar, **tensors)
    teacher = replace(
        teacher, offsets=teacher.offsets + torch.tensor([0.03, 0, 0.04]), scales=2 * teacher.scales,
        opacities=teacher.opacities - 0.25, quats=-teacher.quats,
    )  # fmt: skip
    ours, theirs = match_avatars(avatar, teacher)
    assert torch.equal(avatar.anchors[ours], teacher.anchors[theirs])
    whole = torch.bincount(teacher.anchors, minlength=13718)[avatar.anchors]
    assert len(ours) == len(teacher)
    error = attribute_error(avatar, teacher)[whole[ours] == 2]  # of an anchor that kept both, in turned order
    torch.testing.assert_close(error[:, 1], torch.full_like(error[:, 1], np.log(2)))
    torch.testing.assert_close(error[:, 3], torch.full_like(error[:, 3], 0.25))


def test_avatars_of_the_teacher_are_found_by_clip_and_shape(avatar: Avatar, tmp_path: Path) -> None:
    (tmp_path / "clip-1" / "gaussians").mkdir(parents=True)
    shapes = [torch.full((10,), value) for value in (-1.0, 1.0)]
    for number, betas in enumerate(shapes):
        colored = replace(avatar, betas=betas, colors=torch.full_like(avatar.colors, 0.25 + 0.5 * number))
        save_avatar(tmp_path / "clip-1" / "gaussians" / f"person-{number}.npz", colored)
    np.savez(tmp_path / "clip-1" / "other.npz", meta=np.frombuffer(b"{}", np.uint8))
    teacher = TeacherAvatars(tmp_path)
    found = teacher.find("clip-1", shapes[1] + 0.1)
    assert found is not None
    assert (found.colors == 0.75).all()
    assert teacher.find("clip-1", torch.zeros(10)) is None
    assert teacher.find("clip-1", torch.zeros(4)) is None
    assert teacher.find("clip-2", shapes[0]) is None
    with pytest.raises(FootfallError, match="teacher_avatars"):
        TeacherAvatars(tmp_path / "nowhere")


def test_crops_stay_inside_and_look_at_people() -> None:
    box = torch.tensor([[80.0, 2, 96, 60]])
    fixed = choose_crop((64, 96), 32, box, random=False)
    assert (fixed.left, fixed.top, fixed.size) == (64, 15, (32, 32))
    assert choose_crop((64, 96), 200, box[:0], random=False) == Crop(0, 0, (96, 64))
    for _ in range(20):
        crop = choose_crop((64, 96), 32, box, random=True)
        assert 0 <= crop.left <= 64
        assert 0 <= crop.top <= 32
    image = torch.arange(64 * 96.0).view(1, 64, 96)
    assert fixed.cut(image).shape == (1, 32, 32)
    K = torch.tensor([[50.0, 0, 48], [0, 50, 32], [0, 0, 1]])
    torch.testing.assert_close(fixed.K(K)[:2, 2], torch.tensor([48.0 - 64, 32 - 15]), **TOLERANCES[torch.float32])


def wall(moved: float, *, person: bool = False) -> dict[str, torch.Tensor]:
    """One window of two frames before a wall 4 m away; the second camera is `moved` metres to the right."""
    cameras = torch.eye(4).repeat(1, 2, 1, 1)
    cameras[0, 1, 0, 3] = moved
    masks = torch.zeros(1, 1, 2, 20, 40)
    masks[0, 0, 0, :, 10:20] = float(person)
    K = torch.tensor([[40.0, 0, 20], [0, 40.0, 10], [0, 0, 1]]).expand(1, 2, 3, 3)
    return {"depth": torch.full((1, 2, 20, 40), 4.0), "K": K, "world_from_cam": cameras, "masks": masks}


def test_what_the_sources_see() -> None:
    assert seen_by_sources(wall(0.0), [0], 1, 0).all()
    moved = seen_by_sources(wall(1.0), [0], 1, 0)  # 1 m at 4 m is 10 pixels: the last 10 columns are new
    assert moved[:, :30].all()
    assert not moved[:, 30:].any()
    hidden = seen_by_sources(wall(0.0, person=True), [0], 1, 0)
    assert not hidden[:, 10:20].any()
    assert hidden[:, :10].all()
    near = wall(0.0)
    near["depth"][0, 0, :, :5] = 2.0  # something stands in front in the source
    assert not seen_by_sources(near, [0], 1, 0)[:, :5].any()
    blind = wall(0.0)
    blind["depth"][:] = 0
    assert seen_by_sources(blind, [0], 1, 0).all()
