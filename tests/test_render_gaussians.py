"""Sets of Gaussians, and the cameras around them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distill.errors import FootfallError
from distill.geometry.rotations import matrix_from_quat, matrix_from_rotvec
from distill.geometry.transforms import make_transform, transform_points
from distill.render import Gaussians, render
from distill.render.views import look_at, to_images, turntable
from tests.conftest import TOLERANCES
from tests.render_support import NAMES, crowd, two_cameras

EXACT = TOLERANCES[torch.float64]


def test_parts_and_wholes() -> None:
    gaussians = crowd(10)
    mask = gaussians.opacities > 0.5
    assert len(gaussians) == 10 and len(gaussians[mask]) == int(mask.sum()) and len(gaussians[2:5]) == 3
    again = Gaussians.cat([gaussians[:4], gaussians[torch.arange(4, 10)]])
    assert all(torch.equal(getattr(again, name), getattr(gaussians, name)) for name in NAMES)
    assert gaussians.to(torch.float32).scales.dtype == torch.float32
    gaussians.means.requires_grad_()
    assert gaussians.means.requires_grad and not gaussians.detach().means.requires_grad


def test_moved_gaussians_have_moved_covariances() -> None:
    gaussians = crowd(10)
    turn = matrix_from_rotvec(torch.tensor([1.0, -2.0, 0.3], dtype=torch.float64))
    new_from_old = make_transform(turn, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    moved = gaussians.moved(new_from_old)
    torch.testing.assert_close(moved.means, transform_points(new_from_old, gaussians.means), **EXACT)
    torch.testing.assert_close(matrix_from_quat(moved.quats), turn @ matrix_from_quat(gaussians.quats), **EXACT)
    torch.testing.assert_close(moved.quats.norm(dim=-1), gaussians.quats.norm(dim=-1), **EXACT)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("quats", torch.zeros(5, 3)), ("scales", torch.zeros(5)), ("opacities", torch.zeros(5, 1)),
        ("colors", torch.zeros(4, 3)), ("means", torch.zeros(5, 3, dtype=torch.long)),
    ],
)  # fmt: skip
def test_wrong_fields_are_named(name: str, value: torch.Tensor) -> None:
    values = {other: getattr(crowd(5), other) for other in NAMES}
    with pytest.raises(FootfallError, match=f"Gaussians, {name}: got"):
        Gaussians(**(values | {name: value}))


def test_cameras_on_a_turntable_look_inwards_and_stand_upright() -> None:
    target, up = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64), torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64)
    cameras = turntable(target, up, distance=3.0, height=1.0, count=4)
    seen = transform_points(cameras, torch.stack((target, target + up))[None].expand(4, 2, 3))
    torch.testing.assert_close(seen[:, 0], torch.tensor([0, 0, 10**0.5], dtype=torch.float64).expand(4, 3), **EXACT)
    assert bool((seen[:, 1, 1] < 0).all())  # y of the picture goes down
    assert seen[:, 1, 0].abs().max() < 1e-12
    eyes = torch.linalg.inv(cameras)[:, :3, 3] - target
    torch.testing.assert_close(eyes[0], torch.tensor([3.0, 0.0, 1.0], dtype=torch.float64), **EXACT)
    torch.testing.assert_close(eyes[1], torch.tensor([0.0, 3.0, 1.0], dtype=torch.float64), **EXACT)
    torch.testing.assert_close(torch.linalg.det(cameras[:, :3, :3]), torch.ones(4, dtype=torch.float64), **EXACT)
    sideways = turntable(target, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64), distance=1.0, height=0.0, count=2)
    assert bool(torch.isfinite(sideways).all())


def test_a_camera_that_looks_along_up_is_refused() -> None:
    up = torch.tensor([0.0, 0.0, 1.0])
    for eye in (torch.tensor([0.0, 0.0, 5.0]), torch.zeros(3)):
        with pytest.raises(FootfallError, match="looks along up"):
            look_at(eye, torch.zeros(3), up)


def test_pictures_keep_their_values() -> None:
    cam_from_world, K = two_cameras((20, 12))
    color = render(crowd(40), cam_from_world, K, (20, 12), background=torch.tensor([1.5, 0.5, -1.0]).double()).color
    images = to_images(color)
    assert [image.size for image in images] == [(20, 12)] * 2
    assert np.abs(np.asarray(images[1]) / 255 - color[1].clamp(0, 1).numpy()).max() <= 0.5 / 255 + 1e-9
